import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.limits.headers import Limit, RateLimits, exhausted_seconds, parse_rate_limits

NOW = 1_790_000_000.0
NAMES = [
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "X-RateLimit-Reset",
    "x-ratelimit-",
    "RateLimit",
    "RateLimit-Policy",
    "RateLimit-Limit",
    "RateLimit-Reset",
]
SHAPED = st.text('0123456789.;,="rtqw smhµ-:eETZ', max_size=40)


@given(
    st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=30), st.text(max_size=60) | SHAPED),
    st.floats(0, 4e9),
)
def test_no_header_ever_raises_and_every_number_is_finite_and_0_or_above(headers, now):
    what = parse_rate_limits(headers, now)
    for quota in what:
        for number in (quota.per_minute, quota.remaining, quota.reset_seconds):
            assert number is None or (number >= 0 and math.isfinite(number))
        assert quota.per_minute is None or quota.per_minute > 0
    assert 0 <= exhausted_seconds(what) < math.inf


def test_openai():
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert parse_rate_limits(headers, NOW) == RateLimits(
        calls=Limit(per_minute=60, remaining=59, reset_seconds=1),
        tokens=Limit(per_minute=150_000, remaining=149_984, reset_seconds=360),
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("8.64s", 8.64),
        ("6m0s", 360),
        ("12ms", 0.012),
        ("1h2m3s", 3_723),
        ("250µs", 0.00025),
        ("23468.99", 23_468.99),
        ("0", 0),
        ("1790000007", 7),
        ("1790000007000", 7),
        ("1789999000", 0),
        ("2026-09-21T14:13:30Z", 10),
        ("2026-09-21T14:13:30", 10),
        ("Mon, 21 Sep 2026 14:13:30 GMT", 10),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("1s2", None),
        ("NaN", None),
        ("１２", None),
        ("9" * 400, None),
        ("0001-01-01T00:00:00+23:59", 0),
    ],
)
def test_resets_in_every_form(text, seconds):
    got = parse_rate_limits({"x-ratelimit-reset-requests": text}, NOW).calls.reset_seconds
    assert got == (None if seconds is None else pytest.approx(seconds))


def test_the_hub():
    headers = {
        "RateLimit": '"api";r=0;t=55',
        "RateLimit-Policy": '"fixed window";"api";q=500;w=300',
    }
    what = parse_rate_limits(headers, NOW)
    assert what == RateLimits(calls=Limit(per_minute=100, remaining=0, reset_seconds=55, is_window=True))
    assert exhausted_seconds(what) == 55


def test_of_several_policies_the_tightest_limit_and_the_one_with_least_left():
    headers = {
        "ratelimit-policy": '"burst";q=100;w=60, "hour";q=1000;w=3600, "words";q=9000;w=60;qu="tokens"',
        "ratelimit": '"burst";r=50;t=30, "hour";r=0;t=900, "words";r=10;t=5',
    }
    what = parse_rate_limits(headers, NOW)
    assert what.calls == Limit(per_minute=100, remaining=0, reset_seconds=900, is_window=True)
    assert what.tokens == Limit(per_minute=9_000, remaining=10, reset_seconds=5, is_window=True)


def test_older_drafts():
    headers = {
        "RateLimit-Limit": "10, 10;w=1, 50;w=60",
        "RateLimit-Remaining": "3",
        "RateLimit-Reset": "7",
    }
    assert parse_rate_limits(headers, NOW).calls == Limit(per_minute=600, remaining=3, reset_seconds=7)
    headers = {"RateLimit": "limit=100, remaining=0, reset=30"}
    assert parse_rate_limits(headers, NOW).calls == Limit(remaining=0, reset_seconds=30, is_window=True)
    headers = {"ratelimit-remaining": "0", "ratelimit-reset": "30"}  # Replicate
    assert parse_rate_limits(headers, NOW).calls == Limit(remaining=0, reset_seconds=30)


def test_cerebras_names_its_windows():
    headers = {
        "x-ratelimit-limit-requests-day": "14400",
        "x-ratelimit-remaining-requests-day": "14390",
        "x-ratelimit-reset-requests-day": "23468.99",
        "x-ratelimit-limit-tokens-minute": "60000",
        "x-ratelimit-remaining-tokens-minute": "59000",
    }
    what = parse_rate_limits(headers, NOW)
    # What may be spent in a day may be spent in an hour: it is not paced.
    assert what.calls == Limit(remaining=14_390, reset_seconds=23_468.99)
    assert what.tokens == Limit(per_minute=60_000, remaining=59_000)


def test_a_limit_without_a_window_is_not_paced():
    headers = {"x-ratelimit-limit": "10", "x-ratelimit-remaining": "9", "x-ratelimit-reset": "1"}
    assert parse_rate_limits(headers, NOW).calls == Limit(remaining=9, reset_seconds=1)


def test_a_limit_of_a_part_of_the_tokens_is_not_one_of_all():
    headers = {
        "x-ratelimit-limit-tokens-prompt": "60000",
        "x-ratelimit-limit-tokens-generated": "6",
        "x-ratelimit-over-limit": "no",
    }
    assert parse_rate_limits(headers, NOW) == RateLimits(tokens=Limit(per_minute=60_000))


@pytest.mark.parametrize("limit", ["1000000000", "1e9"])
def test_an_implausible_limit_is_reported_as_it_is(limit):
    assert parse_rate_limits({"X-RateLimit-Limit-Requests": limit}, NOW).calls.per_minute == 1e9


@pytest.mark.parametrize("text", ["0", "-1", "inf", "ten", "", "1_000", "0.0", '"10"'])
def test_what_is_no_limit_is_ignored(text):
    assert parse_rate_limits({"x-ratelimit-limit-requests": text}, NOW).calls.per_minute is None


@pytest.mark.parametrize(
    "text", ['"', '";;;', ",,,", "=", '"a";q=;w=', ";" * 100_000, '"a' * 9_999]
)
def test_garbage_names_no_limit(text):
    headers = {"RateLimit": text, "RateLimit-Policy": text}
    assert parse_rate_limits(headers, NOW).calls.per_minute is None
    assert exhausted_seconds(parse_rate_limits(headers, NOW)) == 0


def test_a_retry_after_on_an_answer_is_ignored():
    assert parse_rate_limits({"retry-after": "2", "content-type": "text/plain"}, NOW) == RateLimits()
