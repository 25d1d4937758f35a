"""The window on concurrency against servers of a few lines, without a clock of its own."""

import heapq
import math
import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.limits.concurrency import (
    Concurrency,
    allowed,
    at,
    calls_per_second,
    concurrency,
    has_room,
    release_seconds,
    returned,
    sent,
)


def filled(state):
    """The state with all places taken, and what each of these calls carries."""
    calls = []
    while has_room(state):
        state = sent(state)
        calls.append((state.calls, state.in_flight))
    return state, calls


def queueing(slots, count, *, seconds=1.0, sigma=0.0, ceiling=256, seed=1, change=lambda now: 1.0):
    """The time that `count` calls take at a server that works on `slots` of them at once, and by
    call the time of its end and the calls in flight. `change` is the factor of its slots."""
    draw, state, now = random.Random(seed), concurrency(ceiling), 0.0
    queue, working, history, begun = deque(), [], [], 0
    while len(history) < count:
        while begun < count and has_room(state):
            state, begun = sent(state), begun + 1
            queue.append((now, state.calls, state.in_flight))
        while queue and len(working) < max(1, slots * change(now)):
            took = seconds * math.exp(sigma * draw.gauss(0, 1) - sigma * sigma / 2)
            heapq.heappush(working, (now + took, queue.popleft()))
        now, (began, number, load) = heapq.heappop(working)
        history.append((now, state.in_flight))
        state = returned(state, now, number, load, now - began, "answered")
    return now, history


def load(history, begin, end):
    """The mean number of calls in flight in this part of the calls, in slots of the server."""
    part = history[int(begin * len(history)) : int(end * len(history))]
    return sum(in_flight for _, in_flight in part) / len(part)


@given(
    st.integers(1, 200),
    st.lists(
        st.tuples(
            st.sampled_from(["answered", "answered", "refused", "limited", "else"]),
            st.floats(0, 5),
            st.integers(0, 99),
        ),
        max_size=200,
    ),
)
def test_size_is_within_1_and_the_ceiling_and_a_call_may_always_go_in_the_end(ceiling, steps):
    state, out, now = concurrency(ceiling), [], 0.0
    for result, seconds, which in steps:
        now += seconds / 10
        state = at(state, now)
        while has_room(state):
            state = sent(state)
            out.append((state.calls, state.in_flight))
        if out:
            state = returned(state, now, *out.pop(which % len(out)), seconds, result)
        assert 1 <= state.size <= ceiling
        assert state.in_flight == len(out) <= ceiling
    while out:
        state = returned(state, now, *out.pop(), 1.0, "refused")
    assert has_room(state)


def test_a_ceiling_below_1_is_refused():
    with pytest.raises(ValueError, match="concurrency = 0 must be at least 1"):
        concurrency(0)


@pytest.mark.parametrize(("ceiling", "size"), [(1, 1), (3, 3), (8, 8), (256, 8), (10_000, 8)])
def test_at_most_8_calls_go_before_the_first_answer(ceiling, size):
    assert len(filled(concurrency(ceiling))[1]) == size


@pytest.mark.parametrize("slots", [10, 30, 100, 200])
@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_it_finds_the_slots_of_a_server_that_queues(slots, sigma):
    assert queueing(slots, 40 * slots, sigma=sigma)[0] <= 1.3 * 40
    _, history = queueing(slots, 100 * slots, sigma=sigma)
    assert 0.9 * slots <= load(history, 0.7, 0.97) <= 1.6 * slots


