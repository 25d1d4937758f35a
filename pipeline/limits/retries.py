"""The one place that retries: what follows from an error, decided by pure functions.

Nothing below it retries by itself. What a class of error means is read from `pipeline.errors`; the
time to wait is drawn here, with full jitter, and waited elsewhere.
Source: full jitter after M. Brooker, "Exponential Backoff And Jitter", AWS, 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pipeline.errors import EndpointError, TextmillError

_CAP_SECONDS = 20.0
_BASE_SECONDS = 0.05


class Retry(NamedTuple):
    """Send the same requests again after this time."""

    delay_seconds: float


class Halve(NamedTuple):
    """Send the two halves of the call apart, to find what the server refuses."""


class SplitRequest(NamedTuple):
    """Final: the chunk of this one request is cut, and its pieces are sent instead."""


class Fail(NamedTuple):
    """Final: this one request becomes a failure."""


class Stop(NamedTuple):
    """No request of this run can be answered: drain and end with this error."""

    error: TextmillError


Verdict = Retry | Halve | SplitRequest | Fail | Stop
Uniform = Callable[[], float]
"""A draw from [0, 1); random.random in a run, a constant in a test."""


def verdict(
    error: EndpointError,
    attempts: int,
    size: int,
    endpoint: str,
    uniform: Uniform,
    *,
    is_silent: bool = False,
    can_split: bool = False,
) -> Verdict:
    """What to do with a call of `size` requests, the most tried of which had `attempts` attempts.

    `is_silent`: nothing at all has come from the endpoint since before this call. Then a connection
    that breaks tells of the endpoint, and not yet of these requests. `can_split`: a single request
    has a chunk that can be cut in pieces.
    Invariant: a request is never dropped: it is sent again, in pieces, or a failure, or the run
    stops.
    """
    facts = error.facts
    if facts.stops_with is not None:
        return Stop(facts.stops_with(f"endpoint `{endpoint}`: {error}", hint=facts.hint))
    if facts.is_pausing:
        if facts.lowers == "rate limit" and not (error.retry_after and error.retry_after > 0):
            # Nobody said how long, so the endpoint does not pause: this call alone waits.
            return Retry(backoff(0, facts.base_pause_seconds, uniform))
        return Retry(0.0)  # the endpoint's pause is the wait
    allowed = facts.attempts
    if error.status is not None:
        allowed = facts.attempts_by_status.get(error.status, allowed)
    elif is_silent:
        allowed = max(allowed, facts.attempts_in_silence)
    if attempts < allowed:
        return Retry(backoff(attempts, _BASE_SECONDS, uniform))
    if size > 1:
        return Halve()  # one row may be what breaks it: its neighbours must not go with it
    return SplitRequest() if facts.is_too_large and can_split else Fail()


def backoff(attempts: int, base_seconds: float, uniform: Uniform) -> float:
    """Full jitter: uniform between 0 and base * 2^attempts, capped at 20 s."""
    return uniform() * min(_CAP_SECONDS, base_seconds * 2.0 ** min(attempts, 30))


def pause(error: EndpointError, streak: int, uniform: Uniform) -> float:
    """How long the endpoint rests after the `streak`-th pausing error in a row.

    A time that the server asks for is honoured up to a bound, with up to 10 % on top so that
    waiting clients do not come back together; one that is negative or past counts as none.
    """
    facts, asked = error.facts, error.retry_after
    if asked is not None and asked > 0:
        return min(asked, facts.max_pause_seconds) * (1 + 0.1 * uniform())
    base = facts.base_pause_seconds
    return max(base / 4, backoff(streak, base, uniform))
