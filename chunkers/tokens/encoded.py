"""A text with the ends of its tokens: what every way of cutting counts with.

The text is read segment by segment and forgotten behind the cut, so that memory stays flat. The
count of a chunk that would stand alone is put together from the document's own encoding, and only
the few tokens beside an unclean cut are encoded again.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np

from chunkers.boundaries.graphemes import is_break
from chunkers.tokens.tokenizers import LETTER, SEAM, Ends, Tokenizer, joined, segments
from pipeline.errors import UsageError

MIN_SIZE = 8

THREADED_CHARS = 4_000_000
THREADS = 2
"""Texts above that length are encoded by so many threads, ahead of the cuts."""

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
_LOCATED = 64


class Encoded:
    """The tokens of a text from the last forgotten place to the last segment read.

    To be used in a `with`: long texts are encoded by threads.
    """

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self.text = text
        self.tokenizer = tokenizer
        self.complete = not text
        """Every segment has been read."""
        self._ends: Ends = np.zeros(0, np.int64)
        self._forgotten = 0
        self._edge = 0  # where the last forgotten token ends
        self.torn: list[int] = []
        """Segment ends that are no seam; ascending."""
        self._located: dict[int, tuple[int, bool]] = {}
        self._segments: Iterator[tuple[int, int]] = joined(text, segments(text))
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: deque[tuple[int, int, Future[Ends]]] = deque()

    def __enter__(self) -> Self:
        if len(self.text) > THREADED_CHARS:
            self._pool = ThreadPoolExecutor(THREADS, "textmill-encode")
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def read(self) -> tuple[int, int]:
        """Encode the next segment and say where it lies."""
        start, end, ends = self._next()
        ends += start
        self._ends = np.concatenate((self._ends, ends)) if len(self._ends) else ends
        self._located.clear()
        self.complete = end == len(self.text)
        if not self.complete and not SEAM.match(self.text, end):
            self.torn.append(end)
        return start, end

    def _next(self) -> tuple[int, int, Ends]:
        if not self._pool:
            start, end = next(self._segments)
            return start, end, self.tokenizer.encode_ends(self.text[start:end])
        # The encoder frees the interpreter lock: the next segments are on their way meanwhile.
        for start, end in self._segments:
            future = self._pool.submit(self.tokenizer.encode_ends, self.text[start:end])
            self._ahead.append((start, end, future))
            if len(self._ahead) > THREADS:
                break
        start, end, future = self._ahead.popleft()
        return start, end, future.result()

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

    def place(self, count: int) -> int:
        """Where the first `count` tokens of the text end."""
        index = count - self._forgotten - 1
        if index < 0:
            return 0
        if index >= len(self._ends):
            return len(self.text)
        return int(self._ends[index])

    def reach_of(self, count: int) -> int:
        """The last place where at most `count` tokens of the text end."""
        index = count - self._forgotten
        if index >= len(self._ends):
            return len(self.text)
        # The next token may end at the same place: then none of them ends before it.
        index = int(self._ends.searchsorted(self._ends[index], "left"))
        return int(self._ends[index - 1]) if index else self._edge

    def locate(self, position: int) -> tuple[int, bool]:
        """The tokens that end at `position` or before it, and whether one ends exactly there."""
        known = self._located.get(position)  # beside a cut the same places are asked for again
        if known is None:
            index = int(self._ends.searchsorted(position, "right"))
            last = int(self._ends[index - 1]) if index else self._edge
            if len(self._located) > _LOCATED:
                self._located.clear()
            known = self._located[position] = self._forgotten + index, last == position
        return known

    def is_clean(self, position: int, whole: bool) -> bool:
        """Whether a text that starts here, where a token ends or not, is encoded as in place."""
        if not (self.tokenizer.additive and whole):
            return False
        return not position or CLEAN.match(self.text, position) is not None

    def is_clean_at(self, position: int) -> bool:
        """As `is_clean`, for a place of which nothing is known."""
        if not position or CLEAN.match(self.text, position):
            return self.tokenizer.additive and self.locate(position)[1]
        return False

    def is_clean_end(self, position: int) -> bool:
        """As `is_clean`, for a place where a token ends."""
        return self.is_clean(position, True)

    def is_torn(self, start: int, end: int) -> bool:
        """Whether a segment ended between, where there was no seam."""
        index = bisect_right(self.torn, start)
        return index < len(self.torn) and self.torn[index] < end

    def last_ends(self, end: int, count: int) -> list[int]:
        """The last `count` token ends up to `end`."""
        high = int(self._ends.searchsorted(end, "right"))
        ends: list[int] = self._ends[max(0, high - count) : high].tolist()
        return ends

    def alone(self, start: int, end: int, clean: bool | None = None) -> int:
        """The tokens of `text[start:end]` encoded by itself.

        `clean`: what is known already of the start.

        Cost: nothing between clean cuts of an additive tokenizer, else a few tokens beside each
            unclean cut, at worst the whole span.
        """
        text, count = self.text, self.tokenizer.count
        if not self.tokenizer.additive or self.is_torn(start, end):
            return count(text[start:end])
        low, high = start, end
        before, start_whole = self.locate(start)
        after, end_whole = self.locate(end)
        if clean is None:
            clean = self.is_clean(start, start_whole)
        if not clean:
            seam = SEAM.search(text, start + 1, min(end, start + _REACH))
            if not seam:
                return count(text[start:end])
            low = seam.start()
            before = self.locate(low)[0]
        if not end_whole:
            for seam in SEAM.finditer(text, max(low, end - _REACH), end):
                high = seam.start()
            if high == end:
                return count(text[start:end])
            after = self.locate(high)[0]
        tokens = after - before
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
        high = self.reach_of(self.locate(start)[0] + room)
        while high > cut:
            end = next(
                (place for place in range(high, cut, -1) if is_break(self.text, place)), high
            )
            tokens = self.alone(start, end)
            if tokens <= room:
                return end, tokens
            shorter = self.place(self.locate(end)[0] - (tokens - room))
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
