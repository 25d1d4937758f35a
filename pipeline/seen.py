"""Which names came before, in 8 bytes each.

A plan counts equal requests once. A set of a million keys is 130 MB, and a plan is made before
every run with a budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np

RECENT = 50_000


class Seen:
    """The names so far. Two of them may be taken for one: of a million once in 30 million plans."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._older = np.empty(0, np.uint64)

    def __len__(self) -> int:
        return len(self._recent) + len(self._older)

    def are_new(self, names: Sequence[bytes]) -> list[bool]:
        """Of each name whether it comes for the first time; all of them have come then."""
        marks = [int.from_bytes(sha256(name).digest()[:8], "big") for name in names]
        packed = np.array(marks, np.uint64)
        older = np.zeros(len(names), np.bool_)
        if len(self._older):
            at = np.searchsorted(self._older, packed)
            older = self._older[np.minimum(at, len(self._older) - 1)] == packed
        found = []
        for mark, is_old in zip(marks, older.tolist(), strict=True):
            is_new = not is_old and mark not in self._recent
            if is_new:
                self._recent.add(mark)
            found.append(is_new)
        if len(self._recent) > RECENT:
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._older = np.sort(np.concatenate([self._older, recent]))
            self._recent.clear()
        return found
