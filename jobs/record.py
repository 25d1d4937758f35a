"""What is written of a run while it runs: `events.jsonl` in its folder, its figures for `status`.

A thread writes once a second, so that a slow or full disk holds up no call and ends no run; what
could not be written is told at the end. Calls can be millions: they are folded into one line per
endpoint and kind of error for each window of time, which is a second at first and a 600th of the
run so far later on, a minute at most. No line holds a text, an answer, a server's words or a
credential.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict, replace

from jobs.display import Progress
from jobs.register import Entry, Live, Run, Spent, added, as_text, rounded, utc
from pipeline import events
from pipeline.errors import TextmillError
from pipeline.escape import printable
from pipeline.files import reason
from pipeline.run import CLASSES, Ended
from pipeline.secret import mask

EVERY_SECONDS = 1.0
MOST_LINES = 200_000
MOST_WAITING = 10_000
"""Lines that wait for a disk that takes none; older ones are dropped and counted."""


class Journal:
    """`events.jsonl` of one run. Never raises; `trouble` says what the system refused.

    Invariant: the `calls` and `rows` of its lines add up to those of the events.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.trouble = ""
        self.left_out = 0
        self._clock, self._now = clock, now
        self._started = self._window_began = clock()
        self._calls: dict[tuple[str, str | None], Spent] = {}
        self._rows: dict[str, int] = {}
        self._pauses: dict[tuple[str, str], list[float]] = {}
        self._waiting: deque[bytes] = deque()
        self._lines = 0
        self._file: int | None = None
        self._rest = b""

    def on(self, event: events.Event) -> None:
        """One event: folded, or a line of its own."""
        match event:
            case events.CallEnded():
                key = (event.endpoint, event.error)
                self._calls[key] = added(self._calls.get(key, Spent()), spent(event))
            case events.Admitted():
                self._count(admitted=event.documents, requests=event.requests, cached=event.cached)
            case events.Written():
                self._count(ok=event.ok, partial=event.partial, failed=event.failed)
            case events.Paused():
                paused = self._pauses.setdefault((event.endpoint, event.kind), [0, 0.0])
                paused[0] += 1
                paused[1] += event.seconds
            case events.Draining():  # its reason may be in a server's words
                self.line(event="draining", in_flight=event.in_flight)
            case _:
                self._fold()
                self.line(**{name: _plain(value) for name, value in _named(event).items()})

    def open(self, folder: Path) -> None:
        """From now on there is a place to write to."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._file = os.open(folder / "events.jsonl", flags, 0o600)
        except OSError as error:
            self.trouble = reason(error)

    def line(self, **told: Any) -> None:
        """One line, with the time of day."""
        self._lines += 1
        if self._lines > MOST_LINES:
            self.left_out += 1
            return
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self.left_out += 1
        self._waiting.append(msgspec.json.encode({"at": utc(self._now()), **told}) + b"\n")

    def fold(self) -> None:
        """Closes the window where it is over; its lines then wait to be written."""
        now = self._clock()
        if now - self._window_began >= window_seconds(now - self._started):
            self._fold()

    def flush(self, *, is_last: bool = False) -> None:
        """Write what waits; other threads may go on with `on` meanwhile."""
        if self._file is None:
            return
        try:
            while self._rest or self._waiting:
                self._rest = self._rest or self._waiting.popleft()
                self._rest = self._rest[os.write(self._file, self._rest) :]
            if is_last:
                os.fsync(self._file)
        except OSError as error:
            self.trouble = reason(error)

    def close(self, **told: Any) -> str:
        """A last line of these; everything is written then, or why not, on one line."""
        self._fold()
        self.line(**told)
        self.flush(is_last=True)
        self.left_out += len(self._waiting) + bool(self._rest)
        if self._file is not None:
            os.close(self._file)
            self._file = None
        why = self.trouble or f"more than {MOST_LINES:,} lines"
        return f"events.jsonl lacks {self.left_out:,} lines: {why}" if self.left_out else ""

    def _count(self, **more: int) -> None:
        for name, number in more.items():
            self._rows[name] = self._rows.get(name, 0) + number

    def _fold(self) -> None:
        calls, self._calls = self._calls, {}
        rows, self._rows = self._rows, {}
        pauses, self._pauses = self._pauses, {}
        seconds = round(self._clock() - self._window_began, 3)
        self._window_began = self._clock()
        for (endpoint, error), total in calls.items():
            self.line(
                event="calls",
                window_seconds=seconds,
                endpoint=_plain(endpoint),
                error=_plain(error),
                **asdict(rounded(total)),
            )
        if any(rows.values()):
            self.line(event="rows", window_seconds=seconds, **rows)
        for (endpoint, kind), (times, paused) in pauses.items():
            self.line(
                event="pauses",
                window_seconds=seconds,
                endpoint=_plain(endpoint),
                kind=_plain(kind),
                times=int(times),
                seconds=round(paused, 3),
            )


def window_seconds(elapsed_seconds: float) -> float:
    """How long a folded line's window is, so far into a run."""
    return min(60.0, max(EVERY_SECONDS, elapsed_seconds / 600))


