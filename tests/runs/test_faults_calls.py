"""Faults in what a server makes of a call: refused rows, sizes, waits, loads, and odd answers."""

import math

import anyio
import pytest

from jobs.mock import SimulatedServer, clock, serving
from pipeline.dispatch.dispatch import Dispatch
from pipeline.dispatch.queue import Group
from tests.support.served import (
    KEY,
    at,
    balanced,
    failures,
    given,
    job,
    paid,
    rows,
    same_as_ever,
    written,
)
from tests.support.simulations import Memory, endpoint, request


@pytest.mark.parametrize("status", [400, 422, 424])
def test_fault_49_one_poison_row_of_64_costs_about_twelve_calls_more(
    workdir, textmill, monkeypatch, status
):
    given(workdir, rows(64))
    with serving([f"{status} match='<17>'"], key=KEY) as mock:
        path = job(workdir, at(mock, batch_size=64, concurrency=1))
        told = balanced(textmill("run", path, "--json"), code=3)
        assert (told["ok"], told["failed"]) == (63, 1)
        assert [each["id"] for each in failures(workdir)] == [17]
        again = 1 if status == 424 else 0  # a crash of the toolkit: each call is tried twice
        assert mock.bill.totals().calls <= (1 + 2 * math.log2(64)) * (1 + again)
        assert mock.bill.totals().repeated_inputs == 0
        paid([mock], told)
        same_as_ever(workdir, textmill, monkeypatch, path, mock)


@pytest.mark.parametrize("kind", ["openai", "tei"])
def test_fault_50_a_size_that_is_refused_is_learned_and_not_tried_again(
    workdir, textmill, monkeypatch, kind
):
    given(workdir, rows(300))
    with serving(key=KEY, batch_limit=8) as mock:
        endpoint = at(mock, kind=kind, batch_size=32)
        if kind == "tei":  # it says its limit beforehand
            endpoint |= {"url": mock.url, "model": "mock-embedding"}
        path = job(workdir, endpoint)
        told = balanced(textmill("run", path, "--json"))
        refused = mock.bill.totals().calls - mock.bill.totals().by_status["200"]
        assert refused <= (8 if kind == "openai" else 0)
        assert mock.bill.totals().calls <= 300 / 8 + 16
        assert mock.bill.totals().repeated_inputs == 0
        paid([mock], told)
        same_as_ever(workdir, textmill, monkeypatch, path, mock)


def test_fault_45_a_loading_model_is_probed_and_no_attempts_are_used_up(workdir, textmill, monkeypatch):
    given(workdir, rows(30))
    with serving(["loading seconds=0.02 x20"], key=KEY) as mock:
        path = job(workdir, at(mock, batch_size=1, concurrency=4))
        told = balanced(textmill("run", path, "--json"))
        assert told["ok"] == 30
        assert mock.bill.totals().calls == 50
        paid([mock], told)
        same_as_ever(workdir, textmill, monkeypatch, path, mock)


def test_fault_43_a_wait_of_thirty_years_is_an_outage(workdir, textmill, monkeypatch):
    given(workdir, rows(20))
    with serving(["429 retry-after:1000000000"], key=KEY) as mock:
        path = job(workdir, at(mock, batch_size=1))
        told = balanced(textmill("run", path, "--json", "--max-outage", "0.4"), code=5)
        assert (told["resumable"], mock.bill.totals().calls <= 2) == (True, True)
        same_as_ever(workdir, textmill, monkeypatch, path, mock)


def test_fault_47_random_errors_cost_what_they_must(workdir, textmill, monkeypatch):
    given(workdir, rows(300))
    with serving(["500 30%"], key=KEY) as mock:
        path = job(workdir, at(mock, batch_size=1, concurrency=4))
        told = balanced(textmill("run", path, "--json"))
        assert told["ok"] == 300
        assert mock.bill.totals().calls <= 300 * 1.1 / (1 - 0.3)
        paid([mock], told)
        same_as_ever(workdir, textmill, monkeypatch, path, mock)


@pytest.mark.parametrize("fault", ["inf", "wrong_index", "wrong_count count=3", "garbage"])
def test_faults_31_to_34_an_odd_answer_is_asked_for_again_and_shifts_nothing(
    workdir, textmill, monkeypatch, fault
):
    given(workdir, rows(40))
    with serving([f"{fault} match='<3>'", "shuffled_index"], key=KEY) as mock:
        path = job(workdir, at(mock, batch_size=8))
        told = balanced(textmill("run", path, "--json"), code=3)
        assert [each["id"] for each in failures(workdir)] == [3]
        assert mock.bill.totals().faults[fault.split()[0]] <= 12
        for row in written(workdir):
            if row["id"] != 3:
                assert row["vector"] == pytest.approx(mock.vector(row["text"], "mock"))
        paid([mock], told)
        same_as_ever(workdir, textmill, monkeypatch, path, mock)


@pytest.mark.parametrize("fault", ["empty_text", "empty", "html", "garbage"])
def test_fault_35_an_empty_text_is_no_result(workdir, textmill, monkeypatch, fault):
    given(workdir, rows(30))
    with serving([f"{fault} match='<3>'"], key=KEY) as mock:
        path = job(workdir, at(mock), task="chat-completion")
        told = balanced(textmill("run", path, "--json"), code=3)
        assert [each["id"] for each in failures(workdir)] == [3]
        assert mock.bill.totals().faults[fault] == 3  # at most two more tries
        paid([mock], told)
        same_as_ever(workdir, textmill, monkeypatch, path, mock)


# --- 48, ten minutes of it ------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "most"), [("503", 160), ("502", 45), ("reset", 45)])
def test_fault_48_calls_during_ten_minutes_of_outage_are_probes(status, most):
    """At first what is under way, and twenty calls until it is sure; then one at a time."""
    begins, ends = 10.0, 610.0
    during, at_once = [], 0

    async def main():
        nonlocal at_once
        server = SimulatedServer(
            f"outage={begins:g}s-{ends:g}s outage_status={status} latency=200ms sigma=0.5", dimension=4)

        async def send(requests):
            nonlocal at_once
            if begins + 30 < anyio.current_time() < ends:
                during.append(anyio.current_time())
                at_once = max(at_once, server.in_flight + 1)
            return await server.send(requests)

        requests = [request(number) for number in range(2_000)]
        dispatch = Dispatch([(endpoint(concurrency=16), send)], Memory(), lambda event: None,
                            free_bytes=lambda: 1 << 40, clock=anyio.current_time)
        group = Group()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dispatch.run)
            await dispatch.admit(group, requests)
            await group.whole.wait()
            dispatch.close()
        return dispatch, server

    dispatch, server = clock.run(main)
    assert dispatch.failures == {}
    assert (len(during) <= most, at_once) == (True, 1)
    assert sum(server.answered.values()) == len(server.answered) == 2_000
    assert server.calls <= 2_000 + len(during) + 60


@pytest.mark.parametrize("task", ["feature-extraction", "chat-completion"])
def test_fault_51_what_cannot_be_cut_any_more_is_tried_again_by_the_next_run(
    workdir, textmill, monkeypatch, task
):
    given(workdir, [{"id": 1, "text": "Short."}, {"id": 2, "text": "Six words, and then a stop."}])
    with serving(["413 match=Six"], key=KEY) as mock:
        path = job(workdir, at(mock), task=task)
        told = balanced(textmill("run", path, "--json"), code=3)
        assert [each["reason"] for each in failures(workdir)] == [
            "too long for the model, but too short to be split again"]
        paid([mock], told)
        assert same_as_ever(workdir, textmill, monkeypatch, path, mock)["ok"] == 2
