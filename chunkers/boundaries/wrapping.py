"""Hard-wrapped text: line breaks inserted only because the line was full."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from chunkers.boundaries.characters import (
    BLANK,
    CJK,
    CLASSES,
    COMMA,
    COMMA_CJK,
    DIGIT,
    LETTER,
    LOWER,
    NEWLINE,
    PAD,
    POINT,
    UPPER,
    Array,
    Flags,
    eight_byte_windows,
    leading_false_counts,
)


def soft_breaks(
    classes: Array, opens: Array, breaks: Array, first: Array, empty: Flags, marked: Flags
) -> Flags:
    """Which line breaks were inserted only because the line was full: those of hard-wrapped blocks.

    A break is soft if the first word of the next line had no room, given the longest line of the
    block. A block counts as wrapped if nearly all its inner breaks pass this test and sentences
    run across some of them; code, verse and tables do not.
    """
    soft = np.zeros(len(breaks), bool)
    if len(breaks) < 2:
        return soft
    stops = np.append(breaks, len(classes) - 2 * PAD)
    length = stops - opens
    fresh = _fresh(empty, marked)
    begins = np.flatnonzero(fresh)
    lines = np.diff(begins, append=len(fresh))
    width = np.maximum.reduceat(length, begins)
    blocks = np.flatnonzero((lines >= 2) & (width >= NARROWEST))
    if not len(blocks):
        return soft
    # From here on only the lines of these blocks, without the last of each.
    inner = lines.take(blocks) - 1
    owner = np.repeat(np.arange(len(blocks)), inner)
    shift = begins.take(blocks) - (np.cumsum(inner) - inner)
    # Each of these lines is followed by another line of its block.
    line = np.arange(len(owner)) + shift.take(owner)
    last_kind = classes.take(stops.take(line) + (PAD - 1))
    next_kind = classes.take(first.take(line + 1))
    runs_over = pairs().take(last_kind * np.int64(CLASSES) + next_kind)
    # The cheap tests first: sentences run over, and the indent is steady, unlike in code.
    indent = first - opens
    steady = indent.take(line) == indent.take(line + 1)
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
    # A block of two lines is no evidence by itself: it is compared with the width of the others.
    doubles = line[(inner == 1)[owner] & runs_over & (length[line] <= usual + 2)]
    soft[doubles] = _is_full(classes, first, length, doubles, np.full(len(doubles), usual))
    return soft


def _fresh(empty: Flags, marked: Flags) -> Flags:
    """Which lines begin a block: blank and marked ones, and those after a blank one."""
    fresh = empty | marked
    fresh[1:] |= empty[:-1]
    fresh[0] = True
    return fresh


def run_ons(
    classes: Array, opens: Array, breaks: Array, first: Array, empty: Flags, marked: Flags,
    inner: Array, ended: Flags,
) -> Flags:  # fmt: skip
    """Which line breaks are inside a sentence, in blocks whose lines are not full.

    Such a block has sentences that end inside its lines: `inner`, their places. Verse, lists and
    code have none. `ended`: the breaks after the end of a sentence.
    """
    flags = np.zeros(len(breaks), bool)
    if not len(breaks) or not len(inner):
        return flags
    kinds = classes.take(breaks + (PAD - 1)) * np.int64(CLASSES) + classes.take(first[1:])
    flags = (pairs_inside().take(kinds) & ~ended) & (breaks - opens[:-1] >= NARROWEST) & ~marked[1:]
    # In a log every line begins with a number.
    numbers = classes.take(first) == DIGIT
    flags &= ~(numbers[1:] & numbers[:-1])
    if flags.any():
        block = _fresh(empty, marked).cumsum()
        owner = block.take(breaks.searchsorted(inner))
        flags &= np.bincount(owner, minlength=int(block[-1]) + 1).take(block[1:]) > 0
    return flags


def _judge(
    classes: Array, first: Array, length: Array, line: Array, owner: Array, runs_over: Flags
) -> tuple[int, Flags]:
    """The usual width of the wrapped blocks, 0 if none is wrapped, and which lines are full.

    `line`, `owner` and `runs_over`: the inner lines of blocks of three lines or more.
    """
    inner = np.bincount(owner)
    inner = inner[inner > 0]
    count = len(inner)
    owner = np.repeat(np.arange(count), inner)
    # The width is a high percentile, so that one long line from an edit changes nothing.
    order = np.argsort(owner * np.int64(_WIDEST * 8) + np.minimum(length.take(line), _WIDEST * 4))
    rank = np.cumsum(inner) - inner + (inner - 1) * 9 // 10
    width = length[line[order[rank]]]
    full = _is_full(classes, first, length, line, width[owner])
    passed = np.bincount(owner[full], minlength=count)
    over = np.bincount(owner[full & runs_over], minlength=count)
    wrapped = (passed >= 0.7 * inner) & (over >= 0.3 * inner)
    wrapped &= (width >= NARROWEST) & (width <= _WIDEST)
    if not wrapped.any():
        return 0, full
    return int(np.median(width[wrapped])), full & wrapped[owner]


NARROWEST, _WIDEST = 30, 200
_LONGEST_WORD = 30


def _is_full(classes: Array, first: Array, length: Array, line: Array, width: Array) -> Flags:
    """Whether the first word of the next line would not have fitted at the end of this one.

    A line slightly shorter than the width counts as full, because of Chinese characters that must
    not begin a line and of line ends that an edit has moved.
    """
    short = width * 9 // 10 - 1 - length.take(line)
    full: Flags = short < 0
    near = np.flatnonzero(~full & (short < _LONGEST_WORD))
    if len(near):
        begin = first.take(line.take(near) + 1)
        full[near] = _word_length(classes, begin) > short.take(near)
    return full


def _word_length(classes: Array, begin: Array) -> Array:
    """The characters up to a blank or line break, or through the first Chinese one."""
    windows = eight_byte_windows(classes)
    length = np.zeros(len(begin), np.int64)
    moving = np.arange(len(begin))
    for _ in range(-(-_LONGEST_WORD // 8)):
        kinds = windows[begin.take(moving) + length.take(moving)].view(np.uint8)
        blank = leading_false_counts(kinds - np.uint8(BLANK) <= NEWLINE - BLANK)
        chinese = leading_false_counts(kinds == CJK)
        length[moving] += np.minimum(np.minimum(blank, chinese + 1), 8)
        moving = moving[(blank == 8) & (chinese == 8)]
        if not len(moving):
            break
    return np.minimum(length, _LONGEST_WORD)


@lru_cache(maxsize=1)
def pairs() -> NDArray[np.bool_]:
    """Whether a sentence runs over, by the last character of a line and the first of the next."""
    table = np.zeros((CLASSES, CLASSES), bool)
    table[:, LOWER] = True
    table[[CJK, COMMA_CJK], CJK] = True
    table[COMMA : LETTER + 1, UPPER:] = True
    return table.ravel()


@lru_cache(maxsize=1)
def pairs_inside() -> NDArray[np.bool_]:
    """The same as `pairs`, only where nothing but a sentence that runs over has these two."""
    table = np.zeros((CLASSES, CLASSES), bool)
    table[COMMA : LETTER + 1, [DIGIT, LOWER]] = True
    table[[CJK, COMMA_CJK], CJK] = True
    # After an abbreviation.
    table[POINT, [DIGIT, LOWER, UPPER]] = True
    return table.ravel()
