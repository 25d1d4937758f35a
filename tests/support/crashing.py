"""Runs of textmill that die or meet a failing disk, and the bill that says what they cost.

Shared by `test_durability.py` (short forms), `benchmarks/crash.py` (long forms), and by other tests
that start the program as a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from tests.support import ROOT

HERE = Path(__file__).parent
CONCURRENCY, BATCH = 2, 2
REPORT = ".report.html.textmill.tmp"
IN_FLIGHT = CONCURRENCY * BATCH


class Ended(NamedTuple):
    code: int
    out: str
    err: str
    rss_kb: int

    @property
    def last(self) -> dict[str, Any]:
        """The last line of --json."""
        return json.loads(self.out.splitlines()[-1])


class Processes:
    """Starts textmill as a process of its own, in some milliseconds: see `crash_child.py`."""

    def __init__(self) -> None:
        self._zygote = subprocess.Popen(
            [sys.executable, str(HERE / "crash_child.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self._running: set[int] = set()

    def start(self, job: JobFolder, *argv: str, **more: Any) -> int:
        job.turns += 1
        out, err = (job.folder / f"{end}.{job.turns}" for end in ("stdout", "stderr"))
        out.touch()  # a kill may come before the child has opened them
        err.touch()
        env = {"TEXTMILL_HOME": str(job.home), "MOCK_KEY": job.key}
        command = {"start": argv, "folder": str(job.folder), "out": str(out), "err": str(err)}
        pid: int = self._ask(command | more | {"env": env | more.get("env", {})})["pid"]
        job.printed[pid] = (out, err)
        self._running.add(pid)
        return pid

    def wait(self, job: JobFolder, pid: int) -> Ended:
        """How the process ended; one that hangs is killed after two minutes."""
        reply = self._ask({"wait": pid})
        self._running.discard(pid)
        out, err = (path.read_text("utf-8", "replace") for path in job.printed.pop(pid))
        return Ended(reply["code"], out, err, reply["rss_kb"])

    def run(self, job: JobFolder, *argv: str, **more: Any) -> Ended:
        return self.wait(job, self.start(job, *argv, **more))

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._zygote.stdin is not None and self._zygote.stdout is not None
        self._zygote.stdin.write(json.dumps(command) + "\n")
        self._zygote.stdin.flush()
        return json.loads(self._zygote.stdout.readline())

    def close(self) -> None:
        for pid in self._running:  # what a failed test left
            os.kill(pid, signal.SIGKILL)
        assert self._zygote.stdin is not None and self._zygote.stdout is not None
        self._zygote.stdin.close()
        self._zygote.stdout.close()
        self._zygote.wait(10)


class JobFolder:
    """A folder with an input, a job and a home of its own. With `rows=0` no input is written."""

    def __init__(
        self, folder: Path, rows: int = 12, output: str = "out.parquet", home: Path | None = None
    ) -> None:
        self.folder = folder
        self.home = home or folder / "home"
        self.key = "canary-7f3a9c51d2"
        self.output = folder / output
        self.turns = 0
        self.printed: dict[int, tuple[Path, Path]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if rows:
            self._write_input(rows)

    def _write_input(self, rows: int) -> None:
        with (self.folder / "in.jsonl").open("w") as file:
            for number in range(rows):
                bad = "poisoned " if number == 5 else ""
                text = f"Row {number}: the {bad}weir at Oxmead stood at {number * 7} mm."
                file.write(json.dumps({"id": number, "text": text}) + "\n")
            file.write("no JSON\n")

    def argv(self, url: str, *more: str) -> list[str]:
        words = f"""run embed -i in.jsonl --id id -o {self.output.name} --kind openai
            --url {url}/v1 --model m --concurrency {CONCURRENCY} --batch-size {BATCH} --json
            --set endpoint.api_key.env=MOCK_KEY"""
        return [*words.split(), *more]

    def disk(self, action: str, at: int = 0, **more: Any) -> dict[str, Any]:
        """The disk of this job, that strikes at an operation."""
        return {"roots": [str(self.folder)], "action": action, "at": at, **more}

    def published(self) -> dict[str, bytes] | None:
        """The bytes of the output by name; None: nothing stands there."""
        if not self.output.exists():
            return None
        if self.output.is_dir():
            return {each.name: each.read_bytes() for each in sorted(self.output.iterdir())}
        return {"": self.output.read_bytes()}

    def out(self, pid: int) -> str:
        """What this process, which still runs, has printed."""
        return self.printed[pid][0].read_text()

    def row_ref(self) -> int:
        """How many answers stand in the cache, read by nothing but SQLite."""
        path = self.home / "answers" / "cache.db"
        if not path.exists():
            return 0
        with closing(sqlite3.connect(path)) as database:
            query = "SELECT COUNT(*) FROM Cache WHERE length(key) = 32"
            try:
                return database.execute(query).fetchone()[0]
            except sqlite3.OperationalError:  # no table yet
                return 0

    def manifests(self) -> list[dict[str, Any]]:
        paths = Path(f"{self.output}.run").glob("runs/*/manifest.json")
        return sorted((json.loads(each.read_bytes()) for each in paths), key=lambda m: m["number"])

    def is_over(self) -> bool:
        """Whether the last run is committed; then the next one is a new run."""
        return bool(found := self.manifests()) and found[-1]["state"] == "committed"

    def litter(self) -> list[str]:
        """What a finished run must not leave. A report is written after the commit, and its
        temporary file is removed once it is old: somebody may be writing it."""
        found = [each for each in self.folder.rglob("*") if ".tmp" in each.name]
        return [str(each) for each in found if each.name != REPORT]

    def clear(self) -> None:
        """As it was before the first run."""
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(f"{self.output}.run", ignore_errors=True)
        if self.output.is_symlink() or self.output.is_file():
            self.output.unlink()


SCRIPT = ("400 match=poisoned",)
COMPLETE = 3  # one row is no JSON, one request is refused


class Struck(NamedTuple):
    """One blow and the run after it, with the mock's bill."""

    first: Ended
    second: Ended
    answered: int
    """Requests that were answered, and so paid for, before the blow."""
    row_ref: int
    """Answers that were durable then."""
    again: int
    """Requests paid for again."""
    early: dict[str, bytes] | None
    """What stood under the output's name after the blow."""
    late: dict[str, bytes] | None
    manifests: list[dict[str, Any]]
    litter: list[str]
    was_over: bool
    """The blow came after the commit: the second run is a new one."""

    def problems(self, expected: dict[str, bytes]) -> list[str]:
        """What is wrong with how this went; nothing: the promise held."""
        lost = self.answered - self.row_ref
        found = []
        if self.early not in (None, expected):
            found.append("an output that is not whole stood under its name")
        if self.late != expected:
            found.append("other bytes after going on")
        if self.second.code != COMPLETE:
            found.append(f"going on ended with {self.second.code}: {self.second.err}")
        if lost > IN_FLIGHT:
            found.append(f"{lost} answers lost, {IN_FLIGHT} requests in flight")
        if self.again > lost and not self.was_over:
            found.append(f"{self.again} requests paid again, {lost} answers were not kept")
        if self.litter:
            found.append(f"left behind: {self.litter}")
        if not self.manifests or {m["state"] for m in self.manifests} != {"committed"}:
            found.append(f"runs not committed: {[m['state'] for m in self.manifests]}")
        if "Traceback" in self.first.err + self.second.err:
            found.append(f"a traceback: {self.first.err}{self.second.err}")
        if self.first.code >= 0 and self.first.out and self.first.last["exit"] != self.first.code:
            found.append("the last line told another exit code")
        return found


