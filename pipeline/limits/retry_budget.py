"""The retry budget: an outage uses it up, answers refill it.

Retries turn a server's bad minute into a bad hour. While answers arrive, they pay for the retries;
without answers the budget empties, and one retry a second still goes. The budget slows a run: it
never fails a row and never stops a run, so its only result is a wait.
"""

from __future__ import annotations

import math
from typing import NamedTuple

FULL = 500.0
PER_ANSWER = 7.0
"""At 14 for the retry of a failed call, answers pay for retries while up to a third of calls fail.
`pipeline.errors` defines the cost of a retry."""

_EMPTY_SECONDS = 1.0
_CLOCK_SECONDS = 1e-6


class RetryBudget(NamedTuple):
    """Invariant: 0 <= left <= 500. Units: seconds on the caller's monotonic clock."""

    left: float = FULL
    last: float = -math.inf
    """The last retry that was granted on an empty budget."""


def spend(state: RetryBudget, now: float, cost: float) -> tuple[RetryBudget, float]:
    """Spend one retry and return 0, or spend nothing and return the seconds until the next try."""
    if state.left >= cost:
        return state._replace(left=state.left - cost), 0.0
    wait = state.last + _EMPTY_SECONDS - now
    if wait > _CLOCK_SECONDS:
        return state, wait
    return state._replace(last=now), 0.0


def earn(state: RetryBudget) -> RetryBudget:
    """The budget after an answered call, whatever its number of requests: a retry is a call,
    too."""
    return state._replace(left=min(FULL, state.left + PER_ANSWER))
