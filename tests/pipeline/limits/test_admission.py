"""A call is sent only if every part of admission agrees, and then each part has been paid."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import EndpointError
from pipeline.limits import rate, retry_budget
from pipeline.limits.admission import Admission, Pause, Permit
from pipeline.limits.rate import Limits, bucket
from pipeline.limits.retry_budget import FULL, RetryBudget
from pipeline.records import Endpoint

CALLS_PER_MINUTE, TOKENS_PER_MINUTE, SLOTS = 240.0, 40_000.0, 2
WAITS = st.sampled_from([0.25, 1.0, 4.0, 64.0])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), WAITS),
        st.tuples(
            st.just("lease"),
            st.sampled_from([1.0, 64.0, 1_024.0]),
            st.sampled_from([0.0, 0.0, 14.0, 200.0]),
        ),
        st.tuples(st.just("answered")),
        st.tuples(st.just("failed")),
    ),
    max_size=60,
)


def endpoint(**changed):
    given = {"name": "hub", "kind": "openai", "task": "feature-extraction", "model": "m"}
    return Endpoint(**given | {"identity": ("openai", "", "m", "main"), "concurrency": 4} | changed)


def admission_of(**changed):
    return Admission(endpoint(**changed), 0.0, lambda: 0.5)


def refused(kind="unreachable", retry_after=None):
    return EndpointError(kind, "no", retry_after=retry_after)


class Parts:
    """Slots, retry budget and rate limits, each checked and paid separately."""

    def __init__(self):
        self.in_flight = 0
        self.retries = RetryBudget()
        self.limits = Limits(bucket(CALLS_PER_MINUTE, 0.0), bucket(TOKENS_PER_MINUTE, 0.0))

    def refusal(self, now, tokens, retry_cost):
        """The first part that rejects this call; the rate limits are paid if none does, and they
        remember the check."""
        if self.in_flight == SLOTS:
            return "room"
        if self._spend_retry(now, retry_cost)[1]:
            return "retries"
        self.limits, wait = rate.lease_all(self.limits, now, tokens)
        return "limits" if wait else None

    def pay(self, now, retry_cost):
        self.in_flight += 1
        self.retries, _ = self._spend_retry(now, retry_cost)

    def _spend_retry(self, now, cost):
        return retry_budget.spend(self.retries, now, cost) if cost else (self.retries, 0.0)


@given(steps=STEPS)
def test_a_call_goes_exactly_where_every_part_agrees_and_each_is_paid(steps):
    made = admission_of(
        kind="local",  # its concurrency is fixed by the job
        concurrency=SLOTS,
        requests_per_minute=CALLS_PER_MINUTE,
        tokens_per_minute=TOKENS_PER_MINUTE,
    )
    parts, out, now = Parts(), [], 0.0
    for step, *figures in steps:
        if step == "wait":
            now += figures[0]
        elif step == "lease":
            tokens, retry_cost = figures
            refusal = parts.refusal(now, tokens, retry_cost)
            got = made.lease(now, tokens, retry_cost)
            assert isinstance(got, Permit) == (refusal is None), refusal
            if isinstance(got, Permit):
                parts.pay(now, retry_cost)
                out.append(got)
            else:
                assert got > 0
                assert math.isinf(got) == (refusal == "room")
        elif out and step == "answered":
            made.answered(out.pop(0), now, None)
            parts.in_flight -= 1
            parts.retries = retry_budget.earn(parts.retries)
        elif out:
            assert made.refused(out.pop(0), now, refused("invalid")) is None
            parts.in_flight -= 1


@given(steps=STEPS, sizes=st.lists(st.sampled_from([1.0, 1_024.0]), max_size=4))
def test_a_refusal_costs_nothing(steps, sizes):
    """Two admissions that differ only in rejected leases grant the same calls."""
    quiet, loud = (admission_of(concurrency=SLOTS, requests_per_minute=60.0) for _ in range(2))
    out, now = [], 0.0
    for step, *figures in steps:
        if step == "wait":
            now += figures[0]
        elif step == "lease":
            got = quiet.lease(now, *figures), loud.lease(now, *figures)
            assert got[0] == got[1]
            if isinstance(got[0], Permit):
                out.append(got)
            else:
                for tokens in sizes:
                    assert not isinstance(loud.lease(now, tokens, figures[1]), Permit)
        elif out:
            for made, permit in zip((quiet, loud), out.pop(0), strict=True):
                if step == "answered":
                    made.answered(permit, now, None)
                else:
                    made.refused(permit, now, refused())


def test_no_more_calls_are_in_flight_than_the_job_allows():
    made = admission_of(kind="local", concurrency=2)
    permits = [made.lease(0.0, 1.0) for _ in range(3)]
    assert permits[2] == math.inf and not made.has_room
    made.answered(permits[0], 0.5, None)
    assert isinstance(made.lease(0.5, 1.0), Permit)
    assert made.lease(0.5, 1.0) == math.inf


def test_a_paused_endpoint_is_probed_by_one_call():
    made = admission_of()
    first, second = made.lease(0.0, 1.0), made.lease(0.0, 1.0)
    pause = made.refused(first, 1.0, refused())
    assert made.refused(second, 1.0, refused()) is None  # no new evidence: it was in flight before
    assert made.is_paused(1.0)
    assert made.lease(1.0, 1.0) == pause.seconds
    probe = made.lease(1.0 + pause.seconds, 1.0)
    assert isinstance(probe, Permit)
    assert made.lease(1.0 + pause.seconds, 1.0) == math.inf
    made.answered(probe, 2.0 + pause.seconds, None)
    assert not made.is_paused(2.0 + pause.seconds)
    assert isinstance(made.lease(2.0 + pause.seconds, 1.0), Permit)


def test_a_pause_costs_no_slots_retries_or_tokens():
    made = admission_of(kind="local", concurrency=2, tokens_per_minute=TOKENS_PER_MINUTE)
    pause = made.refused(made.lease(60.0, 1.0), 60.0, refused(retry_after=8.0))
    assert (pause.seconds >= 8.0, pause.is_requested) == (True, True)
    for _ in range(200):
        assert not isinstance(made.lease(61.0, 1.0, FULL), Permit)
    assert isinstance(made.lease(60.0 + pause.seconds, 1.0, FULL), Permit)


def test_a_retry_waits_on_an_empty_budget_and_a_first_call_does_not():
    made = admission_of(kind="local", concurrency=9)
    assert isinstance(made.lease(0.0, 1.0, FULL), Permit)
    assert isinstance(made.lease(0.0, 1.0, 14.0), Permit)  # one a second goes
    assert made.lease(0.25, 1.0, 14.0) == 0.75
    assert isinstance(made.lease(0.25, 1.0), Permit)


def test_a_limit_in_a_header_is_respected():
    made = admission_of(kind="local", concurrency=99)
    assert made.limit_seconds(0.0, 1.0) == 0.0
    made.learn({"RateLimit": '"api";r=0;t=7', "RateLimit-Policy": '"api";q=9;w=60'}, 0.0, 0.0)
    assert made.lease(0.0, 1.0) == made.limit_seconds(0.0, 1.0) == pytest.approx(7.0)
    assert made.is_paused(0.0)


@pytest.mark.parametrize(("seconds", "is_paused"), [(0.5, False), (30.0, True)])
def test_a_429_with_a_time_holds_all_calls_back_for_it(seconds, is_paused):
    made = admission_of()
    pause = made.refused(made.lease(0.0, 1.0), 0.0, refused("rate", seconds))
    assert (pause.is_requested, pause.seconds >= seconds) == (True, True)
    assert made.lease(0.0, 1.0) == pytest.approx(pause.seconds)
    assert made.is_paused(0.0) is is_paused  # a short one is waited out: a fallback is another model


def test_the_repr_is_the_state_of_the_breaker_and_the_slots():
    made = admission_of(concurrency=8)
    assert repr(made) == "<Admission: 0 of 8 in flight>"
    permits = [made.lease(0.0, 1.0) for _ in range(3)]
    assert repr(made) == "<Admission: 3 of 8 in flight>"
    pause = made.refused(permits[0], 1.0, refused(retry_after=4.0))
    assert repr(made) == f"<Admission: 2 of 8 in flight, paused {pause.seconds:.1f} s>"
    assert made.lease(2.0, 1.0) == pause.seconds - 1.0
    assert repr(made) == f"<Admission: 2 of 8 in flight, paused {pause.seconds - 1.0:.1f} s>"
    assert made.refused(permits[1], 9.0, refused("invalid")) is None
    assert repr(made) == "<Admission: 1 of 8 in flight, half-open>"
    probe = made.lease(9.0, 1.0)
    assert repr(made) == "<Admission: 2 of 8 in flight, probing>"
    made.answered(probe, 9.5, None)
    assert repr(made) == "<Admission: 1 of 8 in flight>"


def test_the_repr_shows_a_pause_of_the_rate_limits():
    made = admission_of(kind="local", is_adaptive=False)
    made.refused(made.lease(0.0, 1.0), 0.0, refused("rate", 2.0))
    assert repr(made) == "<Admission: 0 of 4 in flight, paused 2.1 s>"


def test_calls_in_flight_that_are_refused_alike_begin_one_pause():
    admission = admission_of()
    permits = [admission.lease(0.0, 1.0) for _ in range(3)]
    error = EndpointError("rate", "too many", status=429, retry_after=3_600.0)
    pauses = [admission.refused(permit, 1.0, error) for permit in permits]
    assert pauses == [Pause(300.0, True), None, None]


@pytest.mark.parametrize(("name", "tokens"), [("requests", 1.0), ("tokens", 500.0)])
@pytest.mark.parametrize(("per_minute", "is_limit"), [("1", True), ("0.99", False), ("0", False)])
def test_a_limit_of_a_header_is_at_least_one_a_minute(name, tokens, per_minute, is_limit):
    made = admission_of(kind="local", concurrency=99)
    made.learn({f"x-ratelimit-limit-{name}": per_minute}, 0.0, 0.0)
    assert (made.limit_seconds(0.0, tokens) > 0) is is_limit


def test_a_429_without_a_time_pauses_from_the_second_refused_round_trip():
    made = admission_of(concurrency=2)
    for now, seconds in ((1.0, None), (2.0, 0.625), (3.0, 1.125), (5.0, 2.75), (9.0, 3.75), (20.0, 3.75)):
        permits = []
        while isinstance(permit := made.lease(now, 1.0), Permit):
            permits.append(permit)
        pauses = [made.refused(permit, now, refused("rate")) for permit in permits]
        assert pauses[-1] == (Pause(seconds, False) if seconds else None)
        assert pauses[:-1] == [None] * (len(permits) - 1)
    assert made.is_paused(20.0)
    probe = made.lease(23.75, 1.0)
    made.answered(probe, 24.0, None)
    assert not made.is_paused(24.0)
