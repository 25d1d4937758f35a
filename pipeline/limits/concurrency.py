"""Adaptive concurrency: how many calls may be in flight, found from the replies alone.

A server rarely reports how many calls it works on at once, and most queue the others: then calls
take longer, and no more of them are answered. So the window starts at 8 and grows with every
answer, until calls take longer nearly in proportion to their number. From then on throughput at a
smaller size is compared with throughput at the present one, again and again: where it is the same,
the window becomes smaller, where it is smaller in proportion, the window grows. Nothing is
remembered from minutes ago, because texts may have become longer meanwhile.

A refusal for lack of capacity cuts the window by 5 to 10 %, once per round trip; from then on it
grows slowly, until 30 rounds bring no refusal. The place of a refused call stays empty until an
answer comes. If none comes and all calls are back, the whole round trip was refused: the window
halves, and returns to its size with the first answers. A round is over when as many calls have
returned as were allowed at its start; waiting for the slowest of them made rounds three times as
long.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from pipeline.limits.stretch import Stretch, is_useless

START = 8
"""Calls before the first answer: what a wrong URL or model name may cost."""
_CUT_RISING = 0.9
_CUT = 0.95
"""After the rise, half the cut: 94 instead of 92 % of 32 slots, 0.9 instead of 0.5 % rejects."""
_STEP = 0.4
_SMALL_STEP = 1 / 24
"""After a refusal the window grows by this a round, below 16 by this share: with twice as much,
32 slots gave 1.8 % rejects instead of 0.8 %, and a server with one slot many more."""
_CALM_ROUNDS = 30
_NARROW = 0.7
"""The smaller size that is tried: 0.7 costs 2 % of throughput at the pace of `_MAX_REST_ROUNDS`."""
_REGROWTH = 0.4
_HEADROOM = 1.2
"""Above the size that latency and throughput suggest, so that no slot of the server is empty."""
_IN_ORDER = 2.5
"""Calls 5 to 8 over calls 1 to 4: by chance, one time in seventy."""
_PRECISE = 0.06**2
_MAX_ROUNDS = 12
"""A stretch is long enough when the relative variance of its mean latency is below the first, or
after this number of rounds."""
_MAX_REST_ROUNDS = 16
_MIN_SIZE = 2.0
"""Of a rest: with one call in flight, no smaller size could be compared."""
_MIN_CEILING = 4
"""Below it, a smaller size would cost half of the throughput, and nothing is compared."""
_PATIENCE_SECONDS = 1.0
_CLOCK_SECONDS = 1e-6
_LOWEST = 8.0
"""A refused round trip halves the window, but at most to this part of its size before: as long as
nothing is answered, the endpoint is paused and probed by single calls anyway."""

CallResult = Literal["answered", "refused", "limited", "else"]
"""How a call returned. refused: 429, 503 or 529. limited: one that a known rate limit explains, so
that the window is not cut."""
Phase = Literal["start", "rise", "climb", "rest", "narrow"]
"""start: until eight answers show whether the server takes one call after the other. rise: the
window grows with every answer. climb: by less than one a round, after a refusal. rest and narrow:
throughput is measured at the size, and at a smaller one."""


class Concurrency(NamedTuple):
    """Invariant: 1 <= size <= ceiling. Units: seconds on the caller's monotonic clock."""

    ceiling: int
    size: float
    phase: Phase = "start"
    calls: int = 0
    """Calls sent so far: the number that a call carries."""
    in_flight: int = 0
    withheld: int = 0
    """Refusals since the last answer: their places stay empty until the next one."""
    refused_at: float = 0.0
    """Time of the last refusal."""
    refused_rounds: int = 0
    """Round trips since the last answer in which every call was refused."""
    was_full: bool = False
    """In this round calls had to wait for room; else more room would tell nothing."""
    is_paced: bool = False
    """In this round a known limit held calls back although there was room. Then the number of calls
    in flight follows from their latency, and a comparison of the two shows nothing."""
    cut_at: int = 0
    """The last call before the latest cut: refusals of calls up to it are no new evidence."""
    goal: float = 0.0
    """The size before whole round trips were refused; the window returns to it fast. 0: there."""
    left: int = 0
    """Returns until this round is over."""
    skipped: int = 0
    """Returns until the measuring begins: these calls were sent at another size."""
    is_falling: bool = False
    """The last comparison made the window smaller."""
    rounds: int = 0
    """rise: 1 in a round without growth, which has to confirm its end. climb: rounds without a
    refusal. rest: the rounds that it has to last."""
    is_first: bool = True
    """In the rise from the start the window doubles every round, later it grows by 0.4."""
    current: Stretch = Stretch()
    """The answers of the present stretch: of a round in a rise, else since the size changed."""
    before: Stretch = Stretch()
    """The stretch that it is compared with."""
    last: Stretch = Stretch()
    """The last stretch that had an answer."""


