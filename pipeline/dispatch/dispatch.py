"""From requests to settled outcomes: look up, join equal ones, pack, send, keep, free.

One loop thread owns all the state below, so there are no locks. `take` decides, workers wait. A
request is in `flights` from before its look-up until its outcome is durable: whoever asks for the
same meanwhile joins it, whoever asks later finds it in the cache, nobody pays twice.

    admit ──> lanes ──(take: who, what, when)──> send ──> writer ──> settle
                ^── again: retries, halves, the next tier ──┘
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import anyio
from anyio.to_thread import run_sync

from pipeline import events
from pipeline.cache.keys import Keys
from pipeline.cache.lookup import look_up
from pipeline.cache.store import AnswerCache
from pipeline.dispatch.endpoint_state import Check, EndpointState, Send
from pipeline.dispatch.outage import outage, outage_start
from pipeline.dispatch.policy import takes
from pipeline.dispatch.queue import Group, InFlight, InFlightTable, PendingCall
from pipeline.dispatch.settling import Settling
from pipeline.dispatch.writer import WriteFailures, Writer
from pipeline.errors import BudgetError, EndpointError, StorageError, TextmillError
from pipeline.events import EndpointStats
from pipeline.limits.admission import Permit
from pipeline.limits.free_space import FreeSpace, needed_bytes
from pipeline.limits.prices import rent
from pipeline.records import Answer, Answered, Endpoint, Failure, Request, Route, Split, Usage

Taken = tuple[PendingCall, Permit]
_RECHECK_SECONDS = 1.0
"""Who is to take a call changes with time, too: whoever left one to another looks again."""


class Dispatch:
    """Sends what is missing through these endpoints, each with `concurrency` workers of its own.

    `open_endpoints` is awaited once, before the first call. `failures` and `journal` carry final
    failures from one execution of an open run to the next. A chunk of fewer than
    `min_split_tokens` cannot be cut: too long, it is a failure and no split.
    """

    def __init__(
        self,
        endpoints: Sequence[tuple[Endpoint, Send]],
        cache: AnswerCache,
        emit: events.Emit,
        *,
        free_bytes: Callable[[], int],
        open_endpoints: Callable[[], Awaitable[None]] | None = None,
        policy: str = "ordered",
        dimension: int | None = None,
        failures: Mapping[bytes, Failure] = {},
        journal: WriteFailures | None = None,
        max_outage_seconds: float = 1_800.0,
        grace_seconds: float = 30.0,
        max_cost_usd: float | None = None,
        min_split_tokens: int = 0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._cache = cache
        self._emit = emit
        self._free_bytes = free_bytes
        self._free_space = FreeSpace()
        self._open_endpoints = open_endpoints
        self._opening = anyio.Lock()
        self._policy = policy
        self._max_outage_seconds = max_outage_seconds
        self._max_cost_usd = max_cost_usd
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._wall = wall

        self._keys = Keys([endpoint for endpoint, _ in endpoints])
        self._live = [
            EndpointState(at, endpoint, send, clock(), uniform)
            for at, (endpoint, send) in enumerate(endpoints)
        ]
        self._table = InFlightTable(dict(failures))
        self._writer = Writer(cache, journal)
        self._settling = Settling(
            self._live,
            self._table,
            self._writer,
            self._keys,
            emit,
            self.stop,
            dimension=dimension,
            min_split_tokens=min_split_tokens,
            clock=clock,
            uniform=uniform,
        )
        self.tally = self._settling.tally
        self._started = clock()
        self._in_flight = 0
        self._estimated_usd = 0.0
        self._wake = anyio.Event()
        self._sleepers = 0
        """Who may wait for it; some have gone on meanwhile, by their own clock."""
        self._is_closed = False
        self._stopped_by: TextmillError | None = None
        self._scope = anyio.CancelScope()

    # --- from outside ------------------------------------------------------------------------

    async def admit(self, group: Group, requests: Sequence[Request]) -> int:
        """Look these up and queue what is missing; return how many need no sending.

        `group.whole` is set when all are settled.
        """
        new = [entry for each in requests if (entry := self._table.join(group, each))]
        missing: list[InFlight] = []
        found = await self._looked_up(new) if new else {}
        for entry in new:
            settled = found.get(entry.request.dedup_key)
            if isinstance(settled, Split) and self._settling.can_split(entry):
                self._table.splits.add(entry.request.dedup_key)
            elif (
                not isinstance(settled, Answer)
                or self._settling.wrong_dimension(settled) is not None
            ):
                missing.append(entry)
                continue
            self._table.settle(entry)
        if missing and self._open_endpoints is not None:
            await self._ensure_open(self._open_endpoints)
        for entry in missing:
            self._table.queue(entry.route).add(entry)
        self.tally.requests += len(requests)
        self.tally.cached += len(requests) - len(missing)
        if not group.unsettled:
            group.whole.set()
        self._wake_workers()
        return len(requests) - len(missing)

    async def fail(self, requests: Sequence[Request], why: Failure) -> None:
        """Give these up, which are on their way no more; durable when it returns."""
        await self._writer.journal([(request.dedup_key, why) for request in requests])
        self._table.failures.update({request.dedup_key: why for request in requests})

    def guard(self, position: int, check: Check) -> None:
        """Put a check before the calls of the endpoint at this position; what the check sends
        itself is paid for like all other calls."""
        self._live[position].check = check

    @property
    def failures(self) -> Mapping[bytes, Failure]:
        """Final failures of this run, by flight."""
        return self._table.failures

    @property
    def splits(self) -> set[bytes]:
        """Flights of this run that are too long for the model: their pieces are to be admitted."""
        return self._table.splits

    @property
    def stopped_by(self) -> TextmillError | None:
        """What the run ends with, once `stop` was called."""
        return self._stopped_by

    @property
    def endpoints(self) -> tuple[EndpointStats, ...]:
        """What each endpoint did, in job-file order."""
        return tuple(state.meter.stats(state.name) for state in self._live)

    @property
    def usage(self) -> Usage:
        """What the calls of all endpoints took so far."""
        return sum((state.meter.usage for state in self._live), Usage())

    @property
    def rent_usd(self) -> float:
        """What endpoints that are paid by the hour have cost so far."""
        seconds = self._clock() - self._started
        return sum(rent(state.endpoint.price, seconds) for state in self._live)

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
            storing.start_soon(self._writer.run)
            with self._scope:
                async with anyio.create_task_group() as workers:
                    for state in self._live:
                        for _ in range(state.endpoint.concurrency):
                            workers.start_soon(self._work, state)
            storing.cancel_scope.cancel()
        await self._writer.flush()  # came in, but the grace was over before they were durable
        if self._stopped_by is not None:
            raise self._stopped_by

    # --- decide ------------------------------------------------------------------------------

    def take(self, now: float, state: EndpointState) -> Taken | float | None:
        """The next call of this endpoint and its ticket; or the seconds to wait for one; or None:
        none is to come.

        The lane with the oldest request goes first, and no younger one overtakes it at a limit.
        """
        if self._stopped_by is not None or (self._is_closed and not len(self._table)):
            return None
        wait = math.inf
        state.asked_at = now
        for queue in self._table.waiting(state.position):
            call = queue.next(now, state.endpoint, state.batch_size)
            if call is None:
                wait = min(wait, queue.ready_in(now))
                continue
            requests = [entry.request for entry in call.entries]
            if not self._is_to_take(state, queue.route, requests, now):
                wait = min(wait, _RECHECK_SECONDS)
                if state.admission.has_room and any(other.asked_at < now for other in self._live):
                    self._wake_workers()  # who is to take it may sleep since it was not
                continue
            leased = state.admission.lease(now, state.tokens(requests), call.cost)
            if isinstance(leased, float):
                # Whoever waits looks up when an outage is over its bound.
                outage_ends = outage_start(self._live, queue) + self._max_outage_seconds
                return min(wait, leased, max(0.0, outage_ends - now) or leased)
            queue.mark_sent(call)
            return call, leased
        return wait

    def _is_to_take(
        self, state: EndpointState, route: Route, requests: Sequence[Request], now: float
    ) -> bool:
        """Whether this endpoint, and not another one of the route, is to make the call."""
        if len(route.tiers) == 1 == len(route.tiers[0]):
            return True
        for tier in route.tiers:
            others = [self._live[at] for at in tier]
            awake = [each for each in others if not each.admission.is_paused(now)]
            if state.position in tier:
                if state not in awake:
                    return True  # it waits for its rest to end, and then tries one call
                views = [each.view(now, requests) for each in awake]
                return takes(self._policy, views, state.position)
            if awake:
                return False
        return False

    def _forbids(self, state: EndpointState, requests: Sequence[Request]) -> TextmillError | None:
        """Why this call must not be made: nowhere to keep its answers, or no money for it."""
        needed = needed_bytes(self._in_flight + len(requests))
        self._free_space = self._free_space.at(self._clock(), self._free_bytes)
        if (free := self._free_space.free_bytes) < needed:
            return StorageError(
                f"{self._cache.folder}: {free:,} bytes free, {needed:,} needed for a call",
                hint="free space and run again; every answer so far is kept",
            )
        if self._max_cost_usd is not None:
            spent = self.usage.cost_usd + self.rent_usd
            if spent + self._estimated_usd + state.estimate(requests) > self._max_cost_usd:
                return BudgetError(
                    f"budget.max_cost_usd = {self._max_cost_usd:g} reached: ${spent:.4f} spent",
                    hint="answers so far are kept; raise the budget or run again to go on",
                )
        return None

    # --- act ---------------------------------------------------------------------------------

    async def _ensure_open(self, open_endpoints: Callable[[], Awaitable[None]]) -> None:
        """Return when the endpoints are ready for calls."""
        async with self._opening:
            if self._open_endpoints is not None:
                await open_endpoints()
                self._open_endpoints = None

    async def _looked_up(self, entries: Sequence[InFlight]) -> dict[bytes, Answer | Split]:
        """What is settled already, by flight."""
        requests = [entry.request for entry in entries]
        stored = await run_sync(look_up, self._cache, self._keys, requests)
        for each in requests:
            found = stored.get(each.dedup_key)
            if found is not None and found.is_first and isinstance(found.settled, Answer):
                # What was answered before shows that the configuration works, and by whom.
                self._live[each.route.positions[0]].note_cached(found.settled)
        return {entry: found.settled for entry, found in stored.items()}

    async def _work(self, state: EndpointState) -> None:
        while True:
            # One worker asks and waits, the others stand in line: none wakes for nothing.
            async with state.turn:
                taken = await self._next(state)
            if taken is None:
                return
            await self._call(state, *taken)

    async def _next(self, state: EndpointState) -> Taken | None:
        """The next call, when it may go; None: there is none to come."""
        while True:
            taken = self.take(self._clock(), state)
            if isinstance(taken, float):
                self._sleepers += 1
                with anyio.move_on_after(taken):
                    await self._wake.wait()
                self._check_outage()
                continue
            if taken is None:
                return None
            requests = [entry.request for entry in taken[0].entries]
            if (forbidden := self._forbids(state, requests)) is not None:
                self._table.queue(taken[0].entries[0].route).in_flight -= len(requests)
                self._settling.requeue(taken[0].entries)
                self.stop(forbidden)
                continue
            if len(self._live) > 1:
                self._shared(state, len(requests))
            return taken

    def _shared(self, state: EndpointState, requests: int) -> None:
        """Count the call for who is next, and let the others ask again."""
        now, share = self._clock(), state.meter.share
        for other in self._live:
            if other.admission.is_paused(now):  # or it would have all of what it missed at once
                other.meter.share = max(other.meter.share, share)
        state.meter.share += requests / state.endpoint.weight
        self._wake_workers()

    async def _call(self, state: EndpointState, call: PendingCall, permit: Permit) -> None:
        requests = [entry.request for entry in call.entries]
        expected = state.estimate(requests)
        queue = self._table.queue(call.entries[0].route)
        self._in_flight += len(requests)
        self._estimated_usd += expected
        try:
            try:
                if state.check is not None:
                    await state.check(partial(self._send_for_check, state))
                settled = (await self._send(state, requests)).settled
            finally:
                self._estimated_usd -= expected  # from here on the true cost counts
            await self._settling.answered(state, call, settled, permit)
        except EndpointError as error:
            await self._settling.refused(state, call, error, permit)
            self._check_outage()
        except TextmillError as error:  # the server is not what it was
            self._settling.requeue(call.entries)
            self.stop(error)
        finally:
            queue.in_flight -= len(requests)
            self._in_flight -= len(requests)
            self._wake_workers()

    async def _send(self, state: EndpointState, requests: Sequence[Request]) -> Answered:
        """What the endpoint answers. Its headers may name limits, whatever else came back."""
        try:
            answered = await state.send(requests)
        except EndpointError as error:
            state.admission.learn(error.headers, self._clock(), self._wall())
            raise
        state.admission.learn(answered.headers, self._clock(), self._wall())
        return answered

    async def _send_for_check(self, state: EndpointState, requests: Sequence[Request]) -> Answered:
        """The same for requests that are in no queue: those of a check itself."""
        started = self._clock()
        answered = await self._send(state, requests)
        self._settling.paid(state, len(requests), self._clock() - started, answered.settled)
        return answered

    def _check_outage(self) -> None:
        queues = self._table.queues.values()
        error = outage(self._live, queues, self._clock(), self._max_outage_seconds)
        if error is not None:
            self.stop(error, 0.0)

    def _wake_workers(self) -> None:
        if self._sleepers:
            self._sleepers = 0
            self._wake.set()
            self._wake = anyio.Event()
