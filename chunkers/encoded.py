"""A text with the ends of its tokens: what every way of cutting counts with.

The text is read segment by segment and forgotten behind the cut, so that memory stays flat. The
count of a chunk that would stand alone is put together from the document's own encoding, and only
the few tokens beside an unclean cut are encoded again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from chunkers.graphemes import is_break
from chunkers.tokens import LETTER, SEAM, Ends, Tokenizer, segments
from pipeline.errors import UsageError

MIN_SIZE = 8

# Symbols that no pattern takes for a letter, a mark, a number or a blank.
_SYMBOL = (
    r"\x00-\x08\x0e-\x1b!-.:-@\[-`{-~\u2010-\u2027\u3001-\u3003\u3008-\u3011\uff01-\uff0f"
    "\u200d\u2600-\u2775\u2794-\u27bf\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff"
)
# Where a text that starts here is encoded as it is in place, if a token ends here: before a letter
# (its word goes on as it would have), before a blank, at the start of a line, and before two
# symbols (a run of them is one piece, of which any suffix is one piece). o200k_base takes a slash
# into the piece of the line break before it; an apostrophe takes the letter after it.
CLEAN = re.compile(
    rf"(?<!['’])(?=[{LETTER}])|(?<=\S)(?=[ \t\u3000])|(?<=[\r\n])(?=[ \t]+\S|[^\s/])"
    rf"|(?=[{_SYMBOL}][{_SYMBOL}])"
)
_REACH = 256


class Encoded:
    """The tokens of a text from the last forgotten place to the last segment read."""

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self.text = text
        self.tokenizer = tokenizer
        self.complete = not text
        """Every segment has been read."""
        self._ends: Ends = np.zeros(0, np.int64)
        self._forgotten = 0
        self._edge = 0  # where the last forgotten token ends
        self.torn: list[int] = []
        """Segment ends that are no seam."""
        self._segments: Iterator[tuple[int, int]] = segments(text)

    def read(self) -> tuple[int, int]:
        """Encode the next segment and say where it lies."""
        start, end = next(self._segments)
        ends = self.tokenizer.encode_ends(self.text[start:end])
        ends += start
        self._ends = np.concatenate((self._ends, ends)) if len(self._ends) else ends
        self.complete = end == len(self.text)
        if not self.complete and not SEAM.match(self.text, end):
            self.torn.append(end)
        return start, end

    def forget(self, position: int) -> None:
        """Drop the tokens that end at `position` or before it."""
        count = int(self._ends.searchsorted(position, "right"))
        if not count:
            return
        self._forgotten += count
        self._edge = int(self._ends[count - 1])
        self._ends = self._ends[count:]
        self.torn = [place for place in self.torn if place > position]

    def total(self) -> int:
        """The number of tokens read since the beginning of the text."""
        return self._forgotten + len(self._ends)

    def before(self, positions: Ends) -> tuple[Ends, Ends]:
        """For each position: tokens that end there or before, and tokens that begin before it."""
        whole = self._ends.searchsorted(positions, "right")
        last = np.concatenate(([self._edge], self._ends))[whole]
        whole += self._forgotten
        return whole, whole + (last != positions)

    def ended(self, position: int) -> int:
        """The number of tokens that end at `position` or before it."""
        return self._forgotten + int(self._ends.searchsorted(position, "right"))

    def place(self, count: int) -> int:
        """Where the first `count` tokens of the text end."""
        index = count - self._forgotten - 1
        if index < 0:
            return 0
        if index >= len(self._ends):
            return len(self.text)
        return int(self._ends[index])

    def is_end(self, position: int) -> bool:
        """Whether a token ends exactly here."""
        index = int(self._ends.searchsorted(position, "right"))
        return position == (int(self._ends[index - 1]) if index else self._edge)

    def is_clean(self, position: int) -> bool:
        """Whether a text that starts here has alone the tokens that it has in place."""
        if not position:
            return self.tokenizer.additive
        return (
            self.tokenizer.additive
            and self.is_end(position)
            and CLEAN.match(self.text, position) is not None
        )

    def is_torn(self, start: int, end: int) -> bool:
        """Whether a segment ended between, where there was no seam."""
        return bool(self.torn) and any(start < place < end for place in self.torn)

    def ends_within(self, start: int, end: int) -> list[int]:
        """The token ends in (start, end]."""
        low, high = self._ends.searchsorted((start, end), "right")
        return self._ends[low:high].tolist()

    def alone(
        self, start: int, end: int, clean: bool | None = None, whole: bool | None = None
    ) -> int:
        """The tokens of `text[start:end]` encoded by itself.

        `clean` and `whole`: what is known already of the start and of the end.

        Cost: nothing between clean cuts of an additive tokenizer, else a few tokens beside each
            unclean cut, at worst the whole span.
        """
        text, count = self.text, self.tokenizer.count
        if not self.tokenizer.additive or self.is_torn(start, end):
            return count(text[start:end])
        low, high = start, end
        if not (self.is_clean(start) if clean is None else clean):
            seam = SEAM.search(text, start + 1, min(end, start + _REACH))
            if not seam:
                return count(text[start:end])
            low = seam.start()
        if not (self.is_end(end) if whole is None else whole):
            for seam in SEAM.finditer(text, max(low, end - _REACH), end):
                high = seam.start()
            if high == end:
                return count(text[start:end])
        tokens = self.ended(high) - self.ended(low)
        if low > start:
            tokens += count(text[start:low])
        if high < end:
            tokens += count(text[high:end])
        return tokens

    def fill(self, start: int, cut: int, room: int) -> tuple[int, int]:
        """The last place after `cut` where a chunk from `start` has at most `room` tokens.

        It tears no grapheme cluster unless one alone is too long. Comes with the chunk's tokens;
        the place is `cut` if not one character fits.
        """
        high = min(self.place(self.ended(start) + room), len(self.text))
        while high > cut:
            end = next(
                (place for place in range(high, cut, -1) if is_break(self.text, place)), high
            )
            tokens = self.alone(start, end)
            if tokens <= room:
                return end, tokens
            shorter = self.place(self.ended(end) - (tokens - room))
            high = shorter if cut < shorter < end else (cut + end) // 2
        if start == cut:  # one character alone: no tokenizer known needs more than seven
            return cut + 1, self.alone(cut, cut + 1)
        return cut, 0


def check_sizes(size: int, overlap: int, **shares: float) -> None:
    """Nothing, if a text can be cut by these figures.

    Raises: UsageError naming the figure and its bound.
    """
    if size < MIN_SIZE:
        raise UsageError(f"chunk.size = {size} tokens must be at least {MIN_SIZE} tokens")
    if overlap < 0:
        raise UsageError(f"chunk.overlap = {overlap} tokens must be at least 0 tokens")
    if overlap >= size:
        raise UsageError(
            f"chunk.overlap = {overlap} tokens must be smaller than chunk.size = {size} tokens"
        )
    for name, share in shares.items():
        if not 0 < share <= 1:
            raise UsageError(f"chunk.{name} = {share} must be above 0 and at most 1")
