"""`events.jsonl`: the events of a run with their times, in few lines.

There can be millions of calls. They are summed into one line per endpoint and error kind for each
time window. A window is one second at first, later a 600th of the run so far, at most a minute.
No line holds an input text, an answer, a server's message or a credential.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict, replace

from jobs.history.register import utc
from jobs.secrets import mask
from pipeline import events
from pipeline.records import Usage
from pipeline.text import many, printable, reason

EVERY_SECONDS = 1.0
MAX_LINES = 200_000
MAX_WAITING = 10_000
"""Lines that wait for a disk that cannot be written; older ones are dropped and counted."""


class EventLog:
    """`events.jsonl` of one run. Never raises; `trouble` keeps the last write error.

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
        self._calls: dict[tuple[str, str | None], Usage] = {}
        self._rows: dict[str, int] = {}
        self._pauses: dict[tuple[str, str], list[float]] = {}
        self._waiting: deque[bytes] = deque()
        self._lines = 0
        self._file: int | None = None
        self._unwritten = b""

    def on(self, event: events.Event) -> None:
        """Adds one event: to a sum, or as its own line."""
        match event:
            case events.CallEnded():
                key = (event.endpoint, event.error)
                # For an error the line counts the requests in the calls.
                usage = replace(event.usage, requests=event.requests)
                self._calls[key] = self._calls.get(key, Usage()) + usage
            case events.Admitted():
                self._count(admitted=event.documents, requests=event.requests, cached=event.cached)
            case events.Written():
                self._count(ok=event.ok, partial=event.partial, failed=event.failed)
            case events.Paused():
                paused = self._pauses.setdefault((event.endpoint, event.kind), [0, 0.0])
                paused[0] += 1
                paused[1] += event.seconds
            case events.Draining():  # its reason may quote a server
                self.line(event="draining", in_flight=event.in_flight)
            case _:
                self._fold()
                self.line(**{name: plain(value) for name, value in _fields(event).items()})

    def open(self, folder: Path) -> None:
        """Opens the file in the folder of the run; until then lines wait in memory."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._file = os.open(folder / "events.jsonl", flags, 0o600)
        except OSError as error:
            self.trouble = reason(error)

    def line(self, **fields: Any) -> None:
        """Adds one line, with the time of day."""
        self._lines += 1
        if self._lines > MAX_LINES:
            self.left_out += 1
            return
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self.left_out += 1
        self._waiting.append(msgspec.json.encode({"at": utc(self._now()), **fields}) + b"\n")

    def fold(self) -> None:
        """Closes the window if it is over; its lines then wait for `flush`."""
        now = self._clock()
        if now - self._window_began >= window_seconds(now - self._started):
            self._fold()

    def flush(self, *, is_last: bool = False) -> None:
        """Writes the waiting lines; other threads may call `on` meanwhile."""
        if self._file is None:
            return
        try:
            while self._unwritten or self._waiting:
                self._unwritten = self._unwritten or self._waiting.popleft()
                self._unwritten = self._unwritten[os.write(self._file, self._unwritten) :]
            if is_last:
                os.fsync(self._file)
        except OSError as error:
            self.trouble = reason(error)

    def close(self, **fields: Any) -> str:
        """Writes a last line of these fields; the error on one line, or an empty text."""
        self._fold()
        self.line(**fields)
        self.flush(is_last=True)
        self.left_out += len(self._waiting) + bool(self._unwritten)
        if self._file is not None:
            os.close(self._file)
            self._file = None
        error = self.trouble or f"more than {MAX_LINES:,} lines"
        lines = many(self.left_out, "line")
        return f"events.jsonl is missing {lines}: {error}" if self.left_out else ""

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
                endpoint=plain(endpoint),
                error=plain(error),
                **asdict(total.rounded()),
            )
        if any(rows.values()):
            self.line(event="rows", window_seconds=seconds, **rows)
        for (endpoint, kind), (times, paused) in pauses.items():
            self.line(
                event="pauses",
                window_seconds=seconds,
                endpoint=plain(endpoint),
                kind=plain(kind),
                times=int(times),
                seconds=round(paused, 3),
            )


def window_seconds(elapsed_seconds: float) -> float:
    """The length of a window after this time of the run."""
    return min(60.0, max(EVERY_SECONDS, elapsed_seconds / 600))


def _fields(event: events.Event) -> dict[str, Any]:
    fields = msgspec.to_builtins(event)
    return fields if isinstance(fields, dict) else {}


def plain(value: Any) -> Any:
    """A text without secrets and control characters; any other value unchanged."""
    return printable(mask(value), 4096) if isinstance(value, str) else value
