"""`events.jsonl`: what happened in a run, and when, in few lines.

Calls can be millions: they are folded into one line per endpoint and kind of error for each window
of time, which is a second at first and a 600th of the run so far later on, a minute at most. No
line holds a text, an answer, a server's words or a credential.
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
"""Lines that wait for a disk that takes none; older ones are dropped and counted."""


class EventLog:
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
        self._calls: dict[tuple[str, str | None], Usage] = {}
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
                # Of an error the line says how many requests the calls carried.
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
            case events.Draining():  # its reason may be in a server's words
                self.line(event="draining", in_flight=event.in_flight)
            case _:
                self._fold()
                self.line(**{name: plain(value) for name, value in _named(event).items()})

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
        if self._lines > MAX_LINES:
            self.left_out += 1
            return
        if len(self._waiting) >= MAX_WAITING:
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
        why = self.trouble or f"more than {MAX_LINES:,} lines"
        return f"events.jsonl lacks {many(self.left_out, 'line')}: {why}" if self.left_out else ""

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
    """How long a folded line's window is, so far into a run."""
    return min(60.0, max(EVERY_SECONDS, elapsed_seconds / 600))


def _named(event: events.Event) -> dict[str, Any]:
    told = msgspec.to_builtins(event)
    return told if isinstance(told, dict) else {}


def plain(value: Any) -> Any:
    """A text as a line may hold it; anything else as it is."""
    return printable(mask(value), 4096) if isinstance(value, str) else value
