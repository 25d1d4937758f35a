"""What went to one endpoint and came back: the live figures that routes and summaries read."""

from __future__ import annotations

import bisect
import math

from msgspec.structs import asdict

from pipeline.events import EndpointStats
from pipeline.records import Usage

_SMOOTH = 0.1
_MIN_SECONDS = 0.001
_STEP = 1.1
_BOUNDS = [_MIN_SECONDS * _STEP**at for at in range(140)]
"""Latencies from 1 ms to 10 minutes fall into buckets a tenth apart: that exact are quantiles."""


class EndpointMeter:
    """Counts one endpoint's calls; only the loop thread writes it."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.share = 0.0
        """Requests sent, by weight: what `route = "weighted"` keeps even."""
        self._seconds = 0.0
        self._success = 1.0
        self._first = math.inf
        self._last = 0.0
        self._histogram = [0] * (len(_BOUNDS) + 1)

    @property
    def expected_seconds(self) -> float:
        """How long a call takes until it brings an answer, lately; 0 while nobody knows."""
        return self._seconds / max(0.05, self._success)

    def answered(self, started: float, now: float, usage: Usage) -> None:
        """A call that began then came back with answers."""
        seconds = now - started
        self.usage += usage
        self._noted(started, now, 1.0)
        self._seconds += (seconds - self._seconds) * (_SMOOTH if self._seconds else 1.0)
        self._histogram[bisect.bisect_left(_BOUNDS, seconds)] += 1

    def refused(self, started: float, now: float, usage: Usage) -> None:
        """A call that began then came back with an error, or never reached the server."""
        self.usage += usage
        self._noted(started, now, 0.0)
        # An endpoint that only refuses must not look as if nothing was known of it.
        self._seconds = self._seconds or now - started

    def stats(self, name: str) -> EndpointStats:
        """The figures so far."""
        answered = sum(self._histogram)
        seconds = self._last - self._first
        return EndpointStats(
            **asdict(self.usage.rounded()),
            name=name,
            success=round(answered / max(1, answered + self.usage.errors), 4),
            p50_seconds=self._quantile(0.5),
            p95_seconds=self._quantile(0.95),
            requests_per_second=round(self.usage.requests / seconds, 2) if seconds > 0 else 0.0,
        )

    def _noted(self, started: float, now: float, success: float) -> None:
        self._success += _SMOOTH * (success - self._success)
        self._first = min(self._first, started)
        self._last = now

    def _quantile(self, q: float) -> float:
        """The upper end of the bucket in which this share of the latencies is reached."""
        wanted, seen = q * sum(self._histogram), 0
        for at, count in enumerate(self._histogram):
            seen += count
            if count and seen >= wanted:
                return round(_BOUNDS[min(at, len(_BOUNDS) - 1)], 4)
        return 0.0
