"""The whole dispatcher against every kind of limit, on a virtual clock.

Expected: goodput and rejects as the server counts them; the acceptance lines of docs/benchmarks.md.
20 calls a second, so that minutes of traffic take a second of a test.
"""

import random

import anyio
import pytest

from jobs.mock import SimulatedServer, clock
from pipeline.dispatch.dispatch import Dispatch
from pipeline.dispatch.queue import Group
from pipeline.errors import TextmillError
from tests.support.simulations import Memory, endpoint, request

LATENCY = "latency=400ms sigma=0.5"
RATE_LIMITED = {
    "bucket 1 s": "bucket calls=20/s",
    "bucket 60 s": "bucket calls=1200/min",
    "429s count": "sliding calls=20/s rejects=count retry=ms",
    "fixed window": "window calls=1200/min",
}
SECONDS = 60.0


def ran(limit, seconds=SECONDS, tokens=lambda number: 10, count=None, cycles=1, **changed):
    """The server, after so many seconds of more work than it takes; each cycle a new dispatch."""

    async def main():
        server = SimulatedServer(f"{limit} {LATENCY}", dimension=4)
        requests = [request(n, tokens(n)) for n in range(count or int(seconds * 60))]
        for cycle in range(cycles):
            dispatch = Dispatch(
                [(endpoint(**{"concurrency": 24} | changed), server.send)],
                Memory(),
                lambda event: None,
                free_bytes=lambda: 1 << 40,
                clock=anyio.current_time,
                uniform=random.Random(cycle).random,
            )
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(dispatch.run)
                    await dispatch.admit(Group(), requests)
                    await anyio.sleep(seconds)
                    dispatch.stop(TextmillError("killed"), 0.0)
            except* TextmillError:
                pass
        return server

    return clock.run(main)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RATE_LIMITED)
def test_a_known_limit_is_filled_and_never_breached(kind):
    server = ran(RATE_LIMITED[kind], requests_per_minute=1_200)
    assert server.gate.traffic.goodput(5, 60) >= 0.97
    assert server.gate.figures().rejects_share <= 0.001


@pytest.mark.slow
@pytest.mark.parametrize("kind", RATE_LIMITED)
def test_an_unknown_limit_is_found(kind):
    figures = ran(RATE_LIMITED[kind], 2 * SECONDS).gate.figures()
    assert figures.goodput >= 0.93
    assert figures.rejects_share <= 0.05


@pytest.mark.slow
def test_slots_that_nobody_tells_of_are_found():
    figures = ran("slots=12 refuse=429", 2 * SECONDS).gate.figures()
    assert figures.goodput >= 0.90
    assert figures.rejects_share <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("declared", "rejects"),
    [({"requests_per_minute": 1_200}, 0.005), ({}, 0.05)],
    ids=["known", "unknown"],
)
def test_a_limit_that_is_halved_is_kept_and_filled_again_when_it_comes_back(declared, rejects):
    server = ran("bucket calls=20/s change=100s:0.5,200s:1", 300.0, **declared)
    traffic = server.gate.traffic
    assert traffic.goodput(0, 300) >= 0.90
    assert server.gate.figures().rejects_share <= rejects
    assert traffic.goodput(160, 200) >= 0.90  # 60 s after it was halved
    assert traffic.goodput(260, 300) >= 0.90  # 60 s after it came back


@pytest.mark.slow
def test_a_limit_declared_twice_too_high_is_corrected():
    figures = ran("bucket calls=20/s", 2 * SECONDS, requests_per_minute=2_400).gate.figures()
    assert figures.goodput >= 0.93
    assert figures.rejects_share <= 0.01


@pytest.mark.slow
def test_a_header_that_lies_changes_nothing():
    lies = "bucket calls=20/s headers=openai reported=1e9"
    figures = ran(lies, 2 * SECONDS).gate.figures()
    assert figures.goodput >= 0.93
    assert figures.rejects_share <= 0.05
    declared = ran(lies, requests_per_minute=1_200).gate
    assert declared.traffic.goodput(5, 60) >= 0.97
    assert declared.figures().rejects_share <= 0.001


@pytest.mark.slow
def test_a_header_that_tells_the_truth_is_as_good_as_a_declared_limit():
    server = ran("bucket calls=20/s headers=openai", 2 * SECONDS)
    assert server.gate.traffic.goodput(5, 120) >= 0.97
    assert server.gate.figures().refused == {}


@pytest.mark.slow
@pytest.mark.parametrize("window", [1.0, 60.0])
def test_the_server_counts_no_more_than_the_bound_in_any_window(window):
    server = ran("bucket calls=1000000/s", 2 * SECONDS, requests_per_minute=1_200)
    most, _ = server.gate.traffic.peak(window)
    assert most <= 0.985 * 20 * (window + 0.1) + 1


def test_twenty_restarts_in_a_minute_stay_below_the_limit():
    server = ran("bucket calls=1000000/s", 3.0, cycles=20, requests_per_minute=1_200)
    most, _ = server.gate.traffic.peak(60.0)
    assert most <= 1_200


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_limit_on_tokens_is_filled_and_never_breached(batch_size):
    server = ran(
        "bucket tokens=1000/s",
        tokens=lambda number: 20 + number * 7 % 61,
        tokens_per_minute=60_000,
        batch_size=batch_size,
        count=3_000,
    )
    figures = server.gate.figures()
    assert figures.goodput >= 0.95
    assert figures.refused == {}
    largest = 80 * batch_size
    assert figures.peak_tokens["60"] <= 985 * 60.1 + largest
    assert figures.peak_tokens["1"] <= 985 * 1.1 + largest


def test_a_call_larger_than_the_bucket_goes_alone_and_waits_no_longer_than_its_share():
    server = ran(
        "bucket tokens=60000/min",
        tokens=lambda number: 5_000 if number == 40 else 50,
        tokens_per_minute=60_000,
        count=3_000,
    )
    figures = server.gate.figures()
    assert server.answered["text 40"] == 1
    assert figures.refused == {}
    # What it is larger than the others is paid for twice, before and after: 10 of 60 seconds.
    assert figures.admitted_tokens >= 0.985 * 1_000 * (60 - 5 - 2)
    assert figures.peak_tokens["1"] <= 985 * 1.1 + 5_000
