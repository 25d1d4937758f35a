"""The register of runs: one file that says what ran, when, how it ended and what it cost.

`$TEXTMILL_HOME/runs.jsonl` gets a line when a run starts and one when it ends; the ledger
(`jobs.history.ledger`) is summed from it, and nothing else is kept of money. In
`running/<entry>.json` are the figures of a run under way, with a lock that the kernel frees on kill
-9: a run that is gone without a last line is told from one that works without asking for a process
number, which another process or machine may have. The lock of the run folder would tell it, too,
but to ask for that one is to hold it for a moment, and a run that starts in this moment would be
refused.

Nothing here ever ends a run: what cannot be written is told at its end.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pipeline.disk import locks
from pipeline.disk.json_lines import JsonLines
from pipeline.errors import StorageError
from pipeline.events import RunStats
from pipeline.records import Usage
from pipeline.runs.run_id import new_run_id
from pipeline.text import reason

KILLED = 137
"""The exit code that a shell reports for kill -9: no program can report its own."""


class RunProgress(Struct, frozen=True):
    """How far a run under way has come. Units: `done` in documents, shares of one included."""

    done: float = 0.0
    seen_at: str = ""
    state: str = "surveying"
    pause: str = ""


class Run(RunStats, frozen=True, kw_only=True, rename={"class_": "class"}):
    """One line of the register: everything known of a run when the line was written.

    Invariant: of the lines of one `entry` the first one with `ended_at` stands, else the last.
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
    """Of each endpoint's calls: what half, and what 95 of 100, were as fast as, in seconds."""
    notes: tuple[str, ...] = ()
    live: RunProgress | None = None


class RegisterEntry:
    """A run's own place in the register, from its start to its end.

    What cannot be written is kept in `trouble`, and the run goes on.
    """

    def __init__(self, home: Path, told: Run) -> None:
        self.told = told
        self.trouble = ""
        self._home = home
        self._life: int | None = None
        self._length = 0
        with self._forgiving(), private_umask():
            _close_dead_runs(home)
            path = _lock_file(home, told.entry)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._life = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            locks.wait_for(self._life)
            self._show()
            _append(home, told)

    def show(self, told: Run) -> None:
        """The figures so far, for those who watch."""
        self.told = told
        with self._forgiving():
            self._show()

    def end(self, told: Run) -> None:
        """How it ended; the lock is let go."""
        self.told = told
        with self._forgiving(), private_umask():
            _append(self._home, told)
            _lock_file(self._home, told.entry).unlink(missing_ok=True)
        if self._life is not None:
            os.close(self._life)
            self._life = None

    def _show(self) -> None:
        if self._life is None:
            return
        # One write over the old one, padded with blanks: a reader sees one or the other, and the
        # file keeps its lock, which a renamed one would not.
        raw = msgspec.json.encode(self.told).ljust(self._length)
        os.pwrite(self._life, raw, 0)
        self._length = len(raw)

    @contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.trouble = f"{error.filename or self._home}: {reason(error)}"


def start_record(job: str, *, file: str, output: str, command: str) -> Run:
    """The first line of a run that starts now, in this process."""
    cwd = ""
    with suppress(OSError):  # the folder that it was started in may be gone
        cwd = str(Path.cwd())
    return Run(
        entry=new_run_id(),
        job=job,
        started_at=utc(time.time()),
        file=as_text(file),
        output=as_text(output),
        command=as_text(command),
        cwd=as_text(cwd),
        host=socket.gethostname(),
        pid=os.getpid(),
    )


def as_text(path: str) -> str:
    """The path as JSON can hold it: a name that is not UTF-8 loses the bytes that are not."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def runs(home: Path) -> tuple[list[Run], int]:
    """Every run, newest first, with the figures of those under way; and how many lines were bad.

    A run that neither ended nor holds its lock was killed: it comes with that exit code.
    Cost: O(lines). Raises: StorageError where the register cannot be read.
    """
    found, unread = _lines(home)
    gone: dict[str, Run] = {}
    for entry, told in found.items():
        if not told.ended_at:
            is_alive, found[entry] = _read_running(home, told)
            if not is_alive:
                gone[entry] = killed(found[entry])
    if gone:  # or it ended between one look and the other
        after, _ = _lines(home)
        found |= {e: after[e] if e in after and after[e].ended_at else gone[e] for e in gone}
    later_first = reversed(found.values())  # of two in one millisecond the later line is the newer
    return sorted(later_first, key=lambda run: run.started_at, reverse=True), unread


def _lines(home: Path) -> tuple[dict[str, Run], int]:
    found: dict[str, Run] = {}
    lines = JsonLines(_path(home), Run)
    try:
        with suppress(FileNotFoundError):
            for told in lines:
                if told.entry not in found or not found[told.entry].ended_at:
                    found[told.entry] = told
    except OSError as error:
        raise StorageError(f"{_path(home)}: cannot be read ({reason(error)})") from None
    return found, lines.unreadable


def is_running(run: Run) -> bool:
    """True for a run under way, as `runs` gave it."""
    return not run.ended_at


def killed(run: Run) -> Run:
    """The run as it was last seen, ended by something that no program survives."""
    seen = run.live.seen_at if run.live and run.live.seen_at else run.started_at
    return replace(
        run,
        ended_at=seen,
        exit=KILLED,
        class_="killed",
        resumable=True,
        seconds=max(0.0, (moment(seen) - moment(run.started_at)).total_seconds()),
    )


def utc(seconds: float) -> str:
    """A wall-clock time as the register and the events write it; sorts as text."""
    at = datetime.fromtimestamp(seconds, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def moment(told: str) -> datetime:
    """The time that `utc` wrote; the beginning of all time where it is none."""
    try:
        at = datetime.fromisoformat(told.replace("Z", "+00:00"))
    except ValueError:
        at = datetime.fromtimestamp(0, UTC)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _path(home: Path) -> Path:
    return home / "runs.jsonl"


def _lock_file(home: Path, entry: str) -> Path:
    return home / "running" / f"{Path(entry).name}.json"


def _append(home: Path, told: Run) -> None:
    """One line, durable; two that write at once take turns, and none writes into a cut line."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(_path(home), flags, 0o600)
    try:
        locks.wait_for(descriptor)
        size = os.fstat(descriptor).st_size
        line = msgspec.json.encode(replace(told, live=None)) + b"\n"
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = os.write(descriptor, line)
        if written < len(line):  # a disk that filled up: the rest fails with its reason
            os.write(descriptor, line[written:])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_running(home: Path, told: Run) -> tuple[bool, Run]:
    """Whether the run holds its lock, and its figures as it last wrote them."""
    try:
        with _lock_file(home, told.entry).open("rb") as file:
            is_alive = locks.is_held(file.fileno()) is True
            return is_alive, msgspec.json.decode(file.read(), type=Run)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return False, told


def _close_dead_runs(home: Path) -> None:
    """Writes the last line of runs that were killed, with the figures that they left."""
    for path in sorted((home / "running").glob("*.json")):
        with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError), path.open("r+b") as file:
            locks.acquire(file.fileno())  # one of two that bury at once
            # One that has just been made is not locked yet, and empty.
            if not path.exists() or not (raw := file.read()):
                continue
            _append(home, killed(msgspec.json.decode(raw, type=Run)))
            path.unlink()


@contextmanager
def private_umask() -> Iterator[None]:
    """What is made here is for its owner alone, also the folders above it."""
    mask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(mask)
