"""The clock of this process: it stands still while the process does.

A process is stopped (SIGSTOP, a paused container) or its event loop is blocked for minutes. When it
goes on, every timer is due at once, before a socket is read: deadlines would cancel calls whose
answers have arrived, and the gap would count as an outage of the server. So a heartbeat runs in the
loop, and this clock never is more than two seconds ahead of the last beat. A suspended machine
needs nothing more: the monotonic clock of Linux and macOS does not count that time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import anyio

BEAT_SECONDS = 0.25
LEAD_SECONDS = 2.0
"""A beat that is late by less is the work of a busy loop."""
READ_SECONDS = 1.0
"""After a gap, what has arrived meanwhile is read before a deadline counts again."""


class Beat(NamedTuple):
    """The last heartbeat. Units: seconds, `loop` on the clock of the event loop, `now` on this
    one."""

    loop: float
    now: float
    woke: float = -math.inf
    """The time on the loop's clock at which the last gap was over."""


def clock(beat: Beat, loop: float) -> float:
    """The time on this clock. Invariant: it never goes back, and never faster than the loop's."""
    return beat.now + min(LEAD_SECONDS, loop - beat.loop)


def beaten(beat: Beat, loop: float) -> Beat:
    """The next heartbeat; a late one ends a gap."""
    is_late = loop - beat.loop > LEAD_SECONDS
    return Beat(loop, clock(beat, loop), loop if is_late else beat.woke)


def is_waking(beat: Beat, loop: float) -> bool:
    """True during a gap, and for a second after it."""
    return loop - beat.loop > LEAD_SECONDS or loop - beat.woke < READ_SECONDS


class _Process:
    """One process has one clock; without a heartbeat it is the loop's. Only the loop's thread uses
    it."""

    beat: Beat | None = None


@contextmanager
def heartbeat() -> Iterator[None]:
    """Beats in the running loop. Raises: RuntimeError outside of one."""
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def beat() -> None:
        nonlocal timer
        if _Process.beat is not None:
            _Process.beat = beaten(_Process.beat, loop.time())
        timer = loop.call_later(BEAT_SECONDS, beat)

    _Process.beat = Beat(loop.time(), loop.time())
    timer = loop.call_later(BEAT_SECONDS, beat)
    try:
        yield
    finally:
        timer.cancel()
        _Process.beat = None


def now() -> float:
    """Seconds on the clock of this process."""
    loop = anyio.current_time()
    return loop if _Process.beat is None else clock(_Process.beat, loop)


class Deadline:
    """Cancels a scope at a time of this clock. Use as a context manager."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        self._scope = scope
        self._ends = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Deadline:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def move(self, ends: float) -> None:
        """Cancel at this time instead."""
        if self._timer is None or ends < self._ends:
            self._ends = ends
            self._arm(ends - now())
        self._ends = ends  # a timer that is too early is armed again

    def _arm(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._due)

    def _due(self) -> None:
        beat, loop = _Process.beat, anyio.current_time()
        if beat is not None and is_waking(beat, loop):
            self._arm(READ_SECONDS)
        elif (left := self._ends - now()) > 0:
            self._arm(left)
        else:
            self._scope.cancel()
