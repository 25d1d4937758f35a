"""Who answers: the embedded model, or endpoints behind HTTP, opened before the first call.

A run in which nothing changed makes none. It loads no model and no HTTP client: a client takes
0.3 s of CPU to import, which is half of what such a run takes.
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
        """Make it ready for calls: load what answers them."""

    async def answer(self, requests: Sequence[Request]) -> Answered:
        """One answer or failure per request. Raises: EndpointError for the call as a whole."""


class Connections:
    """The endpoints of a run in job-file order, as their servers introduced themselves."""

    def __init__(self, answering: Sequence[Connection]) -> None:
        self.answering = answering
        self.endpoints = tuple(each.endpoint for each in answering)

    async def open(self) -> None:
        """Make all of them ready for calls; to be awaited once, before the first call."""
        for each in self.answering:
            await each.open()


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
    """The endpoints in job-file order. A server that alone can say which model it runs is asked
    for it; a replica takes the identity of its origin. What was opened is closed at the end."""
    ask = partial(_introduced, cache, chunk_tokens, max_outage_seconds)
    async with AsyncExitStack() as stack:
        found: dict[str, Connection] = {}
        for endpoint in sorted(endpoints, key=lambda each: bool(each.replica_of)):
            origin = found.get(endpoint.replica_of)
            if origin is not None:
                endpoint = replace(endpoint, identity=origin.endpoint.identity)
            if KINDS[endpoint.kind].is_embedded:
                found[endpoint.name] = _Local(endpoint, sentences)
            elif origin is not None:
                found[endpoint.name] = _Remote(identify_later(endpoint, cache), stack)
            else:
                found[endpoint.name] = _Remote(await ask(endpoint), stack)
        yield Connections([found[endpoint.name] for endpoint in endpoints])


async def _introduced(
    cache: AnswerCache, chunk_tokens: int, max_outage_seconds: float, endpoint: Endpoint
) -> Identification:
    if (found := identify_offline(endpoint, cache, chunk_tokens)) is not None:
        return found
    from pipeline.endpoints.http import HttpEndpoint

    async with HttpEndpoint(endpoint) as client:
        return await identify(endpoint, client.get, cache, chunk_tokens, max_outage_seconds)
