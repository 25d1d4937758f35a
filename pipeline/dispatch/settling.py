"""Handles a returned call: makes answers durable, decides about errors, drops nothing.

Each request of the call is settled, queued again (for a retry, in halves, or for the next tier of
its route), or stays open because the run stops. An outcome counts only once it is durable; then the
groups that wait for it continue.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pipeline import events
from pipeline.cache.keys import Keys
from pipeline.dispatch.check import CheckQueue
from pipeline.dispatch.endpoint_state import EndpointState
from pipeline.dispatch.origins import KeptAnswer, Origins
from pipeline.dispatch.queue import InFlight, InFlightTable, PendingCall, SplitBatch
from pipeline.dispatch.writer import Kept, Writer
from pipeline.errors import EndpointError, TextmillError
from pipeline.limits.admission import Permit
from pipeline.limits.retries import Fail, Halve, Retry, SplitRequest, Stop, Uniform, verdict
from pipeline.records import Answer, Failure, Route, Split, Usage

TOO_SHORT = "too long for the model, but too short to be split again"
Settled = Answer | Split | Failure


class Tally:
    """The counts of the run that calls do not carry; only the loop thread writes it."""

    def __init__(self) -> None:
        self.requests = 0
        self.cached = 0
        """Requests that needed no sending: answered before, or equal to another request."""
        self.pauses = 0


class Settling:
    """Settles the calls of one dispatch; `stop` ends its run. Runs in the loop thread only."""

    def __init__(
        self,
        states: Sequence[EndpointState],
        table: InFlightTable,
        writer: Writer,
        keys: Keys,
        origins: Origins,
        emit: events.Emit,
        stop: Callable[[TextmillError], None],
        *,
        dimension: int | None,
        min_split_tokens: int,
        clock: Callable[[], float],
        uniform: Uniform,
    ) -> None:
        self.tally = Tally()
        self._states, self._table = states, table
        self._writer, self._keys, self._origins = writer, keys, origins
        self._emit, self._stop = emit, stop
        self._vector_bytes = dimension * 4 if dimension else None
        self._min_split_tokens = min_split_tokens
        self._clock, self._uniform = clock, uniform

    async def answered(
        self,
        state: EndpointState,
        call: PendingCall,
        settled: Sequence[Answer | Failure],
        permit: Permit,
    ) -> None:
        """Settle a call that brought an answer or a failure for each of its requests."""
        now = self._clock()
        model_error = state.changed_model(settled)
        is_check = isinstance(call.entries[0].queue, CheckQueue)
        # Answers of another model are not kept: they would stay under this key for ever.
        good, bad = (
            ([], []) if model_error is not None else self._sort(call.entries, settled, is_check)
        )
        requests = [entry.request for entry in call.entries]
        answers = [answer for _, answer in good]
        usage = state.answered(requests, settled, answers, permit, now, is_kept=not is_check)
        self._report(state.name, usage)
        if (doubt := state.take_doubt()) is not None:
            self._emit(doubt)
        if model_error is not None:
            self.requeue(call.entries)
            self._stop(model_error)
            return
        if good:
            if call.split_batch is not None:
                self._states[call.split_batch.position].learn_batch_size(call.split_batch)
            if not is_check:
                await self._origins.answered(state.position, [(e.request, a) for e, a in good])
            await self._settle(state, good)
            state.is_proven = True
        final: list[tuple[InFlight, Settled]] = []
        for entry, problem in bad:
            error = EndpointError(problem.kind, problem.message, status=200)
            final += self._outcomes(state, [entry], error, now)
        await self._settle(state, final)

    def _sort(
        self, entries: Sequence[InFlight], settled: Sequence[Answer | Failure], is_check: bool
    ) -> tuple[list[tuple[InFlight, Answer]], list[tuple[InFlight, Failure]]]:
        """The valid answers, and the failures of the other requests."""
        good: list[tuple[InFlight, Answer]] = []
        bad: list[tuple[InFlight, Failure]] = []
        for entry, outcome in zip(entries, settled, strict=True):
            if isinstance(outcome, Failure):
                bad.append((entry, outcome))
            elif not is_check and (problem := self.wrong_dimension(outcome)) is not None:
                bad.append((entry, problem))
            else:  # a check compares vectors of another dimension, too
                good.append((entry, outcome))
        return good, bad

    async def refused(
        self, state: EndpointState, call: PendingCall, error: EndpointError, permit: Permit
    ) -> None:
        """Settle a call that brought an error as a whole."""
        now = self._clock()
        requests = [entry.request for entry in call.entries]
        usage, is_silent, pause = state.refused(requests, error, permit, now)
        self._report(state.name, usage, len(requests), error)
        if pause is not None:
            self.tally.pauses += 1
            is_requested, times = pause.is_requested, self.tally.pauses
            self._emit(
                events.Paused(
                    state.name, pause.seconds, is_requested, times, error.kind, str(error)
                )
            )
        await self._settle(state, self._outcomes(state, call.entries, error, now, is_silent))

    def _report(
        self, name: str, usage: Usage, carried: int = 0, error: EndpointError | None = None
    ) -> None:
        """Emit the usage of a call; `carried` is the number of requests of a failed one."""
        self._emit(
            events.CallEnded(
                name,
                usage.requests or carried,
                usage.seconds,
                usage.input_tokens,
                usage.output_tokens,
                None if usage.unpriced_calls else usage.cost_usd,
                error.kind if error else None,
                str(error) if error else None,
            )
        )

    def _outcomes(
        self,
        state: EndpointState,
        entries: list[InFlight],
        error: EndpointError,
        now: float,
        is_silent: bool = False,
    ) -> list[tuple[InFlight, Settled]]:
        """Queue the requests again, here or in the next tier; returns the outcomes that are
        final."""
        for entry in entries:
            if entry.outcome is not None:  # a twin has it meanwhile: nothing is sent again
                self.tally.cached += 1
                self._release(entry, entry.outcome)
        entries = [entry for entry in entries if not entry.is_settled]
        if not entries:
            return []
        facts = error.facts
        for entry in entries:
            entry.attempts += not (facts.is_pausing or error.ask_with)
        decided = verdict(
            error,
            max(entry.attempts for entry in entries),
            len(entries),
            state.name,
            self._uniform,
            is_silent=is_silent,
            can_split=self.can_split(entries[0]),
        )
        match decided:
            case Retry(delay_seconds=delay):
                self._repeat(PendingCall(now + delay, entries, facts.retry_cost))
            case Halve():
                middle = (len(entries) + 1) // 2
                split_batch = SplitBatch(state.position, middle) if facts.is_too_large else None
                for half in (entries[:middle], entries[middle:]):
                    self._repeat(PendingCall(now, half, 0.0, split_batch))
            case SplitRequest():
                self._stop_if(state.count_refusal(error))
                return [(entries[0], Split())]
            case Fail():
                self._stop_if(state.count_refusal(error))
                (entry,) = entries
                if not self._fall_back(state, entry):
                    why = TOO_SHORT if facts.is_too_large else str(error)
                    return [(entry, Failure(error.kind, why, entry.attempts))]
            case Stop(error=reason):
                self.requeue(entries)
                self._stop(reason)
        return []

    def _fall_back(self, state: EndpointState, entry: InFlight) -> bool:
        """Move the request to the next tier of its route; False if there is none."""
        tiers = entry.queue.route.tiers
        current = next(at for at, tier in enumerate(tiers) if state.position in tier)
        if not tiers[current + 1 :]:
            return False
        self._table.returned([entry])
        entry.queue, entry.attempts = self._table.queue(Route(tiers[current + 1 :])), 0
        entry.queue.add(entry)
        return True

    async def _settle(
        self, state: EndpointState, outcomes: Sequence[tuple[InFlight, Settled]]
    ) -> None:
        """Release these requests, once their outcomes are durable."""
        if outcomes and isinstance(queue := outcomes[0][0].queue, CheckQueue):
            self._stop_if(queue.settle(outcomes))
            if queue.is_done and state.check is queue:
                state.check = None
            return
        final = [
            (entry.request.dedup_key, outcome)
            for entry, outcome in outcomes
            if isinstance(outcome, Failure)
        ]
        kept = [
            Kept(
                self._keys.under(state.position, entry.request),
                self._origins.marked(state.position, outcome),
                entry,
            )
            for entry, outcome in outcomes
            if not isinstance(outcome, Failure)
        ]
        stored = await self._writer.keep(kept) if kept else {}
        if stored:
            await self._origins.use(
                [
                    KeptAnswer(entry.request, state.position, answer)
                    for key, _, entry in kept
                    if isinstance(answer := stored.get(key), Answer)
                ]
            )
        if final:
            await self._writer.journal(final)
            self._table.failures.update(final)
        settled = {entry: stored.get(key, outcome) for key, outcome, entry in kept}
        for entry, given in outcomes:
            self._release(entry, settled.get(entry, given))
        for key, _, entry in kept:
            if entry.twins:
                await self._settle_twins(entry, key, settled[entry])

    async def _settle_twins(self, entry: InFlight, key: bytes, outcome: Answer | Split) -> None:
        """Settle the rows with the same text and another route that have this key, too."""
        twins = self._table.settled_with(entry, key)
        if isinstance(outcome, Answer):  # it may not serve for the endpoints of their routes
            await self._origins.use(
                [
                    KeptAnswer(each.request, self._keys.position(each.request, key), outcome)
                    for each in twins
                ]
            )
        for twin in self._table.settled_with(entry, key):
            if twin not in twins or (isinstance(outcome, Split) and not self.can_split(twin)):
                continue
            if twin.sent_to is not None:
                twin.outcome = outcome  # its own call may bring an answer of another model
                continue
            twin.queue.discard(twin)
            self.tally.cached += twin.is_queued
            self._release(twin, outcome)

    def _release(self, entry: InFlight, outcome: Settled) -> None:
        """Let the groups that wait for a settled request continue."""
        if isinstance(outcome, Split):
            self._table.splits.add(entry.request.dedup_key)
        self._table.settle(entry)

    def _repeat(self, call: PendingCall) -> None:
        self._table.returned(call.entries)
        call.entries[0].queue.retry(call)

    def requeue(self, entries: list[InFlight]) -> None:
        """Keep these rows open: the error that stops a run is no outcome of a row."""
        self._repeat(PendingCall(math.inf, entries, 0.0))

    def _stop_if(self, error: TextmillError | None) -> None:
        if error is not None:
            self._stop(error)

    def wrong_dimension(self, answer: Answer) -> Failure | None:
        """The failure of a vector with another dimension than the first vector of the job."""
        if isinstance(answer.value, bytes):
            if self._vector_bytes is None:
                self._vector_bytes = len(answer.value)
            elif len(answer.value) != self._vector_bytes:
                got, expected = len(answer.value) // 4, self._vector_bytes // 4
                return Failure("invalid", f"a vector of {got} dimensions, expected {expected}")
        return None

    def can_use(self, entry: InFlight, stored: Answer | Split) -> bool:
        """True if an outcome of the cache settles this request."""
        if isinstance(stored, Split):
            return self.can_split(entry)
        return self.wrong_dimension(stored) is None

    def can_split(self, entry: InFlight) -> bool:
        """True if the chunk has enough tokens to be split; a split without pieces would be a
        failure that is cached for ever."""
        return entry.request.chunk.tokens >= self._min_split_tokens
