"""The endpoints of a run, opened before the first call.

A run in which nothing changed makes no call, so it loads no model and no HTTP client: importing the
client takes 0.3 s of CPU, half of such a run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Protocol

import anyio
from anyio.to_thread import run_sync

from pipeline.cache.store import AnswerCache
from pipeline.endpoints.kinds import KINDS
from pipeline.endpoints.server_info import (
    Identification,
    identify,
    identify_later,
    identify_offline,
    named_limit,
)
from pipeline.errors import OutageError
from pipeline.records import Answer, Answered, Endpoint, Failure, Request, Stop

Sentences = Callable[[str], list[tuple[int, int]]]

HEAD_START_SECONDS = 2.0
"""A server that does not reply holds the start no longer, if the job has another endpoint."""


class Connection(Protocol):
    """An endpoint of a run."""

    endpoint: Endpoint
    """With the identity and limits that its server names."""

    async def open(self) -> None:
        """Makes it ready for calls: loads the client or the model."""

    async def answer(self, requests: Sequence[Request]) -> Answered:
        """One answer or failure per request. Raises: EndpointError for the call as a whole."""

    async def named_limit(self) -> int | None:
        """The longest input that the server names, in tokens; None: it names none."""


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

    async def named_limit(self) -> int | None:
        return None


class _Remote:
    """An endpoint behind HTTP; `stack` closes its client."""

    def __init__(self, identify: Identification, cache: AnswerCache, stack: AsyncExitStack) -> None:
        self.endpoint = identify.endpoint
        self._cache = cache
        self._confirm = identify.confirm
        self._stack = stack

    async def open(self) -> None:
        from pipeline.endpoints.http import HttpEndpoint

        client = HttpEndpoint(self.endpoint, self._confirm)
        self._client = await self._stack.enter_async_context(client)

    async def answer(self, requests: Sequence[Request]) -> Answered:
        return await self._client.answer(requests)

    async def named_limit(self) -> int | None:
        return await named_limit(self.endpoint, self._client.get, self._cache)


@asynccontextmanager
async def connect(
    endpoints: Sequence[Endpoint],
    cache: AnswerCache,
    *,
    sentences: Sentences,
    chunk_tokens: int,
    patience: Stop,
) -> AsyncIterator[Connections]:
    """Identifies the endpoints, and closes them at the end. A server is asked only if it alone can
    name its model. A replica takes the identity of its origin.

    A server that does not reply holds the start only as long as nobody else can stand in for it:
    it is asked again before its first call, and until then its share of the work flows to others.
    """
    identification = partial(_identification, cache, chunk_tokens, patience)
    head_start = min(HEAD_START_SECONDS, patience.max_start_seconds / 2)
    found: dict[str, Identification] = {}

    async def identify_group(origin: Endpoint, replicas: Sequence[Endpoint]) -> None:
        group = (origin, *replicas)
        askable = [each for each in group if KINDS[each.kind].names_itself]
        known = identify_offline(origin, cache, chunk_tokens)
        if known is None and origin.model:
            with anyio.move_on_after(head_start if len(endpoints) > 1 else None):
                known = await identification(origin)
            known = known or identify_later(origin, origin, cache)
        first, known = (
            (origin, known) if known else await _first_to_reply(askable, identification, head_start)
        )
        for each in group:
            found[each.name] = (
                known if each is first else identify_later(each, known.endpoint, cache, first.name)
            )

    async with AsyncExitStack() as stack:
        async with anyio.create_task_group() as tasks:
            for origin in endpoints:
                if not origin.replica_of:
                    replicas = [each for each in endpoints if each.replica_of == origin.name]
                    tasks.start_soon(identify_group, origin, replicas)
        yield Connections(
            [
                _Local(known.endpoint, sentences)
                if KINDS[known.endpoint.kind].is_embedded
                else _Remote(known, cache, stack)
                for known in (found[endpoint.name] for endpoint in endpoints)
            ]
        )


async def _first_to_reply(
    group: Sequence[Endpoint],
    identification: Callable[[Endpoint], Awaitable[Identification]],
    head_start: float,
) -> tuple[Endpoint, Identification]:
    """The first of an origin and its replicas that names the model of all of them. The origin has a
    head start: while it replies, nobody else is asked. Raises: OutageError if none does."""
    first: list[tuple[Endpoint, Identification]] = []
    away: list[OutageError] = []
    async with anyio.create_task_group() as tasks:

        async def ask(endpoint: Endpoint, delay: float) -> None:
            await anyio.sleep(delay)
            try:
                first.append((endpoint, await identification(endpoint)))
            except OutageError as error:  # another one may still reply
                away.append(error)
                return
            tasks.cancel_scope.cancel()

        for endpoint in group:
            tasks.start_soon(ask, endpoint, 0.0 if endpoint is group[0] else head_start)
    if not first:
        raise away[-1]
    return first[0]


async def _identification(
    cache: AnswerCache, chunk_tokens: int, patience: Stop, endpoint: Endpoint
) -> Identification:
    """The endpoint as its server names it. Waits for the server, up to the bound of an absence."""
    from pipeline.endpoints.http import HttpEndpoint

    async with HttpEndpoint(endpoint) as client:
        return await identify(endpoint, client.get, cache, chunk_tokens, patience)
