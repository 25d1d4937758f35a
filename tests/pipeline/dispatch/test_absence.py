"""Endpoints that never reply, load, or reply late, in whole dispatches on a virtual clock."""

import pytest

from pipeline.errors import EndpointError, OutageError
from pipeline.events import Warned
from pipeline.records import Deadline, Rule, Stop
from tests.support.routed import DEADLINE_SECONDS, Service, endpoint, run

REFUSED = EndpointError("unreachable", "cannot connect to gpu-box:8000 (connection refused)",
                        hint="start the server")  # fmt: skip
UNKNOWN = EndpointError("unknown_host", "cannot connect to gpu-bix:8000 (name not found)")
BUSY = EndpointError("overload", "503", status=503)
LOADING = EndpointError("loading", "503 model is loading", status=503)


def rows(count, **fields):
    return [(f"text {n}", fields) for n in range(count)]


def always(error):
    return lambda inputs, now: error


@pytest.mark.parametrize(("error", "patience", "begin", "end"), [
    (REFUSED, Stop(), 60, 66),
    (REFUSED, Stop(is_attended=True), 60, 66),
    (UNKNOWN, Stop(), 60, 66),
    (UNKNOWN, Stop(is_attended=True), 0, 1),
    (REFUSED, Stop(max_start_seconds=5.0), 5, 11),
    # A call that is under way is waited for: the first answer of a model may take its time.
    ("hang", Stop(), DEADLINE_SECONDS, DEADLINE_SECONDS + 1),
    (BUSY, Stop(max_outage_seconds=300.0), 300, 306),
    (LOADING, Stop(max_outage_seconds=100.0), 900, 906),
])  # fmt: skip
def test_each_absence_ends_the_run_at_its_own_time(tmp_path, error, patience, begin, end):
    service = Service("a", script=always(error))
    sole = endpoint("a", url="http://gpu-box:8000/v1", deadline=Deadline(loading_seconds=900.0))
    ended = run(tmp_path, [(sole, service)], rows(100), patience=patience)
    assert isinstance(ended.error, OutageError) and ended.error.resumable
    assert begin <= ended.seconds <= end
    assert not ended.dispatch.failures


def test_the_line_names_the_url_the_reason_and_the_next_step(tmp_path):
    sole = endpoint("hub", url="http://gpu-box:8000/v1")
    ended = run(tmp_path, [(sole, Service("hub", script=always(REFUSED)))], rows(9))
    assert str(ended.error) == (
        "endpoint `hub`: no reply for 60 s (run.max_start_seconds = 60); http://gpu-box:8000/v1: "
        "cannot connect to gpu-box:8000 (connection refused)"
    )
    assert ended.error.hint == "start the server"


def test_the_outage_counts_from_the_first_reply(tmp_path):
    late = Service("a", script=lambda inputs, now: REFUSED if now < 50 else BUSY)
    ended = run(tmp_path, [(endpoint("a"), late)], rows(9), patience=Stop(max_outage_seconds=200.0))
    assert 250 <= ended.seconds <= 261
    assert "no answer for" in str(ended.error)


def test_a_server_that_starts_within_the_time_answers_every_row(tmp_path):
    starting = Service("a", script=lambda inputs, now: REFUSED if now < 50 else None)
    assert run(tmp_path, [(endpoint("a"), starting)], rows(100)).error is None


def test_a_first_answer_that_takes_longer_than_the_start_is_waited_for(tmp_path):
    def script(inputs, now):
        slow.seconds = 0.1 if now < 10 else 100.0
        return REFUSED if now < 10 else None

    slow = Service("a", script=script)
    ended = run(tmp_path, [(endpoint("a"), slow)], rows(3))
    assert ended.error is None
    assert len(slow.answered) == 3


def test_an_endpoint_that_is_given_up_ends_nothing_while_another_one_answers(tmp_path):
    seen = []
    gone, well = Service("gone", script=always(REFUSED)), Service("well", 1.0)
    served = [(endpoint("gone", "m", url="http://gone/v1"), gone), (endpoint("well", "m"), well)]
    ended = run(tmp_path, served, rows(800), emit=seen.append)
    assert ended.error is None and ended.seconds > 100
    assert len(well.answered) == 800
    assert max(gone.starts) > 61  # it is still tested
    assert [each.message for each in seen if isinstance(each, Warned)] == [
        "endpoint `gone`: no reply for 60 s (run.max_start_seconds = 60); http://gone/v1: cannot "
        "connect to gpu-box:8000 (connection refused); the run continues"
    ]


def test_an_endpoint_that_was_given_up_takes_part_again_once_it_replies(tmp_path):
    late = Service("late", 1.0, lambda inputs, now: REFUSED if now < 90 else None)
    served = [(endpoint("late", "m"), late), (endpoint("well", "m"), Service("well", 1.0))]
    ended = run(tmp_path, served, rows(800))
    assert ended.error is None
    assert len(late.answered) > 50


def test_rows_of_an_endpoint_that_is_given_up_wait_until_nothing_else_can_be_done(tmp_path):
    gone, well = Service("gone", script=always(REFUSED)), Service("well", 1.0)
    served = [(endpoint("gone"), gone), (endpoint("well"), well)]
    mixed = [(f"text {n}", {"private": n % 100 == 0}) for n in range(800)]
    rules = [Rule("private", True, ("gone",)), Rule("private", False, ("well",))]
    ended = run(tmp_path, served, mixed, rules)
    assert str(ended.error).startswith("endpoint `gone`: no reply for")
    assert len(well.answered) == 792  # nothing that another endpoint can do is lost
    assert 198 <= ended.seconds <= 210


def test_such_rows_wait_at_most_as_long_as_an_outage_may_last(tmp_path):
    gone, well = Service("gone", script=always(REFUSED)), Service("well", 1.0)
    served = [(endpoint("gone"), gone), (endpoint("well"), well)]
    mixed = [(f"text {n}", {"private": n % 100 == 0}) for n in range(2_000)]
    rules = [Rule("private", True, ("gone",)), Rule("private", False, ("well",))]
    ended = run(tmp_path, served, mixed, rules, patience=Stop(max_outage_seconds=100.0))
    assert 100 <= ended.seconds <= 106
