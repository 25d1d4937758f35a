"""Rate limits as paced token buckets: how many calls and tokens may go now.

A bucket one minute deep that starts full reaches 7 % of a limit that the server enforces by the
second. So a bucket holds 100 ms, starts empty, and fills at 98.5 % of the limit: sends are spaced,
whatever window the server counts in. The limit itself may be wrong: declared too high, or halved
over night. `factor` is the share of it that remains after 429s (multiplicative decrease).

The bound, for one limit of L per second and a bucket of 0.1 s: in any window of W seconds at most
0.985 L (W + 0.1) + one call, the largest, is leased (less the refunds in it). The bound holds
across restarts, too: a run never leases more than 0.985 L times its age, so that a crash loop stays
below the limit.

Nothing here waits. Call `lease` for the oldest call only, never for a newer, smaller one: an
overtaking call keeps the bucket from filling for a large one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

PACE = 0.985
"""The share of a limit that is used; the rest is for jitter on the way to the server."""

BURST_SECONDS = 0.1
"""Depth of a bucket: calls delayed by a busy loop or a full connection pool go together, no
more."""

STRICT_BURST_SECONDS = 0.015
"""For servers that count strictly by the second (a 429 that names a wait below 1 s, or a policy
with `w=1`): 0.985 L (1 + 0.015) < L, where 100 ms would be 8 % over after a stall."""

MAX_PAUSE_SECONDS = 300.0
_CUT = 0.9
_CUT_CALM = 0.95
"""After calm seconds the pace is nearly right: half the cut, because a cut costs goodput (+2 %)."""
_CALM_SECONDS = 5.0
_REGAIN_PER_SECOND = 0.004
_QUIET_SECONDS = 12.0
"""After twice this without a 429 the factor recovers faster, doubling each time: a limit that was
halved and restored is used to 90 % after 45 s; at a steady 0.4 % it would take 100 s."""
_MAX_REGAIN_PER_SECOND = 0.05
_CHEAP_SECONDS = 0.25
_MAX_CAUTION = 4.0
"""Against a server that names whole seconds, each 429 costs one: there the factor recovers up to
four times slower, because of the price of a try (+6 % of a strict sliding second)."""
_MIN_FACTOR = 0.001
_HEADROOM = 1.25
"""Answers lag behind calls while a run begins: their rate is below the limit at its first 429."""
_CLOCK_SECONDS = 1e-6
"""Less than this is no wait: a caller that returns at the given time must not wait again."""


class Bucket(NamedTuple):
    """One limit. Units: `per_minute`, `level` and `largest` in calls or tokens, times in seconds.

    Invariant: level <= full(bucket); level is below 0 after a call larger than half the bucket.
    """

    per_minute: float
    declared: float
    """The bound up to which a header may raise `per_minute`; infinity where the job sets no
    limit."""
    burst_seconds: float
    at: float
    """The time of `level` and `factor`."""
    level: float = 0.0
    largest: float = 0.0
    """The largest call so far. Its debt is paid once in advance, or a restart would cancel it."""
    until: float = -math.inf
    """End of the current pause: until then the factor does not recover."""
    pause_seconds: float = 0.0
    """Length of the last pause: the cost of the next 429."""
    held_at: float = -math.inf
    """The last time a call had to wait for this limit."""
    factor: float = 1.0
    """The share of `per_minute` that is used; 429s lower it, time raises it."""
    cut_at: float = -math.inf
    is_inferred: bool = False
    """Inferred from 429s, not named by the job or a header: the factor may grow above 1 while the
    limit is in use."""


class Limits(NamedTuple):
    """The limits of one endpoint; None: none known."""

    calls: Bucket | None = None
    tokens: Bucket | None = None
    until: float = -math.inf
    """End of the pause that the endpoint requested."""


def bucket(
    per_minute: float,
    now: float,
    *,
    is_declared: bool = True,
    burst_seconds: float = BURST_SECONDS,
) -> Bucket:
    """An empty bucket. Raises: ValueError for a limit or a burst of 0, below, or not finite."""
    if not (0 < per_minute < math.inf):
        raise ValueError(f"limit = {per_minute} per minute must be a number above 0")
    if not (0 < burst_seconds < math.inf):
        raise ValueError(f"burst = {burst_seconds} s must be a number above 0")
    return Bucket(per_minute, per_minute if is_declared else math.inf, burst_seconds, now)


def full(state: Bucket) -> float:
    """The capacity of the bucket."""
    return PACE * state.per_minute / 60 * state.burst_seconds


def at(state: Bucket, now: float) -> Bucket:
    """The bucket, filled up to now; a clock that steps back changes nothing."""
    seconds = now - state.at
    if not seconds > 0:
        return state
    level = min(full(state), state.level + seconds * _fill_per_second(state))
    return state._replace(at=now, level=level, factor=_recovered_factor(state, now))


def lease(state: Bucket, now: float, want: float) -> tuple[Bucket, float]:
    """Take `want` and return 0, or take nothing and return the seconds until the next try.

    Keep the returned state in both cases. A call larger than half the bucket goes when the bucket
    is half full, and leaves it in debt: the rate holds and no call waits for ever.
    """
    state, wait = _prepare_lease(state, now, want)
    return (state, wait) if wait else (_withdraw(state, want), 0.0)


def lease_all(limits: Limits, now: float, tokens: float) -> tuple[Limits, float]:
    """One call with this number of tokens, from both buckets or from neither; see `lease`."""
    calls, tokens_left, until = limits
    wait = max(0.0, until - now)
    wait = wait if wait > _CLOCK_SECONDS else 0.0
    if calls is not None:
        calls, bucket_wait = _prepare_lease(calls, now, 1)
        wait = max(wait, bucket_wait)
    if tokens_left is not None:
        tokens_left, bucket_wait = _prepare_lease(tokens_left, now, tokens)
        wait = max(wait, bucket_wait)
    if wait:
        return Limits(calls, tokens_left, until), wait
    return Limits(
        None if calls is None else _withdraw(calls, 1),
        None if tokens_left is None else _withdraw(tokens_left, tokens),
        until,
    ), 0.0


def refund(state: Bucket, now: float, estimate: float, used: float) -> Bucket:
    """Refund tokens that a call did not use, or charge tokens beyond its estimate.

    The level never rises above full. A usage that is no number is ignored, and one call is charged
    at most one minute of the limit on top: a wrong figure must not stop a run. Rejected calls are
    not refunded: servers may count them.
    """
    if not (math.isfinite(estimate) and math.isfinite(used) and used >= 0):
        return state
    state = at(state, now)
    refunded = max(estimate - used, -state.per_minute)
    return state._replace(level=min(full(state), state.level + refunded))


def pause(limits: Limits, now: float, seconds: float) -> Limits:
    """Grant no lease for this time, at most 300 s; a longer current pause is kept.

    The factor does not recover meanwhile: silence is no evidence. The caller adds jitter
    (`pipeline.limits.retries.pause`).
    """
    seconds = min(max(0.0, seconds), MAX_PAUSE_SECONDS) if seconds == seconds else 0.0
    until = max(limits.until, now + seconds)
    calls, tokens = (
        None if state is None else at(state, now)._replace(until=until, pause_seconds=seconds)
        for state in (limits.calls, limits.tokens)
    )
    return Limits(calls, tokens, until)


def refused(
    limits: Limits, now: float, started: float, *, names_wait: bool, calls_per_second: float
) -> tuple[Limits, bool]:
    """The limits after a 429 to a call that started then, and whether they explain it.

    A limit that delayed calls explains it, and its factor decreases. If none did, a 429 that names
    a wait shows that a limit exists, and the limit is inferred. A 429 without an explanation also
    cuts the number of calls in flight (`pipeline.limits.concurrency`, "refused").
    """
    calls, tokens = limits.calls, limits.tokens
    is_explained = False
    if calls is not None and was_limiting(calls, started):
        calls, is_explained = decrease(calls, now, started), True
    if tokens is not None and was_limiting(tokens, started):
        tokens, is_explained = decrease(tokens, now, started), True
    if names_wait and not is_explained:
        calls = infer_limit(calls, now, calls_per_second)
    return Limits(calls, tokens, limits.until), is_explained


def decrease(state: Bucket, now: float, started: float) -> Bucket:
    """The bucket after a 429 to a call that was sent after the last cut: the factor decreases.

    A call from before the cut is no new evidence. The factor recovers by 0.4 % a second, after 24 s
    without a 429 faster and faster. Bursts stay small from now on: the server may count by the
    second.
    """
    if started <= state.cut_at:
        return state
    state = at(state, now)
    cut = _CUT_CALM if now - state.cut_at > _CALM_SECONDS else _CUT
    burst_seconds = min(state.burst_seconds, STRICT_BURST_SECONDS)
    state = state._replace(
        factor=max(_MIN_FACTOR, state.factor * cut), cut_at=now, burst_seconds=burst_seconds
    )
    return state._replace(level=min(state.level, full(state)))


def infer_limit(state: Bucket | None, now: float, per_second: float) -> Bucket | None:
    """The bucket after a 429 that named a wait, though no known limit delayed calls.

    So a limit exists, near the current rate of calls: `concurrency.calls_per_second`. The factor
    falls fast and rises slowly, so an estimate that is too high is better. An inferred limit
    replaces a named or inferred one only if it is lower.
    """
    per_minute = 60 * per_second * _HEADROOM
    if not (0 < per_minute < math.inf) or (
        state is not None and per_minute >= _effective_rate(state)
    ):
        return state
    previous = state or Bucket(per_minute, math.inf, STRICT_BURST_SECONDS, now)
    return previous._replace(
        per_minute=per_minute,
        at=now,
        level=min(0.0, previous.level),
        factor=1.0,
        cut_at=now,
        is_inferred=True,
    )


def was_limiting(state: Bucket | None, started: float) -> bool:
    """True if this limit delayed calls since then, so that a 429 counts against it.

    A limit that is never reached, like a header's 1,000,000,000, explains nothing: then the number
    of calls in flight is cut instead (`pipeline.limits.concurrency`).
    """
    return state is not None and state.held_at >= started


def learn(
    state: Bucket | None,
    now: float,
    per_minute: float,
    *,
    burst_seconds: float = BURST_SECONDS,
) -> Bucket | None:
    """The bucket after a header named this limit: created, raised or lowered.

    A declared limit is lowered, never raised above the declared value. A limit inferred from 429s
    is kept against a header that names a higher one. A value that is no limit (0, below, not
    finite) is ignored.
    """
    if not (0 < per_minute < math.inf):
        return state
    if state is None:
        return bucket(per_minute, now, is_declared=False, burst_seconds=burst_seconds)
    per_minute = min(per_minute, state.declared)
    if state.is_inferred:
        if per_minute >= _effective_rate(state):
            return state
        state = at(state, now)._replace(is_inferred=False, factor=1.0)
    elif per_minute == state.per_minute:
        return state
    state = at(state, now)._replace(per_minute=per_minute)
    return state._replace(level=min(state.level, full(state)))


def _prepare_lease(state: Bucket, now: float, want: float) -> tuple[Bucket, float]:
    """The bucket with the advance paid, and the seconds for which `want` has to wait."""
    state = at(state, now)
    half_full = full(state) / 2
    if want > state.largest:
        in_advance = max(0.0, want - max(half_full, state.largest))
        state = state._replace(level=state.level - in_advance, largest=want)
    # Half is enough for a large call: the other half keeps what a late timer would lose.
    needed = min(max(0.0, want), half_full)
    wait = (needed - state.level) / _fill_per_second(state)
    if wait > _CLOCK_SECONDS:
        return state._replace(held_at=now), wait
    return state, 0.0


def _withdraw(state: Bucket, want: float) -> Bucket:
    return state._replace(level=state.level - max(0.0, want))


def _effective_rate(state: Bucket) -> float:
    return state.per_minute * state.factor


def _recovered_factor(state: Bucket, now: float) -> float:
    """The factor at this time. A pause is no evidence, nor is an inferred limit out of use."""
    max_factor = state.declared / state.per_minute if state.is_inferred else 1.0
    is_unused = state.is_inferred and state.level >= full(state)
    if state.factor >= max_factor or is_unused or now < state.until:
        return state.factor
    doublings = max(0.0, state.at - state.cut_at) / _QUIET_SECONDS - 1
    speedup = math.exp2(min(max(0.0, doublings), 10.0))
    caution = min(_MAX_CAUTION, state.pause_seconds / _CHEAP_SECONDS) / speedup
    speed = _REGAIN_PER_SECOND * speedup / max(1.0, caution)
    speed = min(_MAX_REGAIN_PER_SECOND, speed) * max(1.0, state.factor)
    return min(max_factor, state.factor + speed * (now - max(state.at, min(now, state.until))))


def _fill_per_second(state: Bucket) -> float:
    return PACE * state.per_minute / 60 * state.factor
