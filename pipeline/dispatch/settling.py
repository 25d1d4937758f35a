"""What becomes of a call that came back: answers made durable, refusals judged, nothing dropped.

Each request of it is settled, queued again (here, in halves, or at the next tier of its route), or
stays open because the run stops. An outcome counts only once it is durable: then its waiters go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pipeline import events
from pipeline.cache.keys import Keys
from pipeline.dispatch.endpoint_state import Live
from pipeline.dispatch.queue import Again, Flight, Flights, Halved
from pipeline.dispatch.writer import Writer
from pipeline.errors import PAUSING, EndpointError, TextmillError
from pipeline.limits.admission import Ticket
from pipeline.limits.prices import cost
from pipeline.limits.retries import Fail, Halve, Retry, Stop, Uniform, verdict
from pipeline.limits.retry_budget import THROTTLE, TRANSIENT
from pipeline.records import Answer, Endpoint, Failure, Route, Split

TOO_SHORT = "too long for the model, and too short to be cut again"


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


class Settling:
    """Settles what one dispatch sent; `stop` ends its run. Only the loop thread is here."""

    def __init__(
        self,
        live: Sequence[Live],
        flights: Flights,
        writer: Writer,
        keys: Keys,
        emit: events.Emit,
        stop: Callable[[TextmillError], None],
        *,
        dimension: int | None,
        least_split_tokens: int,
        clock: Callable[[], float],
        uniform: Uniform,
    ) -> None:
        self.tally = Tally()
        self._live, self._flights = live, flights
        self._writer, self._keys = writer, keys
        self._emit, self._stop = emit, stop
        self._vector_bytes = dimension * 4 if dimension else None
        self._least_split_tokens = least_split_tokens
        self._clock, self._uniform = clock, uniform

    async def answered(
        self, live: Live, call: Again, settled: Sequence[Answer | Failure], ticket: Ticket
    ) -> None:
        """The call brought an answer or a failure for each of its requests."""
        now, started = self._clock(), ticket.started
        used = sum(a.input_tokens + a.output_tokens for a in settled if isinstance(a, Answer))
        self.tally.calls += 1
        live.control.answered(ticket, now, used)
        live.replied(started)
        if (other := live.other_model(settled)) is not None:
            # Not kept: under this key another model's answer would stand for ever.
            self.unsent(call.flights)
            self._account(live, call.flights, [], started, now)
            self._stop(other)
            return
        good: list[tuple[Flight, Answer]] = []
        bad: list[tuple[Flight, EndpointError]] = []
        for flight, outcome in zip(call.flights, settled, strict=True):
            problem = outcome if isinstance(outcome, Failure) else self.misfit(outcome)
            if problem is None:
                assert isinstance(outcome, Answer)
                good.append((flight, outcome))
            else:
                kind = "poison" if problem.kind == "poison" else "invalid"
                bad.append((flight, EndpointError(kind, problem.message, status=200)))  # type: ignore[arg-type]
        self._account(live, call.flights, [answer for _, answer in good], started, now)
        if good:
            if call.halved is not None:
                self._live[call.halved.position].learned(call.halved)
            under = self._keys.under
            await self._writer.keep([(under(live.position, f.request), a) for f, a in good])
            live.is_proven = True
            for flight, _ in good:
                self._flights.settle(flight)
        final = [self._again_or_failed(live, [flight], error, now) for flight, error in bad]
        await self._fail([each for some in final for each in some])

    async def refused(self, live: Live, call: Again, error: EndpointError, ticket: Ticket) -> None:
        """The call as a whole brought an error."""
        now, started = self._clock(), ticket.started
        is_sent = error.kind != "unreachable"
        self.tally.calls += is_sent
        live.traffic.refused(started, now, is_sent=is_sent)
        # Sent, and perhaps answered: what it may have cost counts, or a budget would not hold.
        requests = [flight.request for flight in call.flights]
        spent = live.estimate(requests) if error.kind in ("ambiguous", "invalid") else 0.0
        self.tally.cost_usd += spent
        live.traffic.cost_usd += spent
        self._emit(
            events.CallEnded(
                live.name,
                len(requests),
                now - started,
                cost_usd=spent,
                error=error.kind,
                message=str(error),
            )
        )
        is_silent = False
        if error.kind in PAUSING or error.kind in ("transient", "ambiguous"):
            is_silent = live.failed(started, str(error))
        else:
            live.replied(started)
        rest = live.control.refused(ticket, now, error)
        if rest is not None:
            self.tally.pauses += 1
            self._emit(
                events.Paused(
                    live.name,
                    rest.seconds,
                    rest.is_asked,
                    self.tally.pauses,
                    error.kind,
                    str(error),
                )
            )
        flight = call.flights[0]
        if error.kind == "too_long" and len(call.flights) == 1 and self.can_split(flight):
            self._stop_if(live.counted(error, 1))
            await self._writer.keep([(self._keys.under(live.position, flight.request), Split())])
            self._flights.splits.add(flight.request.flight)
            self._flights.settle(flight)
        else:
            await self._fail(self._again_or_failed(live, call.flights, error, now, is_silent))

    def _again_or_failed(
        self,
        live: Live,
        flights: list[Flight],
        error: EndpointError,
        now: float,
        is_silent: bool = False,
    ) -> list[tuple[Flight, Failure]]:
        """Queue them again, at this endpoint or another; those for which nobody is left."""
        attempts = max(flight.attempts for flight in flights) + 1
        decided = verdict(
            error, attempts, len(flights), live.name, self._uniform, is_silent=is_silent
        )
        if not (isinstance(decided, Retry) and not decided.uses_attempt):
            for flight in flights:
                flight.attempts += 1
        match decided:
            case Retry(delay_seconds=delay):
                price = THROTTLE if error.kind in PAUSING else TRANSIENT
                self._repeat(Again(now + delay, flights, price))
            case Halve():
                middle = (len(flights) + 1) // 2
                halved = Halved(live.position, middle) if error.kind == "too_long" else None
                for half in (flights[:middle], flights[middle:]):
                    self._repeat(Again(now, half, 0.0, halved))
            case Fail():
                self._stop_if(live.counted(error, len(flights)))
                why = TOO_SHORT if error.kind == "too_long" else str(error)
                return [
                    (flight, Failure(error.kind, why, flight.attempts))
                    for flight in flights
                    if not self._falls_back(live, flight)
                ]
            case Stop(error=reason):
                self.unsent(flights)
                self._stop(reason)
        return []

    def _falls_back(self, live: Live, flight: Flight) -> bool:
        """Whether the next tier of its route is asked, now that this endpoint failed it."""
        tiers = flight.route.tiers
        here = next(at for at, tier in enumerate(tiers) if live.position in tier)
        if not tiers[here + 1 :]:
            return False
        flight.route, flight.attempts = Route(tiers[here + 1 :]), 0
        self._flights.lane(flight.route).add(flight)
        return True

    async def _fail(self, final: Sequence[tuple[Flight, Failure]]) -> None:
        """Settle these as failures, once they are durable."""
        if final:
            await self._writer.journal([(flight.request.flight, why) for flight, why in final])
        for flight, why in final:
            self._flights.failures[flight.request.flight] = why
            self._flights.settle(flight)

    def _repeat(self, call: Again) -> None:
        self._flights.lane(call.flights[0].route).repeat(call)

    def unsent(self, flights: list[Flight]) -> None:
        """Their rows stay open: what stops a run is no outcome of a row."""
        self._repeat(Again(math.inf, flights, 0.0))

    def _stop_if(self, error: TextmillError | None) -> None:
        if error is not None:
            self._stop(error)

    def misfit(self, answer: Answer) -> Failure | None:
        """A vector of another dimension than the first one is no answer to this job."""
        if isinstance(answer.value, bytes):
            if self._vector_bytes is None:
                self._vector_bytes = len(answer.value)
            elif len(answer.value) != self._vector_bytes:
                got, expected = len(answer.value) // 4, self._vector_bytes // 4
                return Failure("invalid", f"a vector of {got} dimensions, expected {expected}")
        return None

    def can_split(self, flight: Flight) -> bool:
        """Whether it has enough tokens to be cut; a split that has no pieces would be a failure
        that is kept for ever."""
        return flight.request.chunk.tokens >= self._least_split_tokens

    def paid(
        self, endpoint: Endpoint, requests: int, seconds: float, answers: Sequence[Answer]
    ) -> None:
        """A call that was made beside these, and is paid like them."""
        read = sum(answer.input_tokens for answer in answers)
        written = sum(answer.output_tokens for answer in answers)
        usd = cost(
            endpoint.price,
            requests=requests,
            input_tokens=read,
            output_tokens=written,
            seconds=seconds,
        )
        self.tally.calls += 1
        self.tally.input_tokens += read
        self.tally.output_tokens += written
        self.tally.cost_usd += usd
        self._emit(events.CallEnded(endpoint.name, requests, seconds, read, written, usd))

    def _account(
        self,
        live: Live,
        flights: Sequence[Flight],
        answers: Sequence[Answer],
        started: float,
        now: float,
    ) -> None:
        requests = [flight.request for flight in flights]
        read, written, usd = live.spent(requests, answers, now - started)
        live.traffic.answered(started, now, len(answers))
        for counts in (self.tally, live.traffic):
            counts.input_tokens += read
            counts.output_tokens += written
            counts.cost_usd += usd
        self._emit(events.CallEnded(live.name, len(requests), now - started, read, written, usd))
