"""A server that refuses without naming a wait is paced, and used again soon after it answers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.mock.faults import Fault
from tests.support.simulations import simulated

SERVER = "workers=10 latency=200ms"  # 50 calls a second


def refusing(begin, end, status, **changed):
    limit = f"{SERVER} outage={begin}s-{end}s outage_status={status}"
    return simulated(limit, count=6_000, seconds=end + 10.0, **changed)


@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize("concurrency", [1, 64, 256])
def test_a_server_that_refuses_everything_for_30_s_sees_few_calls(status, concurrency):
    seen = refusing(0, 30, status, concurrency=concurrency)
    assert sum(at < 1.0 for at in seen.calls) <= 14
    assert sum(at < 30.0 for at in seen.calls) <= 35


@given(
    begin=st.integers(6, 20),
    length=st.integers(2, 90),
    status=st.sampled_from([429, 503]),
    seed=st.integers(0, 9),
)
@settings(max_examples=6, deadline=None)
def test_it_is_used_again_within_seconds_of_its_first_answer(begin, length, status, seed):
    end = begin + length
    seen = refusing(begin, end, status, seed=seed)
    # What was in flight when it began, and the probes: one in 2.5 s.
    assert sum(begin <= at < end for at in seen.calls) <= 100 + length
    assert seen.answers(end + 7, end + 10) >= 0.8 * 50


@pytest.mark.parametrize("status", [429, 503])
def test_refusals_beside_answers_do_not_pause_the_endpoint(status):
    seen = simulated(SERVER, script=[f"{status} 2%"], count=1_000)
    assert len(seen.calls) <= 1_050
    assert seen.seconds <= 25


@pytest.mark.parametrize(
    ("counts", "goodput", "rejects"),
    [
        ("bucket calls=20/s", 0.95, 0.25),
        ("sliding calls=20/s", 0.9, 0.15),
        ("window calls=100/5s", 0.75, 0.45),
    ],
)
def test_a_rate_limit_that_names_no_wait_is_found(counts, goodput, rejects):
    seen = simulated(f"{counts} retry=none latency=200ms", count=1_600, seconds=60.0)
    figures = seen.server.gate.figures()
    assert figures.goodput >= goodput
    assert figures.rejects_share <= rejects


def test_a_model_that_loads_is_probed_and_then_used():
    seen = simulated(f"{SERVER} cold=20s", count=2_000, seconds=40.0)
    assert sum(at < 20.0 for at in seen.calls) <= 16
    assert seen.answers(35, 40) >= 45


def unknown(message):
    return Fault("status", status=400, body={"error": {"message": message}})


@pytest.mark.parametrize("batch_size", [1, 32])
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("401", 7),
        ("404", 2),
        (unknown("the model `mock` is unknown to this gateway"), 2),
        (unknown("模型 mock 不存在"), 2),
    ],
    ids=["key", "no-path", "no-model", "no-model-zh"],
)
def test_an_error_of_the_configuration_costs_at_most_8_calls(batch_size, fault, code):
    seen = simulated(SERVER, script=[fault], count=5_000, concurrency=256, batch_size=batch_size)
    assert len(seen.calls) <= 8
    assert seen.error.exit_code == code


@pytest.mark.parametrize("slots", [10, 100])
@pytest.mark.parametrize("latency", ["50ms", "2s"])
def test_without_a_concurrency_the_slots_of_a_server_are_found(slots, latency):
    seen = simulated(f"workers={slots} latency={latency}", count=20 * slots)
    assert seen.seconds <= 1.3 * 20 * {"50ms": 0.05, "2s": 2.0}[latency]
    assert max(seen.loads) <= 256
