import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.limits.concurrency import (
    Concurrency,
    calls_per_second,
    concurrency,
    has_room,
    returned,
    sent,
)


def filled(state):
    """The state with all slots taken, and the rounds that the calls carry."""
    rounds = []
    while has_room(state):
        state = sent(state)
        rounds.append(state.round)
    return state, rounds


def round_trip(state, now, seconds=0.5, result="answered"):
    """Every call returns half a second later; the state after the first round from `now`."""
    state, rounds = filled(state)
    for number in rounds:
        state = returned(state, now, number, seconds, result)
    return state


def grown(trips, ceiling=64, seconds=0.5):
    state, sizes = concurrency(ceiling, 0.0), []
    for trip in range(trips):
        state = round_trip(state, 0.5 * (trip + 1), seconds)
        sizes.append(int(state.size))
    return state, sizes


@given(
    st.integers(1, 200),
    st.lists(
        st.tuples(
            st.sampled_from(["answered", "refused", "else"]), st.floats(0, 5), st.integers(0, 99)
        ),
        max_size=200,
    ),
)
def test_size_is_within_1_and_the_ceiling_and_the_counts_balance(ceiling, steps):
    state, out, now = concurrency(ceiling, 0.0), [], 0.0
    for result, seconds, which in steps:
        now += seconds / 10
        while has_room(state):
            state = sent(state)
            out.append(state.round)
        state = returned(state, now, out.pop(which % len(out)), seconds, result)
        assert 1 <= state.size <= ceiling
        assert state.in_flight == len(out)
        assert state.awaited == sum(number < state.round for number in out)


@given(st.integers(1, 64), st.integers(1, 64))
def test_a_server_that_refuses_everything_still_gets_a_call(ceiling, trips):
    state = concurrency(ceiling, 0.0)
    for trip in range(trips):
        state = round_trip(state, float(trip), result="refused")
    assert has_room(state)


def test_a_ceiling_below_1_is_refused():
    with pytest.raises(ValueError, match="concurrency = 0 must be at least 1"):
        concurrency(0, 0.0)


def test_it_starts_at_8_or_the_ceiling():
    assert concurrency(64, 0.0).size == 8
    assert concurrency(3, 0.0).size == 3


def test_it_rises_by_half_and_never_above_the_ceiling():
    _, sizes = grown(6, ceiling=40)
    assert sizes == sorted(sizes)
    assert sizes[0] == 12
    assert sizes[-1] == 40


def test_one_cut_however_many_refusals_a_round_trip_brings():
    state, rounds = filled(grown(8)[0])
    assert state.size == 64
    for number in rounds:
        state = returned(state, 10.0, number, 0.01, "refused")
    assert state.size == pytest.approx(57.6)
    assert not state.is_rising


def test_refusals_of_calls_sent_after_the_cut_cut_again_by_less():
    state, rounds = filled(grown(8)[0])
    state = returned(state, 10.0, rounds[0], 0.01, "refused")
    for number in rounds[1:30]:
        state = returned(state, 10.0, number, 0.01, "else")
    state = sent(state)
    state = returned(state, 10.1, state.round, 0.01, "refused")
    assert state.size == pytest.approx(57.6 * 0.95)


def test_after_a_cut_it_grows_by_one_when_all_of_a_round_trip_are_back():
    state = Concurrency(ceiling=64, size=20.0, is_rising=False)
    sizes = []
    for _ in range(2):
        state, rounds = filled(state)
        for number in rounds:
            state = returned(state, 0.5, number, 0.5, "answered")
            sizes.append(state.size)
    assert sizes == [20.0] * 19 + [21.0] * 21 + [22.0]


def test_a_call_that_takes_long_holds_the_decision_but_not_the_others():
    state, rounds = filled(Concurrency(ceiling=64, size=20.0, is_rising=False))
    for now in range(1, 100):
        state = sent(returned(state, float(now), rounds.pop(), 0.5, "answered"))
        rounds.insert(1, state.round)
    assert (state.size, state.in_flight) == (20.0, 20)
    assert returned(state, 100.0, rounds[0], 99.0, "answered").size == 21


def test_a_small_size_is_cut_by_a_whole_call_and_grows_by_a_sixteenth():
    state, rounds = filled(Concurrency(ceiling=64, size=2.0, is_rising=False))
    state = returned(state, 0.1, rounds[0], 0.01, "refused")
    assert (state.size, has_room(state)) == (1.0, False)
    trips = 0
    while state.size < 2:
        state = returned(state, 1.0 + trips, state.round - 1, 0.5, "answered")
        state, trips = sent(state), trips + 1
    assert trips == 12


def test_it_does_not_grow_while_there_is_room():
    state = sent(concurrency(64, 0.0))
    assert returned(state, 1.0, 0, 1.0, "answered").size == 8


def test_errors_of_another_kind_neither_grow_nor_cut_it():
    state = concurrency(64, 0.0)
    assert round_trip(state, 1.0, result="else").size == 8


def queueing(trips, slots, seconds, state=None, now=0.0):
    """A server that works on `slots` calls at once and queues the others."""
    state = state or concurrency(256, now)
    sizes = []
    for _ in range(trips):
        state, rounds = filled(state)
        takes = seconds * max(1.0, len(rounds) / slots)
        now += takes
        for number in rounds:
            state = returned(state, now, number, takes, "answered")
        sizes.append(int(state.size))
    return state, sizes, now


def test_calls_that_only_queue_longer_end_the_rise():
    _, sizes, _ = queueing(200, slots=32, seconds=0.5)
    assert 32 <= sizes[-1] <= 128


def test_work_that_takes_longer_costs_one_cut_and_is_got_used_to():
    state, sizes, now = queueing(40, slots=10_000, seconds=0.5)
    assert sizes[-1] == 256
    state, sizes, now = queueing(60, slots=10_000, seconds=2.0, state=state, now=now)
    assert min(sizes) == 243
    state, sizes, _ = queueing(800, slots=10_000, seconds=2.0, state=state, now=now)
    assert sizes[-1] == 256


def test_the_rate_that_the_size_comes_to():
    assert calls_per_second(concurrency(64, 0.0)) == 0.0
    assert calls_per_second(Concurrency(64, 20.0, latency=0.5)) == 40.0
