"""The circuit breaker of an endpoint: closed, open (paused), or half-open (one probe).

A pause belongs to the endpoint, never to a request: it uses up no attempts and fails no row. After
a pause one call goes alone; only its answer lets the others go. State is a value and the clock an
argument, so that every path is tested without waiting.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

HALF_LIFE_SECONDS = 10.0
MIN_CALLS = 19.5
"""Twenty calls at once; their weight begins to fade immediately."""


class Breaker(NamedTuple):
    """Units: seconds on the caller's monotonic clock."""

    paused_since: float = -inf
    until: float = -inf
    failures_in_a_row: int = 0
    """Pausing errors in a row, counted once per round trip."""
    is_probing: bool = False


def wait(state: Breaker, now: float) -> float:
    """Seconds until a call may go: 0 now, infinity while the probe is in flight."""
    if state.failures_in_a_row == 0:
        return 0.0
    if state.is_probing:
        return inf
    return max(0.0, state.until - now)


def sent(state: Breaker) -> Breaker:
    """The state after a call went out: after a pause that call is the probe."""
    return state._replace(is_probing=state.failures_in_a_row > 0)


def answered(state: Breaker, started: float) -> Breaker:
    """The state after an answer: closed, if the call started after the pause began."""
    if started < state.paused_since:
        return state
    return Breaker(paused_since=state.paused_since)


def paused(state: Breaker, now: float, started: float, seconds: float) -> Breaker:
    """The state after a pausing error.

    A call that started before the pause began is no new evidence: it can lengthen the pause while
    the breaker is open, but it does not count as one more failure in a row, does not end a probe
    and does not begin a new pause.
    """
    if started < state.paused_since:
        return (
            state._replace(until=max(state.until, now + seconds))
            if state.failures_in_a_row
            else state
        )
    return Breaker(now, max(state.until, now + seconds), state.failures_in_a_row + 1)


def probe_failed(state: Breaker, started: float) -> Breaker:
    """The state after a probe whose error does not concern the endpoint: the next call probes."""
    return state if started < state.paused_since else state._replace(is_probing=False)


class Health(NamedTuple):
    """The failures in a row of about the last half minute."""

    at: float = -inf
    in_a_row: float = 0.0
    """Failures since the last answer to a call that began after the first of them, each weighted by
    its age."""
    began: float = inf
    """Start of the first call of that row."""


def recorded(state: Health, now: float, started: float, *, failed: bool) -> Health:
    """The health with one more call, which began at `started`."""
    if not failed:
        # An answer to a call from before the row is no evidence that the endpoint is back.
        return Health(now) if started > state.began else state
    fade = 0.5 ** (max(0.0, now - state.at) / HALF_LIFE_SECONDS)
    return Health(now, state.in_a_row * fade + 1, min(state.began, started))


def should_open(state: Health) -> bool:
    """True once twenty calls in a row failed: the endpoint is down.

    The share of failed calls does not count. An endpoint that answers some of its calls works, and
    a pause would only cost time: at 40 % failures half of twenty calls fail every few seconds,
    twenty in a row once in 90 million calls. A dead endpoint has no answers between its failures,
    so it is found after twenty calls whatever it answered before.
    """
    return state.in_a_row >= MIN_CALLS


def open_seconds(state: Breaker, started: float) -> float:
    """The pause after a failed call that began at `started`: 5 s if the breaker was closed, twice
    the last pause if the probe failed, at least 1 s and at most 5 min. 0 for a call from before
    the pause, which does not lengthen it."""
    if not state.failures_in_a_row:
        return 5.0
    if started < state.paused_since:
        return 0.0
    return min(300.0, max(1.0, 2 * (state.until - state.paused_since)))
