import math
from bisect import bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.limits.rate import (
    STRICT_BURST_SECONDS,
    Limits,
    at,
    bucket,
    decrease,
    full,
    infer_limit,
    learn,
    lease,
    lease_all,
    pause,
    refund,
    refused,
    was_limiting,
)

PER_MINUTE = st.floats(0.5, 1e7)
WANTS = st.lists(st.floats(0, 3e5), min_size=1, max_size=40)
GAPS = st.lists(st.sampled_from([0.0, 0.001, 0.05, 0.3, 2.0, 40.0]), min_size=1, max_size=8)


def leased(per_minute, wants, gaps=(0.0,), start=0.0, burst_seconds=0.1):
    """The leases as [(when, how much)] of a caller that retries at the given time, after `gaps`."""
    state = bucket(per_minute, start, burst_seconds=burst_seconds)
    now, taken = start, []
    for turn, want in enumerate(wants):
        now += gaps[turn % len(gaps)]
        state, wait = lease(state, now, want)
        if wait:
            now += wait
            state, wait = lease(state, now, want)
            assert wait == 0.0, "a caller that returns at the given time does not wait again"
        taken.append((now, want))
    return taken


@settings(max_examples=150)
@given(PER_MINUTE, WANTS, GAPS, st.sampled_from([0.015, 0.1]))
def test_in_any_window_of_w_seconds_at_most_0985_l_times_w_plus_burst_plus_one_call(
    per_minute, wants, gaps, burst_seconds
):
    taken = leased(per_minute, wants, gaps, burst_seconds=burst_seconds)
    for first in range(len(taken)):
        total = 0.0
        for last in range(first, len(taken)):
            total += taken[last][1]
            window = taken[last][0] - taken[first][0]
            bound = 0.985 * per_minute / 60 * (window + burst_seconds) + max(wants)
            assert total <= bound * (1 + 1e-9) + 1e-3 * per_minute / 60


@given(PER_MINUTE, WANTS, GAPS)
def test_a_run_never_leases_more_than_its_age_allows(per_minute, wants, gaps):
    total = 0.0
    for when, want in leased(per_minute, wants, gaps):
        total += want
        assert total <= 0.985 * per_minute / 60 * (when + 1e-3) * (1 + 1e-9) + 1e-9


@given(st.integers(1, 3_000), st.lists(st.floats(0.05, 9), min_size=20, max_size=20))
def test_twenty_restarts_stay_within_the_limit_of_any_minute(per_minute, lives):
    times, start = [], 0.0
    for life in lives:
        times += [
            when for when, _ in leased(per_minute, [1] * 60, start=start) if when < start + life
        ]
        start += life
    for first, when in enumerate(times):
        assert bisect_right(times, when + 60) - first <= per_minute


@given(st.floats(1, 1e6), st.floats(0, 1e12))
def test_nothing_waits_for_ever(per_minute, want):
    state, wait = lease(bucket(per_minute, 0.0), 0.0, want)
    assert wait < math.inf
    assert lease(state, wait + 1e-6 + wait * 1e-9, want)[1] == 0.0


@given(st.floats(max_value=0) | st.sampled_from([math.nan, math.inf]))
def test_a_limit_of_0_or_below_is_refused(per_minute):
    with pytest.raises(ValueError, match=r"must be a number above 0"):
        bucket(per_minute, 0.0)
    with pytest.raises(ValueError, match=r"must be a number above 0"):
        bucket(60, 0.0, burst_seconds=per_minute)
    known = bucket(60, 0.0)
    assert learn(known, 1.0, per_minute) == known
    assert learn(None, 1.0, per_minute) is None


def test_calls_are_spaced_from_the_first_one_on():
    # 600 a minute at 98.5 % is one in 0.1015 s; the first one is paid for in advance.
    times = [round(when, 3) for when, _ in leased(600, [1, 1, 1])]
    assert times == [0.102, 0.203, 0.305]


def test_after_a_stall_no_more_than_a_burst_goes_at_once():
    state = at(bucket(60_000, 0.0), 50.0)
    assert full(state) == state.level == 98.5
    gone = 0
    while not (leased_now := lease(state, 50.0, 1))[1]:
        state, gone = leased_now[0], gone + 1
    assert gone == 98


def test_a_call_larger_than_the_bucket_leaves_it_in_debt():
    state = at(bucket(60_000, 0.0)._replace(largest=9_850), 50.0)
    state, wait = lease(state, 50.0, 9_850)
    assert (wait, state.level) == (0.0, 98.5 - 9_850)
    assert lease(state, 50.0, 1)[1] == pytest.approx((9_850 - 98.5 + 1) / 985)


