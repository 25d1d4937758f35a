"""The state of one endpoint during a run: model, health, learned batch size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import anyio

from pipeline.dispatch.check import CheckQueue
from pipeline.dispatch.policy import View
from pipeline.dispatch.queue import SplitBatch
from pipeline.dispatch.stats import EndpointMeter
from pipeline.errors import EndpointError, GuardError, UsageError
from pipeline.events import UsageDoubted
from pipeline.limits.absence import ANSWERING, Absence
from pipeline.limits.admission import Admission, Pause, Permit
from pipeline.limits.prices import cost, is_believable, output_tokens_bound
from pipeline.records import Answer, Answered, Endpoint, Failure, Request, Stop, Usage
from pipeline.text import printable

EQUAL_REFUSALS = 20
"""This number of different requests rejected with one status, and none answered: the configuration
is wrong."""

PATIENCE_SECONDS = 5.0
PATIENCE = 4.0
"""An endpoint that sent nothing for this multiple of the usual time of a call, and at least for
`PATIENCE_SECONDS`, is silent."""

Send = Callable[[Sequence[Request]], Awaitable[Answered]]


class Refusal(NamedTuple):
    """The usage of a call that brought an error, and the consequences for the endpoint."""

    usage: Usage
    is_silent: bool
    """The endpoint has sent nothing since before the call."""
    pause: Pause | None
    """The pause that begins with it."""


class EndpointState:
    """The current state of one endpoint; only the loop thread writes it."""

    def __init__(
        self,
        position: int,
        endpoint: Endpoint,
        send: Send,
        now: float,
        uniform: Callable[[], float],
    ) -> None:
        self.position = position
        self.endpoint = endpoint
        self.send = send
        self.check: CheckQueue | None = None
        """What must be answered before anything else is sent."""
        self.admission = Admission(endpoint, now, uniform)
        self.meter = EndpointMeter()
        self.turn = anyio.Lock(fast_acquire=True)
        self.workers = self.idle_workers = 0
        self.batch_size = endpoint.batch_size
        self.polled_at = -math.inf
        """The last time that one of its workers looked for a call."""
        self.is_asleep = False
        """One of its workers waits for a call."""
        self.absence = Absence()
        """The failed calls since the last answer; used to measure an outage."""
        self.is_given_up = False
        """It was reported that the run does not wait for it any longer."""
        self._silent_since = math.inf
        """Start of the earliest failed call, reset only by the reply to a call that began later."""
        self._calls = 0
        """In flight."""
        self._busy_since = -math.inf
        self._heard_at = -math.inf
        """The last time that it sent a reply, of whatever status."""
        self._last_replied_start = -math.inf
        """Start of the latest call that brought a reply."""
        self.is_proven = False
        """The endpoint answered, in this run or an earlier one: the configuration works."""
        self._model = ""
        self._doubt: UsageDoubted | None = None
        self._doubt_taken = False
        self._refusals: Counter[int | None] = Counter()
        self._output_bound = output_tokens_bound(endpoint.task, endpoint.parameters)

    def __repr__(self) -> str:
        return f"<EndpointState {self.name}: {self.admission.state}>"

    @property
    def name(self) -> str:
        return self.endpoint.name

    def tokens(self, requests: Sequence[Request]) -> int:
        """What a call may cost of a limit on tokens: answers are counted at their longest."""
        return sum(request.tokens for request in requests) + len(requests) * self._output_bound

    def estimate(self, requests: Sequence[Request]) -> float:
        """The most that a call with these may cost, in USD."""
        if self.endpoint.price is None:
            return 0.0
        return cost(
            self.endpoint.price,
            requests=len(requests),
            input_tokens=sum(request.tokens for request in requests),
            output_tokens=len(requests) * self._output_bound,
        )

    def view(self, now: float, requests: Sequence[Request]) -> View:
        """The endpoint as routing compares it, for a call with these requests."""
        seconds = self.meter.expected_seconds
        limit_seconds = self.admission.limit_seconds(now, self.tokens(requests))
        return View(
            self.position,
            self.admission.has_room,
            self.estimate(requests),
            seconds + limit_seconds if seconds else 0.0,
            self.meter.share,
            len(requests) / self.endpoint.weight,
            limit_seconds,
        )

    def began(self, now: float) -> None:
        """Record that a call goes out."""
        if not self._calls:
            self._busy_since = now
        self._calls += 1

    def ended(self) -> None:
        """Record that a call returned, however it ended."""
        self._calls -= 1

    def is_silent(self, now: float, neighbours: Sequence[EndpointState]) -> bool:
        """True if calls are in flight and nothing came back for far longer than usual, by its own
        answers, or before the first of them by those of its neighbours."""
        quiet_seconds = self._quiet_seconds(now)
        if not self._calls or quiet_seconds < PATIENCE_SECONDS:
            return False
        usual = self.meter.usual_seconds or max(each.meter.usual_seconds for each in neighbours)
        return 0 < PATIENCE * usual <= quiet_seconds

    def _is_hung(self, now: float, seconds: float) -> bool:
        """True if a call that took so long reached its deadline, and the others in flight are
        silent."""
        deadline = self.endpoint.deadline
        bound = min(deadline.first_byte_seconds, deadline.call_seconds)
        patience = max(PATIENCE_SECONDS, PATIENCE * self.meter.usual_seconds)
        return seconds >= bound and self._quiet_seconds(now) >= min(patience, bound)

    def _quiet_seconds(self, now: float) -> float:
        """Seconds in which calls were in flight and nothing came back."""
        return now - max(self._busy_since, self._heard_at)

    def answered(
        self,
        requests: Sequence[Request],
        settled: Sequence[Answer | Failure],
        valid: Sequence[Answer],
        permit: Permit,
        now: float,
        *,
        is_kept: bool = True,
    ) -> Usage:
        """The usage of an answered call; `valid` holds those of its answers that are right. Without
        `is_kept` they do not go into the cache, and count as no answered requests."""
        seconds = now - permit.started
        reported = sum(answer.input_tokens for answer in valid)
        counted = sum(request.tokens for request in requests)
        characters = sum(len(request.input) for request in requests)
        believes = is_believable(reported, counted, characters, len(requests))
        if not believes and self._doubt is None:
            self._doubt = UsageDoubted(self.name, reported, counted)
        read = (reported if believes else 0) or counted
        written = sum(answer.output_tokens for answer in valid)
        usd = cost(
            self.endpoint.price,
            requests=len(requests),
            input_tokens=read,
            # A request without an answer was written all the same, perhaps up to its bound.
            output_tokens=written + (len(requests) - len(valid)) * self._output_bound,
            seconds=seconds,
        )
        usage = Usage(
            1,
            len(valid) if is_kept else 0,
            0,
            read,
            written,
            usd,
            seconds,
            seconds,
            unpriced_calls=int(self.endpoint.price is None),
        )
        used = sum(a.input_tokens + a.output_tokens for a in settled if isinstance(a, Answer))
        used = used if believes else read + written
        self.meter.answered(permit.started, now, usage)
        self.admission.answered(permit, now, used)
        self._heard_at = now
        self.replied(permit.started)
        return usage

    def refused(
        self, requests: Sequence[Request], error: EndpointError, permit: Permit, now: float
    ) -> Refusal:
        """The usage of a call that brought an error, and the consequences for the endpoint."""
        facts, seconds = error.facts, now - permit.started
        usage = Usage(
            calls=int(facts.is_sent),
            errors=1,
            cost_usd=self.estimate(requests) if facts.may_be_billed else 0.0,
            seconds=seconds,
            slowest_seconds=seconds,
            unpriced_calls=int(facts.is_sent and self.endpoint.price is None),
            ambiguous=int(facts.may_be_billed),
        )
        self.meter.refused(permit.started, now, usage)
        is_silent = is_hung = False
        if error.status is not None:
            self._heard_at = now
        if facts.is_endpoints_fault:
            is_silent = self.failed(permit.started, error)
            is_hung = self._is_hung(now, seconds)
        else:
            self.replied(permit.started)
        return Refusal(
            usage, is_silent, self.admission.refused(permit, now, error, is_hung=is_hung)
        )

    def take_doubt(self) -> UsageDoubted | None:
        """The first usage that is not believed, once."""
        doubt = None if self._doubt_taken else self._doubt
        self._doubt_taken = self._doubt_taken or doubt is not None
        return doubt

    def replied(self, started: float) -> None:
        """Record a reply to a call that began at `started`."""
        self.absence = ANSWERING
        self.is_given_up = False
        self._last_replied_start = max(self._last_replied_start, started)
        if started > self._silent_since:  # an earlier call is no evidence
            self._silent_since = math.inf

    def failed(self, started: float, error: EndpointError) -> bool:
        """Record a call that failed through the endpoint's fault; True if an earlier one did, too,
        and no call that began later has brought a reply."""
        is_silent = self._silent_since < started
        self.absence = self.absence.failed(started, error)
        if started > self._last_replied_start:  # else later calls were answered meanwhile
            self._silent_since = min(self._silent_since, started)
        return is_silent

    def ends(self, patience: Stop) -> float:
        """The time at which the run stops to wait for this endpoint; infinity: it answers."""
        return self.absence.ends(patience, self.endpoint.deadline.loading_seconds)

    def is_away(self, now: float, patience: Stop) -> bool:
        """True from that time on. A first call may take as long as its own deadline allows: until
        it returns, nobody knows whether there is a server."""
        is_open = self._calls > 0 and not self.absence.has_replied
        return now >= self.ends(patience) and not is_open

    def absence_reason(self, now: float, patience: Stop) -> str:
        """Why the run stops to wait for it: `no reply for 60 s (run.max_start_seconds = 60)`."""
        return self.absence.reason(now, patience, self.endpoint.deadline.loading_seconds)

    def note_cached(self, answer: Answer) -> None:
        """Record an answer that the endpoint gave in an earlier run."""
        self.is_proven = True
        self._model = self._model or answer.model

    def changed_model(self, settled: Sequence[Answer | Failure]) -> GuardError | None:
        """The error for an answer under another model name than the first one of the run."""
        for answer in settled:
            if not isinstance(answer, Answer) or not answer.model:
                continue
            self._model = self._model or answer.model
            if answer.model != self._model and not self.endpoint.allow_model_change:
                return GuardError(
                    f"endpoint `{self.name}`: the model changed from "
                    f"`{printable(self._model, 80)}` to `{printable(answer.model, 80)}`",
                    hint="answers so far are kept; endpoint.allow_model_change = true allows it",
                )
        return None

    def count_refusal(self, error: EndpointError) -> UsageError | None:
        """The error after twenty rejected requests: not all rows are bad, so the job is wrong."""
        if not error.facts.is_refusal or error.status == 200 or self.is_proven:
            return None
        self._refusals[error.status] += 1
        if self._refusals[error.status] < EQUAL_REFUSALS:
            return None
        return UsageError(
            f"endpoint `{self.name}` rejected each of the first {EQUAL_REFUSALS} requests: {error}",
            hint="check `endpoint.url`, `endpoint.model` and `parameters`",
        )

    def learn_batch_size(self, split_batch: SplitBatch) -> None:
        """Record the answer to one half of a call that was too large; after both halves, their size
        is the batch limit."""
        split_batch.answered += 1
        if split_batch.answered == 2:
            self.batch_size = min(self.batch_size, split_batch.size)
