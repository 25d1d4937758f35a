"""Places where a text may be cut, with their strength, found in one vectorised scan.

A plain-Python sentence scan costs three to four encode passes. This one looks at every character
once, as a class number in a numpy array, and then works only on the few per cent of places that
can be an end: stops and line ends.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SENTENCE, ROW, LINE, BLANK_LINE, HEADING = 2, 3, 4, 5, 6
"""Strengths, ascending. ROW is between the rows of a table and the lines of a code fence, which
stay together where they fit."""

(
    OTHER,
    BLANK,
    NEWLINE,
    POINT,
    STOP,
    STOP_CJK,
    ELLIPSIS,
    CLOSER,
    COMMA,
    COMMA_CJK,
    DIGIT,
    LOWER,
    UPPER,
    LETTER,
    CJK,
    MARK,
    PIPE,
) = range(17)

MARGIN = 2048
"""Code points read before and after a segment, so that its edges are judged like its middle."""

Array = NDArray[Any]


class Boundaries(NamedTuple):
    """Places to cut, ascending and unique, none at 0.

    Units: code points of the whole text.
    """

    at: NDArray[np.int64]
    strength: NDArray[np.uint8]
    clean: NDArray[np.bool_]
    """If a token ends here, then what follows is encoded alone as it is in place."""
    mark: NDArray[np.uint32]
    """A number made of the characters around the place and of nothing else."""
    headings: NDArray[np.int64]
    """Where each heading begins, also those at 0 and those that follow another heading."""
    in_fence: bool
    """The segment ends inside a code fence."""


_NAMED = {
    BLANK: "\t\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f"
    "\u205f\u3000 ",
    NEWLINE: "\n\r\x0b\x0c\x85\u2028\u2029",
    POINT: ".",
    STOP: "!?‽؟۔।॥։።။៕",
    STOP_CJK: "。！？；｡",
    ELLIPSIS: "…",
    CLOSER: "\"'”’」』）】》〉〕］｝)]}»›＂＇｣",
    COMMA: ",;:–—،؛",
    COMMA_CJK: "，、：､",
    PIPE: "|",
}
_BY_CATEGORY = {
    "Lu": UPPER, "Lt": UPPER, "Ll": LOWER, "Lm": LETTER, "Lo": LETTER,
    "Mn": MARK, "Mc": MARK, "Me": MARK, "Nd": DIGIT, "Nl": DIGIT, "No": DIGIT,
}  # fmt: skip
_CJK_RANGES = (
    (0x2E80, 0x3000), (0x3005, 0x3008), (0x3021, 0x302A), (0x3031, 0x3100), (0x31C0, 0x3200),
    (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0xFF66, 0xFF9E),
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

_SETEXT = re.compile(r"(?:=+|-{2,})[ \t]*(?:\r?\n|\r|\Z)")
_NUMBERED = re.compile(r"第[0-9零〇一二三四五六七八九十百千两]{1,8}[章节回部篇卷编]")


def scan(text: str, start: int, end: int, *, in_fence: bool = False) -> Boundaries:
    """The boundaries in (start, end], judged with some context on either side.

    Invariant: a boundary stands before the blanks that follow a sentence and after the line
        breaks that end a line, so that no word and no blank is torn from its token.
    Cost: O(end - start), a few nanoseconds a code point.
    """
    low = max(0, start - MARGIN)
    if low:
        low = max(text.rfind("\n", low, start) + 1, low)
    high = min(len(text), end + MARGIN)
    points, classes = _classify(text[low:high])
    size = high - low
    strength = np.zeros(size + 1, np.uint8)
    _mark_sentences(points, classes, strength)
    headings, in_fence = _mark_lines(
        text, low, points, classes, strength, start - low, end - low, in_fence
    )
    headings = headings[(headings >= start - low) & (headings < end - low)] + low
    strength[size] = 0
    if high == len(text) and end == high:
        strength[size] = BLANK_LINE
    inside = strength[start - low + 1 : end - low + 1]
    at = np.flatnonzero(inside)
    place = at + (start - low + 1 + _PAD)
    clean = _is_clean(points, classes, place)
    return Boundaries(
        at + (start + 1), inside[at], clean, _marks(points, place), headings, in_fence
    )


def sentences(text: str) -> list[tuple[int, int]]:
    """The spans of the text's sentences, in order, without the blanks around them.

    Invariant: every character that is not white space lies in exactly one span.
    """
    spans: list[tuple[int, int]] = []
    last = 0
    for stop in scan(text, 0, len(text)).at.tolist() if text else ():
        piece = text[last:stop]
        body = piece.strip()
        if body:
            first = last + len(piece) - len(piece.lstrip())
            spans.append((first, first + len(body)))
        last = stop
    return spans


def _is_clean(points: Array, classes: NDArray[np.uint8], place: Array) -> NDArray[np.bool_]:
    """See `Boundaries.clean`; the same rule as `encoded.CLEAN`, for many places."""
    following, before = classes[place], classes[place - 1]
    next_point, point = points[place], points[place - 1]
    letter = ((following == LOWER) | (following == UPPER)) & (next_point < 0x250)
    letter |= (following == CJK) & (next_point >= 0x3041) & (next_point < 0xA000)
    letter &= before != CLOSER  # an apostrophe would take the letter with it
    new_line = ((point == 10) | (point == 13)) & (following != NEWLINE) & (next_point != ord("/"))
    blank = (following == BLANK) & (before != BLANK) & (before != NEWLINE)
    return letter | new_line | blank


_MARK_OFFSETS = (-13, -9, -6, -4, -3, -2, 1, 2, 3, 4, 6, 9)


def _marks(points: Array, place: Array) -> NDArray[np.uint32]:
    mark = np.zeros(len(place), np.uint32)
    for offset in _MARK_OFFSETS:
        mark += points[place + offset]
        mark *= np.uint32(0x9E3779B1)
        mark ^= mark >> np.uint32(15)
    return mark


@lru_cache(maxsize=1)
def _class_table() -> NDArray[np.uint8]:
    """Class of each code point of the basic plane."""
    get = _BY_CATEGORY.get
    category = unicodedata.category
    table = np.fromiter(
        (get(category(chr(point)), OTHER) for point in range(0x10000)), np.uint8, 0x10000
    )
    for low, high in _CJK_RANGES:
        window = table[low:high]
        window[(window == LETTER) | (window == OTHER) | (window == DIGIT)] = CJK
    for number, characters in _NAMED.items():
        table[[ord(character) for character in characters]] = number
    return table


@lru_cache(maxsize=1)
def _ascii_table() -> bytes:
    return _class_table()[:256].tobytes()


# Zeros on both sides: looking a few characters back or ahead needs no bounds check.
_PAD = 16


def _classify(text: str) -> tuple[Array, NDArray[np.uint8]]:
    """Code points and classes, each with `_PAD` zeros (class NEWLINE) before and after."""
    size = len(text)
    classes = np.full(size + 2 * _PAD, NEWLINE, np.uint8)
    if text.isascii():
        raw = text.encode("ascii")
        points: Array = np.zeros(size + 2 * _PAD, np.uint8)
        points[_PAD : _PAD + size] = np.frombuffer(raw, np.uint8)
        classes[_PAD : _PAD + size] = np.frombuffer(raw.translate(_ascii_table()), np.uint8)
        return points, classes
    points = np.zeros(size + 2 * _PAD, np.uint32)
    body = points[_PAD : _PAD + size]
    body[:] = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    inner = classes[_PAD : _PAD + size]
    inner[:] = _class_table()[np.minimum(body, 0xFFFF)]
    astral = np.flatnonzero(body > 0xFFFF)
    if len(astral):
        planes = body[astral] >> 16
        inner[astral] = np.where((planes == 2) | (planes == 3), CJK, OTHER)
    return points, classes


def _mark_sentences(points: Array, classes: NDArray[np.uint8], strength: Array) -> None:
    """Write SENTENCE where a sentence ends. Indices into `points` are shifted by the pad."""
    is_stop = (classes >= POINT) & (classes <= ELLIPSIS)
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
    places = after[keep] - _PAD
    strength[places[places < len(strength)]] = SENTENCE


def _ends_latin(
    points: Array, classes: NDArray[np.uint8], stops: Array, after: Array, closed: Array
) -> NDArray[np.bool_]:
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
    return ends


def _word_ends(
    points: Array, classes: NDArray[np.uint8], stops: Array, following: Array
) -> NDArray[np.bool_]:
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
    open_end |= _among(code, titles)
    open_end |= digit & _among(code, before_digit)
    open_end |= (small | digit) & _among(code, before_lower)
    # "3." that opens a line is a list number.
    numbered = np.flatnonzero((length == 0) & (classes[stops - 1] == DIGIT))
    if len(numbered):
        first = stops[numbered] - 2
        for _ in range(2):
            first = np.where(classes[first] == DIGIT, first - 1, first)
        opens = classes[first]
        opens = np.where(opens == BLANK, classes[np.maximum(first - 1, 0)], opens)
        open_end[numbered] |= opens == NEWLINE
    return ~open_end


def _among(values: Array, choices: Array) -> NDArray[np.bool_]:
    """`np.isin` for few sorted choices; that one sorts."""
    found: NDArray[np.bool_] = choices[choices.searchsorted(values) % len(choices)] == values
    return found


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


def _mark_lines(
    text: str,
    low: int,
    points: Array,
    classes: NDArray[np.uint8],
    strength: Array,
    start: int,
    end: int,
    in_fence: bool,
) -> tuple[Array, bool]:
    """Write the strength of every line break; where headings begin, and the state of the fence.

    `start` and `end` are the segment in this window.
    """
    size = len(strength) - 1
    breaks = np.flatnonzero(classes[_PAD : _PAD + size] == NEWLINE)
    here = points[breaks + _PAD]
    breaks = breaks[(here != 13) | (points[breaks + _PAD + 1] != 10)]
    opens = np.concatenate(([0], breaks + 1))  # where each line begins
    first = opens + _PAD  # its first character that is no blank
    moving = np.flatnonzero(classes[first] == BLANK)
    for _ in range(256):
        if not len(moving):
            break
        first[moving] += 1
        moving = moving[classes[first[moving]] == BLANK]
    # A line that is still blank after that many is taken for an empty one.
    empty = (classes[first] == NEWLINE) | (classes[first] == BLANK)
    lead = points[first].astype(np.int64)
    heading, title = _headings(text, low, points, classes, opens, first, lead, empty)
    fence, in_fence = _fences(points, classes, opens, first, lead, start, end, in_fence)
    heading &= ~fence
    rows = _table_rows(classes, breaks, len(opens))
    marked = _items(points, classes, first, lead) | heading | rows
    soft = _soft_breaks(points, classes, opens, breaks, first, empty, marked | fence)

    # The break before line i, for every line but the first.
    full = ~empty[1:]
    level = np.where(empty[:-1], BLANK_LINE, LINE).astype(np.uint8)
    level[heading[1:]] = HEADING
    level[soft] = 0
    # A heading stays with what follows it, a fence and a table stay whole.
    filled = np.maximum.accumulate(np.where(empty, 0, np.arange(len(empty))))
    level[title[filled[:-1]] & ~fence[1:]] = 0
    inner = (fence[1:] & fence[:-1]) | (rows[1:] & rows[:-1])
    level[inner] = ROW
    places = opens[1:]
    # A sentence that ends before a line break ends after it.
    ended = _ended_before(classes, strength, breaks)
    strength[ended[ended >= 0]] = 0
    level[soft & (ended >= 0)] = SENTENCE
    if fence.any():
        _clear_fences(strength, opens, fence, size)
    strength[places] = np.where(full, level, 0)
    return opens[heading], in_fence


def _ended_before(classes: NDArray[np.uint8], strength: Array, breaks: Array) -> Array:
    """For each line break: where the sentence that it follows ends, or -1."""
    place = breaks.copy()
    found = np.full(len(breaks), -1)
    moving = np.arange(len(breaks))
    for _ in range(8):
        hit = strength[place[moving]] == SENTENCE
        found[moving[hit]] = place[moving[hit]]
        moving = moving[~hit]
        place[moving] -= 1
        moving = moving[(place[moving] > 0)]
        kind = classes[place[moving] + _PAD]
        moving = moving[(kind == BLANK) | (kind == NEWLINE)]
        if not len(moving):
            break
    return found


def _headings(
    text: str,
    low: int,
    points: Array,
    classes: NDArray[np.uint8],
    opens: Array,
    first: Array,
    lead: Array,
    empty: Array,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which lines begin a heading (`# x`, `= x =`, underlined, `第三章`), and which belong to one."""
    heading = np.zeros(len(opens), bool)
    under = np.zeros(len(opens), bool)
    hashes = np.flatnonzero(lead == ord("#"))
    if len(hashes):
        place = first[hashes].copy()
        for _ in range(6):
            place += points[place] == ord("#")
        kind = classes[np.minimum(place, len(classes) - 1)]
        heading[hashes] = ((kind == BLANK) | (kind == NEWLINE)) & (place - first[hashes] <= 6)
    for index in np.flatnonzero((lead == ord("=")) | (lead == ord("-"))).tolist():
        place = low + int(first[index]) - _PAD
        if _SETEXT.match(text, place):
            if index and not empty[index - 1] and _short(opens, index - 1):
                heading[index - 1] = under[index] = True
        elif text[place] == "=":
            stop = text.find("\n", place)
            line = text[place : stop if stop >= 0 else len(text)][:200].rstrip()
            heading[index] = len(line) > 4 and line.endswith("=")
    for index in np.flatnonzero(lead == ord("第")).tolist():
        place = low + int(first[index]) - _PAD
        heading[index] = bool(_NUMBERED.match(text, place)) and _short(opens, index, 40)
    return heading, heading | under


