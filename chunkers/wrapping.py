"""Hard-wrapped text: line breaks that are there only because the line was full."""

from __future__ import annotations

import numpy as np

from chunkers.characters import (
    BLANK,
    CJK,
    COMMA,
    COMMA_CJK,
    LETTER,
    LOWER,
    NEWLINE,
    PAD,
    UPPER,
    Array,
    Flags,
)  # fmt: skip


def soft_breaks(
    classes: Array, opens: Array, breaks: Array, first: Array, empty: Flags, marked: Flags
) -> Flags:
    """Which line breaks are there only because the line was full: those of hard-wrapped blocks.

    A break is one if the first word of the next line had no room, given the longest line of the
    block. A block counts as wrapped if nearly all its inner breaks pass that test and sentences
    run over some of them; code, verse and tables do not.
    """
    soft = np.zeros(len(breaks), bool)
    if len(breaks) < 2:
        return soft
    stops = np.concatenate((breaks, [len(classes) - 2 * PAD]))
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
    last_kind = classes[stops[line] + PAD - 1]
    next_kind = classes[first[line + 1]]
    runs_over = next_kind == LOWER
    runs_over |= (next_kind == CJK) & ((last_kind == CJK) | (last_kind == COMMA_CJK))
    runs_over |= (next_kind >= UPPER) & (last_kind >= COMMA) & (last_kind <= LETTER)
    # What is cheap to see first: sentences run over, and the indent stays, as it does not in code.
    indent = first - opens
    steady = indent[line] == indent[line + 1]
    count = len(blocks)
    likely = (inner >= 2) & (np.bincount(owner[runs_over], minlength=count) >= 0.3 * inner)
    likely &= np.bincount(owner[steady], minlength=count) >= 0.6 * inner
    if not likely.any():
        return soft
    chosen = np.flatnonzero(likely[owner])
    usual, full = _judge(classes, first, length, line[chosen], owner[chosen], runs_over[chosen])
    if not usual:
        return soft
    soft[line[chosen[full]]] = True
    # A block of two lines proves nothing by itself: it is judged by the width of the others.
    pairs = line[(inner == 1)[owner] & runs_over & (length[line] <= usual + 2)]
    soft[pairs] = _is_full(classes, first, length, pairs, np.full(len(pairs), usual))
    return soft


def _judge(
    classes: Array, first: Array, length: Array, line: Array, owner: Array, runs_over: Flags
) -> tuple[int, Flags]:
    """The usual width of the blocks that are wrapped, 0 if none is, and which lines are full.

    `line`, `owner` and `runs_over`: the inner lines of blocks of three lines or more.
    """
    _, owner, inner = np.unique(owner, return_inverse=True, return_counts=True)
    count = len(inner)
    # The width is a high percentile, so that one long line put in by an edit changes nothing.
    order = np.lexsort((length[line], owner))
    rank = np.cumsum(inner) - inner + (inner - 1) * 9 // 10
    width = length[line[order[rank]]]
    full = _is_full(classes, first, length, line, width[owner])
    passed = np.bincount(owner[full], minlength=count)
    over = np.bincount(owner[full & runs_over], minlength=count)
    wrapped = (passed >= 0.7 * inner) & (over >= 0.3 * inner)
    wrapped &= (width >= _NARROWEST) & (width <= _WIDEST)
    if not wrapped.any():
        return 0, full
    return int(np.median(width[wrapped])), full & wrapped[owner]


_NARROWEST, _WIDEST = 30, 200
_LONGEST_WORD = 30


def _is_full(classes: Array, first: Array, length: Array, line: Array, width: Array) -> Flags:
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
