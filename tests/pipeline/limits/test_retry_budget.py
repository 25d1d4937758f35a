from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ERRORS
from pipeline.limits.retry_budget import RetryBudget, earn, spend

TRANSIENT, THROTTLE = ERRORS["transient"].retry_cost, ERRORS["rate"].retry_cost


@given(st.lists(st.tuples(st.sampled_from(["earn", 5.0, 14.0]), st.floats(0, 3)), max_size=400))
def test_it_never_exceeds_500_nor_falls_below_0_and_never_refuses(steps):
    state, now = RetryBudget(), 0.0
    for what, gap in steps:
        now += gap
        if what == "earn":
            state = earn(state)
        else:
            state, wait = spend(state, now, what)
            assert 0 <= wait <= 1
            if wait:
                assert spend(state, now + wait, what)[1] == 0.0
        assert 0 <= state.left <= 500


def test_35_transient_or_100_throttled_retries_go_at_once_in_an_outage():
    for cost, expected in ((TRANSIENT, 35), (THROTTLE, 100)):
        state, gone = RetryBudget(), 0
        state = state._replace(last=0.0)
        while not (spent := spend(state, 0.0, cost))[1]:
            state, gone = spent[0], gone + 1
        assert gone == expected


def test_an_empty_budget_lets_one_retry_a_second_go():
    state, now, gone = RetryBudget(left=0.0), 0.0, 0
    while now < 60:
        state, wait = spend(state, now, TRANSIENT)
        gone += not wait
        now += wait or 0.01
    assert gone == 60
    assert state.left == 0.0


def test_answers_fill_it_again():
    assert earn(RetryBudget(left=0.0)).left == 7.0
    assert earn(RetryBudget(left=499.0)).left == 500.0


def test_answers_pay_for_the_retries_of_thirty_percent_of_failures():
    state, waited = RetryBudget(), 0.0
    for turn in range(10_000):
        if turn % 10 < 3:
            state, wait = spend(state, float(turn) / 100, TRANSIENT)
            waited += wait
        else:
            state = earn(state)
    assert waited == 0.0
