"""An event loop with a virtual clock that jumps to the next timer: hours of waiting take no time.

Code under test runs unchanged: `anyio.sleep`, `move_on_after`, `Event`, `current_time` and
`to_thread` work as usual. A test that sleeps is slow, and unreliable on a busy machine; a test with
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

# Real time: a thread that takes longer hangs, and a hanging test shows no cause.
THREAD_SECONDS = 60.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop with its own clock, which starts at `start` and moves only while no task is ready.

    Threads count as work: the clock stops until they are done, and the loop takes their callbacks
    when it has nothing else to do, so that their speed does not matter. anyio's threads run one
    after the other, and must not wait for time to pass. Sockets are not supported: the loop does
    not notice data that the kernel still carries.

    Invariant: the same program gives the same order of events and the same times, every time.
    Raises: RuntimeError from `run` if all tasks wait and no timer is set, or if a thread hangs.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = float(start)
        self._owner = threading.get_ident()
        self._busy = 0
        self._from_threads: queue.SimpleQueue[Handle] = queue.SimpleQueue()
        self._limiter: CapacityLimiter | None = None
        self.jumps = 0
        """The number of times that the clock moved."""
        super().__init__(_VirtualSelector(self))

    def time(self) -> float:
        """Seconds on the virtual clock."""
        return self._now

    def idle(self, seconds: float | None) -> None:
        """Wait for a thread, else move the clock; None: no timer is set."""
        if self._run_thread_callback(wait=self._count_threads() > 0):
            return
        if seconds is None:
            raise RuntimeError("virtual clock: all tasks wait, and no timer is set")
        self._now += seconds
        self.jumps += 1

    def limit_threads(self) -> None:
        """Let anyio run one thread at a time: the order in which two finish is random."""
        if self._limiter is None:
            self._limiter = current_default_thread_limiter()
            self._limiter.total_tokens = 1

    def run_forever(self) -> None:
        """Run as any loop does."""
        self._owner = threading.get_ident()
        super().run_forever()

    def call_soon_threadsafe(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> Handle:
        """Schedule a callback; from another thread it waits until the loop has nothing else to
        do."""
        if threading.get_ident() == self._owner:
            return super().call_soon(callback, *args, context=context)
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        handle = Handle(callback, args, self, context)
        self._from_threads.put(handle)
        return handle

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Run the function in a thread; the clock stops meanwhile."""
        self._busy += 1
        future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._end_thread_work)
        return future

    async def shutdown_default_executor(self, *_: float | None) -> None:
        """Shut the executor down; the clock stops meanwhile."""
        self._busy += 1
        try:
            await super().shutdown_default_executor()
        finally:
            self._busy -= 1

    def _end_thread_work(self, _: object) -> None:
        self._busy -= 1

    def _count_threads(self) -> int:
        return self._busy + (self._limiter.borrowed_tokens if self._limiter else 0)

    def _run_thread_callback(self, *, wait: bool) -> bool:
        """Run the callback of a thread; False if there is none."""
        try:
            handle = self._from_threads.get(block=wait, timeout=THREAD_SECONDS)
        except queue.Empty:
            if wait:
                raise RuntimeError(
                    f"virtual clock: a thread has worked for {THREAD_SECONDS:g} s"
                ) from None
            return False
        self.call_soon(_run, handle)
        return True


class _VirtualSelector(selectors.DefaultSelector):
    """The selector of the loop: every way of waiting passes through its `select`."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.limit_threads()
        if timeout is not None and timeout <= 0:
            return []  # a task is ready: the kernel is polled only if none is
        events = super().select(0)
        if not events:
            self._loop.idle(timeout)
        return events


def _run(handle: Handle) -> None:
    if not handle.cancelled():
        handle._run()


def run(main: Callable[[], Awaitable[T]], *, seed: int = 0, start: float = 0.0) -> T:
    """The result of `main`, run on a virtual clock.

    `random` is seeded with `seed` meanwhile, so that code without a generator of its own is
    repeatable, too; its previous state is restored afterwards.

    Units: `start` in seconds: the initial time of the clock.
    """

    async def wrapped() -> T:
        return await main()

    random_state: Any = random.getstate()
    random.seed(seed)
    try:
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(start)) as runner:
            return runner.run(wrapped())
    finally:
        random.setstate(random_state)
