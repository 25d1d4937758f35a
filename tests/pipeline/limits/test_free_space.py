"""The disk is asked at most once a second, and what it said is heeded until then."""

from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import given

from pipeline.limits.free_space import FreeSpace, needed_bytes


def measured(*given):
    """A disk with these free bytes, one after the other; how often it was asked."""
    left, asked = list(given), []

    def measure():
        asked.append(left[0])
        return left.pop(0)

    return measure, asked


def test_it_is_measured_at_first_and_again_when_a_second_is_over():
    measure, asked = measured(500, 300)
    space = FreeSpace().at(10.0, measure)
    assert (space.free_bytes, asked) == (500, [500])
    assert space.at(10.999, measure) is space
    assert space.at(11.0, measure) == FreeSpace(300, 11.0)
    assert asked == [500, 300]


@given(st.lists(st.floats(0, 0.7), max_size=60))
def test_no_two_measurements_are_nearer_than_a_second_and_none_is_older(steps):
    now, space, times = 100.0, FreeSpace(), []

    def measure():
        times.append(now)
        return 1

    for step in steps:
        now += step
        space = space.at(now, measure)
        assert now - times[-1] < 1.0
    assert all(later - earlier >= 1.0 for earlier, later in pairwise(times))


def test_each_request_in_flight_needs_room_for_its_answer():
    assert needed_bytes(0) == 1_048_576
    assert needed_bytes(64) - needed_bytes(63) == 16_384
