"""Interrupted anywhere: what was paid for is kept, and the next run gives the same bytes.

The program runs as a process of its own; the mock's bill says when to strike, so nothing sleeps.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from jobs.mock import serving
from tests.support import ROOT

ROWS = 120
IN_FLIGHT = 4 * 4


def command(folder, url):
    return [
        sys.executable,
        "-m",
        "jobs",
        "run",
        "embed",
        "-i",
        str(folder / "in.jsonl"),
        "--id",
        "id",
        "-o",
        str(folder / "out.parquet"),
        "--kind",
        "openai",
        "--url",
        f"{url}/v1",
        "--model",
        "m",
        "--concurrency",
        "4",
        "--batch-size",
        "4",
        "--json",
    ]


def start(folder, url, **more):
    return subprocess.Popen(
        command(folder, url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TEXTMILL_HOME": str(folder / "home")},
        **more,
    )


def until(condition, process, seconds=30):
    """Wait for the mock to have seen enough."""
    ends = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < ends
        time.sleep(0.005)


@pytest.fixture
def folder(tmp_path):
    with (tmp_path / "in.jsonl").open("w") as file:
        for number in range(ROWS):
            file.write(json.dumps({"id": number, "text": f"Row {number} of the log."}) + "\n")
    return tmp_path


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The bytes of a run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("calm")
    with (folder / "in.jsonl").open("w") as file:
        for number in range(ROWS):
            file.write(json.dumps({"id": number, "text": f"Row {number} of the log."}) + "\n")
    with serving() as mock:
        process = start(folder, mock.url)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    return (folder / "out.parquet").read_bytes()


def finish(folder, mock):
    mock.latency = 0.0
    process = start(folder, mock.url)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_drains_and_the_next_run_goes_on(folder, expected, number, code):
    with serving(latency=0.05) as mock:
        process = start(folder, mock.url)
        until(lambda: mock.bill.totals().calls >= 8, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
        assert process.returncode == code, err
        told = json.loads(out.splitlines()[-1])
        assert (told["exit"], told["class"], told["resumable"]) == (code, "interrupted", True)
        assert f"interrupted by {number.name}; run the same command to go on" in err
        assert not (folder / "out.parquet").exists()
        paid = mock.bill.totals().inputs
        assert paid < ROWS
        assert finish(folder, mock)["cached"] == paid
        assert mock.bill.totals().repeated_inputs == 0
    assert (folder / "out.parquet").read_bytes() == expected


def test_the_second_signal_leaves_at_once(folder, expected):
    with serving(latency=20.0) as mock:
        process = start(folder, mock.url)
        until(lambda: mock.bill.totals().in_flight >= 4, process)
        process.send_signal(signal.SIGINT)
        until(lambda: '"draining"' in process.stdout.readline(), process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
        assert process.returncode == 130, err
        assert mock.bill.totals().inputs == IN_FLIGHT
        finish(folder, mock)
        assert mock.bill.totals().repeated_inputs <= IN_FLIGHT
    assert (folder / "out.parquet").read_bytes() == expected


@pytest.mark.parametrize("calls", [1, 7, 19, 29])
def test_kill_9_pays_again_for_at_most_the_requests_in_flight(folder, expected, calls):
    with serving(latency=0.01) as mock:
        process = start(folder, mock.url)
        until(lambda: mock.bill.totals().calls >= calls, process)
        process.kill()
        process.communicate()
        finish(folder, mock)
        assert mock.bill.totals().repeated_inputs <= IN_FLIGHT
    assert (folder / "out.parquet").read_bytes() == expected


def test_a_second_run_on_the_same_output_is_refused_at_once(folder):
    with serving(latency=20.0) as mock:
        process = start(folder, mock.url)
        until(lambda: mock.bill.totals().in_flight >= 4, process)
        second = start(folder, mock.url)
        out, err = second.communicate(timeout=10)
        assert second.returncode == 11
        assert f"pid {process.pid}" in err
        assert json.loads(out.splitlines()[-1])["resumable"] is True
        process.kill()
        process.communicate()


def test_a_reader_that_goes_away_ends_it_quietly(folder):
    with serving() as mock:
        words = [
            word if word != str(folder / "out.parquet") else "-"
            for word in command(folder, mock.url)
            if word != "--json"
        ]
        process = subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TEXTMILL_HOME": str(folder / "home")},
        )
        process.stdout.read(10)
        process.stdout.close()
        err = process.stderr.read().decode()
        process.stderr.close()
        assert process.wait(30) in (0, 141)
        assert "Traceback" not in err
