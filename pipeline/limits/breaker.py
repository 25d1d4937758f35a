"""Whether an endpoint may be called now: open, resting, or trying one call.

A pause belongs to the endpoint, never to a request: it uses up no attempts and fails no row. After
it one call goes alone; only its answer lets the others go. State is a value and the clock an
argument, so that every path is tested without waiting.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple

HALF_LIFE_SECONDS = 10.0
MIN_CALLS = 19.5
"""Twenty calls that came together; they begin to fade at once."""


class Breaker(NamedTuple):
    """Units: seconds on the caller's monotonic clock."""

    paused_since: float = -inf
    until: float = -inf
    failures_in_a_row: int = 0
    """Pausing errors in a row, counted once per round trip."""
    is_probing: bool = False


def wait(state: Breaker, now: float) -> float:
    """Seconds until a call may go: 0 now, infinity while the probe is under way."""
    if state.failures_in_a_row == 0:
        return 0.0
    if state.is_probing:
        return inf
    return max(0.0, state.until - now)


def sent(state: Breaker) -> Breaker:
    """A call goes out: after a rest it is the probe."""
    return state._replace(is_probing=state.failures_in_a_row > 0)


def answered(state: Breaker, started: float) -> Breaker:
    """A call that started after the rest began was answered: the endpoint is open again."""
    if started < state.paused_since:
        return state
    return Breaker(paused_since=state.paused_since)


def paused(state: Breaker, now: float, started: float, seconds: float) -> Breaker:
    """A call brought a pausing error.

    Calls that started before the rest began tell nothing new: they can lengthen it while it is on,
    but do not make the streak longer, do not end a probe and do not begin a rest again.
    """
    if started < state.paused_since:
        return (
            state._replace(until=max(state.until, now + seconds))
            if state.failures_in_a_row
            else state
        )
    return Breaker(now, max(state.until, now + seconds), state.failures_in_a_row + 1)


def probe_failed(state: Breaker, started: float) -> Breaker:
    """The probe came back with an error that says nothing of the endpoint: try the next one."""
    return state if started < state.paused_since else state._replace(is_probing=False)


class Health(NamedTuple):
    """Failed and answered calls of the last half minute or so, each fading by its age."""

    at: float = -inf
    failed: float = 0.0
    answered: float = 0.0
    in_a_row: float = 0.0
    """Failed ones, since one that began after the first of them was answered; they fade, too."""
    began: float = inf
    """When the first of the row began."""


def recorded(state: Health, now: float, started: float, *, failed: bool) -> Health:
    """The same with one more call, which began at `started`."""
    fade = 0.5 ** (max(0.0, now - state.at) / HALF_LIFE_SECONDS)
    is_over = not failed and started > state.began
    return Health(
        now,
        state.failed * fade + failed,
        state.answered * fade + (not failed),
        0.0 if is_over else state.in_a_row * fade + failed,
        inf if is_over else min(state.began, started) if failed else state.began,
    )


def should_open(state: Health) -> bool:
    """True once half of at least twenty calls failed: this is no chance, the endpoint is down.

    Twenty in a row are enough after any number of answers: else what a fast endpoint answered a
    moment ago would let a thousand rows fail.
    """
    calls = state.failed + state.answered
    half = calls >= MIN_CALLS and state.failed >= calls / 2
    return half or state.in_a_row >= MIN_CALLS


def open_seconds(state: Breaker, started: float) -> float:
    """The rest after a call that began then and failed: 5 s for an endpoint that was well, twice
    the last rest where the probe failed, at least 1 s and at most 5 min; 0 for a call from before
    the rest, which makes it no longer."""
    if not state.failures_in_a_row:
        return 5.0
    if started < state.paused_since:
        return 0.0
    return min(300.0, max(1.0, 2 * (state.until - state.paused_since)))
