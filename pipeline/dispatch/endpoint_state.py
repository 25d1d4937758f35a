"""An endpoint as it is in this run: who it says it is, how it fares, what it has learned."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import anyio

from pipeline.dispatch.policy import View
from pipeline.dispatch.queue import SplitBatch
from pipeline.dispatch.stats import EndpointMeter
from pipeline.errors import EndpointError, GuardError, UsageError
from pipeline.limits.admission import Admission, Pause, Permit
from pipeline.limits.prices import cost, output_tokens_bound
from pipeline.records import Answer, Answered, Endpoint, Failure, Request, Usage
from pipeline.text import printable

EQUAL_REFUSALS = 20
"""So many different requests refused alike, and none answered: the configuration is wrong."""

Send = Callable[[Sequence[Request]], Awaitable[Answered]]
Check = Callable[[Send], Awaitable[None]]
"""Awaited ahead of each call, with a way to send requests of its own. Raises: what that call then
ends with."""


class Refusal(NamedTuple):
    """What a call took that brought an error, and what it says of the endpoint."""

    usage: Usage
    is_silent: bool
    """Nothing has come from the endpoint since before the call."""
    pause: Pause | None
    """The pause that begins with it."""


class EndpointState:
    """The present state of one endpoint; only the loop thread writes it."""

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
        self.check: Check | None = None
        self.admission = Admission(endpoint, now, uniform)
        self.meter = EndpointMeter()
        self.turn = anyio.Lock(fast_acquire=True)
        self.batch_size = endpoint.batch_size
        self.asked_at = -math.inf
        """When a worker of it last looked for a call."""
        self.troubled_since = math.inf
        """When the first call began that failed for the endpoint's sake, since it last replied."""
        self._silent_since = math.inf
        """The same, since a call that began later than that brought a reply."""
        self._replied_began = -math.inf
        """When the latest call began that brought a reply."""
        self.trouble = ""
        """What it failed with the last time."""
        self.is_proven = False
        """It answered, now or in an earlier run: the configuration works."""
        self._model = ""
        self._refusals: Counter[int | None] = Counter()
        self._output_bound = output_tokens_bound(endpoint.task, endpoint.parameters)

    @property
    def name(self) -> str:
        return self.endpoint.name

    def tokens(self, requests: Sequence[Request]) -> int:
        """What a call may cost of a limit on tokens: answers are counted at their longest."""
        return sum(each.tokens for each in requests) + len(requests) * self._output_bound

    def estimate(self, requests: Sequence[Request]) -> float:
        """The most that a call with these may cost, in USD."""
        if self.endpoint.price is None:
            return 0.0
        return cost(
            self.endpoint.price,
            requests=len(requests),
            input_tokens=sum(each.tokens for each in requests),
            output_tokens=len(requests) * self._output_bound,
        )

    def view(self, now: float, requests: Sequence[Request]) -> View:
        """As who chooses sees it, for a call with these."""
        seconds = self.meter.expected_seconds
        held = self.admission.limit_seconds(now, self.tokens(requests))
        return View(
            self.position,
            self.admission.has_room,
            self.estimate(requests),
            seconds + held if seconds else 0.0,
            self.meter.share,
            len(requests) / self.endpoint.weight,
            held,
        )

    def answered(
        self,
        requests: Sequence[Request],
        settled: Sequence[Answer | Failure],
        kept: Sequence[Answer],
        permit: Permit,
        now: float,
    ) -> Usage:
        """What a call took that brought these; those that are kept are named once more."""
        seconds = now - permit.started
        read = sum(answer.input_tokens for answer in kept)
        read = read or sum(each.tokens for each in requests)
        written = sum(answer.output_tokens for answer in kept)
        usd = cost(
            self.endpoint.price,
            requests=len(requests),
            input_tokens=read,
            # What brought no answer was written all the same, perhaps to its bound.
            output_tokens=written + (len(requests) - len(kept)) * self._output_bound,
            seconds=seconds,
        )
        usage = Usage(1, len(kept), 0, read, written, usd, seconds, seconds)
        used = sum(a.input_tokens + a.output_tokens for a in settled if isinstance(a, Answer))
        self.meter.answered(permit.started, now, usage)
        self.admission.answered(permit, now, used)
        self.replied(permit.started)
        return usage

    def refused(
        self, requests: Sequence[Request], error: EndpointError, permit: Permit, now: float
    ) -> Refusal:
        """What a call took that brought an error, and what follows for the endpoint."""
        facts, seconds = error.facts, now - permit.started
        usage = Usage(
            calls=int(facts.is_sent),
            errors=1,
            cost_usd=self.estimate(requests) if facts.may_be_billed else 0.0,
            seconds=seconds,
            slowest_seconds=seconds,
        )
        self.meter.refused(permit.started, now, usage)
        is_silent = False
        if facts.is_endpoints_fault:
            is_silent = self.failed(permit.started, str(error))
        else:
            self.replied(permit.started)
        return Refusal(usage, is_silent, self.admission.refused(permit, now, error))

    def replied(self, started: float) -> None:
        """Something came back for a call that began then."""
        self.troubled_since = math.inf
        self._replied_began = max(self._replied_began, started)
        if started > self._silent_since:  # what went before the trouble tells nothing of it
            self._silent_since = math.inf

    def failed(self, started: float, why: str) -> bool:
        """A call that began then failed for the endpoint's sake; whether an earlier one did, and
        nothing that began later has brought a reply."""
        self.trouble = why
        is_silent = self._silent_since < started
        self.troubled_since = min(self.troubled_since, started)
        if started > self._replied_began:  # else others were answered while it was not
            self._silent_since = min(self._silent_since, started)
        return is_silent

    def note_cached(self, answer: Answer) -> None:
        """It gave this answer in an earlier run."""
        self.is_proven = True
        self._model = self._model or answer.model

    def changed_model(self, settled: Sequence[Answer | Failure]) -> GuardError | None:
        """The first name that the server answers under holds for the run."""
        for answer in settled:
            if not isinstance(answer, Answer) or not answer.model:
                continue
            self._model = self._model or answer.model
            if answer.model != self._model and not self.endpoint.allow_model_change:
                return GuardError(
                    f"endpoint `{self.name}`: the answers came from "
                    f"`{printable(self._model, 80)}`, now from `{printable(answer.model, 80)}`",
                    hint="answers so far are kept; endpoint.allow_model_change = true goes on",
                )
        return None

    def count_refusal(self, error: EndpointError) -> UsageError | None:
        """Twenty different rows cannot all be poison: then it is the job that is wrong."""
        if not error.facts.is_refusal or error.status == 200 or self.is_proven:
            return None
        self._refusals[error.status] += 1
        if self._refusals[error.status] < EQUAL_REFUSALS:
            return None
        return UsageError(
            f"endpoint `{self.name}` refused the first {EQUAL_REFUSALS} requests alike: {error}",
            hint="check `endpoint.url`, `endpoint.model` and `parameters`",
        )

    def learn_batch_size(self, split_batch: SplitBatch) -> None:
        """A half of a call that was too large was answered: after both, its size is the bound."""
        split_batch.answered += 1
        if split_batch.answered == 2:
            self.batch_size = min(self.batch_size, split_batch.size)
