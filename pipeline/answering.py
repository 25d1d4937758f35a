"""Who answers, open for the whole run: the embedded model, or an endpoint behind HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import anyio
from anyio.to_thread import run_sync
from msgspec.structs import replace

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

    def __init__(self, pipeline: Pipeline, endpoint: Endpoint) -> None:
        from pipeline.endpoints import local

        self.endpoint = endpoint
        self._answer = local.answering(endpoint, pipeline.sentences)
        self._limiter = anyio.CapacityLimiter(endpoint.concurrency)

    async def answer(self, requests: Sequence[Request]) -> Sequence[Answer | Failure]:
        return await run_sync(self._answer, requests, limiter=self._limiter)


@asynccontextmanager
async def answering_of(pipeline: Pipeline, cache: AnswerCache) -> AsyncIterator[list[Answering]]:
    """Who answers this pipeline's requests, in job-file order, each introduced where its server
    has a name to tell; a replica goes by the name of its origin."""
    async with AsyncExitStack() as stack:
        opened: dict[str, Answering] = {}
        for endpoint in sorted(pipeline.endpoints, key=lambda each: bool(each.replica_of)):
            origin = opened.get(endpoint.replica_of)
            if origin is not None:
                endpoint = replace(endpoint, identity=origin.endpoint.identity)
            opened[endpoint.name] = await _opened(pipeline, endpoint, cache, stack, origin)
        yield [opened[endpoint.name] for endpoint in pipeline.endpoints]


async def _opened(
    pipeline: Pipeline,
    endpoint: Endpoint,
    cache: AnswerCache,
    stack: AsyncExitStack,
    origin: Answering | None,
) -> Answering:
    if endpoint.kind == "local":
        return await run_sync(_Local, pipeline, endpoint)
    from pipeline.endpoints.http import HttpEndpoint
    from pipeline.endpoints.info import expecting, introduced

    http = await stack.enter_async_context(HttpEndpoint(endpoint))
    if origin is not None:
        http.endpoint = expecting(http, cache)
    else:
        http.endpoint = await introduced(
            http, cache, pipeline.chunk_tokens, pipeline.max_outage_seconds
        )
    return http
