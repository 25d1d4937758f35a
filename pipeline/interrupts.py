"""What ends a run from outside: signals, and a time of day."""

from __future__ import annotations

import signal
import sys
import time

import anyio
from anyio.abc import TaskGroup

from pipeline.dispatch import Dispatch
from pipeline.errors import Interrupted, TextmillError, TimeLimit
from pipeline.until import next_moment, steady

SIGNALS = [signal.SIGINT, signal.SIGTERM]
if sys.platform != "win32":
    SIGNALS.append(signal.SIGHUP)

LOOK_SECONDS = 30.0
"""So often `run.until` is compared with the clock: a machine that slept wakes late otherwise."""


class Interrupts:
    """Drains once, then leaves at once; a commit is never torn.

    `dispatch` is set while calls are made: before that there is nothing to drain.
    """

    def __init__(self, group: TaskGroup) -> None:
        self.by: TextmillError | None = None
        """What came first."""
        self.dispatch: Dispatch | None = None
        self.is_committing = False
        self._group = group
        self._is_signalled = False

    async def watch_signals(self) -> None:
        """The first signal drains, the second one leaves at once."""
        # What the caller ignores, as nohup does, is ignored here, too.
        heeded = [each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
        if not heeded:
            return
        with anyio.open_signal_receiver(*heeded) as received:
            async for number in received:
                # A terminal that closes asks for an orderly end, as SIGTERM does.
                code = 130 if number == signal.SIGINT else 143
                self._end(Interrupted(number.name, code), is_second=self._is_signalled)
                self._is_signalled = True

    async def watch_clock(self, until: str) -> None:
        """Drains at this time of day; the moment is fixed at the start, whatever the clock does."""
        now = time.time()
        ends = steady() + next_moment(until, now) - now
        while (left := ends - steady()) > 0:  # noqa: ASYNC110 - no event tells the time
            await anyio.sleep(min(left, LOOK_SECONDS))
        if self.by is None:
            self._end(TimeLimit(f"run.until = {until} reached; run the same command to go on"))

    def _end(self, error: TextmillError, *, is_second: bool = False) -> None:
        if self.is_committing:
            return
        self.by = self.by or error
        if self.dispatch is None or is_second:
            self._group.cancel_scope.cancel()
        else:
            self.dispatch.stop(error)
