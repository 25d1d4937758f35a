"""Who answers, open for the whole run: the embedded model, or an endpoint behind HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import anyio
from anyio.to_thread import run_sync
from msgspec.structs import replace

from pipeline.cache.store import AnswerCache
from pipeline.endpoints.kinds import KINDS
from pipeline.records import Answer, Endpoint, Failure, Request

Sentences = Callable[[str], list[tuple[int, int]]]


class Connection(Protocol):
    """An endpoint, open for the whole run."""

    endpoint: Endpoint
    """As it is known now: with the identity and limits that its server names."""
    listen: Callable[[Mapping[str, str]], None] | None
    """Called with the headers of every reply."""

    async def answer(self, requests: Sequence[Request]) -> Sequence[Answer | Failure]:
        """One answer or failure per request. Raises: EndpointError for the call as a whole."""


class _Local:
    """An embedded model: a plain function in a worker thread."""

    listen: Callable[[Mapping[str, str]], None] | None = None

    def __init__(self, endpoint: Endpoint, sentences: Sentences) -> None:
        self.endpoint = endpoint
        self._answer = KINDS[endpoint.kind].embedded_model().answerer(endpoint, sentences)
        self._limiter = anyio.CapacityLimiter(endpoint.concurrency)

    async def answer(self, requests: Sequence[Request]) -> Sequence[Answer | Failure]:
        return await run_sync(self._answer, requests, limiter=self._limiter)


@asynccontextmanager
async def connect(
    endpoints: Sequence[Endpoint],
    cache: AnswerCache,
    *,
    sentences: Sentences,
    chunk_tokens: int,
    max_outage_seconds: float,
) -> AsyncIterator[list[Connection]]:
    """Opens the endpoints in job-file order and asks each server which model it runs. A replica
    takes the identity of its origin."""
    async with AsyncExitStack() as stack:
        opened: dict[str, Connection] = {}
        for endpoint in sorted(endpoints, key=lambda each: bool(each.replica_of)):
            origin = opened.get(endpoint.replica_of)
            if origin is not None:
                endpoint = replace(endpoint, identity=origin.endpoint.identity)
            opened[endpoint.name] = (
                await run_sync(_Local, endpoint, sentences)
                if KINDS[endpoint.kind].is_embedded
                else await _remote(endpoint, cache, stack, origin, chunk_tokens, max_outage_seconds)
            )
        yield [opened[endpoint.name] for endpoint in endpoints]


async def _remote(
    endpoint: Endpoint,
    cache: AnswerCache,
    stack: AsyncExitStack,
    origin: Connection | None,
    chunk_tokens: int,
    max_outage_seconds: float,
) -> Connection:
    from pipeline.endpoints.http import HttpEndpoint
    from pipeline.endpoints.server_info import identify, identify_later

    http = await stack.enter_async_context(HttpEndpoint(endpoint))
    if origin is not None:
        http.endpoint = identify_later(http, cache)
    else:
        http.endpoint = await identify(http, cache, chunk_tokens, max_outage_seconds)
    return http
