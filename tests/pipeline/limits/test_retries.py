import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ERRORS, EndpointError, RefusedError, UsageError
from pipeline.limits.retries import (
    Fail,
    Halve,
    Retry,
    SplitRequest,
    Stop,
    backoff,
    pause,
    verdict,
)

PAUSING = [kind for kind, facts in ERRORS.items() if facts.is_pausing]


def decide(kind, attempts=1, size=1, status=None, retry_after=None, **more):
    error = EndpointError(kind, "why", status=status, retry_after=retry_after)
    return verdict(error, attempts, size, "hub", lambda: 0.5, **more)


@pytest.mark.parametrize(
    ("kind", "attempts", "size", "status", "expected"),
    [
        ("transient", 1, 32, 500, Retry(0.05)),
        ("transient", 11, 32, 500, Retry(10.0)),
        ("transient", 12, 32, 500, Halve()),
        ("transient", 12, 1, 500, Fail()),
        ("ambiguous", 1, 4, None, Retry(0.05)),
        ("ambiguous", 2, 4, None, Halve()),
        ("ambiguous", 2, 1, None, Fail()),
        ("invalid", 2, 32, 200, Retry(0.1)),
        ("invalid", 3, 32, 200, Halve()),
        ("invalid", 3, 1, 200, Fail()),
        ("poison", 1, 64, 400, Halve()),
        ("poison", 1, 1, 400, Fail()),
        ("poison", 1, 64, 424, Retry(0.05)),
        ("poison", 2, 64, 424, Halve()),
        ("too_long", 1, 2, 413, Halve()),
        ("too_long", 1, 1, 413, Fail()),
        ("rate", 500, 32, 429, Retry(0.5)),
        ("loading", 500, 32, 503, Retry(0.0)),
        ("overload", 500, 32, 503, Retry(0.5)),
        ("unreachable", 500, 32, None, Retry(0.0)),
    ],
)
def test_what_follows_from_an_error(kind, attempts, size, status, expected):
    decided = decide(kind, attempts, size, status)
    assert (type(decided), decided) == (type(expected), expected)


def test_only_the_call_waits_if_the_server_names_no_time():
    assert decide("rate", retry_after=0.0) == decide("overload") == Retry(0.5)
    assert decide("rate", retry_after=7.0) == decide("overload", retry_after=7.0) == Retry(0.0)


def test_a_connection_that_breaks_in_silence_points_at_the_endpoint():
    for attempts, status, is_silent, kind in [
        (11, None, True, Retry), (12, None, True, Fail), (2, None, False, Fail), (2, 200, True, Fail),
    ]:  # fmt: skip
        decided = decide("ambiguous", attempts, status=status, is_silent=is_silent)
        assert isinstance(decided, kind), (attempts, status, is_silent)


def test_only_what_is_too_long_is_cut_and_only_alone():
    assert isinstance(decide("too_long", 1, 1, 413, can_split=True), SplitRequest)
    assert isinstance(decide("too_long", 1, 2, 413, can_split=True), Halve)
    for kind in ERRORS.keys() - {"too_long"}:
        assert not isinstance(decide(kind, 99, 1, 400, can_split=True), SplitRequest)


@pytest.mark.parametrize(
    ("kind", "error"), [("auth", RefusedError), ("quota", RefusedError), ("config", UsageError)]
)
def test_what_no_request_can_survive_stops_the_run(kind, error):
    decided = decide(kind)
    assert isinstance(decided, Stop)
    assert isinstance(decided.error, error)
    assert str(decided.error) == "endpoint `hub`: why"


@given(st.sampled_from(sorted(ERRORS)), st.integers(1, 40), st.integers(1, 64))
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
def test_a_pause_is_positive_and_bounded_whatever_the_server_requests(kind, retry_after, failures, draw):
    error = EndpointError(kind, "", retry_after=retry_after)
    seconds = pause(error, failures, lambda: draw)
    assert 0 <= seconds <= 330
    if retry_after is not None and 0 < retry_after <= 20:
        assert retry_after <= seconds <= retry_after * 1.1 + 1e-9


@pytest.mark.parametrize(("retry_after", "min_seconds"), [(0, 0), (-5, 0), (1e9, 300), (0.02, 0.02), (7, 7)])
def test_retry_after_is_honoured_and_clamped(retry_after, min_seconds):
    error = EndpointError("rate", "", retry_after=retry_after)
    assert min_seconds <= pause(error, 1, lambda: 0.0) <= 330


@pytest.mark.parametrize("kind", ["poison", "config", "invalid"])
def test_another_way_of_asking_is_tried_at_once_whatever_the_class(kind):
    error = EndpointError(kind, "encoding_format is not supported", status=400)
    error.ask_with = {"encoding_format": "float"}
    assert verdict(error, 99, 32, "hub", lambda: 0.5) == Retry(0.0)