def quiet(mock: Any) -> None:
    """Return when the mock has ended the calls of a client that died, also those that still lay
    unread in their sockets: what asks later is answered later."""
    for _ in range(3):
        with urllib.request.urlopen(f"{mock.url}/_mock/bill") as reply:
            reply.read()
        while mock.bill.in_flight:
            time.sleep(0.001)


def strike(processes: Processes, job: JobFolder, mock: Any, *more: str, **blow: Any) -> Struck:
    """A fresh start that meets the blow, then the same command again."""
    job.clear()
    quiet(mock)
    mock.bill.clear()
    first = processes.run(job, *job.argv(mock.url, *more), **blow)
    return after(processes, job, mock, first, *more)


def after(processes: Processes, job: JobFolder, mock: Any, first: Ended, *more: str) -> Struck:
    """What a blow left, and the run that goes on."""
    quiet(mock)
    early, kept, answered = job.published(), job.row_ref(), mock.bill.totals().distinct_inputs
    before = mock.bill.totals().repeated_inputs
    was_over = job.is_over()
    second = processes.run(job, *job.argv(mock.url, *more))
    again = mock.bill.totals().repeated_inputs - before
    return Struck(first, second, answered, kept, again, early, job.published(),
                  job.manifests(), job.litter(), was_over)  # fmt: skip


