"""What ends a run from outside: signals, and a time of day."""

from __future__ import annotations

import datetime as dt
import signal
import time
from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

from pipeline.errors import TERMINATED, Interrupted, TextmillError, TimeLimit

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

CLOCK_CHECK_SECONDS = 30.0
"""So often `run.until` is compared with the clock: a machine that slept wakes late otherwise."""


class Interrupts:
    """Drains once, then leaves at once; a commit is never torn.

    `drain` is set while calls are made: before that there is nothing to drain.
    """

    def __init__(self, group: TaskGroup) -> None:
        self.by: TextmillError | None = None
        """What came first."""
        self.drain: Callable[[TextmillError], None] | None = None
        """Starts no new call; ends the run with this error when those in flight are back."""
        self.is_committing = False
        self._group = group
        self._is_signalled = False

    async def watch_signals(self) -> None:
        """The first signal drains, the second one leaves at once."""
        # What the caller ignores, as nohup does, is ignored here, too.
        watched = [each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
        if not watched:
            return
        with anyio.open_signal_receiver(*watched) as received:
            async for number in received:
                # A terminal that closes asks for an orderly end, as SIGTERM does.
                code = Interrupted.exit_code if number == signal.SIGINT else TERMINATED
                self._end(Interrupted(number.name, code), is_second=self._is_signalled)
                self._is_signalled = True

    async def watch_clock(self, until: str) -> None:
        """Drains at this time of day; the moment is fixed at the start, whatever the clock does."""
        now = time.time()
        ends = steady() + next_moment(until, now) - now
        while (left := ends - steady()) > 0:  # noqa: ASYNC110 - no event tells the time
            await anyio.sleep(min(left, CLOCK_CHECK_SECONDS))
        if self.by is None:
            self._end(TimeLimit(f"run.until = {until} reached; run the same command to resume"))

    def _end(self, error: TextmillError, *, is_second: bool = False) -> None:
        if self.is_committing:
            return
        self.by = self.by or error
        if self.drain is None or is_second:
            self._group.cancel_scope.cancel()
        else:
            self.drain(error)


def next_moment(until: str, now: float) -> float:
    """The first moment after `now` at which local clocks show `until` (`06:00`).

    Units: seconds since the epoch. A time that the clocks skip this night is taken as the moment
    when they skip it, more or less; of one that they show twice the next one counts.
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
    """Seconds that go on while the machine sleeps, and do not jump when its clock is set."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
