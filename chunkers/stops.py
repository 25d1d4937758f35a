"""Where sentences end: at stops, in Latin and other spaced scripts, in Chinese and in Japanese."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from chunkers.characters import (
    BLANK,
    CJK,
    CLOSER,
    COMMA,
    COMMA_CJK,
    DIGIT,
    ELLIPSIS,
    LOWER,
    MARK,
    NEWLINE,
    PAD,
    POINT,
    STOP_CJK,
    UPPER,
    Array,
    Characters,
    Flags,
    among,
)  # fmt: skip

# A point after these is no end of a sentence: before anything, before a digit, before lower case.
_TITLES = (
    "mr mrs ms dr prof st rev hon gov sen rep capt lt col gen sgt messrs mme mlle vs cf viz approx "
    "ca nr hr fr bzw vgl"
)
_BEFORE_DIGIT = (
    "no nos fig figs vol vols p pp sec ch art eq ed para jan feb mar apr jun jul aug sep sept oct "
    "nov dec tab"
)
_BEFORE_LOWER = "etc inc ltd co corp jr sr al est dept esp incl excl min max avg bros ed eds pl"
_WORD_CHARS = 6


def sentence_ends(characters: Characters) -> Array:
    """The places where sentences end, before the blanks that follow; ascending."""
    points, classes = characters
    is_stop = (classes - np.uint8(POINT)) <= ELLIPSIS - POINT
    stops = np.flatnonzero(is_stop)
    # Of a run of stops the last one counts, before the quotes and brackets that close after it.
    stops = stops[~is_stop[stops + 1]]
    after = stops + 1
    closed = classes[after] == CLOSER
    moving = np.flatnonzero(closed)
    for _ in range(5):
        if not len(moving):
            break
        after[moving] += 1
        moving = moving[classes[after[moving]] == CLOSER]
    following = classes[after]
    kind = classes[stops]
    before = classes[stops - 1]
    is_cjk = (kind == STOP_CJK) | ((before >= CJK) & (before <= MARK) & (kind != POINT))
    # An ellipsis or mark before Chinese text needs no blank, whatever stands before it.
    is_cjk |= (following == CJK) & (kind != POINT)
    spaced = (following == BLANK) | (following == NEWLINE)
    joined = (following == COMMA) | (following == COMMA_CJK) | is_stop[after]
    keep = np.where(is_cjk, ~joined, spaced)
    latin = np.flatnonzero(keep & ~is_cjk)
    if len(latin):
        keep[latin] = _ends_latin(points, classes, stops[latin], after[latin], closed[latin])
    places = after[keep] - PAD
    ends: Array = places[places <= len(classes) - 2 * PAD]
    return ends


def _ends_latin(points: Array, classes: Array, stops: Array, after: Array, closed: Array) -> Flags:
    """Whether a sentence ends at a stop that is followed by a blank or a line break."""
    # The first character of the next word; a deeper indent counts as a new line, thus as upper.
    ahead = after + 1
    moving = np.flatnonzero((classes[ahead] == BLANK) | (classes[ahead] == NEWLINE))
    for _ in range(3):
        if not len(moving):
            break
        ahead[moving] = np.minimum(ahead[moving] + 1, len(classes) - 1)
        here = classes[ahead[moving]]
        moving = moving[(here == BLANK) | (here == NEWLINE)]
    following = classes[ahead]
    lower = following == LOWER
    kind = classes[stops]
    point = kind == POINT
    repeated = classes[stops - 1] == POINT
    ends = ~(lower & (closed | (kind == ELLIPSIS) | (point & repeated)))
    word = np.flatnonzero(point & ~repeated & ends)
    if len(word):
        ends[word] = _word_ends(points, classes, stops[word], following[word])
    result: Flags = ends
    return result


def _word_ends(points: Array, classes: Array, stops: Array, following: Array) -> Flags:
    """Whether a single point after a word ends the sentence: abbreviations and initials do not."""
    code = np.zeros(len(stops), np.int64)
    length = np.zeros(len(stops), np.int64)
    alive = np.ones(len(stops), bool)
    for back in range(1, _WORD_CHARS + 1):
        kind = classes[stops - back]
        alive &= (kind == LOWER) | (kind == UPPER)
        code = np.where(alive, code * 128 + (points[stops - back].astype(np.int64) & 0x5F), code)
        length += alive
    lead = classes[stops - 1 - length]
    single = (length == 1) & ((classes[stops - 1] == UPPER) | (lead == POINT))
    pronoun = (points[stops - 1] == ord("I")) & (lead != POINT)
    digit = following == DIGIT
    small = following == LOWER
    titles, before_digit, before_lower = _abbreviations()
    open_end = single & ~pronoun
    open_end |= among(code, titles)
    open_end |= digit & among(code, before_digit)
    open_end |= (small | digit) & among(code, before_lower)
    # "3." that opens a line is a list number.
    numbered = np.flatnonzero((length == 0) & (classes[stops - 1] == DIGIT))
    if len(numbered):
        first = stops[numbered] - 2
        for _ in range(2):
            first = np.where(classes[first] == DIGIT, first - 1, first)
        opens = classes[first]
        opens = np.where(opens == BLANK, classes[np.maximum(first - 1, 0)], opens)
        open_end[numbered] |= opens == NEWLINE
    ends: Flags = ~open_end
    return ends


@lru_cache(maxsize=1)
def _abbreviations() -> tuple[Array, Array, Array]:
    def codes(words: str) -> Array:
        found = []
        for word in words.split():
            code = 0
            for letter in reversed(word):
                code = code * 128 + (ord(letter) & 0x5F)
            found.append(code)
        return np.array(sorted(found), np.int64)

    return codes(_TITLES), codes(_BEFORE_DIGIT), codes(_BEFORE_LOWER)
