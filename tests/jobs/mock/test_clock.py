"""The virtual clock's promises: time jumps, threads hold it, and the same program runs the same way."""

from __future__ import annotations

import asyncio
import random
import threading
import time

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.mock import VirtualLoop, clock

SECONDS = st.floats(0, 1e6, allow_nan=False)


@settings(deadline=None, max_examples=50)
@given(st.lists(SECONDS, max_size=20))
def test_sleepers_wake_in_the_order_of_their_times_and_at_these_times(waits: list[float]) -> None:
    async def main() -> tuple[list[tuple[int, float]], float]:
        woken = []

        async def sleeper(number: int) -> None:
            await anyio.sleep(waits[number])
            woken.append((number, anyio.current_time()))

        async with anyio.create_task_group() as group:
            for number in range(len(waits)):
                group.start_soon(sleeper, number)
        return woken, anyio.current_time()

    woken, end = clock.run(main)
    assert [at for _, at in woken] == pytest.approx(sorted(waits), abs=1e-8)
    assert end == pytest.approx(max(waits, default=0.0), abs=1e-8)
    assert clock.run(main) == (woken, end)


def test_a_thousand_hours_are_a_thousand_jumps_and_no_sleep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("slept")

    monkeypatch.setattr(time, "sleep", never)

    async def main() -> tuple[float, int]:
        for _ in range(1000):
            await anyio.sleep(3600)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        return anyio.current_time(), loop.jumps

    assert clock.run(main) == (3_600_000.0, 1000)


def test_it_starts_at_the_given_time() -> None:
    async def main() -> float:
        await anyio.sleep(5)
        return anyio.current_time()

    assert clock.run(main, start=100) == 105.0


def test_a_thread_holds_time_still_however_long_it_works() -> None:
    async def main() -> tuple[float, bool]:
        fired = anyio.Event()
        gate = threading.Event()

        async def timer() -> None:
            await anyio.sleep(0.001)
            fired.set()

        def work() -> bool:
            gate.wait(10)  # set from the loop: it runs on while the thread works
            return fired.is_set()

        async with anyio.create_task_group() as group:
            group.start_soon(timer)
            asyncio.get_running_loop().call_soon(gate.set)
            result = await anyio.to_thread.run_sync(work)
            now = anyio.current_time()
        return now, result

    assert clock.run(main) == (0.0, False)


def test_threads_finish_one_after_the_other_in_the_order_of_their_calls() -> None:
    async def main() -> list[tuple[int, float]]:
        done: list[tuple[int, float]] = []

        async def call(number: int) -> None:
            # The first has most to do: in real threads it would be the last.
            await anyio.to_thread.run_sync(sum, range(200_000 // (number + 1)))
            done.append((number, anyio.current_time()))
            await anyio.sleep(1)

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(call, number)
        return done

    assert clock.run(main) == [(number, 0.0) for number in range(8)]


def test_a_thread_may_ask_the_loop_and_an_executor_works_too() -> None:
    async def main() -> tuple[float, int, float]:
        await anyio.sleep(2)
        time_in_loop = await anyio.to_thread.run_sync(anyio.from_thread.run_sync, anyio.current_time)
        number = await asyncio.get_running_loop().run_in_executor(None, sum, (1, 2))
        return time_in_loop, number, anyio.current_time()

    assert clock.run(main) == (2.0, 3, 2.0)


def test_deadlines_pass_in_virtual_time() -> None:
    async def main() -> tuple[bool, float]:
        with anyio.move_on_after(300) as scope:
            await anyio.Event().wait()
        return scope.cancelled_caught, anyio.current_time()

    assert clock.run(main) == (True, 300.0)


def test_where_nothing_can_happen_any_more_it_says_so_instead_of_hanging() -> None:
    async def main() -> None:
        await anyio.Event().wait()

    with pytest.raises(RuntimeError, match="all tasks wait, and no timer is set"):
        clock.run(main)


def test_a_thread_that_hangs_is_named_instead_of_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock, "THREAD_SECONDS", 0.01)
    release = threading.Event()

    async def main() -> None:
        await anyio.to_thread.run_sync(release.wait, 30, abandon_on_cancel=True)

    with pytest.raises(RuntimeError, match=r"a thread has worked for 0\.01 s"):
        clock.run(main)
    release.set()


def test_random_draws_from_the_seed_and_goes_on_afterwards_as_if_nothing_had_been() -> None:
    async def main() -> float:
        return random.random()

    random.seed(1)
    expected = [random.random(), random.random()]
    random.seed(1)
    first = random.random()
    draws = [clock.run(main, seed=7), clock.run(main, seed=7), clock.run(main, seed=8)]
    assert draws[0] == draws[1] != draws[2]
    assert [first, random.random()] == expected


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"loop_factory": VirtualLoop})])
@pytest.mark.anyio
async def test_it_is_a_backend_for_tests_of_any_code(anyio_backend: object) -> None:
    began = anyio.current_time()
    await anyio.sleep(86_400)
    assert anyio.current_time() - began == 86_400.0


def test_an_error_of_the_program_comes_out_and_async_generators_are_closed() -> None:
    closed = []

    async def main() -> None:
        async def numbers():  # type: ignore[no-untyped-def]
            try:
                yield 1
                yield 2
            finally:
                closed.append(anyio.current_time())

        running = numbers()
        await anext(running)
        await anyio.sleep(1)
        raise ValueError("of the program")

    with pytest.raises(ValueError, match="of the program"):
        clock.run(main)
    assert closed == [1.0]
