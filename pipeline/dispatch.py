"""From requests to settled outcomes: look up, join equal ones, pack, send, keep, free.

One loop thread owns all the state below, so there are no locks. `take` decides, workers wait. A
request is in `flights` from before its look-up until its answer is durable: whoever asks for the
same key meanwhile joins it, whoever asks later finds it in the cache, nobody pays twice. Keys are
held here, never answers.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

import anyio
from anyio.to_thread import run_sync

from pipeline import events
from pipeline.cache import AnswerCache
from pipeline.control import Control, Ticket
from pipeline.errors import (
    BudgetError,
    EndpointError,
    GuardError,
    OutageError,
    StorageError,
    TextmillError,
    UsageError,
)
from pipeline.escape import printable
from pipeline.prices import cost, output_tokens_bound, rent
from pipeline.records import Answer, Endpoint, Failure, Request, Split
from pipeline.retries import PAUSING, Fail, Halve, Retry, Stop, verdict
from pipeline.retry_budget import THROTTLE, TRANSIENT

SAME_REFUSALS = 20
"""So many different requests refused alike, and none answered: the configuration is wrong."""

Send = Callable[[Sequence[Request]], Awaitable[Sequence[Answer | Failure]]]


class Group:
    """Documents that travel together; it is whole when each of their requests is settled."""

    __slots__ = ("unsettled", "whole")

    def __init__(self) -> None:
        self.unsettled = 0
        self.whole = anyio.Event()


class Flight:
    """A key on its way, the groups that wait for it, and the attempts that it used up."""

    __slots__ = ("attempts", "groups", "request")

    def __init__(self, request: Request, group: Group) -> None:
        self.request = request
        self.groups = [group]
        self.attempts = 0


class Again(NamedTuple):
    """A call to be made again, as it was: its requests are not joined by others."""

    ready: float
    order: int
    flights: list[Flight]
    cost: float
    """Of the retry budget."""


class Tally:
    """What the run did so far; only the loop thread writes it."""

    def __init__(self) -> None:
        self.requests = 0
        self.cached = 0
        """Requests that needed no sending: answered before, or equal to another one."""
        self.calls = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_usd = 0.0
        self.pauses = 0


class Dispatch:
    """Sends what is missing through one endpoint, with `endpoint.concurrency` workers."""

    def __init__(
        self,
        endpoint: Endpoint,
        send: Send,
        cache: AnswerCache,
        emit: events.Emit,
        *,
        free_bytes: Callable[[], int],
        dimension: int | None = None,
        max_outage_seconds: float = 1_800.0,
        grace_seconds: float = 30.0,
        max_cost_usd: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self.endpoint = endpoint
        self.tally = Tally()
        self.failures: dict[bytes, Failure] = {}
        """Final failures of this run, by key: an equal request later is not sent again."""
        self.splits: set[bytes] = set()
        """Keys of this run that are too long for the model: their pieces are to be admitted."""
        self._send = send
        self._cache = cache
        self._emit = emit
        self._free_bytes = free_bytes
        self._max_outage_seconds = max_outage_seconds
        self._max_cost_usd = max_cost_usd
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._uniform = uniform

        self._flights: dict[bytes, Flight] = {}
        self._fresh: deque[Flight] = deque()
        self._again: list[Again] = []
        self._order = itertools.count()
        self._control = Control(endpoint, clock(), uniform)
        self._started = clock()
        self._is_proven = False
        self._troubled_since = math.inf
        """When the first call began that failed for the endpoint's sake, since it last replied."""
        self._in_flight = 0
        self._estimated_usd = 0.0
        self._output_tokens_bound = output_tokens_bound(endpoint.task, endpoint.parameters)
        self._model = ""
        self._vector_bytes = dimension * 4 if dimension else None
        self._refusals: Counter[int | None] = Counter()
        self._kept: list[tuple[bytes, Answer | Split]] = []
        self._kept_durable = anyio.Event()
        self._kept_some = anyio.Event()
        self._wake = anyio.Event()
        self._turn = anyio.Lock(fast_acquire=True)
        self._is_closed = False
        self._stopped_by: TextmillError | None = None
        self._scope = anyio.CancelScope()

    # --- from outside ------------------------------------------------------------------------

    async def admit(self, group: Group, requests: Sequence[Request]) -> int:
        """Look these up and queue what is missing; return how many need no sending.

        `group.whole` is set when all are settled.
        """
        new: list[Flight] = []
        missing = 0
        for request in requests:
            flight = self._flights.get(request.key)
            if flight is not None:
                flight.groups.append(group)
                group.unsettled += 1
            elif request.key not in self.failures:
                flight = self._flights[request.key] = Flight(request, group)
                group.unsettled += 1
                new.append(flight)
        if new:
            found = await run_sync(self._cache.get_many, [f.request.key for f in new])
            for flight in new:
                answer = found.get(flight.request.key)
                if isinstance(answer, Split):
                    self.splits.add(flight.request.key)
                    self._settle(flight)
                elif answer is None or self._misfit(answer) is not None:
                    missing += 1
                    self._fresh.append(flight)
                else:
                    # What was answered before shows that the configuration works, and by whom.
                    self._is_proven = True
                    self._model = self._model or answer.model
                    self._settle(flight)
        self.tally.requests += len(requests)
        self.tally.cached += len(requests) - missing
        if not group.unsettled:
            group.whole.set()
        self._wake_workers()
        return len(requests) - missing

    @property
    def stopped_by(self) -> TextmillError | None:
        """What the run ends with, once `stop` was called."""
        return self._stopped_by

    def hear(self, headers: Mapping[str, str]) -> None:
        """The headers of a reply, whatever its status: they may tell limits."""
        self._control.heard(headers, self._clock(), time.time())

    def close(self) -> None:
        """Nothing more will be admitted: workers end when all is settled."""
        self._is_closed = True
        self._wake_workers()

    def stop(self, error: TextmillError, grace_seconds: float | None = None) -> None:
        """Make no further call; wait for those under way, at most the grace; then `run` raises.

        What stopped it first is what it raises; a later stop can only shorten the wait.
        """
        grace = self._grace_seconds if grace_seconds is None else grace_seconds
        self._scope.deadline = min(self._scope.deadline, anyio.current_time() + grace)
        if self._stopped_by is None:
            self._stopped_by = error
            self._emit(events.Draining(str(error), self._in_flight))
            self._wake_workers()

    async def run(self) -> None:
        """Work until closed and all is settled, or stopped. Raises: what it was stopped by."""
        async with anyio.create_task_group() as storing:
            storing.start_soon(self._keep)
            with self._scope:
                async with anyio.create_task_group() as workers:
                    for _ in range(self.endpoint.concurrency):
                        workers.start_soon(self._work)
            storing.cancel_scope.cancel()
        if self._kept:  # came in, but the grace was over before they were durable
            await run_sync(self._cache.put_many, self._kept)
        if self._stopped_by is not None:
            raise self._stopped_by

    # --- decide ------------------------------------------------------------------------------

    def take(self, now: float) -> tuple[list[Flight], Ticket] | float | None:
        """The next call and its ticket; or the seconds to wait for one; or None: none is to come.

        Retries go before new work, the oldest document first.
        """
        if self._stopped_by is not None or (self._is_closed and not self._flights):
            return None
        again = self._again[0] if self._again and self._again[0].ready <= now else None
        if again is None and not self._fresh:
            return self._again[0].ready - now if self._again else math.inf
        flights = again.flights if again else self._packed()
        leased = self._control.lease(now, self._tokens(flights), again.cost if again else 0.0)
        if isinstance(leased, float):
            # Whoever waits looks up when an outage is over its bound.
            outage_ends = self._troubled_since + self._max_outage_seconds
            return min(leased, max(0.0, outage_ends - now) or leased)
        if again:
            heapq.heappop(self._again)
        else:
            for _ in flights:
                self._fresh.popleft()
        return flights, leased

    def _packed(self) -> list[Flight]:
        """The oldest requests that fit one call, at least one."""
        packed = [self._fresh[0]]
        tokens = packed[0].request.tokens
        for flight in itertools.islice(self._fresh, 1, self.endpoint.batch_size):
            tokens += flight.request.tokens
            if tokens > self.endpoint.batch_tokens:
                break
            packed.append(flight)
        return packed

    def _tokens(self, flights: Sequence[Flight]) -> int:
        """What the call may cost of a limit on tokens: answers are counted at their longest."""
        answers = len(flights) * self._output_tokens_bound
        return sum(flight.request.tokens for flight in flights) + answers

    def _forbids(self, flights: Sequence[Flight]) -> TextmillError | None:
        """Why this call must not be made: nowhere to keep its answers, or no money for it."""
        needed = (1 << 20) + 16_384 * (self._in_flight + len(flights))
        if (free := self._free_bytes()) < needed:
            return StorageError(
                f"{self._cache.folder}: {free:,} bytes free, {needed:,} needed for a call",
                hint="free space and run again; every answer so far is kept",
            )
        if self._max_cost_usd is not None:
            spent = self.tally.cost_usd + rent(self.endpoint.price, self._clock() - self._started)
            if spent + self._estimated_usd + self._estimate(flights) > self._max_cost_usd:
                return BudgetError(
                    f"budget.max_cost_usd = {self._max_cost_usd:g} reached: ${spent:.4f} spent",
                    hint="answers so far are kept; raise the budget or run again to go on",
                )
        return None

    def _estimate(self, flights: Sequence[Flight]) -> float:
        return cost(
            self.endpoint.price,
            requests=len(flights),
            input_tokens=sum(flight.request.tokens for flight in flights),
            output_tokens=len(flights) * self._output_tokens_bound,
        )

    # --- act ---------------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            # One worker asks and waits, the others stand in line: none wakes for nothing.
            async with self._turn:
                taken = await self._next()
            if taken is None:
                return
            await self._call(*taken)

    async def _next(self) -> tuple[list[Flight], Ticket] | None:
        """The next call, when it may go; None: there is none to come."""
        while True:
            taken = self.take(self._clock())
            if isinstance(taken, float):
                with anyio.move_on_after(taken):
                    await self._wake.wait()
                self._check_outage()
                continue
            if taken is not None and (forbidden := self._forbids(taken[0])) is not None:
                self._unsent(taken[0])
                self.stop(forbidden)
                continue
            return taken

    async def _call(self, flights: list[Flight], ticket: Ticket) -> None:
        expected = self._estimate(flights)
        self._in_flight += len(flights)
        self._estimated_usd += expected
        try:
            try:
                settled = await self._send([flight.request for flight in flights])
            finally:
                self._estimated_usd -= expected  # from here on the true cost counts
            self.tally.calls += 1
            await self._answered(flights, settled, ticket)
        except EndpointError as error:
            await self._refused(flights, error, ticket)
        except TextmillError as error:  # the server is not what it was
            self._unsent(flights)
            self.stop(error)
        finally:
            self._in_flight -= len(flights)
            self._wake_workers()

    async def _answered(
        self, flights: list[Flight], settled: Sequence[Answer | Failure], ticket: Ticket
    ) -> None:
        now = self._clock()
        started = ticket.started
        used = sum(a.input_tokens + a.output_tokens for a in settled if isinstance(a, Answer))
        self._control.answered(ticket, now, used)
        self._troubled_since = math.inf
        if (other := self._other_model(settled)) is not None:
            # Not kept: under this key another model's answer would stand for ever.
            self._unsent(flights)
            self._account(flights, [], now - started)
            self.stop(other)
            return
        good: list[tuple[Flight, Answer]] = []
        for flight, outcome in zip(flights, settled, strict=True):
            problem = outcome if isinstance(outcome, Failure) else self._misfit(outcome)
            if problem is None:
                assert isinstance(outcome, Answer)
                good.append((flight, outcome))
            else:
                kind = "poison" if problem.kind == "poison" else "invalid"
                error = EndpointError(kind, problem.message, status=200)  # type: ignore[arg-type]
                self._again_or_failed([flight], error, now)
        self._account(flights, [answer for _, answer in good], now - started)
        if good:
            await self._durable([(flight.request.key, answer) for flight, answer in good])
            self._is_proven = True
            for flight, _ in good:
                self._settle(flight)

    async def _durable(self, answers: Sequence[tuple[bytes, Answer | Split]]) -> None:
        """Return when these stand in the cache."""
        self._kept.extend(answers)
        durable = self._kept_durable
        self._kept_some.set()
        await durable.wait()

    async def _refused(self, flights: list[Flight], error: EndpointError, ticket: Ticket) -> None:
        now = self._clock()
        self.tally.calls += error.kind != "unreachable"
        # Sent, and perhaps answered: what it may have cost counts, or a budget would not hold.
        spent = self._estimate(flights) if error.kind in ("ambiguous", "invalid") else 0.0
        self.tally.cost_usd += spent
        self._emit(
            events.CallEnded(
                self.endpoint.name,
                len(flights),
                now - ticket.started,
                cost_usd=spent,
                error=error.kind,
                message=str(error),
            )
        )
        if error.kind in PAUSING or error.kind in ("transient", "ambiguous"):
            self._troubled_since = min(self._troubled_since, ticket.started)
        else:
            self._troubled_since = math.inf  # it replied
        rest = self._control.refused(ticket, now, error)
        if rest is not None:
            self.tally.pauses += 1
            self._emit(
                events.Paused(
                    self.endpoint.name,
                    rest.seconds,
                    rest.is_asked,
                    self.tally.pauses,
                    error.kind,
                    str(error),
                )
            )
        if error.kind == "too_long" and len(flights) == 1:
            key = flights[0].request.key
            self._count_refusals(error, 1)
            await self._durable([(key, Split())])
            self.splits.add(key)
            self._settle(flights[0])
        else:
            self._again_or_failed(flights, error, now)
        self._check_outage()

    def _again_or_failed(self, flights: list[Flight], error: EndpointError, now: float) -> None:
        attempts = max(flight.attempts for flight in flights) + 1
        decided = verdict(error, attempts, len(flights), self.endpoint.name, self._uniform)
        if not (isinstance(decided, Retry) and not decided.uses_attempt):
            for flight in flights:
                flight.attempts += 1
        match decided:
            case Retry(delay_seconds=delay):
                price = THROTTLE if error.kind in PAUSING else TRANSIENT
                self._repeat(flights, now + delay, price)
            case Halve():
                middle = (len(flights) + 1) // 2
                for half in (flights[:middle], flights[middle:]):
                    self._repeat(half, now, 0.0)
            case Fail():
                for flight in flights:
                    self.failures[flight.request.key] = Failure(
                        error.kind, str(error), flight.attempts
                    )
                    self._settle(flight)
                self._count_refusals(error, len(flights))
            case Stop(error=reason):
                self._unsent(flights)
                self.stop(reason)

    def _repeat(self, flights: list[Flight], ready: float, cost: float) -> None:
        heapq.heappush(self._again, Again(ready, next(self._order), flights, cost))

    def _unsent(self, flights: list[Flight]) -> None:
        """Their rows stay open: what stops a run is no outcome of a row."""
        self._repeat(flights, math.inf, 0.0)

    def _count_refusals(self, error: EndpointError, requests: int) -> None:
        """Twenty different rows cannot all be poison: then it is the job that is wrong."""
        if error.kind not in ("poison", "too_long") or error.status == 200 or self._is_proven:
            return
        self._refusals[error.status] += requests
        if self._refusals[error.status] >= SAME_REFUSALS:
            self.stop(
                UsageError(
                    f"endpoint `{self.endpoint.name}` refused the first {SAME_REFUSALS} "
                    f"requests alike: {error}",
                    hint="check `endpoint.url`, `endpoint.model` and `parameters`",
                )
            )

    def _other_model(self, settled: Sequence[Answer | Failure]) -> GuardError | None:
        """The first name that the server answers under holds for the run."""
        for answer in settled:
            if not isinstance(answer, Answer) or not answer.model:
                continue
            self._model = self._model or answer.model
            if answer.model != self._model and not self.endpoint.allow_model_change:
                return GuardError(
                    f"endpoint `{self.endpoint.name}`: the answers came from "
                    f"`{printable(self._model, 80)}`, now from `{printable(answer.model, 80)}`",
                    hint="answers so far are kept; endpoint.allow_model_change = true goes on",
                )
        return None

    def _misfit(self, answer: Answer) -> Failure | None:
        """A vector of another dimension than the first one is no answer to this job."""
        if isinstance(answer.value, bytes):
            if self._vector_bytes is None:
                self._vector_bytes = len(answer.value)
            elif len(answer.value) != self._vector_bytes:
                got, expected = len(answer.value) // 4, self._vector_bytes // 4
                return Failure("invalid", f"a vector of {got} dimensions, expected {expected}")
        return None

    def _account(
        self, flights: Sequence[Flight], answers: Sequence[Answer], seconds: float
    ) -> None:
        input_tokens = sum(answer.input_tokens for answer in answers) or sum(
            flight.request.tokens for flight in flights
        )
        output_tokens = sum(answer.output_tokens for answer in answers)
        spent = cost(
            self.endpoint.price,
            requests=len(flights),
            input_tokens=input_tokens,
            # What brought no answer was written all the same, perhaps to its bound.
            output_tokens=output_tokens + (len(flights) - len(answers)) * self._output_tokens_bound,
            seconds=seconds,
        )
        self.tally.input_tokens += input_tokens
        self.tally.output_tokens += output_tokens
        self.tally.cost_usd += spent
        self._emit(
            events.CallEnded(
                self.endpoint.name, len(flights), seconds, input_tokens, output_tokens, spent
            )
        )

    def _settle(self, flight: Flight) -> None:
        del self._flights[flight.request.key]
        for group in flight.groups:
            group.unsettled -= 1
            if not group.unsettled:
                group.whole.set()

    async def _keep(self) -> None:
        """The one writer: while a group is being made durable, the next one gathers."""
        while True:
            await self._kept_some.wait()
            self._kept_some = anyio.Event()
            kept, self._kept = self._kept, []
            durable, self._kept_durable = self._kept_durable, anyio.Event()
            with anyio.CancelScope(shield=True):
                await run_sync(self._cache.put_many, kept)
            durable.set()

    def _check_outage(self) -> None:
        waited = self._clock() - self._troubled_since
        if self._flights and waited >= self._max_outage_seconds:
            self.stop(
                OutageError(
                    f"endpoint `{self.endpoint.name}`: no answer for {waited:.0f} s "
                    f"(run.max_outage_seconds = {self._max_outage_seconds:g})",
                    hint="answers so far are kept; run again when the endpoint is back",
                ),
                0.0,
            )

    def _wake_workers(self) -> None:
        self._wake.set()
        self._wake = anyio.Event()