def spent(event: events.CallEnded) -> Spent:
    """What one call took."""
    return Spent(
        calls=int(event.error != "unreachable"),  # nothing was sent
        errors=int(event.error is not None),
        requests=event.requests,
        input_tokens=event.input_tokens,
        output_tokens=event.output_tokens,
        cost_usd=event.cost_usd,
        seconds=event.seconds,
        slowest_seconds=event.seconds,
    )


def _named(event: events.Event) -> dict[str, Any]:
    told = msgspec.to_builtins(event)
    return told if isinstance(told, dict) else {}


def _plain(value: Any) -> Any:
    return printable(mask(value), 4096) if isinstance(value, str) else value


class Recording:
    """Listens to one run: its journal, and its line in the register."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._journal = Journal()
        self._progress = Progress()
        self._state = "surveying"
        self._run = entry.told
        self._spent: dict[str, Spent] = {}
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write, name="record", daemon=True)
        self._thread.start()

    def on(self, event: events.Event) -> None:
        """One event, from the loop's thread; nothing is written here."""
        with self._lock:
            if isinstance(event, events.Began):
                folder = str(Path(event.folder).absolute())
                self._run = replace(self._run, run=event.run, folder=as_text(folder))
                self._journal.open(Path(event.folder))
            self._progress.on(event)
            self._journal.on(event)
            match event:
                case events.CallEnded():
                    before = self._spent.get(event.endpoint, Spent())
                    self._spent[event.endpoint] = added(before, spent(event))
                case events.Written():
                    self._run = replace(
                        self._run,
                        ok=self._run.ok + event.ok,
                        partial=self._run.partial + event.partial,
                        failed=self._run.failed + event.failed,
                    )
                case events.Surveyed():
                    self._state = "working"
                case events.Draining():
                    self._state = "draining"

    def ended(self, ended: Ended) -> None:
        """How the engine says it ended."""
        told, error = ended.summary, ended.error
        self._stop()
        with self._lock:
            self._run = replace(
                self._figures(),
                exit=told.exit,
                class_=told.class_,
                resumable=told.resumable,
                error=_plain(str(error))[:2_000] if error else "",
                hint=_plain(error.hint or "")[:500] if error else "",
                documents=told.documents,
                ok=told.ok,
                partial=told.partial,
                failed=told.failed,
                requests=told.requests,
                cached=told.cached,
                calls=told.calls,
                tokens=told.tokens,
                cost_usd=told.cost_usd,
                seconds=told.seconds,
            )

    def close(self, exit_code: int, class_: str, *, resumable: bool, error: str = "") -> list[str]:
        """Both are written to their end; what could not be, for people.

        The exit code counts where no `ended` came before: the run did not get as far.
        """
        self._stop()
        run = self._run
        if run.exit is None:
            run = replace(
                self._figures(),
                exit=exit_code,
                class_=class_,
                resumable=resumable,
                error=_plain(error)[:2_000],
            )
        at = utc(time.time())
        last: dict[str, Any] = {"event": "ended", "exit": run.exit, "class": run.class_}
        missing = self._journal.close(**last) if run.folder else ""
        notes = (missing,) if missing else ()
        self._entry.end(replace(run, ended_at=at, live=None, notes=notes))
        trouble = self._entry.trouble
        told = [f"{trouble}: `status` may not show this run as it was"] if trouble else []
        return [*notes, *told]

    def _figures(self) -> Run:
        """The run so far, as its events tell it."""
        progress, run = self._progress, self._run
        pause = progress.last_pause
        return replace(
            run,
            documents=progress.total,
            requests=progress.requests,
            cached=progress.cached,
            calls=progress.calls,
            tokens=sum(each.input_tokens + each.output_tokens for each in self._spent.values()),
            cost_usd=round(progress.cost_usd, 6),
            endpoints={name: rounded(each) for name, each in self._spent.items()},
            live=Live(
                done=round(progress.done, 1),
                seen_at=utc(time.time()),
                state=self._state,
                pause=f"{pause.kind} from {_plain(pause.endpoint)}, {pause.times} times"
                if pause
                else "",
            ),
        )

    def _write(self) -> None:
        while not self._is_over.wait(EVERY_SECONDS):
            with self._lock:
                figures = self._figures()
                self._journal.fold()
            self._journal.flush()
            self._entry.show(figures)

    def _stop(self) -> None:
        self._is_over.set()
        self._thread.join()


@contextmanager
def recorded(home: Path, told: Run, say: Callable[[str], None]) -> Iterator[Recording]:
    """A run with its line in the register, however it ends; `say` gets what went missing."""
    recording = Recording(Entry(home, told))
    code, is_resumable, why = 1, True, ""
    try:
        yield recording
    except TextmillError as error:
        code, is_resumable, why = error.exit_code, error.resumable, str(error)
        raise
    except KeyboardInterrupt:
        code = 130
        raise
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
        raise
    except BaseException as error:
        why = f"{type(error).__name__}, a bug in textmill"
        raise
    finally:
        class_ = CLASSES.get(code, "internal")
        for line in recording.close(code, class_, resumable=is_resumable, error=why):
            say(line)
