"""The endpoints of a run, opened before the first call.

A run in which nothing changed makes no call, so it loads no model and no HTTP client: importing the
client takes 0.3 s of CPU, half of such a run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Protocol

import anyio
from anyio.to_thread import run_sync
from msgspec.structs import replace

from pipeline.cache.store import AnswerCache
from pipeline.endpoints.kinds import KINDS
from pipeline.endpoints.server_info import (
    Identification,
    identify,
    identify_later,
    identify_offline,
)
from pipeline.records import Answer, Answered, Endpoint, Failure, Request

Sentences = Callable[[str], list[tuple[int, int]]]


class Connection(Protocol):
    """An endpoint of a run."""

    endpoint: Endpoint
    """With the identity and limits that its server names."""

    async def open(self) -> None:
        """Makes it ready for calls: loads the client or the model."""

    async def answer(self, requests: Sequence[Request]) -> Answered:
        """One answer or failure per request. Raises: EndpointError for the call as a whole."""


class Connections:
    """The endpoints of a run in job-file order, as their servers identified themselves."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self.connections = connections
        self.endpoints = tuple(connection.endpoint for connection in connections)

    async def open(self) -> None:
        """Makes all of them ready for calls; awaited once, before the first call."""
        for connection in self.connections:
            await connection.open()


class _Local:
    """An embedded model: a plain function in a worker thread."""

    def __init__(self, endpoint: Endpoint, sentences: Sentences) -> None:
        self.endpoint = endpoint
        self._sentences = sentences
        self._answer: Callable[[Sequence[Request]], Sequence[Answer | Failure]] | None = None
        self._limiter = anyio.CapacityLimiter(endpoint.concurrency)

    async def open(self) -> None:
        model = KINDS[self.endpoint.kind].embedded_model
        self._answer = await run_sync(lambda: model().answerer(self.endpoint, self._sentences))

    async def answer(self, requests: Sequence[Request]) -> Answered:
        assert self._answer is not None
        return Answered(await run_sync(self._answer, requests, limiter=self._limiter))


class _Remote:
    """An endpoint behind HTTP; `stack` closes its client."""

    def __init__(self, identify: Identification, stack: AsyncExitStack) -> None:
        self.endpoint = identify.endpoint
        self._confirm = identify.confirm
        self._stack = stack

    async def open(self) -> None:
        from pipeline.endpoints.http import HttpEndpoint

        client = HttpEndpoint(self.endpoint, self._confirm)
        self._client = await self._stack.enter_async_context(client)

    async def answer(self, requests: Sequence[Request]) -> Answered:
        return await self._client.answer(requests)


@asynccontextmanager
async def connect(
    endpoints: Sequence[Endpoint],
    cache: AnswerCache,
    *,
    sentences: Sentences,
    chunk_tokens: int,
    max_outage_seconds: float,
) -> AsyncIterator[Connections]:
    """Identifies the endpoints in job-file order, and closes them at the end. A server is asked
    only if it alone can name its model. A replica takes the identity of its origin."""
    identification = partial(_identification, cache, chunk_tokens, max_outage_seconds)
    async with AsyncExitStack() as stack:
        connections: dict[str, Connection] = {}
        for endpoint in sorted(endpoints, key=lambda each: bool(each.replica_of)):
            origin = connections.get(endpoint.replica_of)
            if origin is not None:
                endpoint = replace(
                    endpoint,
                    identity=origin.endpoint.identity,
                    origin=origin.endpoint.origin,
                )
            if KINDS[endpoint.kind].is_embedded:
                connections[endpoint.name] = _Local(endpoint, sentences)
            elif origin is not None:
                connections[endpoint.name] = _Remote(identify_later(endpoint, cache), stack)
            else:
                connections[endpoint.name] = _Remote(await identification(endpoint), stack)
        yield Connections([connections[endpoint.name] for endpoint in endpoints])


async def _identification(
    cache: AnswerCache, chunk_tokens: int, max_outage_seconds: float, endpoint: Endpoint
) -> Identification:
    if (known := identify_offline(endpoint, cache, chunk_tokens)) is not None:
        return known
    from pipeline.endpoints.http import HttpEndpoint

    async with HttpEndpoint(endpoint) as client:
        return await identify(endpoint, client.get, cache, chunk_tokens, max_outage_seconds)
