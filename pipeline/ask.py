"""Asks endpoints one request each, outside of a run: what comes back, how long it took, its cost.

The way of a call is that of a run: the server is identified, `encode`, the one HTTP client,
`decode`, the same accounting. Nothing is retried, nothing is kept, and each endpoint has a bounded
time. `check` asks whether each endpoint works; what compares the answers can use it alike.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from msgspec import Struct
from msgspec.structs import replace

from pipeline.cache.store import AnswerCache
from pipeline.dispatch.endpoint_state import EndpointState
from pipeline.endpoints.connect import Connection, Sentences, connect
from pipeline.errors import EndpointError, TextmillError
from pipeline.limits import awake
from pipeline.limits.admission import Permit
from pipeline.limits.headers import RateLimits, parse_rate_limits
from pipeline.records import Answer, Answered, Endpoint, Failure, Request, Stop, Usage
from pipeline.runs.summary import first_error
from pipeline.text import printable

_AT_ONCE = Stop(max_start_seconds=0.0, max_outage_seconds=0.0)
"""A person waits: the first failure is the result."""
_MAX_WAYS = 3
"""Ways to ask for an answer that a server may refuse one after the other (`ask_with`)."""


class Exchange(Struct, frozen=True, kw_only=True):
    """One request to one endpoint, and what came back. Units: seconds, tokens.

    Invariant: exactly one of `answer` and `problem` is set.
    """

    endpoint: Endpoint
    """As its server identifies itself, if it was reached."""
    answer: Answer | None = None
    problem: TextmillError | None = None
    """The error with which a run would end if every call ended so."""
    usage: Usage = Usage()
    seconds: float = 0.0
    max_input_tokens: int | None = None
    """The longest input, as the server names it."""
    limits: RateLimits = RateLimits()
    """As the headers of the reply name them."""


async def ask_each(
    endpoints: Sequence[Endpoint],
    request: Callable[[Endpoint], Request],
    *,
    sentences: Sentences,
    chunk_tokens: int,
    max_seconds: float,
) -> list[Exchange]:
    """One exchange per endpoint, in their order; all are asked at the same time."""
    found: dict[int, Exchange] = {}

    async def ask(at: int, endpoint: Endpoint) -> None:
        found[at] = await ask_once(
            endpoint,
            request(endpoint),
            sentences=sentences,
            chunk_tokens=chunk_tokens,
            max_seconds=max_seconds,
        )

    async with anyio.create_task_group() as tasks:
        for at, endpoint in enumerate(endpoints):
            tasks.start_soon(ask, at, endpoint)
    return [found[at] for at in range(len(endpoints))]


async def ask_once(
    endpoint: Endpoint,
    request: Request,
    *,
    sentences: Sentences,
    chunk_tokens: int,
    max_seconds: float,
) -> Exchange:
    """The exchange of this request. `chunk_tokens`: the longest chunk of the job, compared with the
    input that the server takes."""
    # Alone, a replica identifies itself; a model that loads is a result, too.
    deadline = replace(endpoint.deadline, loading_seconds=0.0)
    alone = replace(endpoint, replica_of="", deadline=deadline)
    exchange = Exchange(endpoint=alone)
    with anyio.move_on_after(max_seconds) as scope, TemporaryDirectory() as folder:
        try:
            with closing(AnswerCache(Path(folder))) as cache:
                async with connect(
                    [alone],
                    cache,
                    sentences=sentences,
                    chunk_tokens=chunk_tokens,
                    patience=_AT_ONCE,
                ) as connections:
                    await connections.open()
                    (connection,) = connections.connections
                    exchange = await _exchange(connection, request)
        except* TextmillError as errors:
            exchange = replace(exchange, problem=first_error(errors))
    if scope.cancelled_caught:
        late = EndpointError("ambiguous", f"no complete answer within {max_seconds:g} s")
        exchange = replace(exchange, problem=_problem(late), seconds=max_seconds)
    return replace(exchange, endpoint=replace(exchange.endpoint, deadline=endpoint.deadline))


async def _exchange(connection: Connection, request: Request) -> Exchange:
    """The exchange over an open connection; it is asked again only in another way."""
    state = EndpointState(0, connection.endpoint, connection.answer, awake.now(), random.random)
    exchange = Exchange(endpoint=connection.endpoint)
    for _ in range(_MAX_WAYS):
        started = awake.now()
        permit = Permit(started, request.tokens, 0, 1)
        try:
            answered = await connection.answer([request])
        except EndpointError as error:
            refusal = state.refused([request], error, permit, awake.now())
            exchange = replace(
                exchange,
                problem=_problem(error),
                usage=exchange.usage + refusal.usage,
                seconds=awake.now() - started,
                limits=parse_rate_limits(error.headers, time.time()),
            )
            if error.ask_with:
                continue
            return exchange
        return await _of_answer(exchange, connection, state, request, answered, permit)
    return exchange


async def _of_answer(
    exchange: Exchange,
    connection: Connection,
    state: EndpointState,
    request: Request,
    answered: Answered,
    permit: Permit,
) -> Exchange:
    """The exchange with the reply of a server, which may still hold no answer."""
    (settled,) = answered.settled
    now = awake.now()
    valid = [settled] if isinstance(settled, Answer) else []
    usage = state.answered([request], answered.settled, valid, permit, now, is_kept=False)
    problem = None
    if isinstance(settled, Failure):
        problem = _problem(EndpointError(settled.kind, settled.message, status=200))
    return replace(
        exchange,
        answer=settled if isinstance(settled, Answer) else None,
        problem=problem,
        usage=exchange.usage + usage,
        seconds=now - permit.started,
        max_input_tokens=await connection.named_limit(),
        limits=parse_rate_limits(answered.headers, time.time()),
    )


def _problem(error: EndpointError) -> TextmillError:
    waits = "it is there, but cannot answer now: a run would wait for it"
    is_there = error.facts.is_pausing and error.status is not None
    hint = error.hint or (waits if is_there else None)
    return error.facts.ends_with(printable(str(error), 500), hint=hint)
