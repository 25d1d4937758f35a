"""The chunks of a long document, packed, and its requests, made when they are asked for.

A text of 200 MB has 700,000 chunks: as records with their rendered texts they would take three
times its memory. What cannot be made again of the document is 20 bytes per chunk.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

from msgspec import Struct

from pipeline.prepare.factory import RequestFactory
from pipeline.records import Chunk, Document, Request, Route

SEGMENT_REQUESTS = 1_024
SEGMENT_CHARS = 4_000_000
"""A document with more of either is asked about segment by segment."""


class PreparedDocument(Struct, frozen=True):
    """A document and the requests that it needs, in span order; or a segment of a long one."""

    document: Document
    requests: Sequence[Request]
    long: LongDocument | None = None
    """What the segments of a long document have in common."""
    is_last: bool = True

    @property
    def documents(self) -> int:
        """Whole documents that it completes."""
        return int(self.is_last)


class LongDocument:
    """A document whose requests are never all in memory, and its chunks as they are settled."""

    def __init__(
        self, document: Document, route: Route, factory: RequestFactory, chunks: Spans
    ) -> None:
        self._document, self._route, self._factory = document, route, factory
        self._chunks = chunks
        self._settled = Spans(len(document.text or ""))

    def segments(self) -> Iterator[PreparedDocument]:
        left = len(self._chunks)
        for some in self._chunks.segments(SEGMENT_REQUESTS, SEGMENT_CHARS):
            left -= len(some)
            requests = [self._factory.request(self._document, each, self._route) for each in some]
            yield PreparedDocument(self._document, requests, self, not left)

    def settle(self, requests: Iterable[Request]) -> None:
        self._settled.extend(request.chunk for request in requests)

    def whole(self) -> PreparedDocument:
        """The document with the requests that were settled, pieces among them."""
        return self._made(self._settled)

    def at_once(self) -> PreparedDocument:
        """The document with its requests, before any of them is sent."""
        return self._made(self._chunks)

    def _made(self, chunks: Spans) -> PreparedDocument:
        """With requests that are made again, one by one; their tokens are the chunks'."""

        def make(chunk: Chunk) -> Request:
            return self._factory.request(self._document, chunk, self._route, is_counted=False)

        return PreparedDocument(self._document, Requests(chunks, make))


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
