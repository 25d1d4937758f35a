"""The strength of line breaks: headings, list items, tables, code fences and plain lines."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkers.boundaries.abbreviations import NEAR
from chunkers.boundaries.characters import (
    BLANK,
    DIGIT,
    LOWER,
    NEWLINE,
    PAD,
    PIPE,
    UPPER,
    Array,
    Characters,
    Flags,
    eight_byte_windows,
    leading_false_counts,
)
from chunkers.boundaries.levels import (
    BLANK_LINE,
    HEADING,
    JOINED,
    LINE,
    PAGE,
    PARAGRAPH,
    PARAGRAPH_CHARS,
    ROW,
    RUN_ON,
    SENTENCE,
)
from chunkers.boundaries.nesting import (
    STEP,
    after_page,
    columns,
    depths,
    joined,
    strengths,
    turns,
)
from chunkers.boundaries.packed import Inside, mark_packed
from chunkers.boundaries.wrapping import run_ons, soft_breaks

SETEXT = re.compile(r"(?:=+|-{2,})[ \t]*(?:\r?\n|\r|\Z)")
WIKI = re.compile(r"=[^\r\n]{3,}=[ \t]*$", re.MULTILINE)
NUMBERED = re.compile(r"第[0-9零〇一二三四五六七八九十百千两]{1,8}[章节回部篇卷编]")


class State(NamedTuple):
    """What a segment must know of those before it."""

    in_fence: bool = False
    """Whether the lines after the one that the border cuts are in a code fence."""
    cut_fence: bool = False
    """Whether the line that the border cuts is in one, or is one of its marks."""
    inside: Inside = Inside()


class Lines(NamedTuple):
    """The lines of a window; all but `breaks` and `opens` are indices into its characters."""

    breaks: Array
    """The line break of each line except the last."""
    opens: Array
    """The start of each line."""
    first: Array
    """The first character of each line that is not a blank; the index includes the padding."""
    lead: Array
    """That character's code point."""
    empty: Flags


def split(characters: Characters) -> Lines:
    """The lines of a window."""
    points, classes, _ = characters
    breaks = np.flatnonzero(classes == NEWLINE)[PAD:-PAD]
    returns = np.flatnonzero(points.take(breaks) == 13)
    if len(returns):
        breaks = np.delete(breaks, returns[points.take(breaks.take(returns) + 1) == 10])
    first = np.empty(len(breaks) + 1, np.int64)
    first[0] = PAD
    np.add(breaks, 1, out=first[1:])
    breaks -= PAD
    opens = first - PAD
    kind = _skip_blanks(classes, first)
    return Lines(breaks, opens, first, points.take(first), (kind - np.uint8(BLANK)) <= 1)