def concurrency(ceiling: int) -> Concurrency:
    """The state with nothing in flight. Raises: ValueError for a ceiling below 1."""
    if ceiling < 1:
        raise ValueError(f"concurrency = {ceiling} must be at least 1")
    size = min(START, ceiling)
    phase: Phase = "start" if ceiling >= _MIN_CEILING else "rest"
    return Concurrency(ceiling, float(size), phase, left=size // 2)


def allowed(state: Concurrency) -> int:
    """The number of calls that may be in flight."""
    return _narrowed(state.size) if state.phase == "narrow" else int(state.size)


def has_room(state: Concurrency) -> bool:
    """True if one more call may go."""
    return state.in_flight + state.withheld < allowed(state)


def sent(state: Concurrency) -> Concurrency:
    """The state after a call went out; it carries `calls` and `in_flight` until it returns."""
    in_flight = state.in_flight + 1
    return state._replace(
        calls=state.calls + 1,
        in_flight=in_flight,
        was_full=state.was_full or in_flight >= allowed(state),
    )


def held_back(state: Concurrency) -> Concurrency:
    """The state after a call that had room waited for a known limit."""
    return state if state.is_paced else state._replace(is_paced=True)


def release_seconds(state: Concurrency, now: float) -> float:
    """Seconds until withheld places are free although nothing is answered, because a call in flight
    takes too long; infinity: there are none."""
    if not state.withheld:
        return math.inf
    return max(0.0, state.refused_at + max(_PATIENCE_SECONDS, 2 * state.last.latency) - now)


def at(state: Concurrency, now: float) -> Concurrency:
    """The state with withheld places released, once it is time."""
    if state.withheld and release_seconds(state, now) <= _CLOCK_SECONDS:
        return _halved(state)
    return state


def returned(
    state: Concurrency, now: float, number: int, load: int, seconds: float, result: CallResult
) -> Concurrency:
    """The state after the return of a call that took `seconds`; `number` and `load` are what it
    carried."""
    if result == "answered":
        return _answered(state, load, seconds)
    in_flight = max(0, state.in_flight - 1)
    state = state._replace(in_flight=in_flight, left=state.left - 1)
    if result in ("refused", "limited"):
        state = state._replace(withheld=state.withheld + 1, refused_at=now)
        if result == "refused" and number > state.cut_at and not state.refused_rounds:
            state = _cut(state)
    if state.withheld and not in_flight:
        return _halved(state)
    return state


def calls_per_second(state: Concurrency) -> float:
    """The throughput of the last stretch; 0 before the first answer."""
    return state.current.throughput if state.current.answers >= START else state.last.throughput


def _answered(state: Concurrency, load: int, seconds: float) -> Concurrency:
    size, goal = state.size, state.goal
    if goal:
        size = min(size + 1, goal)
        goal = goal if size < goal else 0.0
    elif state.phase == "rise" and state.was_full and not state.rounds:
        size = min(float(state.ceiling), size + (1.0 if state.is_first else _REGROWTH))
    state = state._replace(  # one copy: this is done for every call
        size=size,
        goal=goal,
        in_flight=max(0, state.in_flight - 1),
        left=state.left - 1,
        withheld=0,
        refused_rounds=0,
        skipped=max(0, state.skipped - 1),
        current=state.current if state.skipped else state.current.plus(load, seconds),
    )
    return _round_over(state) if state.left <= 0 else state


def _round_over(state: Concurrency) -> Concurrency:
    """Decides at the end of a round: about the size, or about what to measure next."""
    was_full, is_paced = state.was_full, state.is_paced
    is_full = state.in_flight >= allowed(state)
    state = state._replace(left=allowed(state), was_full=is_full, is_paced=False)
    if state.phase == "start":
        return _started(state)
    if state.phase == "rise":
        return _measured(state) if is_paced else _risen(state)
    if state.phase == "climb":
        if not was_full:
            return _measured(state)
        if state.rounds >= _CALM_ROUNDS:
            return _resting(state)
        size = state.size + min(_STEP, _SMALL_STEP * state.size)
        return _resized(_measured(state), size)._replace(rounds=state.rounds + 1)
    if not was_full or not _is_enough(state) or state.ceiling < _MIN_CEILING:
        return state
    if state.phase == "rest":
        return _turned(state, "narrow", state.current)
    return _compared(state)


def _is_enough(state: Concurrency) -> bool:
    size = allowed(state)
    rounds = state.rounds if state.phase == "rest" else 2
    answers = state.current.answers
    return answers >= rounds * size and (
        state.current.error < _PRECISE or answers >= _MAX_ROUNDS * size
    )


def _started(state: Concurrency) -> Concurrency:
    """After half of the first answers, and after all of them."""
    current, before = state.current, state.before
    if not before.answers:
        return state._replace(
            before=current, current=Stretch(), left=int(state.size) - current.answers
        )
    # Calls that were sent together return in any order, unless the server takes them one by one.
    if current.mean_load > _IN_ORDER * before.mean_load and is_useless(before, current):
        return _fallen(state)
    risen = _resized(_measured(state)._replace(phase="rise", before=current), 2 * state.size)
    return risen._replace(left=allowed(risen))


def _fallen(state: Concurrency) -> Concurrency:
    """The end of a rise: the size is what throughput needs at the latency of before."""
    knee = state.current.throughput * state.before.latency
    return _resting(_resized(state, min(state.size, _HEADROOM * knee)))


def _risen(state: Concurrency) -> Concurrency:
    """The next round of a rise, or its end: calls take longer nearly in proportion."""
    current, before = state.current, state.before
    if not before.answers or current.mean_load < 1.1 * before.mean_load:
        return _measured(state)
    if is_useless(before, current):
        return _fallen(state) if state.rounds else state._replace(rounds=1, current=Stretch())
    if state.size >= state.ceiling and current.mean_load >= 0.9 * state.ceiling:
        return _resting(state)
    return _measured(state)._replace(rounds=0)


def _compared(state: Concurrency) -> Concurrency:
    """After a stretch at the size and one at a smaller size: which share of the difference counted?

    1: throughput fell with the size. 0: it stayed."""
    wide, narrow = state.before, state.current
    fewer = 1 - narrow.mean_load / wide.mean_load if wide.mean_load else 0.0
    if fewer < 0.1 or not wide.throughput:
        return _resting(state)  # there was not enough work to tell
    counted = (1 - narrow.throughput / wide.throughput) / fewer
    doubt = math.sqrt(wide.error + narrow.error) / fewer
    if counted > 0.75 and state.is_falling:
        return _resting(_resized(state, _HEADROOM * state.size))
    if counted > 0.75 and state.size < state.ceiling:
        return _turned(_resized(state, state.size + 1), "rise", wide)._replace(rounds=0)
    if counted < min(0.25, 0.5 - doubt):
        size = max(_MIN_SIZE, float(_narrowed(state.size)))
        if size < state.size:
            return _turned(_resized(state, size), "narrow", narrow)._replace(is_falling=True)
    return _resting(state, min(_MAX_REST_ROUNDS, 2 * state.rounds))


def _resting(state: Concurrency, rounds: int = 2) -> Concurrency:
    state = _resized(state, max(_MIN_SIZE, state.size))
    return _turned(state, "rest", Stretch())._replace(
        rounds=rounds, is_falling=False, is_first=False
    )


def _turned(state: Concurrency, phase: Phase, before: Stretch) -> Concurrency:
    state = _measured(state)._replace(phase=phase, before=before, was_full=False)
    return state._replace(skipped=state.in_flight, left=allowed(state))


def _measured(state: Concurrency) -> Concurrency:
    """A new stretch begins."""
    last = state.current if state.current.answers else state.last
    before = last if state.phase == "rise" else state.before
    return state._replace(last=last, before=before, current=Stretch())


def _cut(state: Concurrency) -> Concurrency:
    cut = _CUT_RISING if state.phase == "rise" else _CUT
    # By one whole call at least: else the rejected call is sent again at once, and again.
    size = min(state.size * cut, float(int(state.size) - 1))
    state = _resized(state, size)._replace(goal=0.0)
    return _turned(state, "climb", Stretch())._replace(cut_at=state.calls, rounds=0)


def _halved(state: Concurrency) -> Concurrency:
    is_new = not (state.current.answers or state.last.answers)
    # A cut is meant for a server that answers other calls: this one has answered none yet.
    goal = min(START, state.ceiling) if is_new else state.goal or state.size
    size = max(1.0, goal / _LOWEST, state.size / 2)
    return state._replace(
        phase="rise" if is_new else state.phase,
        size=size,
        goal=goal,
        withheld=0,
        refused_rounds=state.refused_rounds + 1,
        left=int(size),
        cut_at=state.calls,
    )


def _resized(state: Concurrency, size: float) -> Concurrency:
    return state._replace(size=max(1.0, min(float(state.ceiling), size)))


def _narrowed(size: float) -> int:
    """The smaller size with which this one is compared."""
    return max(1, int(_NARROW * size))
