"""Makes the requests for chunks: cuts within the token budget, renders, routes and keys them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from msgspec.structs import replace

from pipeline.cache.keys import Keys
from pipeline.errors import UsageError
from pipeline.prepare.pipeline import Pipeline
from pipeline.prepare.prefixes import prefixes_in_effect
from pipeline.prepare.prompts import (
    chunk_input,
    chunk_text,
    columns_of,
    renderer,
)
from pipeline.prepare.routes import Router
from pipeline.records import Chunk, Document, Endpoint, Request, Route
from pipeline.text import many, placeholders_of

MIN_PIECE_TOKENS = 8
"""No chunker makes smaller chunks."""
MIN_SPLIT_TOKENS = 2 * MIN_PIECE_TOKENS - 1
"""A chunk of fewer tokens cannot be cut in two."""
MIN_ROOM_TOKENS = 2 * MIN_PIECE_TOKENS
"""Room for text that a prefix must leave. A chunk of the smallest size then always fits, although
two texts can have a token more together than apart."""


class RequestFactory:
    """Makes the requests of one job for its identified endpoints.

    `run`, `plan`, `explain` and `chunks` use it alike, so all see the same requests.
    """

    def __init__(self, pipeline: Pipeline, endpoints: Sequence[Endpoint]) -> None:
        self.endpoints = tuple(endpoints)
        self.chunking = pipeline.chunking
        self.guard = pipeline.guard
        self.router = Router(endpoints, pipeline.routing.rules)
        self.keys = Keys(endpoints)
        self.prefixes = prefixes_in_effect(pipeline.embed, endpoints)
        prompt, passage = pipeline.prompt.template, self.prefixes.passage
        self._before = renderer(passage)
        self._budgeted = renderer(f"{passage}{{chunk}}")
        self._render = self._budgeted if prompt is None else renderer(prompt)
        self._is_chunk = self._render is chunk_input
        self._has_section = "section" in placeholders_of(passage)
        # Fitting counts an input, and its request, made next, counts it again.
        self._count = lru_cache(2)(pipeline.prompt.count_tokens)
        self._count_known = lru_cache(1024)(pipeline.prompt.count_tokens)

    def chunks(self, document: Document) -> Iterator[Chunk]:
        """The chunks of a document with a text.

        Invariant: the text before a chunk, the header of its table and the chunk have together at
            most `chunk.size` tokens. A prompt is not counted.
        """
        assert document.text is not None
        room, chunking = self.room(document), self.chunking
        chunks = chunking.cut(document.text, room)
        if chunking.with_headers is not None:
            chunks = chunking.with_headers(document.text, chunks)
        elif not self.prefixes.passage:
            return chunks
        return (fitting for chunk in chunks for fitting in self._fitting(document, chunk, room))

    def room(self, document: Document) -> int:
        """The tokens that the passage prefix of this document leaves for a chunk; at least
        `MIN_ROOM_TOKENS`, or less if the prefix is too long.

        Raises: UsageError if it is too long for every document.
        """
        passage, size = self.prefixes.passage, self.chunking.size
        if not passage:
            return size
        room = size - self._count_known(self._before(document, Chunk(0, 0, 0)))
        if room < MIN_ROOM_TOKENS and not columns_of(passage):
            raise UsageError(self.too_long(document), hint='--size, or embed.passage_prefix = ""')
        return room

    def has_room(self, document: Document) -> bool:
        """False if the passage prefix of this document is too long."""
        return not self.prefixes.passage or self.room(document) >= MIN_ROOM_TOKENS

    def too_long(self, document: Document) -> str:
        """The problem with a prefix that leaves no room."""
        tokens = self._count_known(self._before(document, Chunk(0, 0, 0)))
        return (
            f"embed.passage_prefix has {many(tokens, 'token')} and leaves fewer than "
            f"{MIN_ROOM_TOKENS} of chunk.size = {many(self.chunking.size, 'token')}"
        )

    def request(
        self, document: Document, chunk: Chunk, route: Route, *, is_counted: bool = True
    ) -> Request:
        """The request for this chunk. Without `is_counted`, its token count is the chunk's."""
        rendered = self._render(document, self._with_section(document, chunk))
        key = self.keys.first(route)(rendered)
        is_longer = not self._is_chunk or chunk.header is not None
        tokens = self._count(rendered) if is_longer and is_counted else chunk.tokens
        return Request(key, rendered, tokens, chunk, route, self.router.name(route, key))

    def pieces(self, document: Document, chunk: Chunk) -> list[Chunk]:
        """The two halves of a chunk, cut at a semantic boundary; none if it is too short."""
        half = (chunk.tokens + 1) // 2
        if half < MIN_PIECE_TOKENS:
            return []
        text, start = chunk_text(document, chunk), chunk.start_char
        cut = [
            Chunk(start + each.start_char, start + each.end_char, each.tokens, chunk.section)
            for each in self.chunking.split(text, half)
        ]
        return list(self._with_headers(document, chunk, cut)) if len(cut) > 1 else []

    def _with_headers(
        self, document: Document, chunk: Chunk, pieces: Sequence[Chunk]
    ) -> Iterator[Chunk]:
        """The pieces of a chunk with the headers of their tables. They are found in what is sent
        for the chunk: its header, then its text."""
        if self.chunking.with_headers is None:
            yield from pieces
            return
        text, own = chunk_input(document, chunk), chunk_text(document, chunk)
        first, last = chunk.header or (chunk.start_char, chunk.start_char)
        header, shift = last - first, chunk.start_char - (len(text) - len(own))
        shifted = [
            Chunk(each.start_char - shift, each.end_char - shift, each.tokens) for each in pieces
        ]
        for piece, found in zip(pieces, self.chunking.with_headers(text, shifted), strict=True):
            if found.header is None:
                yield piece
                continue
            start, end = (
                at + (first if at <= header and found.header[0] < header else shift)
                for at in found.header
            )
            yield replace(piece, header=(start, end))

    def _fitting(self, document: Document, chunk: Chunk, room: int) -> Iterator[Chunk]:
        """The chunk, or its pieces, each within the size with all that is sent before it.

        A header of more than half of the room is not repeated.
        """
        if chunk.header is not None:
            tokens = self._count_known((document.text or "")[slice(*chunk.header)])
            left = room - self._section_tokens(document, chunk, room)
            if tokens > left // 2 or left - tokens < MIN_ROOM_TOKENS:
                chunk = replace(chunk, header=None)
        if chunk.header is None and not self.prefixes.passage:
            yield chunk
            return
        text = self._budgeted(document, self._with_section(document, chunk))
        if self._count(text) <= self.chunking.size:
            yield chunk
        elif pieces := self.pieces(document, chunk):
            for piece in pieces:
                yield from self._fitting(document, piece, room)
        else:
            yield replace(chunk, header=None)

    def _with_section(self, document: Document, chunk: Chunk) -> Chunk:
        """The chunk without a section that is too long for a prefix."""
        if not self._has_section or not chunk.section:
            return chunk
        is_kept = self._section_tokens(document, chunk, self.room(document))
        return chunk if is_kept else replace(chunk, section=None)

    def _section_tokens(self, document: Document, chunk: Chunk, room: int) -> int:
        """Tokens of the section in the prefix; 0 if it has none, or more than a quarter of the
        room, and is left out."""
        if not self._has_section or not chunk.section:
            return 0
        tokens = self._count_known(chunk.section)
        return tokens if tokens <= room // 4 and room - tokens >= MIN_ROOM_TOKENS else 0
