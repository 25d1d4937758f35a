"""The open documents are bounded, and no group waits for ever."""

from collections import deque

import anyio
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from pipeline import loop
from pipeline.dispatch.settling import TOO_SHORT
from pipeline.errors import EndpointError
from pipeline.loop import Window
from pipeline.records import Failure
from pipeline.runs.failures import FailureJournal
from tests.support import nights
from tests.support.nights import Answerer

SIZES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), max_size=25)


async def fed(window, sizes, most):
    """Feed and drain like a run; the largest number of groups that were open at once."""
    opened: deque = deque()
    arrived = anyio.Event()
    widest = 0

    async def feed():
        nonlocal arrived, widest
        for size in sizes:
            await window.enter(*size)
            opened.append(size)
            widest = max(widest, len(opened))
            if len(opened) > 1:
                assert sum(chars for chars, _ in opened) <= most[0]
                assert sum(requests for _, requests in opened) <= most[1]
            arrived.set()

    async def drain():
        nonlocal arrived
        for _ in sizes:
            while not opened:
                await arrived.wait()
                arrived = anyio.Event()
            await anyio.lowlevel.checkpoint()
            window.leave(*opened.popleft())

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(feed)
            group.start_soon(drain)
    return widest


@settings(max_examples=60)
@given(SIZES, st.integers(0, 20), st.integers(0, 8))
def test_the_bounds_hold_and_every_group_gets_through(sizes, chars, requests):
    anyio.run(fed, Window(chars, requests), sizes, (chars, requests))


def test_small_groups_are_open_together():
    assert anyio.run(fed, Window(100, 100), [(10, 1)] * 8, (100, 100)) == 8
    assert anyio.run(fed, Window(30, 100), [(10, 1)] * 8, (30, 100)) == 3
    assert anyio.run(fed, Window(100, 2), [(10, 1)] * 8, (100, 2)) == 2


@pytest.mark.anyio
async def test_one_above_the_bounds_enters_alone_and_keeps_all_others_out():
    window = Window(10, 10)
    entered = []

    async def enter(*size):
        await window.enter(*size)
        entered.append(size)

    async with anyio.create_task_group() as group:
        await enter(1_000, 1_000)
        group.start_soon(enter, 0, 0)
        await anyio.wait_all_tasks_blocked()
        assert entered == [(1_000, 1_000)]
        window.leave(1_000, 1_000)
    assert entered == [(1_000, 1_000), (0, 0)]


@pytest.mark.anyio
async def test_of_many_that_wait_only_as_many_enter_as_fit():
    window = Window(10, 10)
    await window.enter(10, 1)
    entered = []

    async def enter(name):
        await window.enter(6, 1)
        entered.append(name)

    async with anyio.create_task_group() as group:
        for name in range(3):
            group.start_soon(enter, name)
        await anyio.wait_all_tasks_blocked()
        assert entered == []
        for left in ((10, 1), (6, 1), (6, 1)):
            before = len(entered)
            window.leave(*left)
            await anyio.wait_all_tasks_blocked()
            assert len(entered) == before + 1


@pytest.mark.anyio
async def test_one_that_gives_up_waiting_takes_no_room():
    window = Window(10, 10)
    await window.enter(10, 10)
    with anyio.move_on_after(0):
        await window.enter(1, 1)
    window.leave(10, 10)
    with anyio.fail_after(5):
        await window.enter(10, 10)


def test_what_cannot_be_cut_is_in_the_journal_as_any_other_failure(tmp_path, monkeypatch):
    kept, put = [], FailureJournal.put_many

    def put_many(self, failures):
        kept.extend(failures)
        put(self, failures)

    async def answer(self, requests):
        if any("long" in request.input for request in requests):
            raise EndpointError("too_long", "413", status=413)
        return await Answerer.answer(self, requests)

    class Refusing(Answerer):
        pass

    Refusing.answer = answer
    monkeypatch.setattr(FailureJournal, "put_many", put_many)
    monkeypatch.setattr(nights, "Answerer", Refusing)
    monkeypatch.setattr(loop, "split", lambda factory, opened, too_long: (
        opened, [], [each for each in opened.requests if each.dedup_key in too_long]
    ))  # fmt: skip
    textmill = nights.Project(tmp_path, monkeypatch, input__id="id", chunk__size=32)
    textmill.rows([{"id": 1, "text": "short"}, {"id": 2, "text": "a long one " + "of many words " * 7}])
    assert textmill.run().failed == 1
    assert [failure for _, failure in kept] == [Failure("too_long", TOO_SHORT)]
