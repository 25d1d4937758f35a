"""`weighted`: shares by weight, no idle capacity while work waits, no burst afterwards."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dispatch.choice import MAX_DEBT_CALLS
from pipeline.dispatch.policy import LEND_AFTER_SECONDS, Lending, View, weighted_turn
from pipeline.errors import EndpointError
from tests.support.routed import Service, endpoint, run


def rows(count):
    return [(f"text {n}", {}) for n in range(count)]


def counts(services, since, until):
    return [sum(since <= start < until for start in each.starts) for each in services]


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=5), st.integers(1, 300))
def test_shares_stay_within_one_call_while_all_keep_up(weights, calls):
    shares = [0.0] * len(weights)
    for _ in range(calls):
        views = [View(at, True, 0.0, 0.0, share, 1 / weight)
                 for at, (share, weight) in enumerate(zip(shares, weights, strict=True))]
        taking = [at for at in range(len(weights)) if weighted_turn(views, at) == "takes"]
        shares[taking[0]] += 1 / weights[taking[0]]
        assert all(one <= other + 1 / weight + 1e-9 + 1 / min(weights)
                   for one in shares for other, weight in zip(shares, weights, strict=True))


@given(st.lists(st.tuples(st.floats(0, 50), st.booleans(), st.booleans()), min_size=2, max_size=5))
def test_somebody_takes_the_call_or_is_held_up_whenever_one_has_room(states):
    views = [View(at, has_room, 0.0, 0.0, share, 1.0, 0.5 if is_limited else 0.0)
             for at, (share, has_room, is_limited) in enumerate(states)]
    turns = [weighted_turn(views, at) for at in range(len(views))]
    if any(view.has_room for view in views):
        assert {"takes", "held"} & set(turns)
    assert all(turn == "waits" for turn, view in zip(turns, views, strict=True) if not view.has_room)


def test_a_share_is_lent_after_a_second_of_holding_others_up_in_total():
    lending = Lending(0.0)
    for at in range(1, 10):  # held up for 0.1 s nine times
        lending = lending.observed(at, True).observed(at + 0.1, False)
        assert not lending.lends
    lending = Lending(0.0).observed(0.0, True).observed(LEND_AFTER_SECONDS, True)
    assert lending.lends
    assert lending.observed(1.1, False).observed(2.0, True).lends
    assert not lending.observed(1.1, False).observed(7.0, False).lends


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (1.0, 9.0)])
def test_a_slow_endpoint_lends_its_share_and_no_capacity_is_idle(tmp_path, weights):
    slow, quick = Service("slow", 10.0), Service("quick", 0.1)
    served = [(endpoint("slow", weight=weights[0], concurrency=4), slow),
              (endpoint("quick", weight=weights[1], concurrency=4), quick)]
    ended = run(tmp_path, served, rows(400), policy="weighted")
    assert ended.error is None
    # quick alone makes 40 a second, and waits for a second at most before it borrows.
    assert ended.seconds < 400 / 40 + LEND_AFTER_SECONDS + 10.0
    assert len(slow.texts) >= 8


@pytest.mark.parametrize("per_minute", [60.0, 600.0])
def test_a_rate_limited_endpoint_lends_its_share_and_uses_its_limit(tmp_path, per_minute):
    limited, free = Service("limited"), Service("free")
    served = [(endpoint("limited", requests_per_minute=per_minute), limited),
              (endpoint("free", concurrency=4), free)]
    ended = run(tmp_path, served, rows(400), policy="weighted")
    assert ended.error is None
    assert ended.seconds < 400 / 40 + 5
    rate = len(limited.texts) / ended.seconds
    assert rate > 0.9 * per_minute / 60 or rate > 15  # 40 a second are its half


@pytest.mark.parametrize("away", ["pause", "hang", "slow"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_shares_are_restored_without_a_burst(tmp_path, away, batch_size):
    def is_away(now):
        return 5.0 < now < 25.0

    def script(inputs, now):
        if away == "pause" and is_away(now):
            return EndpointError("overload", "503", status=503, retry_after=2.0)
        return "hang" if away == "hang" and is_away(now) and now < 7 else None

    one, two = Service("one", 1.0, script), Service("two", 1.0)
    if away == "slow":
        one = _Slowed("one", is_away)
    served = [(endpoint("one", batch_size=batch_size, concurrency=2), one),
              (endpoint("two", batch_size=batch_size, concurrency=2), two)]
    ended = run(tmp_path, served, rows(batch_size * (700 if away == "hang" else 300)),
                policy="weighted")
    assert ended.error is None
    back = 150.0 if away == "hang" else 40.0
    until = ended.seconds - 1.0
    assert until > back
    of_one, of_two = counts((one, two), back, until)
    assert abs(of_one - of_two) <= 0.1 * of_two + MAX_DEBT_CALLS
    # Nowhere in the run has one of them the other's calls as well for longer than its debt.
    merged = sorted([(at, "two") for at in two.starts] + [(at, "one") for at in one.starts])
    run_of_one, longest = 0, 0
    for (_, before), (_, name) in pairwise(merged):
        run_of_one = run_of_one + 1 if name == before == "one" else 0
        longest = max(longest, run_of_one)
    assert longest <= MAX_DEBT_CALLS + 2


class _Slowed(Service):
    def __init__(self, name, is_away):
        super().__init__(name, 1.0)
        self.is_away = is_away

    async def __call__(self, requests):
        import anyio

        self.seconds = 9.0 if self.is_away(anyio.current_time()) else 1.0
        return await super().__call__(requests)
