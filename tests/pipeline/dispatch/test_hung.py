"""An endpoint that accepts connections and never answers, beside healthy ones; on a virtual clock."""

import pytest

from pipeline.dispatch.endpoint_state import EndpointState
from pipeline.errors import EndpointError, UsageError
from pipeline.limits.admission import Permit
from pipeline.records import Answer, Price, Rule, Stop
from tests.support.routed import DEADLINE_SECONDS, Service, endpoint, run

POLICIES = ["ordered", "cheapest", "fastest", "weighted"]
SAME = {"model": "m", "price": Price(request=0.001), "concurrency": 16}


def hangs(inputs, now):
    return "hang"


def rows(count):
    return [(f"text {n}", {}) for n in range(count)]


def by_time(service, seconds):
    return sum(at <= seconds for _, at in service.answered)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("is_first", [True, False])
def test_everything_flows_past_an_endpoint_that_hangs(tmp_path, policy, is_first):
    hung, well = Service("hung", script=hangs), Service("well")
    served = [(endpoint("hung", **SAME), hung), (endpoint("well", **SAME), well)]
    ended = run(tmp_path, served if is_first else served[::-1], rows(600), policy=policy)
    assert ended.error is None and not ended.dispatch.failures
    # Only the calls that it had before it was silent wait for the deadline, and one each of the
    # probes: 16 is the bound of its window.
    in_flight = sum(start < 30 for start in hung.starts)
    assert in_flight <= 16
    assert by_time(well, 30.0) == 600 - in_flight
    assert ended.seconds < DEADLINE_SECONDS + 10
    assert len(well.answered) == 600


@pytest.mark.parametrize("policy", POLICIES)
def test_an_endpoint_that_hangs_after_good_answers_gets_no_new_calls(tmp_path, policy):
    late, well = Service("late", script=lambda inputs, now: "hang" if now > 2 else None), Service("well")
    served = [(endpoint("late", **SAME), late), (endpoint("well", **SAME), well)]
    ended = run(tmp_path, served, rows(1_500), policy=policy)
    assert ended.error is None and not ended.dispatch.failures
    assert sum(2 < start < 100 for start in late.starts) <= 16
    assert ended.seconds < 2 + DEADLINE_SECONDS + 10


def test_a_hung_endpoint_is_back_at_its_first_reply(tmp_path):
    slow = Service("slow", script=lambda inputs, now: "hang" if now < 1 else None)
    well = Service("well", 4.0)
    served = [(endpoint("slow", **SAME), slow), (endpoint("well", **SAME), well)]
    ended = run(tmp_path, served, rows(1_500))
    assert ended.error is None
    assert len(slow.answered) > 500  # after the pause that followed its deadline


def test_all_that_hang_wait_for_their_deadline_and_end_as_an_outage(tmp_path):
    served = [(endpoint(name, **SAME), Service(name, script=hangs)) for name in ("a", "b")]
    ended = run(tmp_path, served, rows(100), patience=Stop(max_start_seconds=600.0))
    assert str(ended.error).startswith("endpoint `a` or `b`: no reply for")
    assert not ended.dispatch.failures
    for _, service in served:
        # The first round, then probes alone: every call may be billed.
        assert len(service.calls) <= 16 + 6


def test_a_fallback_is_used_once_the_deadline_shows_the_hang_and_not_before(tmp_path):
    first, spare = Service("first", script=hangs), Service("spare")
    served = [(endpoint("first", **SAME), first),
              (endpoint("spare", is_fallback=True, concurrency=16), spare)]
    ended = run(tmp_path, served, rows(200))
    assert ended.error is None and not ended.dispatch.failures
    assert spare.starts[0] >= DEADLINE_SECONDS
    assert by_time(spare, DEADLINE_SECONDS + 10) >= 199


def test_a_row_never_fails_because_one_of_two_endpoints_hangs(tmp_path):
    hung = Service("hung", script=hangs)
    well = Service("well", 0.5, lambda inputs, now: None)
    served = [(endpoint("hung", **SAME | {"batch_size": 32}), hung), (endpoint("well", **SAME), well)]
    ended = run(tmp_path, served, rows(800))
    assert ended.error is None and not ended.dispatch.failures
    assert all(isinstance(each, Answer) for each in ended.answers)


