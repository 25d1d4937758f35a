"""From requests to settled outcomes: look up, deduplicate, pack, send, store, release.

One loop thread owns all the state below, so there are no locks. `take` decides, workers wait. A
request is in the table of requests in flight from before its look-up until its outcome is durable:
an equal request joins it meanwhile, a later one hits the cache, and no request is paid twice.

    admit ──> queues ──(take: which call, when)──> send ──> writer ──> settle
                ^── again: retries, halves, the next tier ──┘
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio
from anyio.to_thread import run_sync

from pipeline import events
from pipeline.cache.keys import Keys
from pipeline.cache.lookup import look_up
from pipeline.cache.store import AnswerCache
from pipeline.dispatch.bounds import Bounds
from pipeline.dispatch.check import Check, CheckQueue
from pipeline.dispatch.choice import Choice
from pipeline.dispatch.endpoint_state import EndpointState, Send
from pipeline.dispatch.origins import Comparison, Origins
from pipeline.dispatch.outage import given_up, outage, outage_end
from pipeline.dispatch.queue import Group, InFlight, InFlightTable, PendingCall, RouteQueue
from pipeline.dispatch.settling import Settling
from pipeline.dispatch.writer import WriteFailures, Writer
from pipeline.errors import EndpointError, TextmillError
from pipeline.events import EndpointStats
from pipeline.limits.admission import Permit
from pipeline.limits.prices import rent
from pipeline.records import Answer, Answered, Endpoint, Failure, Request, Split, Stop, Usage

Taken = tuple[PendingCall, Permit]
_RECHECK_SECONDS = 1.0
"""Routing changes with time, too: a worker that left a call to another endpoint checks again."""


class Dispatch:
    """Sends uncached requests through these endpoints, each with up to `concurrency` workers.

    `open_endpoints` is awaited once, before the first call. `failures` and `journal` carry final
    failures from one execution of an open run to the next. A chunk of fewer than `min_split_tokens`
    cannot be split: if it is too long, it is a failure.
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
        comparison: Comparison | None = None,
        patience: Stop | None = None,
        max_cost_usd: float | None = None,
        min_split_tokens: int = 0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._cache = cache
        self._emit = emit
        self._bounds = Bounds(cache.folder, free_bytes, max_cost_usd)
        self._open_endpoints = open_endpoints
        self._opening = anyio.Lock()
        self._patience = patience or Stop()
        self._clock = clock
        self._wall = wall

        self._keys = Keys([endpoint for endpoint, _ in endpoints])
        self._states = [
            EndpointState(position, endpoint, send, clock(), uniform)
            for position, (endpoint, send) in enumerate(endpoints)
        ]
        self._choice = Choice(self._states, policy)
        self._table = InFlightTable(dict(failures), self._keys)
        self._writer = Writer(cache, lambda *kept: self._settling.can_use(*kept), journal)
        self.origins = Origins(
            cache, [endpoint for endpoint, _ in endpoints], emit, self._compare, comparison
        )
        self._settling = Settling(
            self._states,
            self._table,
            self._writer,
            self._keys,
            self.origins,
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
        """Workers that may wait for it; some have continued meanwhile, after their timeout."""
        self._is_closed = False
        self._stopped_by: TextmillError | None = None
        self._scope = anyio.CancelScope()

    async def admit(self, group: Group, requests: Sequence[Request]) -> int:
        """Look these requests up and queue the missing ones; returns how many need no sending.

        `group.whole` is set once all are settled.
        """
        new = [entry for request in requests if (entry := self._table.join(group, request))]
        missing: list[InFlight] = []
        stored = await self._look_up(new) if new else {}
        for entry in new:
            if entry.is_settled:  # meanwhile, with an equal text of a row with another route
                continue
            settled = stored.get(entry.request.dedup_key)
            if settled is None or not self._settling.can_use(entry, settled):
                missing.append(entry)
                continue
            if isinstance(settled, Split):
                self._table.splits.add(entry.request.dedup_key)
            self._table.settle(entry)
        if missing and self._open_endpoints is not None:
            await self._ensure_open(self._open_endpoints)
            missing = [entry for entry in missing if not entry.is_settled]
        for entry in missing:
            entry.is_queued = True
            entry.queue.add(entry)
        self.tally.requests += len(requests)
        self.tally.cached += len(requests) - len(missing)
        if not group.unsettled:
            group.whole.set()
        self._wake_workers()
        return len(requests) - len(missing)

    async def fail(self, requests: Sequence[Request], why: Failure) -> None:
        """Settle these as failures, durably; they are no longer in flight."""
        await self._writer.journal([(request.dedup_key, why) for request in requests])
        self._table.failures.update({request.dedup_key: why for request in requests})

    def guard(self, position: int, check: Check) -> None:
        """Put a check before the calls of the endpoint at this position. Its own calls go through
        limits and budget like all others."""
        if check.requests:
            self._states[position].check = CheckQueue(position, check)

    @property
    def failures(self) -> Mapping[bytes, Failure]:
        """Final failures of this run, by `dedup_key`."""
        return self._table.failures

    @property
    def splits(self) -> set[bytes]:
        """Keys of requests that are too long for the model: admit their pieces instead."""
        return self._table.splits

    @property
    def stopped_by(self) -> TextmillError | None:
        """The error that ends the run, once `stop` was called."""
        return self._stopped_by

    @property
    def endpoints(self) -> tuple[EndpointStats, ...]:
        """The statistics of each endpoint, in job-file order."""
        return tuple(state.meter.stats(state.name) for state in self._states)

    @property
    def usage(self) -> Usage:
        """The usage of all endpoints so far."""
        return sum((state.meter.usage for state in self._states), Usage())

    @property
    def rent_usd(self) -> float:
        """The cost so far of endpoints that are paid by the hour."""
        seconds = self._clock() - self._started
        return sum(rent(state.endpoint.price, seconds) for state in self._states)

    def close(self) -> None:
        """End the admission: workers finish once all requests are settled."""
        self._is_closed = True
        self._wake_workers()

    def stop(self, error: TextmillError, grace_seconds: float | None = None) -> None:
        """Send no further call; wait for calls in flight, at most the grace; then `run` raises.

        `run` raises the error of the first stop; a later stop can only shorten the wait.
        """
        grace = self._patience.grace_seconds if grace_seconds is None else grace_seconds
        self._scope.deadline = min(self._scope.deadline, anyio.current_time() + grace)
        if self._stopped_by is None:
            self._stopped_by = error
            self._emit(events.Draining(str(error), self._in_flight))
            self._wake_workers()

    async def run(self) -> None:
        """Work until closed and all is settled, or until stopped. Raises: the error of `stop`."""
        async with anyio.create_task_group() as storing:
            storing.start_soon(self._writer.run)
            with self._scope:
                async with anyio.create_task_group() as workers:
                    for state in self._states:
                        workers.start_soon(self._work, state, workers)
            storing.cancel_scope.cancel()
        # Answers that arrived, but were not durable before the grace ended.
        await self._writer.flush()
        if self._stopped_by is not None:
            raise self._stopped_by

    def take(
        self, now: float, state: EndpointState, queues: Sequence[RouteQueue] | None = None
    ) -> Taken | float | None:
        """The next call of this endpoint, or of these queues, and its permit; or the seconds to
        wait for one; or None: there will be none.

        Serves the queue whose head is oldest. While that head waits for a rate limit, newer
        requests wait too, so that a large one cannot starve.
        """
        if self._stopped_by is not None or (self._is_closed and not len(self._table)):
            return None
        wait = math.inf
        state.polled_at = now
        for queue in self._table.waiting(state.position) if queues is None else queues:
            while (call := queue.next(now, state.endpoint, state.batch_size)) is not None:
                requests = [entry.request for entry in call.entries]
                if not self._choice.is_chosen(state, queue.route, requests, now):
                    wake_in = self._choice.wake_in(state, queue.route, requests, now)
                    if not wake_in:
                        self._wake_workers()
                    wait = min(wait, wake_in or _RECHECK_SECONDS, _RECHECK_SECONDS)
                    break
                if self._table.follow(call.entries, state.position):
                    continue
                if state.check is not None:  # its calls go first
                    call = state.check.next(now, state.endpoint, state.batch_size)
                    if call is None:
                        return min(wait, state.check.ready_in(now))
                    requests = [entry.request for entry in call.entries]
                leased = state.admission.lease(now, state.tokens(requests), call.cost)
                if isinstance(leased, float):
                    # A waiting worker wakes when the outage reaches its bound.
                    ends = outage_end(self._states, queue, self._patience)
                    return min(wait, leased, max(0.0, ends - now) or leased)
                call.entries[0].queue.mark_sent(call)
                return call, leased
            else:
                wait = min(wait, queue.ready_in(now))
        return wait

    async def _ensure_open(self, open_endpoints: Callable[[], Awaitable[None]]) -> None:
        """Wait until the endpoints are ready for calls."""
        async with self._opening:
            if self._open_endpoints is not None:
                await open_endpoints()
                self._open_endpoints = None

    async def _look_up(self, entries: Sequence[InFlight]) -> dict[bytes, Answer | Split]:
        """The outcomes that are settled already, by `dedup_key`."""
        requests = [entry.request for entry in entries]
        stored = await run_sync(look_up, self._cache, self._keys, requests)
        for request in requests:
            hit = stored.get(request.dedup_key)
            if hit is not None and hit.is_first and isinstance(hit.settled, Answer):
                # A cached answer shows that the configuration works, and which model runs.
                self._states[request.route.positions[0]].note_cached(hit.settled)
        await self.origins.use_cached(requests, stored)
        return {dedup_key: hit.settled for dedup_key, hit in stored.items()}

    async def _compare(self, position: int, check: Check) -> None:
        """Send the texts of a check, and return once none of the answers differs. Raises: the error
        that ends the run."""
        if self._open_endpoints is not None:
            await self._ensure_open(self._open_endpoints)
        state, queue = self._states[position], CheckQueue(position, check)
        self._table.checks.append(queue)
        while not queue.is_done and (taken := await self._next(state, [queue])) is not None:
            await self._call(state, *taken)
        self._table.checks.remove(queue)
        if self._stopped_by is not None:
            raise self._stopped_by

    async def _work(self, state: EndpointState, workers: anyio.abc.TaskGroup) -> None:
        state.workers += 1
        while True:
            # One worker polls and waits, the others queue for the lock: none wakes for nothing.
            state.idle_workers += 1
            async with state.turn:
                taken = await self._next(state)
            state.idle_workers -= 1
            if taken is None:
                return
            # One more for the next call: 256 at once would cost a small job 10 ms.
            if not state.idle_workers and state.workers < state.endpoint.concurrency:
                workers.start_soon(self._work, state, workers)
            await self._call(state, *taken)

    async def _next(
        self, state: EndpointState, queues: Sequence[RouteQueue] | None = None
    ) -> Taken | None:
        """The next call, once it may go; None: there will be none."""
        while True:
            taken = self.take(self._clock(), state, queues)
            if isinstance(taken, float):
                self._sleepers += 1
                state.is_asleep = True
                with anyio.move_on_after(taken):
                    await self._wake.wait()
                state.is_asleep = False
                self._check_outage()
                continue
            if taken is None:
                return None
            requests = [entry.request for entry in taken[0].entries]
            forbidden = self._bounds.forbids(
                self._clock(),
                self._in_flight + len(requests),
                lambda: self.usage.cost_usd + self.rent_usd,
                self._estimated_usd + state.estimate(requests),
            )
            if forbidden is not None:
                taken[0].entries[0].queue.in_flight -= len(requests)
                self._settling.requeue(taken[0].entries)
                self.stop(forbidden)
                continue
            if len(self._states) > 1:
                self._choice.count(state, len(requests), self._clock())
                self._wake_workers()  # the others poll again
            return taken

    async def _call(self, state: EndpointState, call: PendingCall, permit: Permit) -> None:
        requests = [entry.request for entry in call.entries]
        expected = state.estimate(requests)
        queue = call.entries[0].queue
        state.began(permit.started)
        for entry in call.entries:
            entry.sent_to = state.position
        self._in_flight += len(requests)
        self._estimated_usd += expected
        try:
            try:
                settled = (await self._send(state, requests)).settled
            finally:
                self._estimated_usd -= expected  # from here on the actual cost counts
            await self._settling.answered(state, call, settled, permit)
        except EndpointError as error:
            await self._settling.refused(state, call, error, permit)
        except TextmillError as error:  # the server runs another model now
            self._settling.requeue(call.entries)
            self.stop(error)
        finally:
            state.ended()
            queue.in_flight -= len(requests)
            self._in_flight -= len(requests)
            self._check_outage()
            self._wake_workers()

    async def _send(self, state: EndpointState, requests: Sequence[Request]) -> Answered:
        """Send one call and learn the rate limits in the headers of its reply, even of an error."""
        try:
            answered = await state.send(requests)
        except EndpointError as error:
            state.admission.learn(error.headers, self._clock(), self._wall())
            raise
        state.admission.learn(answered.headers, self._clock(), self._wall())
        return answered

    def _check_outage(self) -> None:
        """End the run if nobody answers any longer. Called whenever a call or a wait is over."""
        is_draining = self._stopped_by is not None
        if is_draining or all(state.absence.error is None for state in self._states):
            return
        now, queues = self._clock(), [*self._table.queues.values(), *self._table.checks]
        if (error := outage(self._states, queues, now, self._patience)) is not None:
            self.stop(error, 0.0)
        for line in () if error else given_up(self._states, now, self._patience):
            self._emit(events.Warned(line))

    def _wake_workers(self) -> None:
        if self._sleepers:
            self._sleepers = 0
            self._wake.set()
            self._wake = anyio.Event()
