"""What a service lets through: limits as values, decided by pure functions of `now`.

A limiter is only as good as the server it was tried against, and services differ in how they count
and in what they tell. All of it is `admit(limit, state, now) -> (state, verdict)`, so that the mock
on a socket and hours of traffic on a virtual clock meet the very same server.
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

# A second tenant's traffic comes in so many sips a window.
SIPS = 50
# After so many windows without a call nothing can be seen of what the tenant did before.
FORGOTTEN_WINDOWS = 2


class Change(Struct, frozen=True):
    """From this moment on every limit is so many times the declared one."""

    at: float
    factor: float


class Limit(Struct, frozen=True):
    """What is let through, how it is counted, and what is told about it.

    Units: seconds; moments are counted from the server's first call, because who starts a server
    by hand does not know when the client will come.
    """

    counts: Kind = "bucket"
    """`bucket` starts full and refills steadily; `window` forgets all at multiples of its length;
    `sliding` holds in every stretch of its length."""
    calls: Rate | None = None
    tokens: Rate | None = None
    slots: int | None = None
    """Calls at once; one more is refused (text-generation-inference)."""
    permits: int | None = None
    """Inputs at once: each input of a call takes one (text-embeddings-inference)."""
    rejects_count: bool = False
    """A refused call uses up what is left, as far as it goes."""
    changes: tuple[Change, ...] = ()
    tenant: float = 0.0
    """The share of the limit that somebody else uses all the time."""
    tenant_during: Between = Between()
    cold_seconds: float = 0.0
    """503 loading for so long after the first call."""
    outages: tuple[Between, ...] = ()
    outage_status: int | None = 503
    """None: the connection is reset."""
    headers: Style = "none"
    reset: Reset = "go"
    """How `x-ratelimit-reset-*` are written with `headers` = openai."""
    refuse_status: int = 429
    """What a rate and slots refuse with: serverless services say 503."""
    retry: Retry | None = None
    """None: whole seconds where a rate is exceeded, nothing where slots are."""
    told: float | None = None
    """A lie: the limit that the headers tell instead of the true one."""
    latency_seconds: float = 0.0
    """The median; the draw is log-normal."""
    sigma: float = 0.0


class State(Struct, frozen=True):
    """A server between two calls. Units: seconds on the caller's monotonic clock."""

    now: float
    began: float | None = None
    """The first call; None: there was none."""
    used: Mapping[What, Count] = {}
    in_flight: int = 0
    inputs_in_flight: int = 0


class Verdict(Struct, frozen=True):
    """What becomes of a call."""

    word: Word
    what: What = ""
    """Which of the two rates it exceeds."""
    wait: float = 0.0
    """Seconds until the same call would pass if nobody else came; infinite: never, or unknown."""


class Left(Struct, frozen=True):
    """One rate as it stands: the limit, what is left of it, seconds until all of it is."""

    rate: Rate
    limit: float
    left: float
    seconds: float


def start(now: float) -> State:
    """A server that nobody has called: buckets are full, the model is not loaded."""
    return State(now)


def admit(
    limit: Limit, state: State, now: float, *, calls: int = 1, tokens: float = 0, inputs: int = 1
) -> tuple[State, Verdict]:
    """The server after this call, and what became of it; an admitted one ends with `leave`.

    Invariant: what is admitted never exceeds a rate in its own definition: for a bucket, in any
    stretch of time, its depth and what flows in meanwhile; for a window, its amount in each window;
    for a sliding window, its amount in any stretch of that length; nor are more slots or permits
    taken than there are.
    Cost: with `sliding` O(calls admitted in one window), else constant.
    """
    state = advance(limit, state, now)
    if state.began is None:
        state = replace(state, began=state.now)
    since = _since(state)
    down = next((one for one in limit.outages if one.holds(since)), None)
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
        state = _spend(limit, state, _clipped(limit, state, wants))
        if verdict.word == "rate":  # the refusal itself has made the wait longer
            verdict = _judge(limit, state, wants, calls, inputs)
    return state, verdict


def leave(state: State, *, calls: int = 1, inputs: int = 1) -> State:
    """The server after an admitted call has ended."""
    return replace(
        state, in_flight=state.in_flight - calls, inputs_in_flight=state.inputs_in_flight - inputs
    )


def advance(limit: Limit, state: State, now: float) -> State:
    """The server at a later moment: buckets refilled, windows turned, the tenant served."""
    if now <= state.now:
        return state  # a clock that stands still, or is set back, gives nothing away
    if state.began is None:
        return replace(state, now=now)
    for change in limit.changes:
        at = state.began + change.at
        if state.now < at <= now:
            state = _tenanted(limit, state, at)
            part = factor(limit, change.at)
            used = {
                what: counts.capped(limit.counts, rate, _count(state, what), part)
                for what, rate in _rates(limit)
            }
            state = replace(state, used=used)
    return _tenanted(limit, state, now)


def factor(limit: Limit, since: float) -> float:
    """How many times the declared limit holds at this moment after the first call."""
    held = 1.0
    for one in limit.changes:
        if one.at <= since + INSTANT:
            held = one.factor
    return held


def remaining(limit: Limit, state: State) -> dict[What, Left]:
    """Each rate as it stands at the state's own moment."""
    found: dict[What, Left] = {}
    since = _since(state)
    part = factor(limit, since)
    for what, rate in _rates(limit):
        count = _count(state, what)
        room = max(0.0, counts.left(rate, count, part))
        most = rate.amount * part
        whole = counts.whole(limit.counts, rate, count, part, since)
        found[what] = Left(rate, most, room, whole)
    return found


def latency(limit: Limit) -> Callable[[random.Random], float]:
    """Draws the seconds that an admitted call takes: log-normal around the median.

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


def _tenanted(limit: Limit, state: State, now: float) -> State:
    """Time goes by, in which only the second tenant comes."""
    rates, began = _rates(limit), state.began
    if limit.tenant <= 0 or not rates or began is None:
        return _passed(limit, state, now)
    spans = sorted(rate.seconds for _, rate in rates)
    sip = max(spans[0], spans[-1] / SIPS) / SIPS
    forgotten = now - FORGOTTEN_WINDOWS * spans[-1]
    state = _passed(limit, state, max(state.now, forgotten))
    number = math.floor((_since(state) + INSTANT) / sip) + 1
    while (at := began + number * sip) <= now:
        state = _passed(limit, state, at)
        if limit.tenant_during.holds(number * sip):
            share = limit.tenant * factor(limit, number * sip) * sip
            wants = {what: share * rate.amount / rate.seconds for what, rate in rates}
            state = _spend(limit, state, _clipped(limit, state, wants))
        number += 1
    return _passed(limit, state, now)


def _passed(limit: Limit, state: State, now: float) -> State:
    """Time goes by, and nobody comes."""
    if now <= state.now or state.began is None:
        return state
    before, since = state.now - state.began, now - state.began
    # A change lies at an end of this stretch at most: what held at its beginning held throughout.
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


def _clipped(limit: Limit, state: State, wants: Mapping[What, float]) -> dict[What, float]:
    """So much of it as is there."""
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
