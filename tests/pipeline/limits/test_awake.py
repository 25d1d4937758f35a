"""A gap in which the process did not run is on no clock, and cancels no call whose answer came."""

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.mock import clock as virtual
from pipeline.limits import awake
from pipeline.limits.awake import Beat, beaten, clock, is_waking


def test_a_gap_is_two_seconds_on_this_clock():
    beat = Beat(100.0, 100.0)
    assert clock(beat, 100.25) == 100.25
    assert clock(beat, 102.0) == 102.0
    assert clock(beat, 700.0) == 102.0
    later = beaten(beat, 700.0)
    assert later == Beat(700.0, 102.0, 700.0)
    assert clock(later, 700.5) == 102.5


def test_a_gap_ends_a_second_after_the_process_goes_on():
    beat = Beat(100.0, 100.0)
    assert not is_waking(beat, 102.0)
    assert is_waking(beat, 102.25)
    later = beaten(beat, 700.0)
    assert is_waking(later, 700.75)
    assert not is_waking(beaten(later, 701.0), 701.25)


@given(st.lists(st.tuples(st.floats(0, 1_000), st.booleans()), max_size=50))
def test_the_clock_never_goes_back_and_never_faster_than_the_loop(steps):
    beat, loop, last = Beat(0.0, 0.0), 0.0, 0.0
    for seconds, is_beat in steps:
        loop += seconds
        now = clock(beat, loop)
        assert last <= now <= last + seconds + 1e-6
        last = now
        beat = beaten(beat, loop) if is_beat else beat


async def _call(seconds, answers_at, gap=(0.0, 0.0)):
    """What a call with this deadline brings, if the loop stands still for a time."""
    answered = anyio.Event()
    loop = virtual.asyncio.get_running_loop()

    def stand_still():
        loop._now += gap[1]
        if gap[0] < answers_at <= gap[0] + gap[1]:  # the socket is read once the loop goes on
            loop.call_later(0.0, loop.call_soon, answered.set)

    with awake.heartbeat():
        if gap[1]:
            loop.call_at(gap[0], stand_still)
        if not gap[0] < answers_at <= gap[0] + gap[1]:
            loop.call_at(answers_at, answered.set)
        with anyio.CancelScope() as scope, awake.Deadline(scope) as due:
            due.move(awake.now() + 1_000)
            due.move(awake.now() + seconds)
            await answered.wait()
            return "answered", round(awake.now(), 2)
        return "cancelled", round(awake.now(), 2)


@pytest.mark.parametrize(
    ("deadline", "answers_at", "gap", "expected"),
    [
        (10.0, 9.5, (0.0, 0.0), ("answered", 9.5)),
        (10.0, 11.0, (0.0, 0.0), ("cancelled", 10.0)),
        (10.0, 30.0, (5.1, 300.0), ("answered", 7.0)),
        (0.5, 30.0, (0.3, 300.0), ("answered", 2.25)),
        (10.0, 310.0, (5.1, 300.0), ("cancelled", 10.0)),
    ],
)
def test_a_deadline_counts_only_the_time_in_which_the_process_runs(
    deadline, answers_at, gap, expected
):
    assert virtual.run(lambda: _call(deadline, answers_at, gap)) == expected


def test_a_deadline_that_moves_on_is_not_due():
    async def main():
        with anyio.CancelScope() as scope, awake.Deadline(scope) as due:
            for _ in range(10):
                due.move(awake.now() + 2.0)
                await anyio.sleep(1.5)
            await anyio.sleep(60.0)
        return awake.now()

    assert virtual.run(main) == pytest.approx(13.5 + 2.0)


def test_without_a_heartbeat_the_clock_is_that_of_the_loop():
    async def main():
        await anyio.sleep(500.0)
        return awake.now() == anyio.current_time()

    assert virtual.run(main)
