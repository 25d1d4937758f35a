"""A text as units, sentences and lines, each with the tokens before it: read as far as needed."""

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
    """Figures that are found out when they are asked for."""

    def __init__(self, look: Callable[[int], int]) -> None:
        self.look = look

    def __getitem__(self, index: int, /) -> int:
        return self.look(index)


class Units:
    """The unit ends from the chunk being cut to the last segment read, as parallel arrays.

    Invariant: `at`, `ended` and `begun` ascend; the arrays that begin with `strong_` hold the ends
        of lines, paragraphs and sections only.
    """

    def __init__(self, encoded: Encoded, *, whole_to: int = 0) -> None:
        self.encoded = encoded
        self.at = array("q")
        self.tokens_before_end = array("q")
        """Tokens that end at each place or before it."""
        self.tokens_before_start = array("q")
        """Tokens that begin before each place: what a chunk that ends here is charged."""
        self.clean: Figures = bytearray()
        """1: a chunk that begins here has alone the tokens that it has in place."""
        self.choice: Figures = array("q")
        """The smallest one of several is to be preferred: stronger first, then by content."""
        self.level = bytearray()
        self.strong = array("q")
        """Their indices."""
        self.strong_begun = array("q")
        self.headings: list[int] = []
        """Where each heading begins; never forgotten."""
        self.dropped = 0
        """Units forgotten, all before these."""
        self.known = 0
        """Tokens read, without bound when all are."""
        self._in_fence = False
        self._whole_to = whole_to
        """A short text of at most so many tokens is cut at line ends only."""

    def reach(self, tokens: int, position: int) -> None:
        """Read until `tokens` tokens, counted from the beginning of the text, are known.

        What ends before `position` may be forgotten.
        """
        encoded = self.encoded
        while self.known < tokens:
            self._forget(position)
            start, end = encoded.read()
            if not (end - start == len(encoded.text) <= SHORT_CHARS and self._take_short()):
                found = scan(encoded.text, start, end, in_fence=self._in_fence)
                self._take(found)
            self.known = sys.maxsize if encoded.complete else encoded.total()

    def best(self, low: int, high: int) -> int:
        """The unit in [low, high) with the smallest choice, of equals the first."""
        if isinstance(self.choice, array):
            window = self.choice[low:high]
            return low + window.index(min(window))
        return min(range(low, high), key=self.choice.__getitem__)

    def _take(self, found: Boundaries) -> None:
        ended, begun = self.encoded.before(found.at)
        strong = np.flatnonzero(found.level >= LINE)
        self.strong.frombytes((strong + len(self.at)).tobytes())
        self.strong_begun.frombytes(begun.take(strong).tobytes())
        self.at.frombytes(found.at.tobytes())
        self.tokens_before_end.frombytes(ended.tobytes())
        self.tokens_before_start.frombytes(begun.tobytes())
        clean = found.clean & (ended == begun) & self.encoded.tokenizer.additive
        rank = (HEADING - found.level.astype(np.int64)) << 32
        rank += found.mark
        assert isinstance(self.clean, bytearray) and isinstance(self.choice, array)
        self.clean += clean.tobytes()
        self.choice.frombytes(rank.tobytes())
        self.level += found.level.tobytes()
        self.headings += found.headings.tolist()
        self._in_fence = found.in_fence

    def _take_short(self) -> bool:
        """The whole text without arrays of what is hardly asked for; false if it needs them."""
        encoded = self.encoded
        found = scan_short(encoded.text, with_sentences=encoded.total() > self._whole_to)
        if found is None:
            return False
        at, strength, self.headings = found
        ended, begun = encoded.before(np.array(at))
        self.at, self.tokens_before_end = array("q", at), array("q", ended.tobytes())
        self.tokens_before_start, self.level = array("q", begun.tobytes()), bytearray(strength)
        self.strong = array("q", [index for index, one in enumerate(strength) if one >= LINE])
        self.strong_begun = array("q", map(self.tokens_before_start.__getitem__, self.strong))

        def clean(index: int) -> int:
            whole = (
                self.tokens_before_end[index] == self.tokens_before_start[index]
                and encoded.tokenizer.additive
            )
            return int(whole and clean_at(encoded.text, at[index]))

        def choice(index: int) -> int:
            return (HEADING - strength[index] << 32) + mark_at(encoded.text, at[index])

        self.clean, self.choice = LazyFigures(clean), LazyFigures(choice)
        return True

    def _forget(self, position: int) -> None:
        """Drop the tokens before `position`, and the units, if they are many."""
        self.encoded.forget(position)
        count = bisect_right(self.at, position) - 1
        if count < KEPT:
            return
        assert isinstance(self.clean, bytearray) and isinstance(self.choice, array)
        for units in (self.at, self.tokens_before_end, self.tokens_before_start, self.choice):
            del units[:count]
        self.dropped += count
        del self.clean[:count], self.level[:count]
        first = bisect_left(self.strong, count)
        self.strong_begun = self.strong_begun[first:]
        self.strong = array("q", [index - count for index in self.strong[first:]])
