"""What one endpoint may do now: rests, slots, retries and limits, asked in one place.

Each part is a value with plain functions (`breaker`, `concurrency`, `retry_budget`, `limits`); this
holds the present ones of one endpoint and asks them in this order, which is that of their price: a
resting endpoint costs nothing to ask, a lease is spent when it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from pipeline.errors import EndpointError
from pipeline.limits import breaker, concurrency, retry_budget
from pipeline.limits import rate as limits
from pipeline.limits.breaker import Breaker, Health
from pipeline.limits.headers import exhausted_seconds, parse_rate_limits
from pipeline.limits.rate import Limits
from pipeline.limits.retries import pause
from pipeline.limits.retry_budget import RetryBudget
from pipeline.records import Endpoint

LONG_PAUSE_SECONDS = 1.0
"""Below this a pause that was asked for is waited out: a fallback is another model."""


class Permit(NamedTuple):
    """What a call carries until it is back. Units: seconds, tokens as they were leased."""

    started: float
    round: int
    tokens: float


class Pause(NamedTuple):
    """The whole endpoint waits for so long."""

    seconds: float
    is_asked: bool


class Admission:
    """The dispatch control of one endpoint, on the caller's monotonic clock.

    Invariant: `lease` gives a ticket only where every part agrees, and then each has paid for it.
    """

    def __init__(self, endpoint: Endpoint, now: float, uniform: Callable[[], float]) -> None:
        self._uniform = uniform
        self._breaker = Breaker()
        self._health = Health()
        self._retries = RetryBudget()
        self._is_adaptive = endpoint.is_adaptive
        self._slots = concurrency.concurrency(endpoint.concurrency, now)
        calls, tokens = endpoint.requests_per_minute, endpoint.tokens_per_minute
        self._limits = Limits(
            limits.bucket(calls, now) if calls else None,
            limits.bucket(tokens, now) if tokens else None,
        )

    def lease(self, now: float, tokens: float, retry_cost: float = 0.0) -> Permit | float:
        """The ticket of the oldest call, or the seconds until it is worth asking again.

        Infinity: not before a call that is under way comes back.
        """
        if rests := breaker.wait(self._breaker, now):
            return rests
        if not self.has_room:
            return math.inf
        retries = self._retries
        if retry_cost:
            retries, wait = retry_budget.spend(retries, now, retry_cost)
            if wait:
                return wait
        self._limits, wait = limits.lease_all(self._limits, now, tokens)
        if wait:
            return wait
        self._retries = retries
        self._breaker = breaker.sent(self._breaker)
        self._slots = concurrency.sent(self._slots)
        return Permit(now, self._slots.round, tokens)

    @property
    def has_room(self) -> bool:
        """Whether one more call may be under way, whatever limits say."""
        if self._is_adaptive:
            return concurrency.has_room(self._slots)
        return self._slots.in_flight < self._slots.ceiling

    def is_paused(self, now: float) -> bool:
        """Whether the endpoint rests: it broke, and nothing has shown yet that it is well; or it
        asked for a pause that is worth going elsewhere for."""
        return self._breaker.failures_in_a_row > 0 or self._limits.until - now >= LONG_PAUSE_SECONDS

    def limit_seconds(self, now: float, tokens: float) -> float:
        """How long limits would hold a call with so many tokens back."""
        return limits.lease_all(self._limits, now, tokens)[1]

    def learn(self, headers: Mapping[str, str], now: float, now_wall: float) -> None:
        """Learn what a reply says of limits, whatever else it says."""
        told = parse_rate_limits(headers, now_wall)
        calls, tokens, _ = self._limits
        # Less than one a minute is no limit but a mistake, and would be a standstill.
        if (told.calls.per_minute or 0) >= 1:
            calls = limits.learn(calls, now, told.calls.per_minute or 0)
        if (told.tokens.per_minute or 0) >= 1:
            tokens = limits.learn(tokens, now, told.tokens.per_minute or 0)
        self._limits = self._limits._replace(calls=calls, tokens=tokens)
        if exhausted := exhausted_seconds(told):
            self._limits = limits.pause(self._limits, now, exhausted)

    def answered(self, permit: Permit, now: float, used_tokens: float | None) -> None:
        """The call brought answers; `used_tokens` is what it cost, where the server says so."""
        self._breaker = breaker.answered(self._breaker, permit.started)
        self._health = breaker.recorded(self._health, now, permit.started, failed=False)
        self._retries = retry_budget.earn(self._retries)
        tokens = self._limits.tokens
        if tokens is not None and used_tokens:
            tokens = limits.refund(tokens, now, permit.tokens, used_tokens)
            self._limits = self._limits._replace(tokens=tokens)
        self._ended(permit, now, "answered")

    def refused(self, permit: Permit, now: float, error: EndpointError) -> Pause | None:
        """The call brought an error; the rest that the endpoint takes, if it takes a new one."""
        facts = error.facts
        if facts.lowers == "rate limit":
            return self._limited(permit, now, error)
        self._ended(permit, now, "refused" if facts.lowers == "concurrency" else "else")
        before = self._breaker
        if not facts.is_endpoints_fault:
            self._breaker = breaker.probe_failed(before, permit.started)
            return None
        if facts.is_pausing:
            # Who was under way when the rest began is no later failure: it makes no longer rest.
            earlier = before.failures_in_a_row - (
                before.failures_in_a_row > 0 and permit.started < before.paused_since
            )
            seconds = pause(error, earlier, self._uniform)
        else:
            self._health = breaker.recorded(self._health, now, permit.started, failed=True)
            if not before.failures_in_a_row and not breaker.should_open(self._health):
                return None
            seconds = breaker.open_seconds(before, permit.started)
        self._breaker = breaker.paused(before, now, permit.started, seconds)
        is_new = self._breaker.failures_in_a_row > before.failures_in_a_row
        return Pause(seconds, error.retry_after is not None) if is_new else None

    def _limited(self, permit: Permit, now: float, error: EndpointError) -> Pause | None:
        """A 429: the limit is lower than believed, or unknown. It drains no pipe for a probe."""
        asked = error.retry_after if error.retry_after and error.retry_after > 0 else None
        self._limits, is_explained = limits.refused(
            self._limits,
            now,
            permit.started,
            names_wait=asked is not None,
            calls_per_second=concurrency.calls_per_second(self._slots),
        )
        self._ended(permit, now, "else" if is_explained else "refused")
        self._breaker = breaker.probe_failed(self._breaker, permit.started)
        if asked is None:
            return None
        seconds = pause(error, 0, self._uniform)
        is_new = now + seconds > self._limits.until
        self._limits = limits.pause(self._limits, now, seconds)
        return Pause(seconds, True) if is_new else None

    def _ended(self, permit: Permit, now: float, came: concurrency.CallResult) -> None:
        self._slots = concurrency.returned(
            self._slots, now, permit.round, now - permit.started, came
        )