@pytest.mark.parametrize(
    ("slots", "seconds", "sigma"),
    [(4, 2.0, 0.3), (4, 2.0, 0.6), (10, 0.05, 0.6), (10, 0.05, 0.0), (50, 0.25, 0.6), (250, 0.25, 0.3)],
)
def test_whatever_the_server_the_time_is_near_its_best(slots, seconds, sigma):
    """Of 40 rounds, where one wrong comparison counts most: by chance some of these come late."""
    took = [
        queueing(slots, 40 * slots, seconds=seconds, sigma=sigma, seed=seed)[0] / (40 * seconds)
        for seed in range(max(4, 800 // slots))
    ]
    assert sum(took) / len(took) <= 1.3
    assert sum(each > 1.4 for each in took) <= 0.15 * len(took)


@pytest.mark.parametrize("sigma", [0.0, 0.5])
def test_a_server_with_one_slot_gets_few_calls(sigma):
    _, history = queueing(1, 200, sigma=sigma)
    assert max(in_flight for _, in_flight in history) <= 8
    assert load(history, 0.3, 1.0) <= 3


def test_slots_that_halve_and_double_are_followed():
    seconds, history = queueing(100, 8_000, sigma=0.3, change=lambda now: 1 if now < 40 else 0.5)
    assert seconds <= 1.15 * (40 + 80)
    assert load(history, 0.8, 0.95) <= 1.6 * 50
    seconds, history = queueing(60, 8_000, sigma=0.3, change=lambda now: 1 if now < 40 else 2)
    assert seconds <= 1.2 * (40 + 5_600 / 120)
    assert 0.9 * 120 <= load(history, 0.8, 0.95) <= 1.7 * 120


def test_a_given_concurrency_is_the_bound_and_is_used():
    seconds, history = queueing(1_000, 4_000, ceiling=64)
    assert max(in_flight for _, in_flight in history) == 64
    assert seconds <= 1.15 * 4_000 / 64
    _, history = queueing(20, 2_000, ceiling=64)
    assert load(history, 0.5, 0.95) <= 1.6 * 20


@pytest.mark.parametrize("ceiling", [1, 2, 3])
def test_a_small_concurrency_is_used_whole(ceiling):
    seconds, _ = queueing(10, 100 * ceiling, ceiling=ceiling)
    assert seconds == 100


def test_calls_that_take_longer_in_the_middle_of_a_run_do_not_starve_it():
    draw = random.Random(3)
    state, now, waiting = concurrency(256), 0.0, []
    for number in range(8_000):
        while has_room(state):
            state = sent(state)
            takes = (1.0 if number < 4_000 else 4.0) * math.exp(0.3 * draw.gauss(0, 1))
            heapq.heappush(waiting, (now + takes, now, state.calls, state.in_flight))
        now, began, *carried = heapq.heappop(waiting)
        state = returned(state, now, *carried, now - began, "answered")
    assert state.size >= 200


def test_one_cut_however_many_refusals_a_round_trip_brings():
    state = Concurrency(ceiling=64, size=64.0, phase="rise")
    state, calls = filled(state)
    for call in calls[:40]:
        state = returned(state, 10.0, *call, 0.01, "refused")
    assert (state.size, state.phase) == (pytest.approx(57.6), "climb")
    assert not has_room(state)  # the refused calls are not sent again before an answer
    state = returned(state, 10.1, *calls[40], 0.1, "answered")
    assert len(filled(state)[1]) == 57 - 23


def test_a_refusal_that_a_rate_limit_explains_cuts_nothing():
    state, calls = filled(Concurrency(ceiling=64, size=20.0, phase="climb"))
    assert returned(state, 1.0, *calls[0], 0.01, "limited").size == 20.0


def test_refusals_of_calls_sent_after_the_cut_cut_again_by_less():
    state, calls = filled(Concurrency(ceiling=64, size=60.0, phase="climb"))
    state = returned(state, 1.0, *calls[0], 0.01, "refused")
    for call in calls[1:9]:
        state = returned(state, 1.1, *call, 0.1, "answered")
    state, later = filled(state)
    state = returned(state, 1.2, *later[0], 0.01, "refused")
    assert state.size == pytest.approx(60 * 0.95 * 0.95)


def test_a_refused_round_trip_halves_the_window_and_answers_bring_it_back():
    state, sizes = Concurrency(ceiling=256, size=100.0, phase="rest"), []
    state = returned(*_first(sent(state)), 0.1, "answered")
    for trip in range(5):
        state, calls = filled(state)
        for call in calls:
            state = returned(state, float(trip), *call, 0.01, "refused")
        sizes.append(round(state.size, 2))
    assert sizes == [47.5, 23.75, 11.88, 11.88, 11.88]
    assert state.refused_rounds == 5
    answers = 0
    while state.goal:
        state, calls = filled(state)
        state = returned(state, 9.0, *calls[0], 0.1, "answered") if calls else state
        answers += 1
    assert (state.size, state.refused_rounds) == (95.0, 0)
    assert answers <= 95


def _first(state):
    return state, 0.1, state.calls, state.in_flight


def test_a_call_that_hangs_holds_withheld_places_for_a_second():
    state, calls = filled(concurrency(8))
    for call in calls[1:]:
        state = returned(state, 5.0, *call, 0.01, "refused")
    assert not has_room(state)
    assert release_seconds(state, 5.25) == 0.75
    assert not has_room(at(state, 5.5))
    assert has_room(at(state, 6.0))
    assert release_seconds(concurrency(8), 0.0) == math.inf


def test_errors_of_another_kind_neither_grow_nor_cut_it():
    state, calls = filled(concurrency(64))
    for call in calls:
        state = returned(state, 1.0, *call, 1.0, "else")
    assert state == concurrency(64)._replace(calls=8, left=-4, was_full=True)


def test_it_does_not_grow_while_there_is_room():
    state = concurrency(64)
    for number in range(100):
        state = sent(state)
        state = returned(state, float(number), state.calls, 1, 1.0, "answered")
    assert allowed(state) <= 16


def test_the_rate_that_the_size_comes_to():
    assert calls_per_second(concurrency(64)) == 0.0
    state = concurrency(4)
    for now in range(1, 4):
        state, calls = filled(state)
        for call in calls:
            state = returned(state, now / 2, *call, 0.5, "answered")
    assert 4 <= calls_per_second(state) <= 8
