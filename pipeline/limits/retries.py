"""Decides what follows from an error for its requests: retry, split, fail or stop. Pure functions.

No layer below retries by itself. `pipeline.errors` defines what a class of error means; the time to
wait is drawn here, for a call with full jitter, for an endpoint's pause with equal jitter, and
waited elsewhere.
Source: both after M. Brooker, "Exponential Backoff And Jitter", AWS, 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pipeline.errors import EndpointError, TextmillError

_CAP_SECONDS = 20.0
_PAUSE_CAP_SECONDS = 5.0
"""A server that answers again is noticed within this time: one probe in 3.75 s costs it little."""
_BASE_SECONDS = 0.05


class Retry(NamedTuple):
    """Send the same requests again after this time."""

    delay_seconds: float


class Halve(NamedTuple):
    """Send the two halves of the call separately, to isolate the input that the server rejects."""


class SplitRequest(NamedTuple):
    """Final: the chunk of this one request is split, and its pieces are sent instead."""


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
    """The decision about a call of `size` requests; `attempts` is the largest count among them.

    `is_silent`: the endpoint has sent nothing at all since before this call. Then a broken
    connection points at the endpoint, not yet at these requests. `can_split`: the chunk of a single
    request can be split into pieces.
    Invariant: a request is never dropped: it is sent again, in pieces, or becomes a failure, or the
    run stops.
    """
    facts = error.facts
    if error.ask_with:
        return Retry(0.0)
    if facts.stops_with is not None:
        return Stop(facts.stops_with(f"endpoint `{endpoint}`: {error}", hint=error.hint))
    if facts.is_pausing:
        if facts.lowers is not None and not (error.retry_after and error.retry_after > 0):
            # The server named no time, and may have answered other calls meanwhile: then the
            # endpoint does not pause, and only this call waits.
            return Retry(backoff(0, facts.base_pause_seconds, uniform))
        return Retry(0.0)  # the endpoint's pause is the wait
    max_attempts = facts.attempts
    if error.status is not None:
        max_attempts = facts.attempts_by_status.get(error.status, max_attempts)
    elif is_silent:
        max_attempts = max(max_attempts, facts.attempts_in_silence)
    if attempts < max_attempts:
        return Retry(backoff(attempts, _BASE_SECONDS, uniform))
    if size > 1:
        return Halve()  # one row may be the cause: its neighbours must not fail with it
    return SplitRequest() if facts.is_too_large and can_split else Fail()


def backoff(attempts: int, base_seconds: float, uniform: Uniform) -> float:
    """Full jitter: uniform between 0 and base * 2^attempts, at most 20 s."""
    return uniform() * min(_CAP_SECONDS, base_seconds * 2.0 ** min(attempts, 30))


def pause(error: EndpointError, failures_in_a_row: int, uniform: Uniform) -> float:
    """Seconds for which the endpoint pauses after this many earlier pausing errors in a row.

    A time that the server requests is honoured up to a bound, with up to 10 % on top so that
    waiting clients do not return together; a negative or past time counts as none.
    """
    facts, retry_after = error.facts, error.retry_after
    if retry_after is not None and retry_after > 0:
        return min(retry_after, facts.max_pause_seconds) * (1 + 0.1 * uniform())
    base = facts.base_pause_seconds
    # Half of the time is sure: one probe after the other need not be spread as far as many callers.
    longest = min(_PAUSE_CAP_SECONDS, base * 2.0 ** min(failures_in_a_row, 30))
    return longest * (1 + uniform()) / 2
