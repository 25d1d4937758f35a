"""Lines that hold a whole document: minified JSON, scripts, style sheets and HTML.

Such a line is cut after a bracket, comma or semicolon outside its strings. The depth of the
brackets stands for the depth of the lines that the text would have if it were printed with breaks.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from chunkers.boundaries.characters import PAD, Array, Characters
from chunkers.boundaries.levels import DEEPEST, nested

MIN_CHARS = 80
"""Shorter lines are cut only between words."""
JSON, SCRIPT, MARKUP = "json", "script", "markup"

_JSON = re.compile(r"\s*[\[{]\s*[\[{\"\d\-\]}]")
_MARKUP = re.compile(r"\s*<[A-Za-z!/?]")
_MARKS = re.compile(r"[{}();=\[\]]")
_SAMPLE_CHARS, _CHARS_A_MARK = 512, 16
_STRINGS = re.compile(
    r'"(?:[^"\\\r\n]|\\.)*"|(?<![\w)\]])\'(?:[^\'\\\r\n]|\\.)*\'|`(?:[^`\\]|\\.)*`', re.DOTALL
)


class Inside(NamedTuple):
    """Where a segment ends inside a packed line."""

    kind: str = ""
    """Empty: in no packed line."""
    depth: int = 0
    quote: str = ""
    """The quote of an open string."""


def kind_of(text: str, start: int, stop: int) -> str:
    """What a line holds, from its beginning; empty for prose. `stop` may be beyond its end."""
    stop = min(stop, start + _SAMPLE_CHARS)
    if text.find("<", start, start + 32) >= 0 and _MARKUP.match(text, start):
        return MARKUP
    if text.find("{", start, stop) < 0 and text.find(";", start, stop) < 0:
        return JSON if _JSON.match(text, start) else ""
    if _JSON.match(text, start):
        return JSON
    marks = len(_MARKS.findall(text, start, stop))
    return SCRIPT if marks * _CHARS_A_MARK >= stop - start else ""


def mark_packed(
    text: str, low: int, characters: Characters, strength: Array, opens: Array,
    start: int, end: int, inside: Inside,
) -> Inside:  # fmt: skip
    """Write the strength of the places inside packed lines. Returns: where the segment ends.

    The segment is [start, end) of this window, which begins at `low` of the text.
    """
    size = len(strength) - 1
    stops = np.append(opens[1:], size)
    last = Inside()
    for line in np.flatnonzero((stops - opens >= MIN_CHARS) & (stops > start)).tolist():
        begin, stop = int(opens[line]), int(stops[line])
        if begin >= end:
            break
        state = inside if begin < start else Inside(kind_of(text, low + begin, low + stop))
        if state.kind:
            begin, stop = max(begin, start), min(stop, end)
            state = _mark_line(text, low, characters, strength, begin, stop, state)
            if stop == end:
                last = state
    return last


def _mark_line(
    text: str, low: int, characters: Characters, strength: Array, begin: int, stop: int,
    state: Inside,
) -> Inside:  # fmt: skip
    points = characters.points[PAD + begin : PAD + stop]
    after = np.minimum(characters.points[PAD + begin + 1 : PAD + stop + 1], 127)
    if state.kind == MARKUP:
        depth = _mark_tags(characters.points, strength, begin, stop, state.depth)
        return state._replace(depth=depth)
    if state.kind == JSON:
        in_string, quote = _in_json_strings(characters.points, begin, stop, bool(state.quote))
    else:
        in_string, quote = _in_strings(text, low + begin, low + stop, state.quote)
    marks = np.flatnonzero(_TABLE[np.minimum(points, 127)])
    marks = marks[~in_string[marks]]
    kinds = _TABLE[points.take(marks)]
    depths = state.depth + np.cumsum((kinds == _OPEN).astype(np.int64) - (kinds & _CLOSE > 0))
    depths = np.maximum(depths, 0)
    # Not between two closing brackets, or a bracket and its comma.
    late = _TABLE[after.take(marks)] & _LATE
    late[(kinds & _STRONG > 0) & (after.take(marks) == ord("."))] = 0  # a class of a style sheet
    ends = (kinds & _END > 0) & (late == 0)
    level = _LEVELS[np.minimum(depths[ends], DEEPEST) * 2 + (kinds[ends] & _STRONG > 0)]
    _write(strength, begin + 1 + marks[ends], level)
    return Inside(state.kind, int(depths[-1]) if len(depths) else state.depth, quote)


_VOID = "area base br col embed hr img input link meta source track wbr".split()  # noqa: SIM905
"""Tags without an end."""


def _mark_tags(points: Array, strength: Array, begin: int, stop: int, depth: int) -> int:
    """Write the strength of the places between two tags. Returns: the depth at the end."""
    line = points[PAD + begin : PAD + stop]
    tags = np.flatnonzero(line == ord("<"))
    if not len(tags):
        return depth
    name = np.zeros(len(tags), np.int64)
    going_on = np.ones(len(tags), bool)
    for offset in range(1, 7):
        letter = points.take(tags + (PAD + begin + offset)).astype(np.int64) | 32
        going_on &= (letter >= ord("a")) & (letter <= ord("z"))
        name = np.where(going_on, name << 8 | letter, name)
    closed = np.append(tags[1:], stop - begin) - 1  # the bracket, where a tag follows at once
    between = line.take(closed) == ord(">")
    closes = points.take(tags + (PAD + begin + 1)) == ord("/")
    alone = between & (points.take(closed + (PAD + begin - 1)) == ord("/"))
    opens = (name > 0) & ~np.isin(name, [int.from_bytes(tag.encode()) for tag in _VOID]) & ~alone
    depths = np.maximum(depth + np.cumsum(opens.astype(np.int64) - closes), 0)
    place = np.flatnonzero(between[:-1] & (closed[:-1] > tags[:-1]))
    level = _LEVELS[np.minimum(depths[place], DEEPEST) * 2 + ~closes[place + 1]]
    _write(strength, begin + 1 + closed[place], level)
    return int(depths[-1])


def _write(strength: Array, place: Array, level: Array) -> None:
    strength[place] = np.maximum(strength[place], level)


_OPEN, _CLOSE, _END, _LATE, _STRONG = 1, 2, 4, 8, 16


_TABLE = np.zeros(128, np.uint8)
for _marks, _bits in (
    ("{[(", _OPEN),
    ("}", _CLOSE | _END | _LATE | _STRONG),
    ("]", _CLOSE | _END | _LATE),
    (")", _CLOSE | _LATE),
    (",", _END | _LATE),
    (";", _END | _LATE | _STRONG),
    (".", _LATE),
):
    _TABLE[[ord(_mark) for _mark in _marks]] = _bits


_LEVELS = np.array(
    [nested(depth, blank=bool(strong)) for depth in range(DEEPEST + 1) for strong in (0, 1)],
    np.uint8,
)
_LEVELS[1] = nested(0)  # a script of one line stays weaker than a line of its own


def _in_json_strings(points: Array, begin: int, stop: int, is_open: bool) -> tuple[Array, str]:
    """Which characters are inside a string, and the quote of one open at the end."""
    line = points[PAD + begin : PAD + stop]
    quotes = np.flatnonzero(line == ord('"'))
    place = quotes + (PAD + begin)
    escapes = np.zeros(len(quotes), np.int64)
    moving = np.flatnonzero(points.take(place - 1) == ord("\\"))
    while len(moving):
        escapes[moving] += 1
        before = place.take(moving) - escapes.take(moving) - 1
        moving = moving[(before >= 0) & (points.take(before, mode="clip") == ord("\\"))]
    flips = np.zeros(stop - begin, np.uint8)
    flips[quotes[escapes % 2 == 0]] = 1
    if is_open and stop > begin:
        flips[0] ^= 1
    inside = np.bitwise_xor.accumulate(flips).view(bool)
    return inside, '"' if len(inside) and inside[-1] else ""


def _in_strings(text: str, begin: int, stop: int, quote: str) -> tuple[Array, str]:
    """The same where three kinds of quotes are used."""
    flips = np.zeros(stop - begin + 1, np.int8)
    at = begin
    if quote:
        closed = re.compile(rf"(?:[^{quote}\\]|\\.)*{quote}", re.DOTALL).match(text, begin, stop)
        at = closed.end() if closed else stop
        flips[0], flips[at - begin] = 1, -1
        if not closed:
            return np.cumsum(flips[:-1]).astype(bool), quote
    for match in _STRINGS.finditer(text, at, stop):
        at = match.end()
        flips[match.start() - begin] += 1
        flips[at - begin] -= 1
    open_at = [(text.find(mark, at, stop), mark) for mark in "\"'`"]
    first, mark = min(((place, mark) for place, mark in open_at if place >= 0), default=(-1, ""))
    if first >= 0 and mark != "'":
        flips[first - begin] += 1
    else:
        mark = ""
    return np.cumsum(flips[:-1]).astype(bool), mark
