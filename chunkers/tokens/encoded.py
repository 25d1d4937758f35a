"""A text with the ends of its tokens, from which every chunker counts.

The text is encoded segment by segment and tokens behind the cut are dropped, so that memory stays
flat. The token count of a chunk encoded alone is computed from the document's encoding; only the
few tokens beside an unclean cut are encoded again.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np

from chunkers.boundaries.graphemes import begins_word, is_break
from chunkers.tokens.tokenizers import LETTER, SEAM, Ends, Tokenizer, merge_segments, segments
from pipeline.errors import UsageError

MIN_SIZE = 8

THREADED_CHARS = 4_000_000
THREADS = 2
"""Longer texts are encoded ahead of the cuts, by this number of threads."""

# Symbols that no pattern classifies as a letter, mark, number or blank.
_SYMBOL = (
    r"\x00-\x08\x0e-\x1b!-.:-@\[-`{-~\u2010-\u2027\u3001-\u3003\u3008-\u3011\uff01-\uff0f"
    "\u200d\u2600-\u2775\u2794-\u27bf\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff"
)
# Places where a text that starts there is encoded alone as in place, if a token ends there: before
# a letter (its word continues the same way), before a blank, at the start of a line, and before two
# symbols (a run of them is one piece, and so is any suffix). o200k_base joins a slash to the piece
# of the line break before it; an apostrophe joins the letter after it.
CLEAN = re.compile(
    rf"(?<!['’])(?=[{LETTER}])|(?<=\S)(?=[ \t\u3000])|(?<=[\r\n])(?=[ \t]+\S|[^\s/])"
    rf"|(?=[{_SYMBOL}][{_SYMBOL}])"
)
_REACH = 256
_LOCATED = 64


class Encoded:
    """The tokens of a text from the last dropped place to the last segment read.

    Use it in a `with` block: threads encode long texts.
    """

    def __init__(self, text: str, tokenizer: Tokenizer) -> None:
        self.text = text
        self.tokenizer = tokenizer
        self.complete = not text
        """Whether every segment has been read."""
        self._ends: Ends = np.zeros(0, np.int64)
        self._forgotten = 0
        self._edge = 0  # end of the last dropped token
        self.non_seams: list[int] = []
        """Segment ends that are not seams; ascending."""
        self._located: dict[int, tuple[int, bool]] = {}
        self._segments: Iterator[tuple[int, int]] = merge_segments(text, segments(text))
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
        """Encode the next segment. Returns: its start and end."""
        start, end, ends = self._next()
        ends += start
        self._ends = np.concatenate((self._ends, ends)) if len(self._ends) else ends
        self._located.clear()
        self.complete = end == len(self.text)
        if not self.complete and not SEAM.match(self.text, end):
            self.non_seams.append(end)
        return start, end

    def _next(self) -> tuple[int, int, Ends]:
        if not self._pool:
            start, end = next(self._segments)
            return start, end, self.tokenizer.encode_ends(self.text[start:end])
        # The encoder releases the GIL, so the next segments are encoded meanwhile.
        for start, end in self._segments:
            future = self._pool.submit(self.tokenizer.encode_ends, self.text[start:end])
            self._ahead.append((start, end, future))
            if len(self._ahead) > THREADS:
                break
        start, end, future = self._ahead.popleft()
        return start, end, future.result()

    def forget(self, position: int) -> None:
        """Drop the tokens that end at or before `position`."""
        count = int(self._ends.searchsorted(position, "right"))
        if not count:
            return
        self._forgotten += count
        self._edge = int(self._ends[count - 1])
        self._ends = self._ends[count:]
        self.non_seams = [place for place in self.non_seams if place > position]

    def total(self) -> int:
        """The number of tokens read since the beginning of the text."""
        return self._forgotten + len(self._ends)

    def before(self, positions: Ends) -> tuple[Ends, Ends]:
        """For each position: the tokens that end at or before it, and the tokens that begin before
        it."""
        whole = self._ends.searchsorted(positions, "right")
        last = np.concatenate(([self._edge], self._ends))[whole]
        whole += self._forgotten
        return whole, whole + (last != positions)

    def place(self, count: int) -> int:
        """The end of the first `count` tokens of the text."""
        index = count - self._forgotten - 1
        if index < 0:
            return 0
        if index >= len(self._ends):
            return len(self.text)
        return int(self._ends[index])

    def reach_of(self, count: int) -> int:
        """The last place at or before which at most `count` tokens of the text end."""
        index = count - self._forgotten
        if index >= len(self._ends):
            return len(self.text)
        # Several tokens may end at the same place: then none of them ends before it.
        index = int(self._ends.searchsorted(self._ends[index], "left"))
        return int(self._ends[index - 1]) if index else self._edge

    def locate(self, position: int) -> tuple[int, bool]:
        """The tokens that end at or before `position`, and whether one ends exactly there."""
        location = self._located.get(position)  # near a cut the same places are located repeatedly
        if location is None:
            index = int(self._ends.searchsorted(position, "right"))
            last = int(self._ends[index - 1]) if index else self._edge
            if len(self._located) > _LOCATED:
                self._located.clear()
            location = self._located[position] = self._forgotten + index, last == position
        return location

    def is_clean(self, position: int, whole: bool) -> bool:
        """Whether a text that starts here is encoded alone as in place; `whole`: a token ends
        here."""
        if not (self.tokenizer.additive and whole):
            return False
        return not position or CLEAN.match(self.text, position) is not None

    def is_clean_at(self, position: int) -> bool:
        """The same as `is_clean`, for a place where a token may or may not end."""
        if not position or CLEAN.match(self.text, position):
            return self.tokenizer.additive and self.locate(position)[1]
        return False

    def is_clean_end(self, position: int) -> bool:
        """The same as `is_clean`, for a place where a token ends."""
        return self.is_clean(position, True)

    def crosses_non_seam(self, start: int, end: int) -> bool:
        """Whether a segment ended in between at a place that is not a seam."""
        index = bisect_right(self.non_seams, start)
        return index < len(self.non_seams) and self.non_seams[index] < end

    def last_ends(self, end: int, count: int) -> list[int]:
        """The last `count` token ends at or before `end`."""
        high = int(self._ends.searchsorted(end, "right"))
        ends: list[int] = self._ends[max(0, high - count) : high].tolist()
        return ends

    def count_alone(self, start: int, end: int, clean: bool | None = None) -> int:
        """The number of tokens of `text[start:end]` encoded alone.

        `clean`: the value of `is_clean` at the start, if known.

        Cost: nothing between clean cuts of an additive tokenizer, else a few tokens beside each
            unclean cut, at worst the whole span.
        """
        text, count = self.text, self.tokenizer.count
        if not self.tokenizer.additive or self.crosses_non_seam(start, end):
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

        It splits no grapheme cluster unless one alone is too long. Returns: the place, which is
        `cut` if not one character fits, and the chunk's tokens.
        """
        high = self.reach_of(self.locate(start)[0] + room)
        while high > cut:
            end = next(
                (place for place in range(high, cut, -1) if is_break(self.text, place)), high
            )
            tokens = self.count_alone(start, end)
            if tokens <= room:
                return end, tokens
            shorter = self.place(self.locate(end)[0] - (tokens - room))
            high = shorter if cut < shorter < end else (cut + end) // 2
        if start == cut:  # one character alone: no tokenizer known needs more than seven
            return cut + 1, self.count_alone(cut, cut + 1)
        return cut, 0

    def before_last_word(
        self, start: int, cut: int, end: int, tokens: int, room: int
    ) -> tuple[int, int]:
        """The end and the tokens of a chunk so that what follows it is not blank.

        They change only where nothing but blanks follows, and a last word can be left to them.
        """
        text = self.text
        if end == len(text) or not text[end].isspace() or text[end:].lstrip():
            return end, tokens
        stop = len(text[:end].rstrip())
        for is_place in (begins_word, is_break):
            for place in range(stop - 1, max(cut, stop - _REACH), -1):
                if is_place(text, place) and text[cut:place].strip():
                    count = self.count_alone(start, place)
                    if count <= room:
                        return place, count
        return end, tokens


def check_sizes(size: int, overlap: int, **shares: float) -> None:
    """Check the sizes of a chunker.

    Raises: UsageError that names the value and its bound.
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
