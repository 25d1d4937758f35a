"""How much of the input may be open at once: the bound on memory between source and sink."""

from __future__ import annotations

import anyio


class Window:
    """Counts what is open, in bytes or so and in entries; one that is alone always enters.

    Invariant: with more than one group open, neither count is above its bound.
    """

    def __init__(self, most_bytes: int, most_entries: int) -> None:
        self._most = (most_bytes, most_entries)
        self._open = (0, 0)
        self._groups = 0
        self._left = anyio.Event()

    async def enter(self, weight: int, entries: int) -> None:
        """Return when a group of this size has room."""
        while self._groups and not self._fits(weight, entries):
            await self._left.wait()
        self._groups += 1
        self._open = (self._open[0] + weight, self._open[1] + entries)

    def leave(self, weight: int, entries: int) -> None:
        """A group of this size is written."""
        self._groups -= 1
        self._open = (self._open[0] - weight, self._open[1] - entries)
        self._left.set()
        self._left = anyio.Event()

    def _fits(self, weight: int, entries: int) -> bool:
        return self._open[0] + weight <= self._most[0] and self._open[1] + entries <= self._most[1]
