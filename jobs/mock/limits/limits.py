"""The limits of a service as values, decided by pure functions of `now`.

A limiter is only as good as the server of its tests, and services differ in their counting and in
their headers. The whole server is `admit(limit, state, now) -> (state, verdict)`, so that the mock
on a socket and hours of traffic on a virtual clock use the same code.
`jobs.mock.limits.parse` reads a limit from a line of text, `jobs.mock.limits.headers` writes the
headers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from jobs.mock.limits import counts
from jobs.mock.limits.counts import INSTANT, Between, Count, Kind, Rate

What = Literal["", "requests", "tokens"]
Word = Literal["admitted", "rate", "slots", "too_large", "cold", "outage"]
Style = Literal["none", "openai", "hub", "cerebras", "together", "replicate"]
Reset = Literal["go", "seconds", "epoch", "iso"]
Retry = Literal["none", "seconds", "decimal", "ms", "date"]

# The traffic of a second tenant is divided into this number of steps per window.
TENANT_STEPS = 50
# After this number of windows without a call, earlier traffic of the tenant has no effect.
FORGOTTEN_WINDOWS = 2


class Change(Struct, frozen=True):
    """From this moment on every limit is `factor` times the declared one."""

    at: float
    factor: float


class Limit(Struct, frozen=True):
    """The limits of a server, the way they are counted, and the headers that report them.

    Units: seconds; moments count from the first call of the server, because the client of a server
    that was started by hand may come at any time.
    """

    counts: Kind = "bucket"
    """`bucket` starts full and refills steadily; `window` resets at multiples of its length;
    `sliding` holds in every interval of its length."""
    calls: Rate | None = None
    tokens: Rate | None = None
    slots: int | None = None
    """Concurrent calls; one more is rejected (text-generation-inference)."""
    permits: int | None = None
    """Concurrent inputs: each input of a call takes one permit (text-embeddings-inference)."""
    workers: int | None = None
    """Calls that the server works on at once; it refuses no other, but lets it wait its turn."""
    rejects_count: bool = False
    """True: a rejected call uses up the remaining limit, as far as it goes."""
    changes: tuple[Change, ...] = ()
    tenant: float = 0.0
    """The share of the limit that another client uses all the time."""
    tenant_during: Between = Between()
    cold_seconds: float = 0.0
    """Duration of 503 loading after the first call."""
    outages: tuple[Between, ...] = ()
    outage_status: int | None = 503
    """None: the connection is reset."""
    headers: Style = "none"
    reset: Reset = "go"
    """The format of `x-ratelimit-reset-*` with `headers` = openai."""
    refuse_status: int = 429
    """The status of a rejection by a rate or by slots: serverless services send 503."""
    retry: Retry | None = None
    """None: whole seconds if a rate is exceeded, nothing if all slots are taken."""
    reported: float | None = None
    """A false limit that the headers report instead of the true one."""
    latency_seconds: float = 0.0
    """The median; the draw is log-normal."""
    sigma: float = 0.0


class State(Struct, frozen=True):
    """A server between two calls. Units: seconds on the caller's monotonic clock."""

    now: float
    began: float | None = None
    """Time of the first call; None: there was none."""
    used: Mapping[What, Count] = {}
    in_flight: int = 0
    inputs_in_flight: int = 0


class Verdict(Struct, frozen=True):
    """The decision about a call."""

    word: Word
    what: What = ""
    """The rate that it exceeds."""
    wait: float = 0.0
    """Seconds until the same call would pass without other traffic; infinite: never, or unknown."""


class Left(Struct, frozen=True):
    """The current state of one rate: the limit, the remainder, seconds until it is full again."""

    rate: Rate
    limit: float
    left: float
    seconds: float


def start(now: float) -> State:
    """The state before the first call: buckets are full, the model is not loaded."""
    return State(now)


def admit(
    limit: Limit, state: State, now: float, *, calls: int = 1, tokens: float = 0, inputs: int = 1
) -> tuple[State, Verdict]:
    """The state after this call, and the decision about it; an admitted call ends with `leave`.

    Invariant: the admitted traffic never exceeds a rate by its own definition: for a bucket, in any
    interval, its depth plus the refill meanwhile; for a window, its amount in each window; for a
    sliding window, its amount in any interval of that length; and it never takes more slots or
    permits than there are.
    Cost: with `sliding` O(calls admitted in one window), else constant.
    """
    state = advance(limit, state, now)
    if state.began is None:
        state = replace(state, began=state.now)
    since = _since(state)
    down = next((outage for outage in limit.outages if outage.holds(since)), None)
    if down is not None:
        return state, Verdict("outage", wait=down.end - since)
    if since < limit.cold_seconds - INSTANT:
        return state, Verdict("cold", wait=limit.cold_seconds - since)
    wants: dict[What, float] = {"requests": calls, "tokens": tokens}
    verdict = _judge(limit, state, wants, calls, inputs)
    if verdict.word == "admitted":
        state = _spend(limit, state, wants)
        slots, permits = state.in_flight + calls, state.inputs_in_flight + inputs
        return replace(state, in_flight=slots, inputs_in_flight=permits), verdict
    if limit.rejects_count:
        state = _spend(limit, state, _clip(limit, state, wants))
        if verdict.word == "rate":  # the rejection itself has lengthened the wait
            verdict = _judge(limit, state, wants, calls, inputs)
    return state, verdict