def test_two_buckets_are_leased_together_or_not_at_all():
    known = Limits(at(bucket(6_000, 0.0), 50.0), at(bucket(60_000, 0.0), 50.0))
    known, wait = lease_all(known, 50.0, tokens=40)
    assert wait == 0.0
    assert known.calls.level == pytest.approx(8.85)
    assert known.tokens.level == pytest.approx(58.5)
    known, _ = lease_all(known, 50.0, tokens=40)
    after, wait = lease_all(known, 50.0, tokens=40)
    assert wait == pytest.approx((40 - 18.5) / 985)
    assert after.calls.level == known.calls.level
    assert after.tokens.level == known.tokens.level
    assert lease_all(after, 50.0 + wait, tokens=40)[1] == 0.0


def test_an_endpoint_without_limits_never_waits():
    assert lease_all(Limits(), 0.0, 1e9) == (Limits(), 0.0)


def test_unused_tokens_are_refunded_but_never_above_full():
    state = at(bucket(60_000, 0.0), 50.0)
    state, _ = lease(state, 50.0, 40)
    assert refund(state, 50.0, 40, 30).level == pytest.approx(68.5)
    assert refund(state, 50.0, 40, 60).level == pytest.approx(38.5)
    assert refund(state, 50.0, 4_000, 0).level == 98.5


@given(st.floats() | st.sampled_from([-1.0, 1e300]), st.floats())
def test_no_reported_usage_blocks_a_run_for_longer_than_a_minute(used, estimate):
    state = refund(at(bucket(60_000, 0.0), 50.0), 50.0, estimate, used)
    assert state.level <= full(state)
    assert lease(state, 50.0, 1)[1] <= 61


@pytest.mark.parametrize(
    ("seconds", "waits"), [(2, 2), (0.02, 0.02), (0, 0), (-5, 0), (1e9, 300), (math.nan, 0)]
)
def test_a_pause_is_kept_and_clamped(seconds, waits):
    for known in (Limits(at(bucket(6_000, 0.0), 50.0)), Limits()):
        known = pause(known, 50.0, seconds)
        assert lease_all(known, 50.0, 1)[1] == pytest.approx(waits)
        assert lease_all(known, 50.0 + waits, 1)[1] == 0.0


def test_a_shorter_pause_does_not_end_a_longer_one():
    known = pause(pause(Limits(bucket(6_000, 0.0)), 50.0, 9), 51.0, 1)
    assert lease_all(known, 51.0, 1)[1] == 8.0


def test_a_429_counts_against_the_limit_that_holds_calls_back():
    calls, wait = lease(lease(at(bucket(600, 0.0), 50.0), 50.0, 1)[0], 50.0, 1)
    assert wait > 0
    known = Limits(calls, at(bucket(60_000, 0.0), 50.0))
    after, is_explained = refused(known, 50.1, 50.0, names_wait=True, calls_per_second=9.0)
    assert (is_explained, after.calls.factor, after.tokens.factor) == (True, 0.95, 1.0)


def test_a_429_that_no_limit_explains_is_one_for_the_calls_in_flight():
    after, is_explained = refused(Limits(), 50.0, 49.0, names_wait=False, calls_per_second=9.0)
    assert (after, is_explained) == (Limits(), False)
    after, is_explained = refused(Limits(), 50.0, 49.0, names_wait=True, calls_per_second=9.0)
    assert (after.calls.per_minute, is_explained) == (675, False)
    after, is_explained = refused(Limits(), 50.0, 49.0, names_wait=True, calls_per_second=0.0)
    assert (after, is_explained) == (Limits(), False)


def test_the_factor_is_cut_once_per_round_trip_and_recovers():
    state = decrease(at(bucket(6_000, 0.0), 50.0), 50.0, started=49.9)
    assert state.factor == 0.95
    assert decrease(state, 50.2, started=49.95) == state
    state = decrease(state, 50.5, started=50.1)
    assert state.factor == pytest.approx((0.95 + 0.004 * 0.5) * 0.9)
    assert at(state, 60.5).factor == pytest.approx(state.factor + 0.04)
    assert at(at(at(state, 90.5), 120.5), 150.5).factor == 1.0


def test_a_429_in_spite_of_the_pace_makes_the_bursts_small():
    state = decrease(at(bucket(6_000, 0.0), 50.0), 50.0, started=49.9)
    assert state.burst_seconds == STRICT_BURST_SECONDS
    assert state.level == full(state)


