"""Makes the requests for chunks: renders, routes and keys them."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.cache.keys import Keys
from pipeline.prepare.pipeline import Pipeline
from pipeline.prepare.routes import Router
from pipeline.records import Chunk, Document, Endpoint, Request, Route


class RequestFactory:
    """Makes the requests of one job for its identified endpoints.

    `run`, `plan` and `explain` use it alike, so all see the same requests.
    """

    def __init__(self, pipeline: Pipeline, endpoints: Sequence[Endpoint]) -> None:
        self.endpoints = tuple(endpoints)
        self.chunking = pipeline.chunking
        self.guard = pipeline.guard
        self.router = Router(endpoints, pipeline.routing.rules)
        self.keys = Keys(endpoints)
        self._prompt = pipeline.prompt

    def request(
        self, document: Document, chunk: Chunk, route: Route, *, is_counted: bool = True
    ) -> Request:
        """The request for this chunk. Without `is_counted`, its token count is the chunk's."""
        rendered, count = self._prompt.render(document, chunk), self._prompt.count_tokens
        key = self.keys.first(route)(rendered)
        tokens = count(rendered) if count and is_counted else chunk.tokens
        return Request(key, rendered, tokens, chunk, route, self.router.name(route, key))
