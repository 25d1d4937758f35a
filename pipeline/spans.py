"""The chunks of a long document, packed, and its requests, made when they are asked for.

A text of 200 MB has 700,000 chunks: as records with their rendered texts they would take three
times its memory. What cannot be made again of the document is 20 bytes per chunk.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

from pipeline.records import Chunk, Request


class Spans(Sequence[Chunk]):
    """Chunks in span order. Cost: 20 bytes each, 32 in a text of more than 4 billion characters."""

    def __init__(self, chars: int) -> None:
        code = "I" if chars < 1 << 32 else "Q"
        self._starts, self._ends, self._tokens = array(code), array(code), array(code)
        self._sections: list[str | None] = []

    def extend(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            self._starts.append(chunk.start_char)
            self._ends.append(chunk.end_char)
            self._tokens.append(chunk.tokens)
            self._sections.append(chunk.section)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, at: int) -> Chunk: ...
    @overload
    def __getitem__(self, at: slice) -> list[Chunk]: ...
    def __getitem__(self, at: int | slice) -> Chunk | list[Chunk]:
        columns = self._starts, self._ends, self._tokens, self._sections
        if isinstance(at, slice):
            return [Chunk(*each) for each in zip(*(column[at] for column in columns), strict=True)]
        return Chunk(*(column[at] for column in columns))  # type: ignore[arg-type]

    def segments(self, most: int, most_chars: int) -> Iterator[list[Chunk]]:
        """All of them in runs of at most so many chunks and so many characters."""
        start = chars = 0
        for at in range(len(self)):
            length = self._ends[at] - self._starts[at]
            if at > start and (at - start == most or chars + length > most_chars):
                yield self[start:at]
                start, chars = at, 0
            chars += length
        yield self[start:]


class Requests(Sequence[Request]):
    """The requests of packed chunks. Cost: each one is made anew whenever it is asked for."""

    def __init__(self, spans: Spans, make: Callable[[Chunk], Request]) -> None:
        self._spans = spans
        self._make = make

    def __len__(self) -> int:
        return len(self._spans)

    @overload
    def __getitem__(self, at: int) -> Request: ...
    @overload
    def __getitem__(self, at: slice) -> list[Request]: ...
    def __getitem__(self, at: int | slice) -> Request | list[Request]:
        if isinstance(at, slice):
            return [self._make(chunk) for chunk in self._spans[at]]
        return self._make(self._spans[at])
