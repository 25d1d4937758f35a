"""How fast a run may retry: a budget that an outage uses up and answers fill again.

Retries are what turns a server's bad minute into a bad hour. While answers come, they pay for the
retries; when none come the budget empties and one retry a second still goes. It slows a run: it
never fails a row and never stops a run, so there is nothing here that says no, only a wait.
"""

from __future__ import annotations

import math
from typing import NamedTuple

FULL = 500.0
PER_ANSWER = 7.0
"""At 14 for the retry of a failed call, answers carry the retries of up to a third of failures.
What a retry costs stands in `pipeline.errors`."""

_EMPTY_SECONDS = 1.0
_CLOCK_SECONDS = 1e-6


class RetryBudget(NamedTuple):
    """Invariant: 0 <= left <= 500. Units: seconds on the caller's monotonic clock."""

    left: float = FULL
    last: float = -math.inf
    """When the last retry went on an empty budget."""


def spend(state: RetryBudget, now: float, cost: float) -> tuple[RetryBudget, float]:
    """One retry of a call and 0, or nothing spent and the seconds after which to ask again."""
    if state.left >= cost:
        return state._replace(left=state.left - cost), 0.0
    wait = state.last + _EMPTY_SECONDS - now
    if wait > _CLOCK_SECONDS:
        return state, wait
    return state._replace(last=now), 0.0


def earn(state: RetryBudget) -> RetryBudget:
    """A call was answered, however many requests it carried: a retry is a call, too."""
    return state._replace(left=min(FULL, state.left + PER_ANSWER))
