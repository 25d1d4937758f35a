import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PAUSING, EndpointError, RefusedError, UsageError
from pipeline.limits.retries import Fail, Halve, Retry, Stop, backoff, pause, verdict

KINDS = [
    "too_long",
    "loading",
    "rate",
    "overload",
    "unreachable",
    "quota",
    "auth",
    "poison",
    "config",
    "transient",
    "ambiguous",
    "invalid",
]


def decide(kind, attempts=1, size=1, status=None):
    return verdict(EndpointError(kind, "why", status=status), attempts, size, "hub", lambda: 0.5)


@pytest.mark.parametrize(
    ("kind", "attempts", "size", "status", "expected"),
    [
        ("transient", 1, 32, 500, Retry(0.05, True)),
        ("transient", 11, 32, 500, Retry(10.0, True)),
        ("transient", 12, 32, 500, Fail()),
        ("ambiguous", 1, 4, None, Retry(0.05, True)),
        ("ambiguous", 2, 4, None, Fail()),
        ("invalid", 2, 32, 200, Retry(0.1, True)),
        ("invalid", 3, 32, 200, Halve()),
        ("invalid", 3, 1, 200, Fail()),
        ("poison", 1, 64, 400, Halve()),
        ("poison", 1, 1, 400, Fail()),
        ("poison", 1, 64, 424, Retry(0.05, True)),
        ("poison", 2, 64, 424, Halve()),
        ("too_long", 1, 2, 413, Halve()),
        ("too_long", 1, 1, 413, Fail()),
        ("rate", 500, 32, 429, Retry(0.5, False)),
        ("loading", 500, 32, 503, Retry(0.0, False)),
        ("overload", 500, 32, 503, Retry(0.0, False)),
        ("unreachable", 500, 32, None, Retry(0.0, False)),
    ],
)
def test_what_follows_from_an_error(kind, attempts, size, status, expected):
    assert decide(kind, attempts, size, status) == expected


@pytest.mark.parametrize(
    ("kind", "error"), [("auth", RefusedError), ("quota", RefusedError), ("config", UsageError)]
)
def test_what_no_request_can_survive_stops_the_run(kind, error):
    decided = decide(kind)
    assert isinstance(decided, Stop)
    assert isinstance(decided.error, error)
    assert str(decided.error) == "endpoint `hub`: why"


@given(st.sampled_from(KINDS), st.integers(1, 40), st.integers(1, 64))
def test_every_request_is_sent_again_or_fails_or_the_run_stops(kind, attempts, size):
    decided = decide(kind, attempts, size, 400)
    assert isinstance(decided, Retry | Halve | Fail | Stop)
    if size == 1:
        assert not isinstance(decided, Halve)
    if attempts >= 12 and kind not in PAUSING:
        assert not isinstance(decided, Retry)


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_is_within_its_cap(attempts, draw):
    assert 0 <= backoff(attempts, 0.05, lambda: draw) <= 20


@given(
    st.sampled_from(sorted(PAUSING)),
    st.none() | st.floats(allow_nan=False),
    st.integers(0, 1_000),
    st.floats(0, 1, exclude_max=True),
)
def test_a_pause_is_positive_and_bounded_whatever_the_server_asks(kind, asked, streak, draw):
    error = EndpointError(kind, "", retry_after=asked)
    seconds = pause(error, streak, lambda: draw)
    assert 0 <= seconds <= 330
    if asked is not None and 0 < asked <= 20:
        assert asked <= seconds <= asked * 1.1 + 1e-9


@pytest.mark.parametrize(("asked", "least"), [(0, 0), (-5, 0), (1e9, 300), (0.02, 0.02), (7, 7)])
def test_retry_after_is_honoured_and_clamped(asked, least):
    error = EndpointError("rate", "", retry_after=asked)
    assert least <= pause(error, 1, lambda: 0.0) <= 330
