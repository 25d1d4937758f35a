"""An event loop whose time jumps to the next timer: hours of waiting take no time at all.

Code under test runs unchanged: `anyio.sleep`, `move_on_after`, `Event`, `current_time` and
`to_thread` work as ever. A test that sleeps is slow, and wrong on a busy machine; a test with
patched sleeps does not test the waiting.

    async def hour() -> float:
        await anyio.sleep(3600)
        return anyio.current_time()

    assert run(hour) == 3600.0

pytest: `anyio_backend = ("asyncio", {"loop_factory": VirtualLoop})`. Code that takes a clock gets
`anyio.current_time`.
"""

from __future__ import annotations

import asyncio
import queue
import random
import selectors
import threading
from asyncio.events import Handle
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple, Unpack

from anyio import CapacityLimiter
from anyio.to_thread import current_default_thread_limiter

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Of real time: a thread that takes longer hangs, and a test that hangs tells nothing.
THREAD_SECONDS = 60.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own, which starts at `start` and moves only while nobody works.

    Threads count as work: time stands still until they are done, and what they bring is taken in
    when the loop has nothing else to do, so that their speed decides nothing. anyio's threads run
    one after the other, and must not wait for time to pass. Sockets are no part of it: what the
    kernel still carries is not seen.

    Invariant: the same program gives the same order of events and the same times, every time.
    Raises: RuntimeError out of `run` where nothing is left that could ever happen, and where a
    thread hangs.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = float(start)
        self._owner = threading.get_ident()
        self._busy = 0
        self._brought: queue.SimpleQueue[Handle] = queue.SimpleQueue()
        self._limiter: CapacityLimiter | None = None
        self.jumps = 0
        """How often time moved."""
        super().__init__(_Jumping(self))

    def time(self) -> float:
        """Seconds on the virtual clock."""
        return self._now

    def idle(self, seconds: float | None) -> None:
        """Nothing is ready: wait for a thread, else let time pass; None: no timer is set."""
        if self._take(wait=self._threads() > 0):
            return
        if seconds is None:
            raise RuntimeError("virtual clock: everybody waits, and no timer is set")
        self._now += seconds
        self.jumps += 1

    def one_thread(self) -> None:
        """Let anyio run one thread at a time: the order in which two finish is chance."""
        if self._limiter is None:
            self._limiter = current_default_thread_limiter()
            self._limiter.total_tokens = 1

    def run_forever(self) -> None:
        """As any loop does."""
        self._owner = threading.get_ident()
        super().run_forever()

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> Handle:
        """From another thread: kept until the loop has nothing else to do."""
        if threading.get_ident() == self._owner:
            return super().call_soon(callback, *args, context=context)
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        handle = Handle(callback, args, self, context)
        self._brought.put(handle)
        return handle

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """As any loop does; time stands still meanwhile."""
        self._busy += 1
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._done)
        return future

    async def shutdown_default_executor(self, *_: float | None) -> None:
        """As any loop does; time stands still meanwhile."""
        self._busy += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._busy -= 1

    def _done(self, _: object) -> None:
        self._busy -= 1

    def _threads(self) -> int:
        return self._busy + (self._limiter.borrowed_tokens if self._limiter else 0)

    def _take(self, *, wait: bool) -> bool:
        """Whether a thread brought something."""
        try:
            handle = self._brought.get(block=wait, timeout=THREAD_SECONDS)
        except queue.Empty:
            if wait:
                raise RuntimeError(
                    f"virtual clock: a thread has worked for {THREAD_SECONDS:g} s"
                ) from None
            return False
        self.call_soon(_run, handle)
        return True


class _Jumping(selectors.DefaultSelector):
    """Where a loop would sleep: the one place that every way of waiting comes through."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.one_thread()
        if timeout is not None and timeout <= 0:
            return []  # somebody is ready: the kernel is asked when nobody is
        found = super().select(0)
        if not found:
            self._loop.idle(timeout)
        return found


def _run(handle: Handle) -> None:
    if not handle.cancelled():
        handle._run()


def run(main: Callable[[], Awaitable[T]], *, seed: int = 0, start: float = 0.0) -> T:
    """What `main` gives back, on a virtual clock.

    `random` draws from `seed` meanwhile, so that code which nobody hands a generator is repeatable
    too; afterwards it goes on as if nothing had been.

    Units: `start` in seconds: what the clock shows at first.
    """

    async def wrapped() -> T:
        return await main()

    drawn: Any = random.getstate()
    random.seed(seed)
    try:
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(start)) as runner:
            return runner.run(wrapped())
    finally:
        random.setstate(drawn)