def _short(opens: Array, index: int, chars: int = 100) -> bool:
    return index + 1 < len(opens) and int(opens[index + 1] - opens[index]) <= chars


def _fences(
    points: Array,
    classes: NDArray[np.uint8],
    opens: Array,
    first: Array,
    lead: Array,
    start: int,
    end: int,
    in_fence: bool,
) -> tuple[NDArray[np.bool_], bool]:
    """Which lines lie in a code fence, its marks included, and whether one is open at `end`."""
    fence = np.zeros(len(opens), bool)
    ticks = (lead == ord("`")) | (lead == ord("~"))
    marks = np.flatnonzero(ticks)
    if len(marks):
        place = first[marks]
        marks = marks[(points[place + 1] == lead[marks]) & (points[place + 2] == lead[marks])]
    inside = in_fence
    last = int(np.searchsorted(opens, start)) if in_fence else 0
    state_at_end = in_fence
    for mark in marks.tolist():
        if opens[mark] < start:
            continue  # counted by the segment before
        if inside:
            fence[last : mark + 1] = True
        # A mark with a language opens: a fence that was left open ends before it.
        inside = not inside or classes[first[mark] + 3] in (LOWER, UPPER)
        last = mark
        if opens[mark] < end:
            state_at_end = inside
    if inside:
        fence[last:] = True
    return fence, state_at_end