def test_a_rule_to_the_hung_endpoint_holds_no_other_row(tmp_path):
    hung, well = Service("hung", script=hangs), Service("well")
    served = [(endpoint("hung", **SAME), hung), (endpoint("well", **SAME), well)]
    private = [(f"text {n}", {"private": n % 2 == 0}) for n in range(400)]
    ended = run(tmp_path, served, private,
                [Rule("private", True, ("hung",)), Rule("private", False, ("well",))],
                patience=Stop(max_start_seconds=300.0))
    assert str(ended.error).startswith("endpoint `hung`: no reply for")
    assert by_time(well, 30.0) == 200
    assert {text for text, _ in well.answered} == {f"text {n}" for n in range(1, 400, 2)}


def state(seconds=0.0):
    made = EndpointState(0, endpoint("a"), Service("a"), 0.0, lambda: 0.0)
    if seconds:
        made.began(0.0)
        made.answered([], [], [], Permit(0.0, 0.0), seconds)
        made.ended()
    return made


@pytest.mark.parametrize(("own", "neighbour", "silent_after"), [
    (0.1, 0.0, 5.0), (0.1, 100.0, 5.0), (2.0, 0.1, 8.0), (0.0, 0.1, 5.0), (0.0, 2.0, 8.0),
    (0.0, 0.0, None),
])  # fmt: skip
def test_silence_is_measured_by_its_own_answers_or_else_by_those_of_its_neighbours(
    own, neighbour, silent_after
):
    endpoint, other = state(own), state(neighbour)
    assert not endpoint.is_silent(900.0, [endpoint, other])  # nothing is in flight
    endpoint.began(1_000.0)
    assert not endpoint.is_silent(1_004.9, [endpoint, other])
    for seconds in (5.5, 7.5, 10.0, 10_000.0):
        is_silent = silent_after is not None and seconds > silent_after
        assert endpoint.is_silent(1_000.0 + seconds, [endpoint, other]) is is_silent
    endpoint.refused([], EndpointError("transient", "500", status=500), Permit(1_000.0, 0.0), 9_000.0)
    assert not endpoint.is_silent(9_001.0, [endpoint, other])  # a reply of whatever status


def test_one_call_of_a_silent_endpoint_pauses_it_and_one_that_breaks_at_once_does_not():
    hang, broken = EndpointError("ambiguous", "no answer"), EndpointError("ambiguous", "reset")
    endpoint = state()
    endpoint.began(10.0)
    assert endpoint.refused([], broken, Permit(10.0, 0.0), 10.1).pause is None
    assert endpoint.refused([], hang, Permit(10.0, 0.0), 140.0).pause.seconds == 5.0
    busy = state()
    busy.began(10.0)
    busy.answered([], [], [], Permit(20.0, 0.0), 21.0)
    busy.answered([], [], [], Permit(130.0, 0.0), 139.0)
    assert busy.refused([], hang, Permit(10.0, 0.0), 140.0).pause is None


@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize("concurrency", [1, 8, 64, 256])
@pytest.mark.parametrize("has_fallback", [True, False])
def test_a_configuration_error_takes_at_most_8_calls_and_is_never_routed_around(
    tmp_path, batch_size, concurrency, has_fallback
):
    wrong = Service("wrong", script=lambda inputs, now: EndpointError("config", "no such model"))
    other = Service("other", 5.0)
    served = [(endpoint("wrong", concurrency=concurrency, batch_size=batch_size), wrong),
              (endpoint("other", concurrency=2, is_fallback=has_fallback), other)]
    ended = run(tmp_path, served, rows(2_000))
    assert isinstance(ended.error, UsageError) and ended.error.exit_code == 2
    assert str(ended.error) == "endpoint `wrong`: no such model"
    assert len(wrong.calls) <= 8
    assert not ended.dispatch.failures
    # What was in flight elsewhere is drained: it is paid for, and kept.
    assert len(other.calls) == len(other.answered) == (0 if has_fallback else 2)
    assert ended.dispatch.usage.requests == len(other.answered)


@pytest.mark.parametrize("policy", POLICIES)
def test_two_rate_limited_endpoints_are_both_used_to_their_limits(tmp_path, policy):
    one, two = Service("one", 0.03), Service("two", 0.03)
    same = {"model": "m", "requests_per_minute": 1_200.0, "concurrency": 2}
    ended = run(tmp_path, [(endpoint("one", **same), one), (endpoint("two", **same), two)], rows(60),
                policy=policy)  # fmt: skip
    assert ended.error is None
    assert ended.seconds < 1.7  # 1.5 at both limits; nobody sleeps while it is chosen
