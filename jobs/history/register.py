"""The register of runs: one file with the start, ending, rows and cost of every run.

`$TEXTMILL_HOME/runs.jsonl` gets a line when a run starts and one when it ends. The ledger
(`jobs.history.ledger`) is summed from this file; there is no other record of costs.
`running/<entry>.json` holds the statistics of a running run, under a lock that the kernel releases
on kill -9. The lock distinguishes a killed run from a running one without a process number, which
another process or machine may have. The lock of the run folder would do so, too, but testing that
one means holding it for a moment, and a run that starts in this moment would be refused.

Nothing here ever ends a run: write errors are reported at its end.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from jobs.home import current_folder
from pipeline.disk import locks
from pipeline.disk.durable import storage_errors, system_error
from pipeline.disk.json_lines import JsonLines
from pipeline.events import RunStats
from pipeline.records import Usage
from pipeline.runs.run_id import new_run_id
from pipeline.text import reason, shown

KILLED = 137
"""The exit code that a shell reports for kill -9; a killed program cannot report one itself."""


class RunProgress(Struct, frozen=True):
    """The progress of a running run. Units: `done` in documents, with fractions."""

    done: float = 0.0
    seen_at: str = ""
    state: str = "surveying"
    pause: str = ""


class Run(RunStats, frozen=True, kw_only=True, rename={"class_": "class"}):
    """One line of the register: everything known about a run when the line was written.

    Invariant: of the lines of one `entry` the first with `ended_at` counts, else the last.
    """

    entry: str
    job: str
    started_at: str
    file: str = ""
    output: str = ""
    command: str = ""
    cwd: str = ""
    host: str = ""
    pid: int = 0
    run: str = ""
    folder: str = ""
    ended_at: str = ""
    exit: int | None = None
    class_: str = ""
    resumable: bool = False
    error: str = ""
    hint: str = ""
    endpoints: dict[str, Usage] = msgspec.field(default_factory=dict)
    latency: dict[str, tuple[float, float]] = msgspec.field(default_factory=dict)
    """The median and the 95th percentile of each endpoint's calls, in seconds."""
    servers: dict[str, str] = msgspec.field(default_factory=dict)
    """Who answered for each endpoint: `Job.servers`."""
    notes: tuple[str, ...] = ()
    is_check: bool = False
    """It only asked the endpoints (`textmill check`): no run, but its calls cost something."""
    live: RunProgress | None = None


class RegisterEntry:
    """A run's entry in the register, from its start to its end.

    A write error is kept in `trouble`, and the run continues.
    """

    def __init__(self, home: Path, run: Run) -> None:
        self.run = run
        self.trouble = ""
        self._home = home
        self._descriptor: int | None = None
        self._length = 0
        with self._keeping_trouble(), private_umask():
            _close_dead_runs(home)
            path = _lock_file(home, run.entry)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            locks.wait_for(self._descriptor)
            self._write_stats()
            _append(home, run)

    def show(self, run: Run) -> None:
        """Writes the statistics so far, for `status`."""
        self.run = run
        with self._keeping_trouble():
            self._write_stats()

    def end(self, run: Run) -> None:
        """Writes the last line and releases the lock."""
        self.run = run
        with self._keeping_trouble(), private_umask():
            _append(self._home, run)
            _lock_file(self._home, run.entry).unlink(missing_ok=True)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write_stats(self) -> None:
        if self._descriptor is None:
            return
        # One write over the old content, padded with blanks: a reader sees one or the other, and
        # the file keeps its lock, which a renamed file would not.
        raw = msgspec.json.encode(self.run).ljust(self._length)
        os.pwrite(self._descriptor, raw, 0)
        self._length = len(raw)

    @contextmanager
    def _keeping_trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.trouble = f"{error.filename or self._home}: {reason(error)}"


def start_record(
    job: str, *, file: str, output: str, command: str, servers: dict[str, str] | None = None
) -> Run:
    """The first line of a run that starts now, in this process."""
    return Run(
        entry=new_run_id(),
        job=job,
        started_at=utc(time.time()),
        file=as_text(file),
        output=as_text(output),
        command=as_text(command),
        servers=servers or {},
        cwd=as_text(current_folder()),
        host=socket.gethostname(),
        pid=os.getpid(),
    )


