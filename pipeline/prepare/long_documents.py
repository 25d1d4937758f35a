"""The packed chunks of a long document; its requests are made on demand.

A text of 200 MB has 700,000 chunks. As records with their rendered texts they would take three
times the memory of the text. Packed they take 20 bytes each; the rest is made again.
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
"""A document above either bound is processed in segments."""


class PreparedDocument(Struct, frozen=True):
    """A document and its requests in span order, or one segment of a long document."""

    document: Document
    requests: Sequence[Request]
    long: LongDocument | None = None
    """The long document of a segment."""
    is_last: bool = True

    @property
    def documents(self) -> int:
        """How many documents it completes."""
        return int(self.is_last)


class LongDocument:
    """A document whose requests are never all in memory at once."""

    def __init__(
        self, document: Document, route: Route, factory: RequestFactory, chunks: Spans
    ) -> None:
        self._document, self._route, self._factory = document, route, factory
        self._chunks = chunks
        self._settled = Spans(len(document.text or ""))

    def segments(self) -> Iterator[PreparedDocument]:
        left = len(self._chunks)
        for chunks in self._chunks.segments(SEGMENT_REQUESTS, SEGMENT_CHARS):
            left -= len(chunks)
            requests = [self._factory.request(self._document, c, self._route) for c in chunks]
            yield PreparedDocument(self._document, requests, self, not left)

    def settle(self, requests: Iterable[Request]) -> None:
        self._settled.extend(request.chunk for request in requests)

    def whole(self) -> PreparedDocument:
        """The document with its settled requests, including pieces."""
        return self._with_requests(self._settled)

    def at_once(self) -> PreparedDocument:
        """The document with all its requests, before any of them is sent."""
        return self._with_requests(self._chunks)

    def _with_requests(self, chunks: Spans) -> PreparedDocument:
        """The document with requests that are made on demand; their token counts are the
        chunks'."""

        def make(chunk: Chunk) -> Request:
            return self._factory.request(self._document, chunk, self._route, is_counted=False)

        return PreparedDocument(self._document, Requests(chunks, make))


class Spans(Sequence[Chunk]):
    """Chunks in span order. Cost: 20 bytes each, 32 in a text of more than 4 billion characters."""

    def __init__(self, chars: int) -> None:
        code = "I" if chars < 1 << 32 else "Q"
        self._starts, self._ends, self._tokens = array(code), array(code), array(code)
        self._sections: list[str | None] = []
        self._headers: list[tuple[int, int] | None] = []

    def extend(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            self._starts.append(chunk.start_char)
            self._ends.append(chunk.end_char)
            self._tokens.append(chunk.tokens)
            self._sections.append(chunk.section)
            self._headers.append(chunk.header)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, at: int) -> Chunk: ...
    @overload
    def __getitem__(self, at: slice) -> list[Chunk]: ...
    def __getitem__(self, at: int | slice) -> Chunk | list[Chunk]:
        columns = self._starts, self._ends, self._tokens, self._sections, self._headers
        if isinstance(at, slice):
            return [Chunk(*each) for each in zip(*(column[at] for column in columns), strict=True)]
        return Chunk(*(column[at] for column in columns))  # type: ignore[arg-type]

    def segments(self, max_chunks: int, max_chars: int) -> Iterator[list[Chunk]]:
        """All chunks in runs of at most `max_chunks` chunks and `max_chars` characters."""
        start = chars = 0
        for at in range(len(self)):
            length = self._ends[at] - self._starts[at]
            if at > start and (at - start == max_chunks or chars + length > max_chars):
                yield self[start:at]
                start, chars = at, 0
            chars += length
        yield self[start:]


class Requests(Sequence[Request]):
    """The requests of packed chunks. Cost: each access makes the request again."""

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
