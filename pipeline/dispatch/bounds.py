"""What forbids a further call: a full disk, or a budget that is used up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.errors import BudgetError, StorageError, TextmillError
from pipeline.limits.free_space import FreeSpace, needed_bytes


class Bounds:
    """The bounds of a run beside the limits of its endpoints. Units: USD."""

    def __init__(
        self, folder: Path, free_bytes: Callable[[], int], max_cost_usd: float | None
    ) -> None:
        self._folder, self._free_bytes, self._max_cost_usd = folder, free_bytes, max_cost_usd
        self._free_space = FreeSpace()

    def forbids(
        self, now: float, requests: int, spent_usd: Callable[[], float], expected_usd: float
    ) -> TextmillError | None:
        """The error that forbids a call; `requests` are those in flight with it, `expected_usd` the
        most that they may cost beside what is spent. `spent_usd` is called only for a budget."""
        self._free_space = self._free_space.at(now, self._free_bytes)
        if (free := self._free_space.free_bytes) < (needed := needed_bytes(requests)):
            return StorageError(
                f"{self._folder}: {free:,} bytes free, {needed:,} needed for a call",
                hint="free space and run again; every answer so far is kept",
            )
        cap = self._max_cost_usd
        if cap is None or (spent := spent_usd()) + expected_usd <= cap:
            return None
        return BudgetError(
            f"budget.max_cost_usd = {cap:g} reached: ${spent:.4f} spent",
            hint="answers so far are kept; raise the budget or run again to continue",
        )