def as_text(path: str) -> str:
    """The path as valid Unicode for JSON; bytes that are not UTF-8 are replaced."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def runs(home: Path, *, with_checks: bool = False) -> tuple[list[Run], int]:
    """Every run, newest first, with current statistics; and the number of unreadable lines.
    `with_checks`: what checks cost is there, too.

    A run that neither ended nor holds its lock was killed: it gets that exit code.
    Cost: O(lines). Raises: StorageError if the register cannot be read.
    """
    by_entry, unread = _lines(home)
    dead: dict[str, Run] = {}
    for entry, run in by_entry.items():
        if not run.ended_at:
            is_alive, by_entry[entry] = _read_running(home, run)
            if not is_alive:
                dead[entry] = killed(by_entry[entry])
    if dead:  # or it ended between the two reads
        after, _ = _lines(home)
        by_entry |= {e: after[e] if e in after and after[e].ended_at else dead[e] for e in dead}
    listed = [run for run in by_entry.values() if with_checks or not run.is_check]
    later_first = reversed(listed)  # in the same millisecond the later line is newer
    return sorted(later_first, key=lambda run: run.started_at, reverse=True), unread


class _Forgotten(Struct, frozen=True):
    entry: str


def forget(home: Path, chosen: Iterable[Run]) -> int:
    """Leaves these runs out of every later list; running ones stay. Their lines and so their cost
    stay in the register. Returns: how many. Raises: StorageError."""
    entries = {run.entry for run in chosen if not is_running(run)} - forgotten(home)
    path = home / "forgotten.jsonl"
    if not entries:
        return 0
    with storage_errors(path), private_umask(), path.open("ab") as file:
        file.writelines(msgspec.json.encode(_Forgotten(entry)) + b"\n" for entry in sorted(entries))
        file.flush()
        os.fsync(file.fileno())
    return len(entries)


def forgotten(home: Path) -> set[str]:
    """The entries of forgotten runs; none where the file is unreadable."""
    found: set[str] = set()
    with suppress(OSError):
        found.update(each.entry for each in JsonLines(home / "forgotten.jsonl", _Forgotten))
    return found


def _lines(home: Path) -> tuple[dict[str, Run], int]:
    by_entry: dict[str, Run] = {}
    lines = JsonLines(_path(home), Run)
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            for run in lines:
                if run.entry not in by_entry or not by_entry[run.entry].ended_at:
                    by_entry[run.entry] = run
    except OSError as error:
        raise system_error(shown(str(_path(home))), error, "cannot be read") from None
    return by_entry, lines.unreadable


def is_running(run: Run) -> bool:
    """True for a run of `runs` that has not ended."""
    return not run.ended_at


def killed(run: Run) -> Run:
    """The run with its last known statistics, ended as killed."""
    last_seen = run.live.seen_at if run.live and run.live.seen_at else run.started_at
    return replace(
        run,
        ended_at=last_seen,
        exit=KILLED,
        class_="killed",
        resumable=True,
        seconds=max(0.0, (moment(last_seen) - moment(run.started_at)).total_seconds()),
    )


def utc(seconds: float) -> str:
    """A wall-clock time in the format of the register and the events; sorts as text."""
    at = datetime.fromtimestamp(seconds, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def moment(text: str) -> datetime:
    """The time of a text made by `utc`; 1970-01-01 for any other text."""
    try:
        at = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        at = datetime.fromtimestamp(0, UTC)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _path(home: Path) -> Path:
    return home / "runs.jsonl"


def _lock_file(home: Path, entry: str) -> Path:
    return home / "running" / f"{Path(entry).name}.json"


def _append(home: Path, run: Run) -> None:
    """Appends one line durably. Concurrent writers take turns; a truncated line is closed first."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(_path(home), flags, 0o600)
    try:
        locks.wait_for(descriptor)
        size = os.fstat(descriptor).st_size
        line = msgspec.json.encode(replace(run, live=None)) + b"\n"
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = os.write(descriptor, line)
        if written < len(line):  # the disk is full: writing the rest raises the error
            os.write(descriptor, line[written:])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_running(home: Path, run: Run) -> tuple[bool, Run]:
    """Whether the run holds its lock, and its last written statistics."""
    try:
        with _lock_file(home, run.entry).open("rb") as file:
            is_alive = locks.is_held(file.fileno()) is True
            return is_alive, msgspec.json.decode(file.read(), type=Run)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return False, run


def _close_dead_runs(home: Path) -> None:
    """Writes the last line of runs that were killed, with their last statistics."""
    for path in sorted((home / "running").glob("*.json")):
        with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError), path.open("r+b") as file:
            locks.acquire(file.fileno())  # only one process closes a dead run
            # A file that has just been created is empty and not locked yet.
            if not path.exists() or not (raw := file.read()):
                continue
            _append(home, killed(msgspec.json.decode(raw, type=Run)))
            path.unlink()


@contextmanager
def private_umask() -> Iterator[None]:
    """Files and folders created in this context are readable by their owner only."""
    mask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(mask)
