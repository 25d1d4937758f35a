"""Whole runs against the mock over real HTTP: rows, job files, and what must hold after any run."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time

from tests.support import ROOT

KEY = "canary-7f3a9c51d2"


def rows(count, **columns):
    """Rows with texts that differ; a column may be a function of the row's number."""
    return [
        {"id": n, "text": f"Row <{n}>: the weir at Oxmead stood at {n * 7} mm."}
        | {name: value(n) if callable(value) else value for name, value in columns.items()}
        for n in range(count)
    ]


def lines(records):
    return b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in records)


def at(mock, name="mock", **keys):
    """An endpoint of the job file that asks this mock, or what listens at this URL."""
    url = mock if isinstance(mock, str) else mock.url
    table = {"name": name, "kind": "openai", "url": f"{url}/v1", "model": name,
            "api_key": {"env": "MOCK_KEY"}, "concurrency": 2}
    return {key: value for key, value in (table | keys).items() if value is not None}


def job(workdir, *endpoints, task="feature-extraction", route=None, rules=(), output=None):
    """A job file with these endpoints; its output is read by `written`."""
    output = output or ("out.parquet" if task == "feature-extraction" else "out.jsonl")
    sections = [f'task = "{task}"', *([f'route = "{route}"'] if route else []),
            '[input]\npath = "in.jsonl"\nid = "id"', "[chunk]\nsize = 64",
            f'[output]\npath = "{output}"']
    if task != "feature-extraction":
        sections.append('[parameters]\nprompt = "Say it again: {chunk}"')
    sections += [f"[[endpoint]]\n{_toml(each)}" for each in endpoints]
    sections += [f"[[rule]]\n{_toml(each)}" for each in rules]
    path = workdir / "job.toml"
    path.write_text("\n".join(sections))
    return path


def _toml(table):
    return "\n".join(f"{key} = {_value(value)}" for key, value in table.items())


def _value(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{k} = {_value(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


def given(workdir, records):
    (workdir / "in.jsonl").write_bytes(lines(records))
    return records


def written(workdir):
    """The rows of the output."""
    if (workdir / "out.jsonl").exists():
        return [json.loads(line) for line in (workdir / "out.jsonl").read_text().splitlines()]
    import pyarrow.parquet as pq

    return pq.read_table(workdir / "out.parquet").to_pylist()


def failures(workdir):
    found = sorted(workdir.glob("*.run/runs/*/failures.jsonl"), key=lambda each: each.stat().st_mtime)
    return [json.loads(line) for line in found[-1].read_text().splitlines()] if found else []


def balanced(ran, *, code=0):
    """The last line of --json; the run ended so, and every row is counted once."""
    assert ran.code == code, ran.err
    report = ran.last
    assert report["exit"] == code
    if code in (0, 3):
        assert report["ok"] + report["partial"] + report["failed"] == report["documents"]
    return report


def paid(mocks, *reports, compared=0):
    """What these servers charged is what these runs say that they asked for, endpoint for endpoint.

    `compared`: texts that each of them may have been sent to compare its model, and not for a row.
    """
    for at, mock in enumerate(mocks):
        bill = mock.bill.totals()
        figures = [each["endpoints"][at] for each in reports]
        assert bill.calls == sum(each["calls"] for each in figures)
        kept = sum(each["requests"] for each in figures)
        # An answer with one odd vector is spoiled as a whole on the bill, and the rest of it kept.
        assert bill.inputs - bill.spoiled_inputs - compared <= kept <= bill.distinct_inputs
        assert bill.repeated_inputs <= bill.spoiled_inputs + compared


def same_as_ever(workdir, textmill, monkeypatch, path, *mocks):
    """Run again now that all is well, here and where nothing was ever asked: the same bytes."""
    for mock in mocks:
        mock.play()
    report = balanced(textmill("run", path, "--json"))
    output = next(each for each in (workdir / "out.parquet", workdir / "out.jsonl") if each.exists())
    after = output.read_bytes()
    monkeypatch.setenv("TEXTMILL_HOME", str(workdir / "fresh"))
    output.unlink()
    assert textmill("run", path).code == 0
    assert output.read_bytes() == after
    return report


def child(*arguments, **environment):
    """The command line in a process of its own: its exit code, stdout and stderr.

    For what a fork of `crashing.Processes` has done already: it has read the certificates.
    """
    command = [sys.executable, "-m", "jobs", *(str(each) for each in arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return ran.returncode, ran.stdout, ran.stderr


@contextlib.contextmanager
def process(command, **options):
    """A process that is over when the block is, however the block ends: what a failed test left
    open would fail the next one."""
    with subprocess.Popen(command, **options) as started:
        try:
            yield started
        finally:
            started.kill()


def eventually(condition, *processes, seconds=60.0):
    """The first true value of the condition. Fails where a process ends before, or the time is up.

    A condition is about what another process has done; the time is only for a fault of it, and
    long enough for a machine that does ten other things.
    """
    ends = time.monotonic() + seconds
    while not (found := condition()):
        for process in processes:
            assert process.poll() is None, f"ended with {process.poll()} before the condition held"
        assert time.monotonic() < ends, f"not within {seconds:g} s"
        time.sleep(0.005)
    return found


class Gate:
    """Answers `after` calls of a mock and holds all others until it is opened.

    What must happen during a run is done while calls are held: a delay is too short on a busy
    machine and too long on a quiet one.
    """

    def __init__(self, mock, after=0):
        self._left = after
        self._opened = threading.Event()
        mock.latency, mock.sleep = self._seconds, self._wait

    def open(self):
        """Answer what is held, and every call from now on."""
        self._opened.set()

    def _seconds(self, _):
        """Called once for each call, on the mock's own loop."""
        self._left -= 1
        return 0.0 if self._left >= 0 or self._opened.is_set() else 1.0

    async def _wait(self, _):
        # An event of the loop could not be set from another thread.
        while not self._opened.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.002)
