"""A text as units (sentences and lines) with token counts, read as far as needed."""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Protocol

import numpy as np

from chunkers.boundaries.scan import HEADING, LINE, Boundaries, scan
from chunkers.boundaries.scan_short import SHORT_CHARS, clean_at, mark_at, scan_short
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

    Invariant: `at`, `tokens_before_end` and `tokens_before_start` ascend; arrays that begin with
        `strong` hold only the ends of lines, paragraphs and sections.
    """

    def __init__(self, encoded: Encoded, *, whole_to: int = 0) -> None:
        self.encoded = encoded
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
        self.strong = array("q")
        """Their indices."""
        self.strong_tokens_before_start = array("q")
        self.headings: list[int] = []
        """The start of each heading; these are never dropped."""
        self.dropped = 0
        """Number of dropped units, all before these."""
        self.tokens_read = 0
        """Tokens read so far; `sys.maxsize` once all are."""
        self._in_fence = False
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
                boundaries = scan(encoded.text, start, end, in_fence=self._in_fence)
                self._append(boundaries)
            self.tokens_read = sys.maxsize if encoded.complete else encoded.total()

    def best(self, low: int, high: int) -> int:
        """The unit in [low, high) with the smallest preference value; the first of equal ones."""
        if isinstance(self.preference, array):
            window = self.preference[low:high]
            return low + window.index(min(window))
        return min(range(low, high), key=self.preference.__getitem__)

    def _append(self, boundaries: Boundaries) -> None:
        before_end, before_start = self.encoded.before(boundaries.at)
        strong = np.flatnonzero(boundaries.level >= LINE)
        self.strong.frombytes((strong + len(self.at)).tobytes())
        self.strong_tokens_before_start.frombytes(before_start.take(strong).tobytes())
        self.at.frombytes(boundaries.at.tobytes())
        self.tokens_before_end.frombytes(before_end.tobytes())
        self.tokens_before_start.frombytes(before_start.tobytes())
        clean = boundaries.clean & (before_end == before_start) & self.encoded.tokenizer.additive
        rank = (HEADING - boundaries.level.astype(np.int64)) << 32
        rank += boundaries.mark
        assert isinstance(self.clean, bytearray) and isinstance(self.preference, array)
        self.clean += clean.tobytes()
        self.preference.frombytes(rank.tobytes())
        self.level += boundaries.level.tobytes()
        self.headings += boundaries.headings.tolist()
        self._in_fence = boundaries.in_fence

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
        self.strong = array("q", [index for index, level in enumerate(strength) if level >= LINE])
        self.strong_tokens_before_start = array(
            "q", map(self.tokens_before_start.__getitem__, self.strong)
        )

        def clean(index: int) -> int:
            whole = (
                self.tokens_before_end[index] == self.tokens_before_start[index]
                and encoded.tokenizer.additive
            )
            return int(whole and clean_at(encoded.text, at[index]))

        def preference(index: int) -> int:
            return (HEADING - strength[index] << 32) + mark_at(encoded.text, at[index])

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
        first = bisect_left(self.strong, count)
        self.strong_tokens_before_start = self.strong_tokens_before_start[first:]
        self.strong = array("q", [index - count for index in self.strong[first:]])
