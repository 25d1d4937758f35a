"""When a night is over: `run.until` as a moment."""

from __future__ import annotations

import datetime as dt
import time


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