class Boundary(NamedTuple):
    """The n-th operation of a name: `rename out.parquet`."""

    only: str
    at: int


def boundaries(processes: Processes, job: JobFolder, mock: Any, *more: str) -> list[Boundary]:
    """Every operation on the disk of one run from nothing, in order."""
    job.clear()
    log = job.folder.with_name(f"{job.folder.name}.log")
    ended = processes.run(job, *job.argv(mock.url, *more), disk=job.disk("count", log=str(log)))
    assert ended.code == COMPLETE, ended.err
    counts: Counter[str] = Counter()
    found = []
    for name in log.read_text().splitlines():
        counts[name] += 1
        found.append(Boundary(name, counts[name]))
    return found


class Life:
    """One job that meets one blow after another, and what must hold after each of them.

    `found` is what was wrong; empty: the promise held.
    """

    def __init__(self, job: JobFolder, mock: Any, expected: dict[str, bytes]) -> None:
        self.job, self.mock, self.expected = job, mock, expected
        self.found: list[str] = []
        self.blows = self.lost = self.again = 0
        self._begin()

    def _begin(self) -> None:
        quiet(self.mock)
        self.job.clear()
        self.mock.bill.clear()
        self.row_ref = self.allowed = self.paid_again = 0

    def took(self, what: object, ended: Ended, codes: Sequence[int]) -> None:
        """A run that met a blow and ended so; after a commit the job starts anew."""
        quiet(self.mock)
        bill, now, stands = self.mock.bill.totals(), self.job.row_ref(), self.job.published()
        lost = bill.distinct_inputs - now
        wrong = {
            f"ended with {ended.code}: {ended.err}": ended.code not in (*codes, COMPLETE),
            "a traceback": "Traceback" in ended.err,
            "another output than expected": stands not in (None, self.expected),
            "nothing published": ended.code == COMPLETE and stands != self.expected,
            f"{self.row_ref - now} kept answers are gone": now < self.row_ref,
            f"{lost} answers lost": lost > IN_FLIGHT,
            f"{bill.repeated_inputs} paid again": bill.repeated_inputs > self.allowed,
        }
        self.found += [f"{what}: {each}" for each, is_so in wrong.items() if is_so]
        self.again += bill.repeated_inputs - self.paid_again
        self.paid_again = bill.repeated_inputs
        self.allowed, self.row_ref = self.allowed + lost, now
        if ended.code != COMPLETE:
            self.blows += 1
            self.lost += lost
            if not self.job.is_over():
                return
        states = {manifest["state"] for manifest in self.job.manifests()}
        if states != {"committed"} or self.job.litter():
            self.found.append(f"{what}: runs are {states}, left behind {self.job.litter()}")
        self._begin()


def chain(
    processes: Processes, life: Life, names: Sequence[str], action: str, *, for_good: bool = False
) -> list[str]:
    """One life, with a blow at the first operation of each name. Returns: what was wrong."""
    codes = (-signal.SIGKILL,) if action in ("kill", "tear") else (13,)
    argv = life.job.argv(life.mock.url)
    for name in names:
        disk = life.job.disk(action, 1, only=name, for_good=for_good)
        life.took(name, processes.run(life.job, *argv, disk=disk), codes)
    life.took("the end", processes.run(life.job, *argv), ())
    return life.found
