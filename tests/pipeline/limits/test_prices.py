"""The cost of calls."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pipeline.limits.prices import cost, is_believable, output_tokens_bound, rent
from pipeline.records import Price

AMOUNT = st.integers(0, 10**9)
RATE = st.floats(0, 1_000)
PRICES = st.builds(Price, RATE, RATE, RATE, RATE, RATE)


@pytest.mark.parametrize(("price", "usd"), [
    (None, 0.0),
    (Price(), 0.0),
    (Price(input=0.5), 1.0),
    (Price(output=2.0), 6.0),
    (Price(request=0.01), 0.4),
    (Price(second=0.001), 7.2),
    (Price(hour=1.8), 0.0),
    (Price(0.5, 2.0, 0.01, 0.001, 1.8), 14.6),
])
def test_cost_in_usd(price, usd):
    spent = cost(price, requests=40, input_tokens=2_000_000, output_tokens=3_000_000,
                 seconds=7_200)
    assert spent == pytest.approx(usd, abs=1e-12)


@given(PRICES, AMOUNT, AMOUNT, AMOUNT, AMOUNT)
def test_cost_is_never_negative_and_adds_up(price, requests, read, written, seconds):
    def of(**work):
        return cost(price, **work)

    together = of(requests=requests, input_tokens=read, output_tokens=written, seconds=seconds)
    apart = [of(requests=requests), of(input_tokens=read), of(output_tokens=written),
             of(seconds=seconds)]
    assert min(apart) >= 0
    assert together == pytest.approx(sum(apart))


@pytest.mark.parametrize(("task", "parameters", "tokens"), [
    ("feature-extraction", {"max_tokens": 9}, 0),
    ("chat-completion", {}, 512),
    ("chat-completion", {"max_tokens": 100}, 100),
    ("chat-completion", {"max_completion_tokens": 70, "max_tokens": 100}, 70),
    ("summarization", {"max_new_tokens": 60}, 60),
    ("summarization", {"max_length": 80, "min_length": 8}, 80),
    ("chat-completion", {"max_tokens": 0}, 512),
    ("chat-completion", {"max_tokens": -1}, 512),
    ("chat-completion", {"max_tokens": True}, 512),
    ("chat-completion", {"max_tokens": "100"}, 512),
    ("chat-completion", {"max_tokens": None}, 512),
])
def test_the_most_that_one_answer_may_have(task, parameters, tokens):
    assert output_tokens_bound(task, parameters) == tokens


def test_an_hour_is_paid_once_however_many_calls_run():
    assert rent(Price(hour=3.6), 1_000) == pytest.approx(1.0)
    assert rent(None, 1_000) == 0.0


@pytest.mark.parametrize(("reported", "counted", "characters", "requests", "expected"), [
    (0, 100, 400, 1, True),  # not reported
    (100, 100, 400, 1, True),
    (200, 100, 400, 1, True),  # another tokenizer
    (330, 60, 240, 1, True),  # a system prompt of the service
    (26, 100, 400, 1, True),
    (400, 100, 400, 1, False),  # characters
    (404, 100, 400, 4, False),
    (100, 100, 100, 1, True),  # Chinese: a character is a token
    (3, 100, 400, 1, False),
    (10_000, 100, 400, 1, False),
    (2**53 - 1, 100, 400, 1, False),
])  # fmt: skip
def test_the_usage_that_is_believed(reported, counted, characters, requests, expected):
    assert is_believable(reported, counted, characters, requests) is expected