def _skip_blanks(classes: Array, first: Array) -> Array:
    """The classes of the first characters that are not blanks; moves `first` to them."""
    windows = eight_byte_windows(classes)
    kind = classes.take(first)
    moving = np.flatnonzero(kind == BLANK)
    for _ in range(_DEEPEST // 8):
        if not len(moving):
            break
        place = first.take(moving)
        step = leading_false_counts(windows[place].view(np.uint8) != BLANK)
        place += step
        first[moving] = place
        kind[moving] = classes.take(place)
        moving = moving[step == 8]
    return kind


_DEEPEST = 256
"""A line that is still blank after this many characters counts as empty."""


def mark_lines(
    text: str,
    low: int,
    characters: Characters,
    strength: Array,
    start: int,
    end: int,
    state: State,
    *,
    is_cut: bool,
) -> tuple[Array, State]:
    """Write the strength of every line break. Returns: the starts of headings, and the state at
    `end`.

    The segment is [start, end) of this window, which begins at `low` of the text.
    """
    classes = characters.classes
    lines = split(characters)
    if is_cut:
        lines.lead[0] = 0  # the line begins before the window: how it does is unknown
    breaks, opens, empty = lines.breaks, lines.opens, lines.empty
    indent = columns(characters, opens, lines.first)
    indent[empty] = 0
    heading, title = _headings(text, low, characters, lines, indent)
    fence, after = _fences(characters, lines, start, end, state)
    heading &= ~fence
    rows = np.zeros(len(opens), bool)
    if text.find("|", low, low + len(strength) - 1) >= 0:
        rows = _table_rows(classes, lines)
    items = _items(characters, lines)
    marked = items | heading | rows | fence
    items &= lines.lead != ord(">")
    soft = soft_breaks(classes, opens, breaks, lines.first, empty, marked)
    depth = depths(indent, opens, empty, soft)

    # The break before each line except the first.
    blank = empty[:-1].astype(np.uint8)
    inside = strengths().ravel().take(2 * depth[1:] + blank)
    turn, answers = turns(text, low, characters, breaks, lines.first)
    items[turn] = True
    level = np.where(empty[:-1], np.uint8(BLANK_LINE), LINE + items[1:].view(np.uint8))
    level[(np.diff(opens) >= PARAGRAPH_CHARS) & ~empty[:-1]] = PARAGRAPH
    nested = np.flatnonzero(depth[1:])
    level[nested] = inside.take(nested)
    # A sentence that ends before a line break is cut after the break.
    ended = _take_out_sentence_ends(classes, strength, breaks)
    if fence.any():
        _clear_fences(strength, opens, fence)
    inner = np.flatnonzero(strength == SENTENCE)
    run_on = run_ons(classes, opens, breaks, lines.first, empty, marked, inner, ended)
    level[(level == LINE) & run_on] = RUN_ON
    belongs = joined(text, low, characters, opens, lines.first, lines.lead, empty, indent)
    belongs[answers] = True
    level[belongs[1:]] = JOINED
    level[heading[1:]] = HEADING
    level[soft] = 0
    if text.find("\f", low, low + len(strength) - 1) >= 0:
        level[after_page(characters, breaks, opens, empty)[1:]] = PAGE
    # A heading stays with the following line; a fence and a table stay whole.
    if title.any():
        filled = np.maximum.accumulate(np.where(empty, 0, np.arange(len(empty))))
        level[title.take(filled[:-1]) & ~fence[1:]] = 0
    fenced = fence[1:] & fence[:-1]
    level[fenced] = inside[fenced]
    level[rows[1:] & rows[:-1] & ~belongs[1:] & ~fenced] = ROW
    level[soft & ended] = SENTENCE
    level[empty[1:]] = 0
    strength[opens[1:]] = level
    inside_line = mark_packed(text, low, characters, strength, opens, start, end, state.inside)
    return opens[heading], after._replace(inside=inside_line)


def _take_out_sentence_ends(classes: Array, strength: Array, breaks: Array) -> Flags:
    """Which line breaks follow the end of a sentence; removes those sentence ends."""
    follows = np.zeros(len(breaks), bool)
    place = breaks
    moving = np.arange(len(breaks))
    ended: list[Array] = []
    for _ in range(8):
        hit = strength.take(place) == SENTENCE
        follows[moving[hit]] = True
        ended.append(place[hit])
        kind = classes.take(place + (PAD - 1))
        on = np.flatnonzero(~hit & (kind - np.uint8(BLANK) <= NEWLINE - BLANK) & (place > 1))
        if not len(on):
            break
        moving, place = moving.take(on), place.take(on) - 1
    strength[np.concatenate(ended)] = 0
    return follows


def _headings(
    text: str, low: int, characters: Characters, lines: Lines, indent: Array
) -> tuple[Flags, Flags]:
    """Which lines begin a heading, and which are part of one.

    Headings are `# x`, `= x =`, underlined lines, and `第三章`.
    """
    points, classes, _ = characters
    opens, first, lead = lines.opens, lines.first, lines.lead
    heading = np.zeros(len(opens), bool)
    under = np.zeros(len(opens), bool)
    hashes = np.flatnonzero((lead == ord("#")) & (indent < STEP))
    if len(hashes):
        place = first[hashes].copy()
        for _ in range(6):
            place += points[place] == ord("#")
        kind = classes[np.minimum(place, len(classes) - 1)]
        heading[hashes] = ((kind == BLANK) | (kind == NEWLINE)) & (place - first[hashes] <= 6)
    under_marks = (lead == ord("=")) | (lead == ord("-"))
    for index in _with_doubled_mark(points, lines, under_marks, ord("-")).tolist():
        at = low + int(first[index]) - PAD
        if SETEXT.match(text, at):
            if index and not lines.empty[index - 1] and _short(opens, index - 1):
                heading[index - 1] = under[index] = True
        elif text[at] == "=":
            heading[index] = bool(WIKI.match(text, at, at + 200))
    for index in np.flatnonzero(lead == ord("第")).tolist():
        at = low + int(first[index]) - PAD
        heading[index] |= bool(NUMBERED.match(text, at)) and _short(opens, index, 40)
    return heading, heading | under


def _with_doubled_mark(points: Array, lines: Lines, chosen: Flags, mark: int) -> Array:
    """The chosen lines, except those that begin with a single one of this mark."""
    candidates = np.flatnonzero(chosen)
    doubled = points.take(lines.first.take(candidates) + 1) == mark
    marked_lines: Array = candidates[(lines.lead.take(candidates) != mark) | doubled]
    return marked_lines


def _short(opens: Array, index: int, chars: int = 100) -> bool:
    return index + 1 < len(opens) and int(opens[index + 1] - opens[index]) <= chars


def _fences(
    characters: Characters, lines: Lines, start: int, end: int, state: State
) -> tuple[Flags, State]:
    """Which lines are in a code fence, including its marks, and the state at `end`."""
    points, classes, _ = characters
    fence = np.zeros(len(lines.opens), bool)
    # The line in which the segment begins.
    first = int(np.searchsorted(lines.opens, start, "right")) - 1
    marks = np.flatnonzero((lines.lead == ord("`")) | (lines.lead == ord("~")))
    if len(marks):
        place, lead = lines.first.take(marks), lines.lead.take(marks)
        marks = marks[(points.take(place + 1) == lead) & (points.take(place + 2) == lead)]
        fence[marks] = True
        marks = marks[lines.opens.take(marks) >= start]  # counted by the segment before
    if lines.opens[first] < start:
        fence[first] = state.cut_fence
    inside = in_fence = state.in_fence
    last = first
    opens = lines.opens.take(marks).tolist()
    has_language = (
        classes.take(lines.first.take(marks) + 3) - np.uint8(LOWER) <= UPPER - LOWER
    ).tolist()
    for mark, at, has_name in zip(marks.tolist(), opens, has_language, strict=True):
        if inside:
            fence[last : mark + 1] = True
        # A mark with a language opens a fence; an unclosed fence ends before it.
        inside = not inside or has_name
        last = mark
        if at < end:
            in_fence = inside
    if inside:
        fence[last:] = True
    cut = int(np.searchsorted(lines.opens, end, "left")) - 1
    return fence, State(in_fence, bool(fence[cut]))


def _clear_fences(strength: Array, opens: Array, fence: Flags) -> None:
    """Remove sentence ends inside code fences."""
    edges = np.flatnonzero(np.diff(fence, prepend=False, append=False))
    stops = np.append(opens, len(strength)).take(edges[1::2])
    for begin, stop in zip(opens.take(edges[::2]).tolist(), stops.tolist(), strict=True):
        strength[begin + 1 : stop] = 0


def _table_rows(classes: Array, lines: Lines) -> Flags:
    pipes = np.flatnonzero(classes == PIPE) - PAD
    owner = lines.breaks.searchsorted(pipes)
    rows: Flags = np.bincount(owner, minlength=len(lines.opens)) >= 2
    return rows


_BULLET, _BRACKET, _NUMERAL, _CIRCLED, _CLOSING = 1, 2, 3, 4, 5


@lru_cache(maxsize=1)
def _item_table() -> NDArray[np.uint8]:
    table = np.zeros(0x10000, np.uint8)
    table[[ord(mark) for mark in "-*+•·‣◦>"]] = _BULLET
    table[[ord(mark) for mark in "（("]] = _BRACKET
    table[[ord(mark) for mark in "一二三四五六七八九十"]] = _NUMERAL
    table[[ord(mark) for mark in "①②③④⑤⑥⑦⑧⑨⑩"]] = _CIRCLED
    table[[ord(mark) for mark in ".)、）．"]] = _CLOSING
    return table


def _items(characters: Characters, lines: Lines) -> Flags:
    """Which lines begin a list item, a quotation, or a numbered paragraph."""
    points, classes, _ = characters
    first = lines.first
    table = _item_table()
    kind = table.take(lines.lead, mode="clip")
    item: Flags = kind == _CIRCLED
    candidates = np.flatnonzero(kind - np.uint8(_BULLET) <= _NUMERAL - _BULLET)
    if len(candidates):
        second = first.take(candidates) + 1
        following, point = classes.take(second), points.take(second)
        item[candidates] = np.choose(
            kind.take(candidates) - 1,
            (following == BLANK, _in_brackets(characters, second), point == ord("、")),
        )
    candidates = np.flatnonzero((classes.take(first) == DIGIT) & (lines.lead > 0) & (kind == 0))
    if len(candidates):
        item[candidates] = _numbered(characters, lines, candidates)
    return item


def _in_brackets(characters: Characters, place: Array) -> Flags:
    """Whether a number of at most three digits and its closing bracket begin at each place."""
    points, classes, _ = characters
    stop = place.copy()
    for _ in range(3):
        number = classes.take(stop) == DIGIT
        stop += number | (_item_table().take(points.take(stop), mode="clip") == _NUMERAL)
    wide = points.take(stop) == ord("）")
    blank = classes.take(stop + 1) - np.uint8(BLANK) <= NEWLINE - BLANK
    closed: Flags = wide | ((points.take(stop) == ord(")")) & blank)
    return closed & (stop > place)


def _numbered(characters: Characters, lines: Lines, candidates: Array) -> Flags:
    """Which of these lines, each with a digit first, begin with a number and its mark.

    In the middle of a paragraph only 1 begins a list, or the number after the last one: wrapped
    prose has lines that begin with the end of a sentence, such as `7. For`.
    """
    points, classes, low = characters
    place = lines.first.take(candidates)
    value = low.take(place).astype(np.int64) - ord("0")
    place = place + 1
    for _ in range(2):
        digit = classes.take(place) == DIGIT
        value = np.where(digit, value * 10 + low.take(place) - ord("0"), value)
        place += digit
    mark = points.take(place)
    blank = classes.take(place + 1) - np.uint8(BLANK) <= NEWLINE - BLANK
    closed = _item_table().take(mark, mode="clip") >= _CLOSING
    closed &= blank | (mark > 0x7F)
    chosen = np.flatnonzero(closed)
    opens = lines.opens.take(candidates.take(chosen))
    value = value.take(chosen)
    follows = np.zeros(len(chosen), bool)
    follows[1:] = (np.diff(value) == 1) & (np.diff(opens) <= NEAR)
    before = np.maximum(candidates.take(chosen) - 1, 0)
    fresh = lines.empty.take(before) | (candidates.take(chosen) == 0)
    closed[chosen] = (value == 1) | follows | fresh
    return closed
