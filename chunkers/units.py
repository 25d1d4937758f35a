"""A text as units (sentences and lines) with token counts, read as far as needed."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Protocol

import numpy as np

from chunkers.boundaries.characters import Array, Flags
from chunkers.boundaries.levels import PAGE, SENTENCE
from chunkers.boundaries.scan import START, Boundaries, scan
from chunkers.boundaries.scan_short import SHORT_CHARS, scan_short
from chunkers.boundaries.short_sentences import clean_at, mark_at
from chunkers.boundaries.wholes import NONE, Ends, unit_tokens, unit_tokens_short
from chunkers.tokens.encoded import Encoded

KEPT = 4096


class Figures(Protocol):
    """One figure for each unit."""

    def __getitem__(self, index: int, /) -> int:
        """The figure of that unit."""


class LazyFigures:
    """Figures that are computed on access."""

    def __init__(self, compute: Callable[[int], int]) -> None:
        self.compute = compute

    def __getitem__(self, index: int, /) -> int:
        return self.compute(index)


class Units:
    """The unit ends from the chunk being cut to the last segment read, as parallel arrays.

    Invariant: `at`, `tokens_before_end` and `tokens_before_start` ascend; a unit that fits into a
        chunk of `size` tokens holds none of `ends` and `strong`.
    """

    def __init__(self, encoded: Encoded, size: int, *, whole_to: int = 0) -> None:
        self.encoded = encoded
        self.size = size
        self.at = array("q")
        self.tokens_before_end = array("q")
        """Tokens that end at or before each place."""
        self.tokens_before_start = array("q")
        """Tokens that begin before each place: those that count for a chunk that ends here."""
        self.clean: Figures = bytearray()
        """1: a chunk that begins here has the same tokens alone as in place."""
        self.preference: Figures = array("q")
        """The smallest value is preferred: stronger ends first, then by content."""
        self.level = bytearray()
        self.ends = array("q")
        """The indices of the units with which a chunk may end."""
        self.ends_before_start = array("q")
        """Their `tokens_before_start`."""
        self.strong = array("q")
        """Those of `ends` that end a line, a paragraph or more."""
        self.strong_before_start = array("q")
        self.headings: list[int] = []
        """The start of each heading; these are never dropped."""
        self.dropped = 0
        """Number of dropped units, all before these."""
        self.tokens_read = 0
        """Tokens read so far; `sys.maxsize` once all are."""
        self._state = START
        self._near = NONE
        """The last units read: those of the last `size` tokens, and those not decided yet."""
        self._decided = 0
        """Number of units, with the dropped ones, of which it is known whether they are `ends`."""
        self._whole_to = whole_to
        """Short texts of at most this many tokens are cut only at line ends."""

    def reach(self, tokens: int, position: int) -> None:
        """Read until `tokens` tokens, counted from the beginning of the text, are known.

        Units that end before `position` may be dropped.
        """
        encoded = self.encoded
        while self.tokens_read < tokens:
            self._forget(position)
            start, end = encoded.read()
            if not (end - start == len(encoded.text) <= SHORT_CHARS and self._append_short()):
                boundaries = scan(encoded.text, start, end, self._state)
                self._append(boundaries)
            self.tokens_read = sys.maxsize if encoded.complete else encoded.total()

    def _append(self, boundaries: Boundaries) -> None:
        before_end, before_start = self.encoded.before(boundaries.at)
        self.at.frombytes(boundaries.at.tobytes())
        self.tokens_before_end.frombytes(before_end.tobytes())
        self.tokens_before_start.frombytes(before_start.tobytes())
        clean = boundaries.clean & (before_end == before_start) & self.encoded.tokenizer.additive
        rank = (PAGE - boundaries.level.astype(np.int64)) << 32
        rank += boundaries.mark
        assert isinstance(self.clean, bytearray) and isinstance(self.preference, array)
        self.clean += clean.tobytes()
        self.preference.frombytes(rank.tobytes())
        self.level += boundaries.level.tobytes()
        self.headings += boundaries.headings.tolist()
        self._state = boundaries.state
        self._decide(Ends(boundaries.level, before_end, before_start))

    def _decide(self, new: Ends) -> None:
        """Which of the last units may end a chunk, as far as the text read decides it."""
        near = self._near.then(new)
        base = self.dropped + len(self.at) - len(near.level)
        read, complete = self.encoded.total(), self.encoded.complete
        tokens = unit_tokens(near, read, from_start=not base, complete=complete)
        open_units = np.flatnonzero((tokens < 0) & (tokens >= -self.size))
        stop = int(open_units[0]) if len(open_units) else len(tokens)
        begin = self._decided - base
        ends = begin + np.flatnonzero(np.abs(tokens[begin:stop]) > self.size)
        if complete and (not len(ends) or ends[-1] != len(tokens) - 1):
            ends = np.append(ends, len(tokens) - 1)
        self._add_ends(ends + (base - self.dropped), near.level.take(ends) > SENTENCE,
                       near.before_start.take(ends))  # fmt: skip
        self._decided = base + stop
        self._near = near.since(min(stop, int(near.before_end.searchsorted(read - self.size))))

    def _add_ends(self, ends: Array, strong: Flags, before_start: Array) -> None:
        self.ends.frombytes(ends.astype(np.int64).tobytes())
        self.ends_before_start.frombytes(before_start.tobytes())
        self.strong.frombytes(ends[strong].astype(np.int64).tobytes())
        self.strong_before_start.frombytes(before_start[strong].tobytes())

    def _append_short(self) -> bool:
        """Reads a whole short text without arrays for rarely used figures; false if it needs
        them."""
        encoded = self.encoded
        short = scan_short(encoded.text, with_sentences=encoded.total() > self._whole_to)
        if short is None:
            return False
        at, strength, self.headings = short
        before_end, before_start = encoded.before(np.array(at))
        self.at, self.tokens_before_end = array("q", at), array("q", before_end.tobytes())
        self.tokens_before_start, self.level = (
            array("q", before_start.tobytes()),
            bytearray(strength),
        )
        tokens = unit_tokens_short(
            strength, self.tokens_before_end.tolist(), self.tokens_before_start.tolist()
        )
        tokens[-1] = self.size + 1
        ends = [index for index, count in enumerate(tokens) if count > self.size]
        strong = [index for index in ends if strength[index] > SENTENCE]
        count = self.tokens_before_start.__getitem__
        self.ends, self.ends_before_start = array("q", ends), array("q", map(count, ends))
        self.strong, self.strong_before_start = array("q", strong), array("q", map(count, strong))

        def clean(index: int) -> int:
            whole = (
                self.tokens_before_end[index] == self.tokens_before_start[index]
                and encoded.tokenizer.additive
            )
            return int(whole and clean_at(encoded.text, at[index]))

        def preference(index: int) -> int:
            return (PAGE - strength[index] << 32) + mark_at(encoded.text, at[index])

        self.clean, self.preference = LazyFigures(clean), LazyFigures(preference)
        return True

    def _forget(self, position: int) -> None:
        """Drop the tokens before `position`, and the units before it once they are many."""
        self.encoded.forget(position)
        count = bisect_right(self.at, position) - 1
        if count < KEPT:
            return
        assert isinstance(self.clean, bytearray) and isinstance(self.preference, array)
        for units in (self.at, self.tokens_before_end, self.tokens_before_start, self.preference):
            del units[:count]
        self.dropped += count
        del self.clean[:count], self.level[:count]
        self.ends, self.ends_before_start = _after(self.ends, self.ends_before_start, count)
        self.strong, self.strong_before_start = _after(self.strong, self.strong_before_start, count)


def _after(units: array[int], figures: array[int], count: int) -> tuple[array[int], array[int]]:
    """The indices and their figures without the first `count` units."""
    first = bisect_left(units, count)
    return array("q", [index - count for index in units[first:]]), figures[first:]
