"""What a line break is worth: headings, list items, tables, code fences and plain lines."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkers.characters import (
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
    among,
)  # fmt: skip
from chunkers.wrapping import soft_breaks

SENTENCE, ROW, LINE, BLANK_LINE, HEADING = 2, 3, 4, 5, 6
"""Strengths, ascending. ROW is between the rows of a table and the lines of a code fence, which
stay together where they fit."""

_SETEXT = re.compile(r"(?:=+|-{2,})[ \t]*(?:\r?\n|\r|\Z)")
_WIKI = re.compile(r"=[^\r\n]{3,}=[ \t]*$", re.MULTILINE)
_NUMBERED = re.compile(r"第[0-9零〇一二三四五六七八九十百千两]{1,8}[章节回部篇卷编]")


class Lines(NamedTuple):
    """The lines of a window; all but `breaks` and `opens` are indices into its characters."""

    breaks: Array
    """Where each line but the last ends: its line break."""
    opens: Array
    """Where each line begins."""
    first: Array
    """Its first character that is no blank, with the pad."""
    lead: Array
    """That character's code point."""
    empty: Flags


def split(characters: Characters) -> Lines:
    """The lines of a window."""
    points, classes = characters
    breaks = np.flatnonzero(classes[PAD:-PAD] == NEWLINE)
    here = points[breaks + PAD]
    breaks = breaks[(here != 13) | (points[breaks + PAD + 1] != 10)]
    opens = np.concatenate(([0], breaks + 1))
    first = opens + PAD
    first = _skip_blanks(classes, first)
    empty = (classes[first] == NEWLINE) | (classes[first] == BLANK)
    return Lines(breaks, opens, first, points[first].astype(np.int64), empty)


def _skip_blanks(classes: Array, first: Array) -> Array:
    # Four blanks at a time, read as one number at any offset, then one at a time.
    fours = np.ndarray(len(classes) - 3, "<u4", classes.data, strides=(1,))
    moving = np.flatnonzero(classes[first] == BLANK)
    deep = moving[fours[first[moving]] == _FOUR_BLANKS]
    for _ in range(_DEEPEST // 4):
        if not len(deep):
            break
        first[deep] += 4
        deep = deep[fours[first[deep]] == _FOUR_BLANKS]
    for _ in range(4):
        moving = moving[classes[first[moving]] == BLANK]
        if not len(moving):
            break
        first[moving] += 1
    return first


_FOUR_BLANKS = BLANK * 0x01010101
_DEEPEST = 256
"""A line that is still blank after that many characters is taken for an empty one."""


def mark_lines(
    text: str,
    low: int,
    characters: Characters,
    strength: Array,
    start: int,
    end: int,
    in_fence: bool,
) -> tuple[Array, bool]:
    """Write the strength of every line break; where headings begin, and the state of the fence.

    `start` and `end` are the segment in this window, which begins at `low` of the text.
    """
    classes = characters.classes
    lines = split(characters)
    breaks, opens, empty = lines.breaks, lines.opens, lines.empty
    heading, title = _headings(text, low, characters, lines)
    fence, in_fence = _fences(characters, lines, start, end, in_fence)
    heading &= ~fence
    rows = np.zeros(len(opens), bool)
    if text.find("|", low, low + len(strength) - 1) >= 0:
        rows = _table_rows(classes, lines)
    marked = _items(characters, lines) | heading | rows | fence
    soft = soft_breaks(classes, opens, breaks, lines.first, empty, marked)

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
        _clear_fences(strength, opens, fence)
    strength[places] = np.where(full, level, 0)
    return opens[heading], in_fence


def _ended_before(classes: Array, strength: Array, breaks: Array) -> Array:
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
        kind = classes[place[moving] + PAD]
        moving = moving[(kind == BLANK) | (kind == NEWLINE)]
        if not len(moving):
            break
    return found


def _headings(text: str, low: int, characters: Characters, lines: Lines) -> tuple[Flags, Flags]:
    """Which lines begin a heading, and which belong to one.

    Headings are `# x`, `= x =`, underlined lines, and `第三章`.
    """
    points, classes = characters
    opens, first, lead = lines.opens, lines.first, lines.lead
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
        at = low + int(first[index]) - PAD
        if _SETEXT.match(text, at):
            if index and not lines.empty[index - 1] and _short(opens, index - 1):
                heading[index - 1] = under[index] = True
        elif text[at] == "=":
            heading[index] = bool(_WIKI.match(text, at, at + 200))
    for index in np.flatnonzero(lead == ord("第")).tolist():
        at = low + int(first[index]) - PAD
        heading[index] = bool(_NUMBERED.match(text, at)) and _short(opens, index, 40)
    return heading, heading | under


def _short(opens: Array, index: int, chars: int = 100) -> bool:
    return index + 1 < len(opens) and int(opens[index + 1] - opens[index]) <= chars


def _fences(
    characters: Characters, lines: Lines, start: int, end: int, in_fence: bool
) -> tuple[Flags, bool]:
    """Which lines lie in a code fence, its marks included, and whether one is open at `end`."""
    points, classes = characters
    opens, first, lead = lines.opens, lines.first, lines.lead
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


def _clear_fences(strength: Array, opens: Array, fence: Flags) -> None:
    """A stop inside a code fence ends no sentence."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], fence, [False])).astype(np.int8)))
    for begin, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        strength[opens[begin] + 1 : opens[stop] if stop < len(opens) else None] = 0


def _table_rows(classes: Array, lines: Lines) -> Flags:
    pipes = np.flatnonzero(classes == PIPE) - PAD
    owner = lines.breaks.searchsorted(pipes)
    rows: Flags = np.bincount(owner, minlength=len(lines.opens)) >= 2
    return rows


_BULLET, _BRACKET, _NUMERAL, _CIRCLED = 1, 2, 3, 4


@lru_cache(maxsize=1)
def _item_table() -> NDArray[np.uint8]:
    table = np.zeros(0x10000, np.uint8)
    table[[ord(mark) for mark in "-*+•·‣◦>"]] = _BULLET
    table[[ord(mark) for mark in "（("]] = _BRACKET
    table[[ord(mark) for mark in "一二三四五六七八九十"]] = _NUMERAL
    table[[ord(mark) for mark in "①②③④⑤⑥⑦⑧⑨⑩"]] = _CIRCLED
    return table


def _items(characters: Characters, lines: Lines) -> Flags:
    """Which lines begin a list item, a quotation, or a numbered paragraph."""
    points, classes = characters
    first, lead = lines.first, lines.lead
    table = _item_table()
    kind = table[np.minimum(lead, 0xFFFF)]
    item: Flags = kind == _CIRCLED
    some = np.flatnonzero((kind != 0) & ~item)
    if len(some):
        second = first[some] + 1
        number = table[np.minimum(points[second].astype(np.int64), 0xFFFF)] == _NUMERAL
        item[some] = np.choose(
            kind[some] - 1,
            (
                classes[second] == BLANK,
                (classes[second] == DIGIT) | number,
                points[second] == ord("、"),
            ),
        )
    some = np.flatnonzero(classes[first] == DIGIT)
    if len(some):
        place = first[some] + 1
        for _ in range(2):
            place += classes[place] == DIGIT
        item[some] |= among(points[place], _AFTER_NUMBER)
    return item


_AFTER_NUMBER = np.array(sorted(map(ord, ".)、）．")))
