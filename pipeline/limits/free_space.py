"""Free disk space for answers, measured at most once a second.

A measurement takes 0.4 ms on a busy machine and longer over a network. Before each call it would be
most of what a call costs.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

EVERY_SECONDS = 1.0
BASE_BYTES = 1 << 20
ANSWER_BYTES = 16_384
"""Room for one answer: a vector of 2,048 floats, in SQLite's log and in its database."""


class FreeSpace(NamedTuple):
    """Free bytes as last measured. Units: seconds on the caller's monotonic clock."""

    free_bytes: int = 0
    measured_at: float = -inf

    def at(self, now: float, measure: Callable[[], int]) -> FreeSpace:
        """The free space, measured again if it is a second old."""
        if now - self.measured_at < EVERY_SECONDS:
            return self
        return FreeSpace(measure(), now)


def needed_bytes(requests: int) -> int:
    """What must be free before a call, for the answers to all requests in flight with it."""
    return BASE_BYTES + ANSWER_BYTES * requests
