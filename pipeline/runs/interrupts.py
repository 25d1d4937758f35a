"""Ends a run from outside: signals and a time of day."""

from __future__ import annotations

import datetime as dt
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

from pipeline.errors import TERMINATED, Interrupted, TextmillError, TimeLimit

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

CLOCK_CHECK_SECONDS = 30.0
"""How often `run.until` is compared with the clock, because a machine that slept wakes late."""


Drain = Callable[[TextmillError, float | None], None]
"""Starts no new call, and ends the run with this error when the calls in flight have returned, or
after this many seconds; None: the grace time of the job."""


class Interrupts:
    """The first interrupt drains, the second ends the run at once; a commit is never interrupted.

    The watchers run beside the run, in one task group. They raise the error themselves only if
    there is nothing to drain.
    """

    def __init__(self) -> None:
        self.is_committing = False
        self._drain: Drain | None = None
        self._first: TextmillError | None = None
        self._is_signalled = False

    @contextmanager
    def draining(self, drain: Drain) -> Iterator[None]:
        """While calls are in flight, an interrupt drains them."""
        self._drain = drain
        yield
        # Skipped after an error: the run then ends with that error.
        self._drain = None

    async def watch_signals(self) -> None:
        """The first signal drains, the second one ends the run at once."""
        # A signal that the caller ignores, as nohup does, is ignored here too.
        signals = [each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
        if not signals:
            return
        with anyio.open_signal_receiver(*signals) as received:
            async for number in received:
                # SIGHUP, from a terminal that closes, is an orderly end like SIGTERM.
                code = Interrupted.exit_code if number == signal.SIGINT else TERMINATED
                self._end(Interrupted(number.name, code), is_second=self._is_signalled)
                self._is_signalled = True

    async def watch_clock(self, until: str) -> None:
        """Drains at this time of day. The moment is fixed at the start; clock changes do not move
        it."""
        now = time.time()
        ends = steady() + next_moment(until, now) - now
        while (left := ends - steady()) > 0:  # noqa: ASYNC110 - no event tells the time
            await anyio.sleep(min(left, CLOCK_CHECK_SECONDS))
        if self._first is None:
            self._end(TimeLimit(f"run.until = {until} reached; run the same command to resume"))

    def _end(self, error: TextmillError, *, is_second: bool = False) -> None:
        if self.is_committing:
            return
        self._first = self._first or error
        if self._drain is None:
            raise self._first
        self._drain(error, 0.0 if is_second else None)


def next_moment(until: str, now: float) -> float:
    """The first moment after `now` at which local clocks show `until` (`06:00`).

    Units: seconds since the epoch. A time that the clocks skip counts as about the moment of the
    skip; of a time that they show twice, the next one counts.
    """
    at = dt.time.fromisoformat(until)
    today = dt.datetime.fromtimestamp(now).date()  # local, as people mean it
    moments = [
        dt.datetime.combine(today + dt.timedelta(days), at).replace(fold=fold).timestamp()
        for days in (0, 1, 2)
        for fold in (0, 1)
    ]
    return min(moment for moment in moments if moment > now)


def steady() -> float:
    """Seconds of a clock that runs while the machine sleeps and does not jump when it is set."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
