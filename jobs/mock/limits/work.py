"""The workers of a server: it works on some calls at once, and the others wait for their turn.

Most servers refuse nothing: they queue. Then a client sees only that its calls take longer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio


class Workers:
    """Lets `size()` calls work at once, first come, first served; without a size, all of them.

    A size that grows is noticed when a call begins or ends.
    """

    def __init__(self, size: Callable[[], float | None]) -> None:
        self._size = size
        self._busy = 0
        self._waiting: deque[anyio.Event] = deque()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a free worker, and keep it busy meanwhile."""
        mine = anyio.Event()
        self._waiting.append(mine)
        self._assign()
        try:
            await mine.wait()
            yield
        finally:
            if mine.is_set():
                self._busy -= 1
            else:
                self._waiting.remove(mine)
            self._assign()

    def _assign(self) -> None:
        while self._waiting and ((size := self._size()) is None or self._busy < max(1, size)):
            self._busy += 1
            self._waiting.popleft().set()