def test_the_factor_does_not_recover_during_a_pause():
    known = pause(Limits(decrease(bucket(6_000, 0.0), 50.0, started=49.9)), 50.0, 40)
    assert at(at(known.calls, 80.0), 90.0).factor == 0.95


@given(st.lists(st.floats(0, 30), max_size=60))
def test_the_factor_stays_within_its_bounds_whatever_comes(gaps):
    state, now = bucket(6_000, 0.0), 0.0
    for gap in gaps:
        now += gap
        state = decrease(state, now, started=now - 0.01)
        assert 0.001 <= state.factor <= 1
        assert lease(state, now, 1)[1] < math.inf


def test_a_header_lowers_a_declared_limit_and_never_raises_it_above_the_declared_one():
    state = bucket(6_000, 0.0)
    assert learn(state, 1.0, 600).per_minute == 600
    assert learn(learn(state, 1.0, 600), 2.0, 9e9).per_minute == 6_000
    learned = learn(None, 1.0, 600)
    assert learn(learned, 2.0, 1_200).per_minute == 1_200


def test_a_lower_limit_holds_less_at_once():
    state = learn(at(bucket(60_000, 0.0), 50.0), 50.0, 600)
    assert state.level == full(state) == pytest.approx(0.985)


def test_a_limit_that_is_never_reached_explains_no_429():
    lie = at(bucket(1e9, 0.0, is_declared=False), 50.0)
    lie, _ = lease(lie, 50.0, 1)
    assert not was_limiting(lie, started=50.0)
    assert not was_limiting(None, started=50.0)
    tight, wait = lease(at(bucket(60, 0.0), 50.0), 50.0, 1)
    assert wait > 0
    assert was_limiting(tight, started=50.0)
    assert not was_limiting(tight, started=50.1)


def test_an_inferred_limit_replaces_a_false_one_and_is_kept_against_it():
    lie = at(bucket(1e9, 0.0, is_declared=False), 50.0)
    guessed = infer_limit(lie, 50.0, per_second=80)
    assert (guessed.per_minute, guessed.is_inferred) == (6_000, True)
    assert learn(guessed, 51.0, 1e9) == guessed
    assert learn(guessed, 51.0, 60).per_minute == 60
    assert infer_limit(bucket(60, 0.0), 50.0, per_second=80) == bucket(60, 0.0)
    assert infer_limit(None, 50.0, per_second=0.0) is None


def test_an_inferred_limit_grows_while_it_is_in_use_up_to_what_was_declared():
    state, now = infer_limit(bucket(9_000, 0.0), 0.0, per_second=100), 0.0
    while now < 300:
        state, wait = lease(state, now, 1)
        now += wait
    assert state.factor == 1.2
    idle = infer_limit(None, 0.0, per_second=100)
    for second in range(300):
        idle = at(idle, float(second))
    assert idle.factor < 1.01


def test_a_clock_that_steps_back_changes_nothing():
    state = at(bucket(6_000, 0.0), 50.0)
    assert at(state, 40.0) == state


@pytest.mark.parametrize(
    ("calm_seconds", "pause_seconds", "gained"),
    [
        (0.0, 0.0, 0.004),
        (0.0, 0.25, 0.004),
        (0.0, 0.5, 0.002),  # a 429 cost twice the cheap quarter of a second
        (0.0, 0.75, 0.004 / 3),
        (0.0, 1.0, 0.001),
        (0.0, 300.0, 0.001),  # at most four times slower
        (12.0, 0.0, 0.004),
        (24.0, 0.0, 0.008),
        (36.0, 0.0, 0.016),
        (36.0, 1.0, 0.016),  # after half a minute without a 429 the price of a try does not count
        (24.0, 1.0, 0.008 / 2),
        (120.0, 0.0, 0.05),  # at most 5 % a second
    ],
)
def test_what_the_factor_gains_in_a_second(calm_seconds, pause_seconds, gained):
    state = bucket(6_000.0, 0.0)._replace(
        at=100.0 + calm_seconds, cut_at=100.0, factor=0.5, pause_seconds=pause_seconds
    )
    assert at(state, 101.0 + calm_seconds).factor == pytest.approx(0.5 + gained, rel=1e-9)


def test_a_factor_above_1_gains_in_proportion():
    state = bucket(60.0, 0.0, is_declared=False)._replace(
        at=100.0, cut_at=100.0, factor=2.0, is_inferred=True, level=-9.0
    )
    assert at(state, 101.0).factor == pytest.approx(2.008)
