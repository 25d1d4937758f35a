"""How much of the input may be open at once: the bound on memory between source and sink."""

from __future__ import annotations

import anyio


class Window:
    """Counts what is open, in characters and requests; one that is alone always enters.

    Invariant: with more than one group open, neither count is above its bound.
    """

    def __init__(self, most_chars: int, most_requests: int) -> None:
        self._most = (most_chars, most_requests)
        self._open = (0, 0)
        self._groups = 0
        self._left = anyio.Event()

    async def enter(self, chars: int, requests: int) -> None:
        """Return when a group of this size has room."""
        while self._groups and not self._fits(chars, requests):
            await self._left.wait()
        self._groups += 1
        self._open = (self._open[0] + chars, self._open[1] + requests)

    def leave(self, chars: int, requests: int) -> None:
        """A group of this size is written."""
        self._groups -= 1
        self._open = (self._open[0] - chars, self._open[1] - requests)
        self._left.set()
        self._left = anyio.Event()

    def _fits(self, chars: int, requests: int) -> bool:
        return self._open[0] + chars <= self._most[0] and self._open[1] + requests <= self._most[1]
