"""Decides whether an endpoint may be called now: breaker, concurrency, retry budget, rate limits.

Each part is a value with plain functions (`breaker`, `concurrency`, `retry_budget`, `limits`). This
module holds the current values of one endpoint and checks them in this order, the cheapest first: a
check of the breaker costs nothing, a lease from a bucket is spent when it is granted.
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
"""A shorter pause that the server requests is waited out: a fallback is another model."""


class Permit(NamedTuple):
    """What a call carries until it returns. Units: seconds, tokens as they were leased."""

    started: float
    tokens: float
    number: int = 1
    """Of the calls to this endpoint."""
    load: int = 1
    """Calls in flight when it was sent, itself included."""


class Pause(NamedTuple):
    """The whole endpoint waits for this time."""

    seconds: float
    is_requested: bool
    """The server named the time."""


class Admission:
    """Admission control of one endpoint, on the caller's monotonic clock.

    Invariant: `lease` grants a permit only if every part agrees, and then each has paid for it.
    """

    def __init__(self, endpoint: Endpoint, now: float, uniform: Callable[[], float]) -> None:
        self._uniform = uniform
        self._now = now
        self._breaker = Breaker()
        self._health = Health()
        self._retries = RetryBudget()
        self._is_adaptive = endpoint.is_adaptive
        self._slots = concurrency.concurrency(endpoint.concurrency)
        calls, tokens = endpoint.requests_per_minute, endpoint.tokens_per_minute
        self._limits = Limits(
            limits.bucket(calls, now) if calls else None,
            limits.bucket(tokens, now) if tokens else None,
        )

    def lease(self, now: float, tokens: float, retry_cost: float = 0.0) -> Permit | float:
        """The permit of the oldest call, or the seconds until the next try.

        Infinity: not before a call in flight returns.
        """
        self._now = now
        if pause_seconds := breaker.wait(self._breaker, now):
            return pause_seconds
        self._slots = concurrency.at(self._slots, now)
        if not self.has_room:
            return concurrency.release_seconds(self._slots, now)
        retries = self._retries
        if retry_cost:
            retries, wait = retry_budget.spend(retries, now, retry_cost)
            if wait:
                return wait
        self._limits, wait = limits.lease_all(self._limits, now, tokens)
        if wait:
            self._slots = concurrency.held_back(self._slots)
            return wait
        self._retries = retries
        self._breaker = breaker.sent(self._breaker)
        self._slots = concurrency.sent(self._slots)
        return Permit(now, tokens, self._slots.calls, self._slots.in_flight)

    @property
    def has_room(self) -> bool:
        """True if one more call may be in flight, rate limits aside."""
        if self._is_adaptive:
            return concurrency.has_room(self._slots)
        return self._slots.in_flight < self._slots.ceiling

    def __repr__(self) -> str:
        return f"<Admission: {self.state}>"

    @property
    def state(self) -> str:
        """The state at the latest time that was passed in: `3 of 8 in flight, paused 4.2 s`."""
        size = concurrency.allowed(self._slots) if self._is_adaptive else self._slots.ceiling
        state = f"{self._slots.in_flight} of {size} in flight"
        wait = breaker.wait(self._breaker, self._now)
        if math.isinf(wait):
            return f"{state}, probing"
        if seconds := max(wait, self._limits.until - self._now, 0.0):
            return f"{state}, paused {seconds:.1f} s"
        return f"{state}, half-open" if self._breaker.failures_in_a_row else state

    def is_paused(self, now: float) -> bool:
        """True if the breaker is open or half-open, or if the server requested a pause so long that
        another endpoint should take the calls."""
        return self._breaker.failures_in_a_row > 0 or self._limits.until - now >= LONG_PAUSE_SECONDS

    def limit_seconds(self, now: float, tokens: float) -> float:
        """Seconds for which the rate limits would delay a call with this number of tokens."""
        return limits.lease_all(self._limits, now, tokens)[1]

    def learn(self, headers: Mapping[str, str], now: float, now_wall: float) -> None:
        """Learn rate limits from the headers of a reply, whatever its status."""
        self._now = now
        parsed = parse_rate_limits(headers, now_wall)
        calls, tokens, _ = self._limits
        # Less than one a minute is a mistake, not a limit, and would stop the run.
        if (parsed.calls.per_minute or 0) >= 1:
            calls = limits.learn(calls, now, parsed.calls.per_minute or 0)
        if (parsed.tokens.per_minute or 0) >= 1:
            tokens = limits.learn(tokens, now, parsed.tokens.per_minute or 0)
        self._limits = self._limits._replace(calls=calls, tokens=tokens)
        if exhausted := exhausted_seconds(parsed):
            self._limits = limits.pause(self._limits, now, exhausted)

    def answered(self, permit: Permit, now: float, used_tokens: float | None) -> None:
        """Record a call that brought answers; `used_tokens` is its cost where the server reports
        it."""
        self._breaker = breaker.answered(self._breaker, permit.started)
        self._health = breaker.recorded(self._health, now, permit.started, failed=False)
        self._retries = retry_budget.earn(self._retries)
        tokens = self._limits.tokens
        if tokens is not None and used_tokens:
            tokens = limits.refund(tokens, now, permit.tokens, used_tokens)
            self._limits = self._limits._replace(tokens=tokens)
        self._free_slot(permit, now, "answered")

    def refused(
        self, permit: Permit, now: float, error: EndpointError, *, is_hung: bool = False
    ) -> Pause | None:
        """Record a call that brought an error; the pause that begins with it, if one begins.

        `is_hung`: the call reached its deadline, and the endpoint sends nothing. One such call is
        enough for a pause: the next twenty would wait as long.
        """
        facts = error.facts
        names_wait = error.retry_after is not None and error.retry_after > 0
        if facts.lowers == "rate limit":
            self._limited(permit, now, names_wait)
            if names_wait:
                return self._paused_by_limit(permit, now, error)
            # Of a single call, or of a limit that was assumed too high, one refusal is no outage.
            is_beside = self._slots.refused_rounds < 2
        else:
            self._free_slot(permit, now, "refused" if facts.lowers == "concurrency" else "else")
            is_beside = facts.lowers is not None and not self._slots.refused_rounds
        before = self._breaker
        if not facts.is_endpoints_fault or (is_beside and not names_wait):
            self._breaker = breaker.probe_failed(before, permit.started)
            return None
        if facts.is_pausing:
            # A call that was in flight when the pause began is no later failure: the pause stays as
            # long.
            earlier = before.failures_in_a_row - (
                before.failures_in_a_row > 0 and permit.started < before.paused_since
            )
            seconds = pause(error, earlier, self._uniform)
        else:
            self._health = breaker.recorded(self._health, now, permit.started, failed=True)
            is_down = is_hung or breaker.should_open(self._health)
            if not before.failures_in_a_row and not is_down:
                return None
            seconds = breaker.open_seconds(before, permit.started)
            if is_hung and not before.failures_in_a_row:
                seconds = min(seconds, now - permit.started)
        self._breaker = breaker.paused(before, now, permit.started, seconds)
        is_new = self._breaker.failures_in_a_row > before.failures_in_a_row
        return Pause(seconds, error.retry_after is not None) if is_new else None

    def _limited(self, permit: Permit, now: float, names_wait: bool) -> None:
        """Record a 429: the limit is lower than assumed, or unknown."""
        refused_rounds = self._slots.refused_rounds
        lowered, is_explained = limits.refused(
            self._limits,
            now,
            permit.started,
            names_wait=names_wait,
            calls_per_second=concurrency.calls_per_second(self._slots),
        )
        if names_wait or not refused_rounds:  # else nothing is answered, whatever the pace
            self._limits = lowered
        self._free_slot(permit, now, "limited" if is_explained else "refused")

    def _paused_by_limit(self, permit: Permit, now: float, error: EndpointError) -> Pause | None:
        """Wait for the time that a 429 names. The breaker stays as it is."""
        self._breaker = breaker.probe_failed(self._breaker, permit.started)
        until = self._limits.until
        self._limits = limits.pause(self._limits, now, pause(error, 0, self._uniform))
        is_longer = self._limits.until > until
        return Pause(self._limits.until - now, True) if is_longer else None

    def _free_slot(self, permit: Permit, now: float, result: concurrency.CallResult) -> None:
        self._now = now
        self._slots = concurrency.returned(
            self._slots, now, permit.number, permit.load, now - permit.started, result
        )
