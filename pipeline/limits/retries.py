"""The one place that retries: what follows from an error, decided by pure functions.

Nothing below it retries by itself. Each class of error has one row in the table of `verdict`; the
time to wait is drawn here, with full jitter, and waited elsewhere.
Source: full jitter after M. Brooker, "Exponential Backoff And Jitter", AWS, 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pipeline.errors import (
    PAUSING,
    EndpointError,
    ErrorKind,
    RefusedError,
    TextmillError,
    UsageError,
)

MAX_ATTEMPTS: dict[ErrorKind, int] = {
    "transient": 12,
    "ambiguous": 2,
    "invalid": 3,
    "poison": 1,
}
"""Attempts after which an error of this class is final; classes not named here use up none."""

MAX_PAUSE_SECONDS = 300.0
_CAP_SECONDS = 20.0
_BASE_SECONDS: dict[ErrorKind, float] = {
    "rate": 1.0,
    "overload": 1.0,
    "loading": 1.0,
    "unreachable": 0.25,
}


class Retry(NamedTuple):
    """Send the same requests again after this time."""

    delay_seconds: float
    uses_attempt: bool


class Halve(NamedTuple):
    """Send the two halves of the call apart, to find what the server refuses."""


class Fail(NamedTuple):
    """Final: the request becomes a failure."""


class Stop(NamedTuple):
    """No request of this run can be answered: drain and end with this error."""

    error: TextmillError


Verdict = Retry | Halve | Fail | Stop
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
) -> Verdict:
    """What to do with a call of `size` requests, the most tried of which had `attempts` attempts.

    `is_silent`: nothing at all has come from the endpoint since before this call. Then a connection
    that breaks tells of the endpoint, and not yet of these requests.
    Invariant: a request is never dropped: it is sent again, or a failure, or the run stops.
    """
    kind = error.kind
    if kind in ("auth", "quota"):
        return Stop(RefusedError(f"endpoint `{endpoint}`: {error}", hint=_HINTS[kind]))
    if kind == "config":
        return Stop(UsageError(f"endpoint `{endpoint}`: {error}", hint=_HINTS[kind]))
    if kind == "rate" and not (error.retry_after and error.retry_after > 0):
        return Retry(backoff(0, 1.0, uniform), uses_attempt=False)  # nobody said how long
    if kind in PAUSING:
        return Retry(0.0, uses_attempt=False)  # the endpoint's pause is the wait
    if kind == "too_long":
        return Halve() if size > 1 else Fail()
    allowed = 2 if error.status == 424 else MAX_ATTEMPTS[kind]
    if kind == "ambiguous" and is_silent and error.status is None:
        allowed = MAX_ATTEMPTS["transient"]
    if attempts < allowed:
        return Retry(backoff(attempts, 0.05, uniform), uses_attempt=True)
    if size > 1:
        return Halve()  # one row may be what breaks it: its neighbours must not go with it
    return Fail()


_HINTS = {
    "auth": "check `endpoint.api_key` and what it may call; answers so far are kept",
    "quota": "payment or quota is used up; answers so far are kept, run again after it is restored",
    "config": "check `endpoint.url`, `endpoint.model` and `parameters`",
}


def backoff(attempts: int, base_seconds: float, uniform: Uniform) -> float:
    """Full jitter: uniform between 0 and base * 2^attempts, capped at 20 s."""
    return uniform() * min(_CAP_SECONDS, base_seconds * 2.0 ** min(attempts, 30))


def pause(error: EndpointError, streak: int, uniform: Uniform) -> float:
    """How long the endpoint rests after the `streak`-th pausing error in a row.

    A time that the server asks for is honoured, with up to 10 % on top so that waiting clients do
    not come back together; one that is negative, absurd or long past is clamped into 0..300 s.
    `estimated_time` of a loading model is a guess: it is asked again after 20 s at most.
    """
    asked = error.retry_after
    if asked is not None and (asked > 0 or error.kind == "rate"):
        most = _CAP_SECONDS if error.kind == "loading" else MAX_PAUSE_SECONDS
        floor = backoff(streak, _BASE_SECONDS[error.kind], uniform) if asked <= 0 else 0.0
        return max(floor, min(asked, most) * (1 + 0.1 * uniform()))
    base = _BASE_SECONDS[error.kind]
    return max(base / 4, backoff(streak, base, uniform))
