"""A text as units, sentences and lines, each with the tokens before it: read as far as needed."""

from __future__ import annotations

import sys
from bisect import bisect_right
from itertools import compress

from chunkers.boundaries import HEADING, LINE, scan
from chunkers.encoded import Encoded

KEPT = 4096


class Units:
    """The unit ends from the chunk being cut to the last segment read, as parallel lists.

    Invariant: `at`, `ended` and `begun` ascend; the lists that begin with `strong_` hold the ends
        of lines, paragraphs and sections only.
    """

    def __init__(self, encoded: Encoded) -> None:
        self.encoded = encoded
        self.at: list[int] = []
        self.ended: list[int] = []
        """Tokens that end at each place or before it."""
        self.begun: list[int] = []
        """Tokens that begin before each place: what a chunk that ends here is charged."""
        self.clean = bytearray()
        """1: a chunk that begins here has alone the tokens that it has in place."""
        self.choice: list[int] = []
        """The smallest one of several is to be preferred: stronger first, then by content."""
        self.strength = bytearray()
        self.strong: list[int] = []
        """Their indices."""
        self.strong_begun: list[int] = []
        self.headings: list[int] = []
        """Where each heading begins; never forgotten."""
        self.known = 0
        """Tokens read, without bound when all are."""
        self._in_fence = False

    def reach(self, tokens: int, position: int) -> None:
        """Read until `tokens` tokens, counted from the beginning of the text, are known.

        What ends before `position` may be forgotten.
        """
        encoded = self.encoded
        while self.known < tokens:
            self._forget(position)
            start, end = encoded.read()
            found = scan(encoded.text, start, end, in_fence=self._in_fence)
            self._in_fence = found.in_fence
            ended, begun = encoded.before(found.at)
            strong = (found.strength >= LINE).nonzero()[0]
            self.strong += (strong + len(self.at)).tolist()
            self.strong_begun += begun[strong].tolist()
            self.at += found.at.tolist()
            self.ended += ended.tolist()
            self.begun += begun.tolist()
            clean = found.clean & (ended == begun) & encoded.tokenizer.additive
            self.clean += clean.tobytes()
            rank = (HEADING - found.strength.astype("int64")) << 32
            self.choice += (rank + found.mark).tolist()
            self.strength += found.strength.tobytes()
            self.headings += found.headings.tolist()
            self.known = sys.maxsize if encoded.complete else encoded.total()

    def _forget(self, position: int) -> None:
        """Drop the tokens before `position`, and the units, if they are many."""
        self.encoded.forget(position)
        count = bisect_right(self.at, position) - 1
        if count < KEPT:
            return
        for units in (self.at, self.ended, self.begun, self.choice):
            del units[:count]
        del self.clean[:count], self.strength[:count]
        kept = [index >= count for index in self.strong]
        self.strong_begun = list(compress(self.strong_begun, kept))
        self.strong = [index - count for index in compress(self.strong, kept)]
