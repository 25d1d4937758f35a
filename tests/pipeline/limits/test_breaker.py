import random
from collections import deque

import pytest

from pipeline.limits.breaker import (
    Breaker,
    Health,
    answered,
    open_seconds,
    paused,
    probe_failed,
    recorded,
    sent,
    should_open,
    wait,
)


def test_a_closed_breaker_lets_calls_go_at_once():
    assert wait(sent(Breaker()), now=5.0) == 0.0


def test_after_a_pause_one_call_goes_alone_until_it_is_answered():
    state = paused(Breaker(), now=10.0, started=9.0, seconds=2.0)
    assert wait(state, now=10.5) == 1.5
    assert wait(state, now=12.0) == 0.0
    state = sent(state)
    assert wait(state, now=12.0) == float("inf")
    assert wait(answered(state, started=12.0), now=12.1) == 0.0


def test_calls_from_before_the_pause_neither_count_as_failures_nor_end_it():
    state = paused(Breaker(), now=10.0, started=9.0, seconds=2.0)
    late = paused(state, now=10.1, started=9.5, seconds=5.0)
    assert (late.failures_in_a_row, late.until) == (1, 15.1)
    assert answered(late, started=9.5) == late


def test_a_failed_probe_is_one_more_failure_in_a_row():
    state = sent(paused(Breaker(), now=10.0, started=9.0, seconds=2.0))
    state = paused(state, now=13.0, started=12.0, seconds=4.0)
    assert (state.failures_in_a_row, state.is_probing, wait(state, 13.0)) == (2, False, 4.0)


def test_a_probe_that_is_poison_lets_another_one_go():
    state = sent(paused(Breaker(), now=10.0, started=9.0, seconds=2.0))
    assert wait(probe_failed(state, started=12.0), now=12.0) == 0.0


def test_an_error_from_before_the_pause_does_not_end_the_probe():
    state = sent(paused(Breaker(), now=10.0, started=9.0, seconds=2.0))
    assert wait(probe_failed(state, started=9.5), now=12.0) == float("inf")


def test_a_stale_error_does_not_begin_a_pause_again_after_recovery():
    state = answered(sent(paused(Breaker(), now=10.0, started=9.0, seconds=2.0)), started=12.0)
    assert wait(paused(state, now=13.0, started=9.5, seconds=9.0), now=13.0) == 0.0
    assert wait(paused(state, now=13.0, started=12.5, seconds=9.0), now=13.0) == 9.0


def failing(pattern, seconds_apart):
    health, now = Health(), 0.0
    for failed in pattern:
        health, now = recorded(health, now, now, failed=failed), now + seconds_apart
    return health


@pytest.mark.parametrize(("pattern", "seconds_apart", "broken"), [
    ([True] * 19, 0.0, False),
    ([True] * 20, 0.0, True),
    ([True, False] * 10, 0.0, False),
    (([True] * 19 + [False]) * 9, 0.001, False),
    ([False] * 500 + [True] * 20, 0.0, True),
    ([True, False, False] * 40, 0.01, False),
    ([True] * 40, 10.0, False),
])
def test_twenty_failures_in_a_row_open_the_breaker_and_a_share_of_failures_does_not(pattern, seconds_apart, broken):
    assert should_open(failing(pattern, seconds_apart)) is broken


def test_the_breaker_opens_for_5_seconds_doubling_to_5_minutes():
    state, now, pauses = Breaker(), 0.0, []
    for _ in range(9):
        pauses.append(open_seconds(state, now))
        state = paused(state, now, now, pauses[-1])
        assert open_seconds(state, now - 0.1) == 0  # was in flight already
        now = state.until
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_probe_that_fails_after_a_short_pause_makes_one_twice_as_long():
    for seconds, then in [(0.1, 1.0), (1.5, 3.0), (20.0, 40.0), (300.0, 300.0)]:
        assert open_seconds(paused(Breaker(), 0.0, 0.0, seconds), seconds) == pytest.approx(then)


def test_twenty_failures_in_a_row_break_it_however_much_it_answered_before():
    health = Health()
    for _ in range(10_000):
        health = recorded(health, 0.0, 0.0, failed=False)
    for _ in range(19):
        health = recorded(health, 1.0, 1.0, failed=True)
        health = recorded(health, 1.0, 0.5, failed=False)  # from before: no evidence
    assert not should_open(health)
    assert should_open(recorded(health, 1.0, 1.0, failed=True))
    health = recorded(recorded(health, 1.1, 1.1, failed=False), 1.2, 1.2, failed=True)
    assert not should_open(health)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.4, 0.5])
@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_a_working_endpoint_with_random_faults_is_no_outage(share, concurrency):
    rng, health, in_flight = random.Random(7), Health(), deque()
    for call in range(20_000):
        in_flight.append(call * 0.01)
        if len(in_flight) >= concurrency:
            health = recorded(health, call * 0.01, in_flight.popleft(), failed=rng.random() < share)
            assert not should_open(health)


@pytest.mark.parametrize("concurrency", [1, 8, 64])
def test_a_dead_endpoint_is_found_after_twenty_calls_that_began_after_its_last_answer(concurrency):
    health, in_flight, failed = Health(), deque(), 0
    for call in range(2_000):
        in_flight.append(call)
        if len(in_flight) < concurrency:
            continue
        began = in_flight.popleft()
        health = recorded(health, call * 0.01, began * 0.01, failed=began >= 1_000)
        failed += began >= 1_000
        if should_open(health):
            break
    assert failed == 20 + (failed > 20)
