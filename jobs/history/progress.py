"""The progress of a run, counted from its events."""

from __future__ import annotations

import time
from collections.abc import Callable

from jobs.format import cached_share, cost, duration
from pipeline import events
from pipeline.records import Usage
from pipeline.text import many, printable


class Progress:
    """The statistics of a run so far, from its events."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.started = clock()
        self.total = 0
        self.admitted = 0
        self.ok = 0
        self.partial = 0
        self.failed = 0
        self.requests = 0
        self.cached = 0
        self.endpoints: dict[str, Usage] = {}
        """The usage of each."""
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
                self.cached += event.cached
            case events.CallEnded():
                before = self.endpoints.get(event.endpoint, Usage())
                self.endpoints[event.endpoint] = before + event.usage
            case events.Paused():
                self.last_pause = event
            case events.Written():
                self.ok += event.ok
                self.partial += event.partial
                self.failed += event.failed
            case events.Draining():
                self.draining = event

    @property
    def usage(self) -> Usage:
        """The usage of all endpoints."""
        return sum(self.endpoints.values(), Usage())

    @property
    def stats(self) -> events.RunStats:
        """The same as a record; its duration is set when the run has ended."""
        return events.RunStats(
            documents=self.total,
            ok=self.ok,
            partial=self.partial,
            failed=self.failed,
            requests=self.requests,
            cached=self.cached,
            usage=self.usage.rounded(),
        )

    @property
    def done(self) -> float:
        """Documents written, or an estimate from the share of requests with a result."""
        finished = self.cached + self.usage.requests
        share = min(1.0, finished / self.requests) if self.requests else 0.0
        return max(float(self.ok + self.partial + self.failed), self.admitted * share)

    def line(self) -> str:
        """Everything on one line."""
        seconds = max(1e-9, self._clock() - self.started)
        usage, failed = self.usage, self.failed + self.partial
        parts = [f"{int(self.done):,} of {many(self.total, 'document')}"]
        if usage.calls:
            parts.append(f"{usage.calls / seconds:,.1f} calls/s")
        parts += cached_share(self.cached, self.requests)
        if failed:
            parts.append(f"{failed:,} failed")
        if usage.cost_usd:
            parts.append(cost(usage))
        if usage.errors:
            parts.append(many(usage.errors, "error"))
        if self.draining:
            in_flight = self.draining.in_flight
            draining = f"draining {many(in_flight, 'request')} in flight"
            parts.append(draining if in_flight else "finishing")
        elif 0 < self.done < self.total:
            parts.append(f"{duration(seconds / self.done * (self.total - self.done))} left")
        return ", ".join(parts)

    def warning(self) -> str | None:
        """The last pause: endpoint, error, number and delay of the retry."""
        pause = self.last_pause
        if pause is None:
            return None
        source = " (set by the server)" if pause.asked else ""
        return (
            f"endpoint {pause.endpoint}: {printable(pause.message, 100)}; "
            f"retry {pause.times:,} in {pause.seconds:.1f} s{source}"
        )
