"""Adaptive concurrency: how many calls may be in flight, one decision per round trip.

A server rarely reports how many calls it works on at once. So the window starts at 8, grows by half
per round trip until the first cut, then by one (below 16 by less). It is cut once per round trip
when the server rejects a call for lack of capacity, or when calls take twice as long and throughput
does not rise. Deciding at every reply instead gave 24 to 38 % rejects; reacting to every change of
latency misreads work whose size varies.

A round trip ends when every call that was in flight at the last decision has returned. Rounds are
counted, not timed: a call carries the number of the round in which it began.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

START = 8
_RISE = 1.5
_CUT_RISING = 0.9
_CUT = 0.95
"""After the rise, half the cut: 94 instead of 92 % of 32 slots, 0.9 instead of 0.5 % rejects."""
_STEP = 16
"""Below 16 the window grows by size / 16: against a server with one slot, +1 gave 88 % rejects,
this gives 9 %."""
_SLOW = 2.0
_BETTER = 1.05
_SMOOTH = 0.2
_FORGET = 1.002
"""Per round: the best figures fade within minutes, because texts may have become longer."""

CallResult = Literal["answered", "refused", "else"]
"""How a call returned. refused: 429, 503 or 529, and no known limit explains it."""


class Concurrency(NamedTuple):
    """Invariant: 1 <= size <= ceiling; awaited <= in_flight."""

    ceiling: int
    size: float
    in_flight: int = 0
    round: int = 0
    awaited: int = 0
    """Calls of earlier rounds still in flight: at 0 this round is over."""
    cut_round: int = 0
    """The round that the last cut began: rejects of earlier calls are no new evidence."""
    is_rising: bool = True
    was_full: bool = False
    """In this round calls had to wait for room; else more room would tell nothing."""
    is_slow: bool = False
    since: float = 0.0
    """When this round began."""
    answers: int = 0
    seconds: float = 0.0
    """Answers of this round, and the sum of their latencies."""
    latency: float = 0.0
    rate: float = 0.0
    """Seconds per answer, answers per second: of the last round, smoothed after the rise."""
    best_latency: float = 0.0
    best_rate: float = 0.0


def concurrency(ceiling: int, now: float) -> Concurrency:
    """The state with nothing in flight. Raises: ValueError for a ceiling below 1."""
    if ceiling < 1:
        raise ValueError(f"concurrency = {ceiling} must be at least 1")
    return Concurrency(ceiling, float(min(START, ceiling)), since=now)


def has_room(state: Concurrency) -> bool:
    """True if one more call may go."""
    return state.in_flight < int(state.size)


def sent(state: Concurrency) -> Concurrency:
    """The state after a call went out; the call carries `state.round` until it returns."""
    in_flight = state.in_flight + 1
    return state._replace(
        in_flight=in_flight, was_full=state.was_full or in_flight >= int(state.size)
    )


def returned(
    state: Concurrency, now: float, round: int, seconds: float, result: CallResult
) -> Concurrency:
    """The state after the return of a call that began in `round` and took `seconds`."""
    is_answer = result == "answered"
    in_flight = max(0, state.in_flight - 1)
    # A round that began with nothing in flight awaits the calls sent before its first reply.
    is_first = not state.awaited
    state = state._replace(
        in_flight=in_flight,
        round=state.round + is_first,
        awaited=in_flight if is_first else state.awaited - (round < state.round),
        answers=state.answers + is_answer,
        seconds=state.seconds + seconds * is_answer,
    )
    if result == "refused" and round >= state.cut_round:
        cut = _CUT_RISING if state.is_rising else _CUT
        # By one whole call at least: else the rejected call is sent again at once, and again.
        size = min(state.size * cut, float(int(state.size) - 1))
        return _next_round(_resized(state, size), now, is_cut=True)
    if state.awaited or not state.answers:
        return state
    best_rate = state.best_rate
    state = _measured(state, now)
    if not state.was_full:
        return _next_round(state, now)
    is_slow = state.latency > _SLOW * state.best_latency and state.rate < _BETTER * best_rate
    if (
        is_slow
    ):  # cut once, then hold: if longer texts are the cause, a smaller window does not help
        held = state if state.is_slow else _resized(state, state.size * _CUT)
        return _next_round(held._replace(is_slow=True), now, is_cut=not state.is_slow)
    grown = state.size * _RISE if state.is_rising else state.size + min(1.0, state.size / _STEP)
    return _next_round(state._replace(size=min(float(state.ceiling), grown), is_slow=False), now)


def calls_per_second(state: Concurrency) -> float:
    """The rate that this window reaches; 0 before the first answer, while latency is unknown."""
    return state.size / state.latency if state.latency else 0.0


def _resized(state: Concurrency, size: float) -> Concurrency:
    return state._replace(size=max(1.0, min(float(state.ceiling), size)), is_rising=False)


def _next_round(state: Concurrency, now: float, is_cut: bool = False) -> Concurrency:
    return state._replace(
        round=state.round + 1,
        cut_round=state.round + 1 if is_cut else state.cut_round,
        awaited=state.in_flight,
        was_full=state.in_flight >= int(state.size),
        since=now,
        answers=0,
        seconds=0.0,
    )


def _measured(state: Concurrency, now: float) -> Concurrency:
    """The state with this round's answers in the smoothed and the best figures."""
    latency = state.seconds / state.answers
    rate = state.answers / (now - state.since) if now > state.since else state.rate
    if state.latency and not state.is_rising:  # smoothing lags, and a rise is 1.5 a round
        latency = state.latency + _SMOOTH * (latency - state.latency)
        rate = state.rate + _SMOOTH * (rate - state.rate)
    best = state.best_latency * _FORGET or latency
    return state._replace(
        latency=latency,
        rate=rate,
        best_latency=min(best, latency),
        best_rate=max(state.best_rate / _FORGET, rate),
    )