def _clear_fences(strength: Array, opens: Array, fence: NDArray[np.bool_], size: int) -> None:
    """A stop inside a code fence ends no sentence."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], fence, [False])).astype(np.int8)))
    for begin, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        strength[opens[begin] + 1 : opens[stop] if stop < len(opens) else size + 1] = 0


def _table_rows(classes: NDArray[np.uint8], breaks: Array, lines: int) -> NDArray[np.bool_]:
    pipes = np.flatnonzero(classes == PIPE) - _PAD
    if not len(pipes):
        return np.zeros(lines, bool)
    return np.bincount(np.searchsorted(breaks, pipes), minlength=lines)[:lines] >= 2


_BULLET, _BRACKET, _NUMERAL = 1, 2, 3


@lru_cache(maxsize=1)
def _item_table() -> NDArray[np.uint8]:
    table = np.zeros(0x10000, np.uint8)
    table[[ord(mark) for mark in "-*+•·‣◦>–—"]] = _BULLET
    table[[ord(mark) for mark in "（(①②③④⑤⑥⑦⑧⑨⑩"]] = _BRACKET
    table[[ord(mark) for mark in "一二三四五六七八九十"]] = _NUMERAL
    return table


def _items(
    points: Array, classes: NDArray[np.uint8], first: Array, lead: Array
) -> NDArray[np.bool_]:
    """Which lines begin a list item, a quotation, or a numbered paragraph."""
    kind = _item_table()[np.minimum(lead, 0xFFFF)]
    item = kind == _BRACKET
    some = np.flatnonzero((kind == _BULLET) | (kind == _NUMERAL))
    item[some] = np.where(
        kind[some] == _BULLET,
        classes[first[some] + 1] == BLANK,
        points[first[some] + 1] == ord("、"),
    )
    some = np.flatnonzero(classes[first] == DIGIT)
    if len(some):
        place = first[some] + 1
        for _ in range(3):
            place += classes[place] == DIGIT
        item[some] = _among(points[place], _AFTER_NUMBER)
    return item


_AFTER_NUMBER = np.array(sorted(map(ord, ".)、）．")))


def _soft_breaks(
    points: Array,
    classes: NDArray[np.uint8],
    opens: Array,
    breaks: Array,
    first: Array,
    empty: NDArray[np.bool_],
    marked: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Which line breaks are there only because the line was full: those of hard-wrapped blocks.

    A break is one if the first word of the next line had no room, given the longest line of the
    block. A block counts as wrapped if nearly all its inner breaks pass that test and sentences
    run over some of them; code, verse and tables do not.
    """
    soft = np.zeros(len(breaks), bool)
    if len(breaks) < 2:
        return soft
    stops = np.concatenate((breaks, [len(classes) - 2 * _PAD]))
    length = stops - opens
    # Blank lines and marked lines begin a new block.
    fresh = empty | marked
    fresh[1:] |= empty[:-1]
    fresh[0] = True
    begins = np.flatnonzero(fresh)
    lines = np.diff(begins, append=len(fresh))
    width = np.maximum.reduceat(length, begins)
    blocks = np.flatnonzero((lines >= 2) & (width >= _NARROWEST))
    if not len(blocks):
        return soft
    # Only the lines of these blocks from here on, without the first of each.
    lines = lines[blocks]
    inner = lines - 1
    owner = np.repeat(np.arange(len(blocks)), inner)
    offset = np.arange(len(owner)) - np.repeat(np.cumsum(inner) - inner, inner)
    line = begins[blocks][owner] + offset  # a line that another one of its block follows
    # The width is a high percentile, so that one long line put in by an edit changes nothing.
    order = np.lexsort((length[line], owner))
    rank = np.cumsum(inner) - inner + (inner - 1) * 9 // 10
    width = length[line[order[rank]]]
    last_kind = classes[stops[line] + _PAD - 1]
    next_kind = classes[first[line + 1]]
    runs_over = next_kind == LOWER
    runs_over |= (next_kind == CJK) & ((last_kind == CJK) | (last_kind == COMMA_CJK))
    runs_over |= (next_kind >= UPPER) & (last_kind >= COMMA) & (last_kind <= LETTER)
    full = _is_full(classes, first, length, line, width[owner])
    count = len(blocks)
    passed = np.bincount(owner[full], minlength=count)
    over = np.bincount(owner[full & runs_over], minlength=count)
    wrapped = (inner >= 2) & (passed >= 0.7 * inner) & (over >= 0.3 * inner)
    wrapped &= (width >= _NARROWEST) & (width <= _WIDEST)
    if not wrapped.any():
        return soft
    # A block of two lines proves nothing by itself: it is judged by the width of the others.
    usual = int(np.median(width[wrapped]))
    pairs = (inner == 1)[owner] & runs_over & (length[line] <= usual + 2)
    pairs[pairs] = _is_full(classes, first, length, line[pairs], np.full(pairs.sum(), usual))
    soft[line[(full & wrapped[owner]) | pairs]] = True
    return soft


_NARROWEST, _WIDEST = 30, 200
_LONGEST_WORD = 30


def _is_full(
    classes: NDArray[np.uint8], first: Array, length: Array, line: Array, width: Array
) -> NDArray[np.bool_]:
    """Whether the first word of the next line would have had no room at the end of this one.

    A little less than the width counts as full: a character of Chinese that must not begin a line,
    or a line end that an edit has moved.
    """
    short = width * 9 // 10 - 1 - length[line]
    full = short < 0
    near = np.flatnonzero(~full & (short < _LONGEST_WORD))
    if len(near):
        place = first[line[near] + 1]
        begin = place
        moving = np.arange(len(place))
        place = place.copy()
        for _ in range(_LONGEST_WORD):
            kind = classes[place[moving]]
            moving = moving[(kind != BLANK) & (kind != NEWLINE)]
            if not len(moving):
                break
            place[moving] += 1
            moving = moving[classes[place[moving] - 1] != CJK]
        full[near] = place - begin > short[near]
    return full
