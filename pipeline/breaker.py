"""Whether an endpoint may be called now: open, resting, or trying one call.

A pause belongs to the endpoint, never to a request: it uses up no attempts and fails no row. After
it one call goes alone; only its answer lets the others go. State is a value and the clock an
argument, so that every path is tested without waiting.
"""

from __future__ import annotations

from typing import NamedTuple


class Breaker(NamedTuple):
    """Units: seconds on the caller's monotonic clock."""

    resting_since: float = float("-inf")
    until: float = float("-inf")
    streak: int = 0
    """Pausing errors in a row, counted once per round trip."""
    is_probing: bool = False


def wait(state: Breaker, now: float) -> float:
    """Seconds until a call may go: 0 now, infinity while the probe is under way."""
    if state.streak == 0:
        return 0.0
    if state.is_probing:
        return float("inf")
    return max(0.0, state.until - now)


def took(state: Breaker) -> Breaker:
    """A call goes out: after a rest it is the probe."""
    return state._replace(is_probing=state.streak > 0)


def answered(state: Breaker, started: float) -> Breaker:
    """A call that started after the rest began was answered: the endpoint is open again."""
    return Breaker() if started >= state.resting_since else state


def rest(state: Breaker, now: float, started: float, seconds: float) -> Breaker:
    """A call brought a pausing error.

    Calls that started before the rest began tell nothing new: they can lengthen it, but do not
    make the streak longer and do not end a probe.
    """
    if state.streak and started < state.resting_since:
        return state._replace(until=max(state.until, now + seconds))
    return Breaker(now, max(state.until, now + seconds), state.streak + 1)


def probe_ended(state: Breaker) -> Breaker:
    """The probe came back with an error that says nothing of the endpoint: try the next one."""
    return state._replace(is_probing=False)
