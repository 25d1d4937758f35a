"""How far a run is, counted from its events."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobs.format import duration, ordinal
from pipeline import events
from pipeline.text import many, printable


class Progress:
    """The figures of a run so far, from its events."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.started = clock()
        self.total = 0
        self.admitted = 0
        self.written = 0
        self.failed = 0
        self.requests = 0
        self.settled = 0
        self.cached = 0
        self.calls = 0
        self.errors = 0
        self.cost_usd = 0.0
        self.last_pause: events.Paused | None = None
        self.draining: events.Draining | None = None

    def on(self, event: events.Event) -> None:
        match event:
            case events.Surveyed():
                self.total = event.documents
                self.started = self._clock()
            case events.Admitted():
                self.admitted += event.documents
                self.requests += event.requests
                self.settled += event.cached
                self.cached += event.cached
            case events.CallEnded():
                self.calls += 1
                self.cost_usd += event.cost_usd
                if event.error is None:
                    self.settled += event.requests
                else:
                    self.errors += 1
            case events.Paused():
                self.last_pause = event
            case events.Written():
                self.written += event.documents
                self.failed += event.failed + event.partial
            case events.Draining():
                self.draining = event

    @property
    def done(self) -> float:
        """Documents written, or as good as: their share of the requests that are settled."""
        share = min(1.0, self.settled / self.requests) if self.requests else 0.0
        return max(float(self.written), self.admitted * share)

    def line(self) -> str:
        """Everything on one line."""
        seconds = max(1e-9, self._clock() - self.started)
        parts = [f"{int(self.done):,} of {many(self.total, 'document')}"]
        if self.calls:
            parts.append(f"{self.calls / seconds:,.1f} calls/s")
        if self.requests:
            parts.append(f"{self.cached * 100 // self.requests} % cached")
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        if self.cost_usd:
            parts.append(f"${self.cost_usd:,.2f}")
        if self.errors:
            parts.append(many(self.errors, "error"))
        if self.draining:
            waiting = f"draining {many(self.draining.in_flight, 'request')} in flight"
            parts.append(waiting if self.draining.in_flight else "finishing")
        elif 0 < self.done < self.total:
            parts.append(f"{duration(seconds / self.done * (self.total - self.done))} left")
        return ", ".join(parts)

    def warning(self) -> str | None:
        """The last pause, with how often there was one."""
        pause = self.last_pause
        if pause is None:
            return None
        asked = " (asked by server)" if pause.asked else ""
        return (
            f"{printable(pause.message, 100)} from {pause.endpoint}, pausing {pause.seconds:.1f} s"
            f"{asked}, {ordinal(pause.times)} time"
        )
