"""The ends of sentences: at stops, in Latin and other spaced scripts, in Chinese and Japanese."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from chunkers.boundaries.characters import (
    BLANK,
    CJK,
    CLASSES,
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
    eight_byte_windows,
    repeat_byte,
)

# A point after these does not end a sentence: before anything, before a digit, before lower case.
_TITLES = (
    "mr mrs ms dr prof st rev hon gov sen rep capt lt col gen sgt messrs mme mlle vs cf viz approx "
    "ca nr hr fr bzw vgl"
)
_BEFORE_DIGIT = (
    "no nos fig figs vol vols p pp sec ch art eq ed para jan feb mar apr jun jul aug sep sept oct "
    "nov dec tab"
)
_BEFORE_LOWER = "etc inc ltd co corp jr sr al est dept esp incl excl min max avg bros ed eds pl"
WORD_CHARS = 6


NO, YES, LATIN = range(3)
_BYTE, _LAST = np.uint64(8), np.uint64(56)


def sentence_ends(characters: Characters) -> Array:
    """The places where sentences end, before the following blanks; ascending."""
    classes = characters.classes
    first, verdict = decisions()
    stops = np.flatnonzero((classes - np.uint8(POINT)) <= ELLIPSIS - POINT)
    kind = classes.take(stops) - POINT
    following = classes.take(stops + 1)
    candidates = np.flatnonzero(first.take(kind * np.uint8(CLASSES) + following))
    stops, kind, following = (
        stops.take(candidates),
        kind.take(candidates),
        following.take(candidates),
    )
    # Closing quotes and brackets after the stop are part of the end.
    after = stops + 1
    closed = following == CLOSER
    moving = np.flatnonzero(closed)
    for _ in range(5):
        if not len(moving):
            break
        after[moving] += 1
        following[moving] = kinds = classes.take(after.take(moving))
        moving = moving[kinds == CLOSER]
    code = classes.take(stops - 1) * np.int64(4) + kind
    code *= CLASSES
    code += following
    decided = verdict.take(code)
    latin = np.flatnonzero(decided == LATIN)
    if len(latin):
        decided[latin] = _ends_latin(
            characters, stops.take(latin), after.take(latin), closed.take(latin), kind.take(latin)
        )
    places = after[decided == YES] - PAD
    ends: Array = places[: places.searchsorted(len(classes) - 2 * PAD, "right")]
    return ends


@lru_cache(maxsize=1)
def decisions() -> tuple[Array, Array]:
    """Two tables of decisions at stops.

    The first, by a stop and the following class: whether it may end a sentence. The second, by the
    class before it, the stop, and the class after its quotes and brackets: whether it does.
    """
    first = np.zeros((4, CLASSES), np.uint8)
    verdict = np.zeros((CLASSES, 4, CLASSES), np.uint8)
    for following in range(CLASSES):
        if POINT <= following <= ELLIPSIS:
            continue  # in a run of stops only the last one counts
        first[:, following] = 1
        first[0, following] = following in (BLANK, NEWLINE, CLOSER)
        joined = following in (COMMA, COMMA_CJK)
        spaced = following in (BLANK, NEWLINE)
        for before in range(CLASSES):
            for kind in range(POINT, ELLIPSIS + 1):
                # Next to Chinese text an ellipsis or mark needs no following blank.
                is_cjk = kind == STOP_CJK or (
                    kind != POINT and (CJK <= before <= MARK or following == CJK)
                )
                decided = (NO if joined else YES) if is_cjk else (LATIN if spaced else NO)
                verdict[before, kind - POINT, following] = decided
    return first.ravel(), verdict.ravel()


def _ends_latin(
    characters: Characters, stops: Array, after: Array, closed: Array, kind: Array
) -> Array:
    """Whether a sentence ends at a stop that is followed by a blank or a line break."""
    classes = characters.classes
    # The first character of the next word; a deeper indent counts as a new line, hence as upper
    # case.
    ahead = after + 1
    following = classes.take(ahead)
    moving = np.flatnonzero(following - np.uint8(BLANK) <= NEWLINE - BLANK)
    for _ in range(3):
        if not len(moving):
            break
        ahead[moving] += 1
        following[moving] = kinds = classes.take(ahead.take(moving), mode="clip")
        moving = moving[kinds - np.uint8(BLANK) <= NEWLINE - BLANK]
    point = kind == 0
    point &= classes.take(stops - 1) != POINT
    lower = following == LOWER
    ends = np.ones(len(stops), np.uint8)
    ends[lower & (closed | (kind == ELLIPSIS - POINT) | ((kind == 0) & ~point))] = NO
    word = np.flatnonzero(point & (ends == YES))
    if len(word):
        ends[word[_non_ends(characters, stops.take(word), following.take(word))]] = NO
    return ends


def _non_ends(characters: Characters, stops: Array, following: Array) -> Array:
    """Indices of the single points after a word that do not end a sentence.

    These follow abbreviations, initials and list numbers.
    """
    points, classes, low = characters
    before = stops - 8
    kinds = eight_byte_windows(classes)[before]
    # Up to six letters before the point; the highest byte is the nearest.
    rows = kinds.view(np.uint8)
    rest = ((rows - np.uint8(LOWER)) > UPPER - LOWER).view(np.uint64)
    rest |= np.uint64(0x0101)
    rest |= rest >> _BYTE
    rest |= rest >> np.uint64(16)
    rest |= rest >> np.uint64(32)
    letters = rest ^ repeat_byte(1)
    length = (letters * repeat_byte(1)) >> _LAST
    code = eight_byte_windows(low)[before] & repeat_byte(0x5F) & (letters * np.uint64(0xFF))
    words, allowed = _abbreviation_codes()
    index = words.searchsorted(code)
    index[index == len(words)] = 0
    matches = np.flatnonzero(words.take(index) == code)
    bit = np.full(len(matches), 1, np.uint8)
    bit[following.take(matches) == DIGIT] = 2
    bit[following.take(matches) == LOWER] = 4
    non_ends = [matches[(allowed.take(index.take(matches)) & bit) != 0]]
    # Initials, but "I" is a word.
    single = np.flatnonzero(length == 1)
    place = stops.take(single)
    dotted = classes.take(place - 2) == POINT
    capital = (classes.take(place - 1) == UPPER) & (points.take(place - 1) != ord("I"))
    non_ends.append(single[dotted | capital])
    # "3." at the start of a line is a list number.
    numbered = np.flatnonzero(length == 0)
    numbered = numbered[classes.take(stops.take(numbered) - 1) == DIGIT]
    if len(numbered):
        first = stops.take(numbered) - 2
        for _ in range(2):
            first -= classes.take(first) == DIGIT
        opens = classes.take(first)
        opens = np.where(opens == BLANK, classes.take(first - 1, mode="clip"), opens)
        non_ends.append(numbered[opens == NEWLINE])
    return np.concatenate(non_ends)


@lru_cache(maxsize=1)
def abbreviations() -> dict[str, int]:
    """By abbreviation in capitals: the classes before which it does not end a sentence.

    Bits: 1 before anything else, 2 before a digit, 4 before a lower-case letter.
    """
    bits_by_word: dict[str, int] = {}
    for words, bits in ((_TITLES, 7), (_BEFORE_DIGIT, 2), (_BEFORE_LOWER, 6)):
        for word in words.upper().split():
            bits_by_word[word] = bits_by_word.get(word, 0) | bits
    return bits_by_word


@lru_cache(maxsize=1)
def _abbreviation_codes() -> tuple[Array, Array]:
    """The same as two arrays: the last eight bytes as a number, ascending, and the bits."""
    codes = {
        int.from_bytes(word.encode().rjust(8, b"\0"), "little"): bits
        for word, bits in abbreviations().items()
    }
    words = sorted(codes)
    return np.array(words, np.uint64), np.array([codes[word] for word in words], np.uint8)
