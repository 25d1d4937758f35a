"""The start of a run whose servers are partly away: who is asked, who is waited for."""

import time

import pytest

from jobs.mock import serving
from pipeline.endpoints import connect
from tests.support.served import KEY, at, balanced, given, job, paid, rows

TEI = {"kind": "tei", "model": None}


@pytest.fixture(autouse=True)
def short_head_start(monkeypatch):
    monkeypatch.setattr(connect, "HEAD_START_SECONDS", 0.1)


def tei(mock, name, **keys):
    url = mock if isinstance(mock, str) else mock.url
    return at(mock, name, **(TEI | keys)) | {"url": url}


def gone():
    with serving() as mock:
        return mock.url


@pytest.mark.parametrize("trouble", ["gone", "hang path=/info", "hang", "503", "429 path=/info"])
def test_a_server_that_was_never_seen_does_not_hold_the_start_while_its_replica_is_up(
    workdir, textmill, trouble
):
    given(workdir, rows(40))
    script = [] if trouble == "gone" else [trouble]
    with serving(script, key=KEY, models=["m"]) as one, serving(key=KEY, models=["m"]) as two:
        url = gone() if trouble == "gone" else one.url
        deadline = {"first_byte_seconds": 0.5, "connect_seconds": 0.5}
        path = job(workdir, tei(url, "one", deadline=deadline), tei(two, "two", replica_of="one"))
        started = time.monotonic()
        told = balanced(textmill("run", path, "--json", "--max-outage", "60"))
        assert time.monotonic() - started < 30  # far below the outage
        assert [each["requests"] for each in told["endpoints"]] == [0, 40]
        assert one.bill.totals().inputs == 0
        paid([two], told | {"endpoints": told["endpoints"][1:]})
        # It is back: its identity is the same, and nothing is paid again.
        one.play()
        path = job(workdir, tei(one, "one"), tei(two, "two", replica_of="one"))
        assert balanced(textmill("run", path, "--json"))["calls"] == 0


def test_an_origin_that_comes_back_with_another_model_than_its_replica_stops_the_run(
    workdir, textmill
):
    given(workdir, rows(4, private=True))
    with (
        serving(["503 path=/info x4"], key=KEY, models=["m-1"]) as one,
        serving(key=KEY, models=["m-2"]) as two,
    ):
        path = job(workdir, tei(one, "one"), tei(two, "two", replica_of="one"),
                   rules=[{"column": "private", "equals": True, "endpoints": ["one"]}])
        ran = textmill("run", path, "--json")
        balanced(ran, code=14)
        assert "endpoint `one`: its server runs `m-1`, not what `two` serves" in ran.err
        assert one.bill.totals().inputs == 0


def test_the_replica_is_not_asked_while_its_origin_replies(workdir, textmill, monkeypatch):
    monkeypatch.setattr(connect, "HEAD_START_SECONDS", 60.0)
    given(workdir, rows(4))
    with serving(key=KEY, models=["m"]) as one, serving(key=KEY, models=["m"]) as two:
        path = job(workdir, tei(one, "one"), tei(two, "two", replica_of="one"))
        balanced(textmill("run", path, "--json"))
        assert one.bill.totals().lookups == 1
        assert balanced(textmill("run", path, "--json"))["calls"] == 0
        assert (one.bill.totals().lookups, two.bill.totals().lookups) == (2, 0) or (
            two.bill.totals().calls > 0)


def test_a_fallback_whose_model_the_job_names_does_not_hold_the_start(workdir, textmill):
    given(workdir, rows(40))
    with serving(key=KEY, models=["m"]) as one, serving(["hang path=/info"], key=KEY) as spare:
        path = job(workdir, tei(spare, "spare", model="m", fallback=True), tei(one, "one", model="m"))
        started = time.monotonic()
        told = balanced(textmill("run", path, "--json"))
        assert time.monotonic() - started < 30  # its own deadline is 130 s
        assert [each["requests"] for each in told["endpoints"]] == [0, 40]


@pytest.mark.parametrize("inside", [True, False])
def test_rows_of_a_server_that_is_away_wait_and_all_others_are_answered(workdir, textmill, inside):
    given(workdir, rows(40, private=lambda n: n % 4 == 0))
    with serving(key=KEY, models=["m"]) as one:
        away = tei(gone(), "away")
        endpoints = [away, tei(one, "one", replica_of="away")]
        if inside:
            endpoints = [tei(one, "one"), tei(gone(), "away", replica_of="one")]
        path = job(workdir, *endpoints,
                   rules=[{"column": "private", "equals": True, "endpoints": ["away"]}])
        ran = textmill("run", path, "--json", "--max-start", "1.5")
        told = balanced(ran, code=5)
        assert "endpoint `away`: no reply for" in ran.err
        assert sum(each["requests"] for each in told["endpoints"]) == 30


def test_if_nobody_names_the_model_the_run_waits_and_ends_as_an_outage(workdir, textmill):
    given(workdir, rows(4))
    path = job(workdir, tei(gone(), "one"), tei(gone(), "two", replica_of="one"))
    ran = textmill("run", path, "--json", "--max-start", "1")
    assert ran.code == 5
    assert "did not say which model it serves" in ran.err
