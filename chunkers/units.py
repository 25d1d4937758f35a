"""A text as units, sentences and lines, each with the tokens before it: read as far as needed."""

from __future__ import annotations

from bisect import bisect_right

from chunkers.boundaries import HEADING, LINE, scan
from chunkers.encoded import Encoded


class Units:
    """The unit ends from the chunk being cut to the last segment read.

    Invariant: `at`, `ended` and `begun` are ascending and of one length; `strong` and `headings`
        are indices into them.
    """

    def __init__(self, encoded: Encoded) -> None:
        self.encoded = encoded
        self.at: list[int] = []
        self.ended: list[int] = []
        """Tokens that end at each place or before it."""
        self.begun: list[int] = []
        """Tokens that begin before each place: what a chunk that ends here is charged."""
        self.strength: list[int] = []
        self.strong: list[int] = []
        """`begun` of the ends of lines, paragraphs and sections."""
        self.strong_index: list[int] = []
        self.headings: list[int] = []
        """Where each heading begins; never forgotten."""
        self._in_fence = False

    def reach(self, tokens: int) -> None:
        """Read until `tokens` tokens, counted from the beginning of the text, are known."""
        encoded = self.encoded
        while not encoded.complete and encoded.total() < tokens:
            start, end = encoded.read()
            found = scan(encoded.text, start, end, in_fence=self._in_fence)
            self._in_fence = found.in_fence
            self.headings += found.headings.tolist()
            ended, begun = encoded.before(found.at)
            self.strong_index += (
                (found.strength >= LINE).nonzero()[0] + len(self.at)
            ).tolist()
            self.at += found.at.tolist()
            self.ended += ended.tolist()
            self.begun += begun.tolist()
            self.strength += found.strength.tolist()
            self.strong = [self.begun[index] for index in self.strong_index]

    def forget(self, position: int) -> None:
        """Drop what ends at `position` or before it, if that is much."""
        count = bisect_right(self.at, position)
        if count < 4096:
            return
        del self.at[:count], self.ended[:count], self.begun[:count], self.strength[:count]
        self.strong_index = [index - count for index in self.strong_index if index >= count]
        self.strong = [self.begun[index] for index in self.strong_index]
        self.encoded.forget(position)

    def is_heading(self, index: int) -> bool:
        """Whether a heading begins at this unit's end."""
        return self.strength[index] == HEADING
