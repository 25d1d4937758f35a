"""Interrupted anywhere: what was paid for is kept, and the next run gives the same bytes.

The program runs as a process of its own; the mock's bill says when to strike and a gate holds the
calls meanwhile, so nothing sleeps.
"""

import array
import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
import time

import pytest

from jobs.mock import serving
from tests.support import ROOT
from tests.support.crashing import JobFolder
from tests.support.served import Gate, eventually, process

ROWS = 120
IN_FLIGHT = 4 * 4


def argv(url, output="out.parquet"):
    return f"""run embed -i in.jsonl --id id -o {output} --kind openai --url {url}/v1 --model m
        --concurrency 4 --batch-size 4 --json""".split()


def filled(folder):
    """A job over rows of which none fails."""
    job = JobFolder(folder, rows=0)
    with (folder / "in.jsonl").open("w") as file:
        for number in range(ROWS):
            file.write(json.dumps({"id": number, "text": f"Row {number} of the log."}) + "\n")
    return job


@pytest.fixture
def job(tmp_path):
    return filled(tmp_path / "job")


@pytest.fixture(scope="module")
def expected(tmp_path_factory, processes):
    """The bytes of a run that nobody interrupted."""
    job = filled(tmp_path_factory.mktemp("calm"))
    with serving() as mock:
        ended = processes.run(job, *argv(mock.url))
    assert ended.code == 0, ended.err
    return job.published()


def finish(processes, job, mock):
    ended = processes.run(job, *argv(mock.url))
    assert ended.code == 0, ended.err
    return ended.last


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_drains_and_the_next_run_goes_on(processes, job, expected, number, code):
    with serving() as mock:
        gate = Gate(mock, after=7)
        pid = processes.start(job, *argv(mock.url))
        eventually(lambda: mock.bill.totals().calls >= 8)
        os.kill(pid, number)
        eventually(lambda: '"draining"' in job.out(pid))
        gate.open()
        ended = processes.wait(job, pid)
        assert ended.code == code, ended.err
        told = ended.last
        assert (told["exit"], told["class"], told["resumable"]) == (code, "interrupted", True)
        assert f"interrupted by {number.name}; run the same command to resume" in ended.err
        assert job.published() is None
        paid = mock.bill.totals().inputs
        assert paid < ROWS
        assert finish(processes, job, mock)["cached"] == paid
        assert mock.bill.totals().repeated_inputs == 0
    assert job.published() == expected


def test_the_second_signal_leaves_at_once(processes, job, expected):
    with serving() as mock:
        gate = Gate(mock)  # held to the end: what waited for an answer would never leave
        pid = processes.start(job, *argv(mock.url))
        eventually(lambda: mock.bill.in_flight == 4)
        os.kill(pid, signal.SIGINT)
        eventually(lambda: '"draining"' in job.out(pid))
        os.kill(pid, signal.SIGINT)
        ended = processes.wait(job, pid)
        assert ended.code == 130, ended.err
        assert mock.bill.totals().inputs == IN_FLIGHT
        gate.open()
        finish(processes, job, mock)
        assert mock.bill.totals().repeated_inputs <= IN_FLIGHT
    assert job.published() == expected


@pytest.mark.parametrize("calls", [1, 7, 19, 29])
def test_kill_9_pays_again_for_at_most_the_requests_in_flight(processes, job, expected, calls):
    with serving() as mock:
        gate = Gate(mock, after=calls)
        pid = processes.start(job, *argv(mock.url))
        eventually(lambda: mock.bill.totals().calls >= calls)
        os.kill(pid, signal.SIGKILL)
        assert processes.wait(job, pid).code == -9
        gate.open()
        finish(processes, job, mock)
        assert mock.bill.totals().repeated_inputs <= IN_FLIGHT
    assert job.published() == expected


def test_a_second_run_on_the_same_output_is_refused_at_once(processes, job):
    with serving() as mock:
        Gate(mock)  # the first run never ends
        first = processes.start(job, *argv(mock.url))
        eventually(lambda: mock.bill.in_flight == 4)
        second = processes.run(job, *argv(mock.url))
        assert second.code == 11
        assert f"pid {first}" in second.err
        assert second.last["resumable"] is True
        os.kill(first, signal.SIGKILL)
        assert processes.wait(job, first).code == -9


def test_a_reader_that_goes_away_ends_it_quietly(job):
    with serving() as mock:
        words = [word for word in argv(mock.url, output="-") if word != "--json"]
        with process(
            [sys.executable, "-m", "jobs", *words],
            cwd=job.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TEXTMILL_HOME": str(job.home)},
        ) as run:
            run.stdout.read(10)
            run.stdout.close()
            err = run.stderr.read().decode()
            assert run.wait(60) in (0, 141)
        assert "Traceback" not in err


@pytest.mark.parametrize(("number", "code"), [
    (signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143),
])  # fmt: skip
@pytest.mark.parametrize("words", [
    ("chunks", "-", "--json"), ("plan", "embed", "-i", "-"), ("cache", "import", "-"),
    ("run", "embed", "-i", "-", "-o", "o.parquet"), ("explain", "embed", "-i", "-", "--id", "1"),
], ids=" ".join)  # fmt: skip
def test_a_signal_ends_a_command_that_waits_for_its_input(processes, job, words, number, code):
    waiting = job.folder / "waiting"
    os.mkfifo(waiting)
    keeper = os.open(waiting, os.O_RDWR)  # open for reading here: the command waits
    try:
        pid = processes.start(job, *words, stdin=str(waiting))
        os.write(keeper, b" ")
        eventually(lambda: not unread_bytes(keeper))
        os.kill(pid, number)
        ended = processes.wait(job, pid)
    finally:
        os.close(keeper)
        waiting.unlink()
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err


def unread_bytes(descriptor):
    """The bytes in a pipe that nobody has read."""
    count = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, count)
    return count[0]


def test_nohup_keeps_a_command_that_loses_its_terminal(job):
    """A signal that the caller ignores stays ignored."""
    code = """
import signal, os, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
import jobs.__main__ as start
start._exit_code = lambda: os.kill(os.getpid(), signal.SIGHUP) or 7
start.main()
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=job.folder, check=False,
                         env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert ran.returncode == 7


@pytest.mark.slow  # a stop must last longer than every deadline
def test_a_stopped_process_blames_no_server_and_uses_what_arrived_meanwhile(processes, job, expected):
    with serving() as mock:
        gate = Gate(mock, after=7)
        keys = ("run.max_outage", "endpoint.deadline.connect", "endpoint.deadline.first_byte")
        short = [word for key in keys for word in ("--set", f"{key}_seconds=2")]
        pid = processes.start(job, *argv(mock.url), *short)
        eventually(lambda: mock.bill.totals().calls >= 8 and mock.bill.in_flight == 4)
        os.kill(pid, signal.SIGSTOP)
        stopped = time.monotonic()
        gate.open()
        eventually(lambda: mock.bill.in_flight == 0)
        while time.monotonic() < stopped + 6.0:
            time.sleep(0.1)
        os.kill(pid, signal.SIGCONT)
        ended = processes.wait(job, pid)
        assert ended.code == 0, ended.err
        assert mock.bill.totals().repeated_inputs == 0
        assert mock.bill.totals().calls == ROWS / 4
    assert job.published() == expected
