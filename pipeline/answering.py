"""Who answers, open for the whole run: the embedded model, or an endpoint behind HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
from anyio.to_thread import run_sync

from pipeline.cache import AnswerCache
from pipeline.prepare import Pipeline
from pipeline.records import Answer, Endpoint, Failure, Request


class Answering(Protocol):
    """An endpoint, open for the whole run."""

    endpoint: Endpoint
    """As it is known now: with the identity and limits that its server names."""
    listen: Callable[[Mapping[str, str]], None] | None
    """Called with the headers of every reply."""

    async def answer(self, requests: Sequence[Request]) -> Sequence[Answer | Failure]:
        """One answer or failure per request. Raises: EndpointError for the call as a whole."""


class _Local:
    """The embedded model: a plain function in a worker thread."""

    listen: Callable[[Mapping[str, str]], None] | None = None

    def __init__(self, pipeline: Pipeline) -> None:
        from pipeline.endpoints import local

        self.endpoint = pipeline.endpoints[0]
        self._answer = local.answering(pipeline.endpoints[0], pipeline.sentences)
        self._limiter = anyio.CapacityLimiter(pipeline.endpoints[0].concurrency)

    async def answer(self, requests: Sequence[Request]) -> Sequence[Answer | Failure]:
        return await run_sync(self._answer, requests, limiter=self._limiter)


@asynccontextmanager
async def answering_of(pipeline: Pipeline, cache: AnswerCache) -> AsyncIterator[Answering]:
    """What answers this pipeline's requests, introduced where its server has a name to tell."""
    if pipeline.endpoints[0].kind == "local":
        yield await run_sync(_Local, pipeline)
        return
    from pipeline.endpoints.http import HttpEndpoint
    from pipeline.endpoints.info import introduced

    async with HttpEndpoint(pipeline.endpoints[0]) as http:
        http.endpoint = await introduced(
            http, cache, pipeline.chunk_tokens, pipeline.max_outage_seconds
        )
        yield http