def leave(state: State, *, calls: int = 1, inputs: int = 1) -> State:
    """The state after the end of an admitted call."""
    return replace(
        state, in_flight=state.in_flight - calls, inputs_in_flight=state.inputs_in_flight - inputs
    )


def advance(limit: Limit, state: State, now: float) -> State:
    """The state at a later moment: buckets refilled, windows reset, the tenant served."""
    if now <= state.now:
        return state  # a clock that stops, or is set back, refills nothing
    if state.began is None:
        return replace(state, now=now)
    for change in limit.changes:
        at = state.began + change.at
        if state.now < at <= now:
            state = _advance_with_tenant(limit, state, at)
            part = factor(limit, change.at)
            used = {
                what: counts.capped(limit.counts, rate, _count(state, what), part)
                for what, rate in _rates(limit)
            }
            state = replace(state, used=used)
    return _advance_with_tenant(limit, state, now)


def factor(limit: Limit, since: float) -> float:
    """The multiple of the declared limit at this moment after the first call."""
    current = 1.0
    for change in limit.changes:
        if change.at <= since + INSTANT:
            current = change.factor
    return current


def remaining(limit: Limit, state: State) -> dict[What, Left]:
    """Each rate at the moment of the state."""
    rates: dict[What, Left] = {}
    since = _since(state)
    part = factor(limit, since)
    for what, rate in _rates(limit):
        count = _count(state, what)
        room = max(0.0, counts.left(rate, count, part))
        amount = rate.amount * part
        whole = counts.whole(limit.counts, rate, count, part, since)
        rates[what] = Left(rate, amount, room, whole)
    return rates


def latency(limit: Limit) -> Callable[[random.Random], float]:
    """A function that draws the latency of an admitted call: log-normal around the median.

    Units: `sigma` is the deviation of the logarithm; with 0.5 one call in 40 takes 2.7 times the
    median, with 1.0 one in 40 takes 7 times it.
    """
    return lambda rng: limit.latency_seconds * math.exp(limit.sigma * rng.gauss(0.0, 1.0))


def _judge(
    limit: Limit, state: State, wants: Mapping[What, float], calls: int, inputs: int
) -> Verdict:
    since = _since(state)
    part = factor(limit, since)
    for what, rate in _rates(limit):
        if not counts.fits(rate, wants[what], rate.amount * part):
            return Verdict("too_large", what, math.inf)
    if (limit.slots is not None and state.in_flight + calls > limit.slots) or (
        limit.permits is not None and state.inputs_in_flight + inputs > limit.permits
    ):
        return Verdict("slots", wait=math.inf)
    worst = Verdict("admitted")
    for what, rate in _rates(limit):
        count = _count(state, what)
        room = counts.left(rate, count, part)
        if not counts.fits(rate, wants[what], room):
            seconds = counts.wait(limit.counts, rate, count, part, since, wants[what] - room)
            if seconds > worst.wait:
                worst = Verdict("rate", what, seconds)
    return worst


def _advance_with_tenant(limit: Limit, state: State, now: float) -> State:
    """The state after an interval in which only the second tenant sends."""
    rates, began = _rates(limit), state.began
    if limit.tenant <= 0 or not rates or began is None:
        return _advance_idle(limit, state, now)
    spans = sorted(rate.seconds for _, rate in rates)
    step = max(spans[0], spans[-1] / TENANT_STEPS) / TENANT_STEPS
    forgotten = now - FORGOTTEN_WINDOWS * spans[-1]
    state = _advance_idle(limit, state, max(state.now, forgotten))
    number = math.floor((_since(state) + INSTANT) / step) + 1
    while (at := began + number * step) <= now:
        state = _advance_idle(limit, state, at)
        if limit.tenant_during.holds(number * step):
            share = limit.tenant * factor(limit, number * step) * step
            wants = {what: share * rate.amount / rate.seconds for what, rate in rates}
            state = _spend(limit, state, _clip(limit, state, wants))
        number += 1
    return _advance_idle(limit, state, now)


def _advance_idle(limit: Limit, state: State, now: float) -> State:
    """The state after an interval without a call."""
    if now <= state.now or state.began is None:
        return state
    before, since = state.now - state.began, now - state.began
    # A change can only be at an end of this interval: the factor of its beginning holds throughout.
    part = factor(limit, before)
    used = {
        what: counts.later(limit.counts, rate, _count(state, what), part, before, since)
        for what, rate in _rates(limit)
    }
    return replace(state, now=now, used=used)


def _spend(limit: Limit, state: State, amounts: Mapping[What, float]) -> State:
    since = _since(state)
    used = {
        what: counts.spent(limit.counts, _count(state, what), since, amounts[what])
        for what, _ in _rates(limit)
    }
    return replace(state, used=used)


def _clip(limit: Limit, state: State, wants: Mapping[What, float]) -> dict[What, float]:
    """The amounts, reduced to the remainder."""
    part = factor(limit, _since(state))
    return {
        what: min(wants[what], max(0.0, counts.left(rate, _count(state, what), part)))
        for what, rate in _rates(limit)
    }


def _rates(limit: Limit) -> list[tuple[What, Rate]]:
    both: list[tuple[What, Rate | None]] = [("requests", limit.calls), ("tokens", limit.tokens)]
    return [(what, rate) for what, rate in both if rate is not None]


def _count(state: State, what: What) -> Count:
    return state.used.get(what, Count())


def _since(state: State) -> float:
    return 0.0 if state.began is None else state.now - state.began
