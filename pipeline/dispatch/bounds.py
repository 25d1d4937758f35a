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
        self, now: float, requests: int, spent_usd: float, expected_usd: float
    ) -> TextmillError | None:
        """The error that forbids a call; `requests` are those in flight with it, `expected_usd` the
        most that they may cost beside what is spent."""
        self._free_space = self._free_space.at(now, self._free_bytes)
        if (free := self._free_space.free_bytes) < (needed := needed_bytes(requests)):
            return StorageError(
                f"{self._folder}: {free:,} bytes free, {needed:,} needed for a call",
                hint="free space and run again; every answer so far is kept",
            )
        if self._max_cost_usd is not None and spent_usd + expected_usd > self._max_cost_usd:
            return BudgetError(
                f"budget.max_cost_usd = {self._max_cost_usd:g} reached: ${spent_usd:.4f} spent",
                hint="answers so far are kept; raise the budget or run again to continue",
            )
        return None
