"""The live statistics of one endpoint, which routing and summaries read."""

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
"""Latencies from 1 ms to 10 minutes in buckets 10 % apart, which is the precision of quantiles."""


class EndpointMeter:
    """Counts the calls of one endpoint; only the loop thread writes it."""

    def __init__(self) -> None:
        self.usage = Usage()
        self.share = 0.0
        """Requests sent, divided by weight: `route = "weighted"` keeps it equal."""
        self._seconds = 0.0
        self._success = 1.0
        self._first = math.inf
        self._last = 0.0
        self._histogram = [0] * (len(_BOUNDS) + 1)

    @property
    def expected_seconds(self) -> float:
        """Recent seconds per answered call, failed attempts included; 0 while unknown."""
        return self._seconds / max(0.05, self._success)

    @property
    def usual_seconds(self) -> float:
        """The time within which 95 % of the answered calls returned; 0 while unknown."""
        return self._quantile(0.95)

    def answered(self, started: float, now: float, usage: Usage) -> None:
        """Count a call that brought answers."""
        seconds = now - started
        self.usage += usage
        self._count(started, now, 1.0)
        self._seconds += (seconds - self._seconds) * (_SMOOTH if self._seconds else 1.0)
        self._histogram[bisect.bisect_left(_BOUNDS, seconds)] += 1

    def refused(self, started: float, now: float, usage: Usage) -> None:
        """Count a call that brought an error, or never reached the server."""
        self.usage += usage
        self._count(started, now, 0.0)
        # An endpoint that only rejects must not look like one without data.
        self._seconds = self._seconds or now - started

    def stats(self, name: str) -> EndpointStats:
        """The statistics so far."""
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

    def _count(self, started: float, now: float, success: float) -> None:
        self._success += _SMOOTH * (success - self._success)
        self._first = min(self._first, started)
        self._last = now

    def _quantile(self, q: float) -> float:
        """The upper end of the bucket in which this share of the latencies is reached."""
        rank, cumulated = q * sum(self._histogram), 0
        for at, count in enumerate(self._histogram):
            cumulated += count
            if count and cumulated >= rank:
                return round(_BOUNDS[min(at, len(_BOUNDS) - 1)], 4)
        return 0.0
