"""The displays of a run: in a terminal, in a pipe, as JSON lines.

All three only listen to the events of `pipeline.events`. Warnings are counted and do not scroll.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Protocol

from jobs.format import cached_share, cost, duration
from jobs.history.progress import Progress
from jobs.stdio import json_line
from pipeline import events
from pipeline.text import many, printable, reason

if TYPE_CHECKING:
    from pipeline.runs.summary import Ended

PLAIN_EVERY_SECONDS = 10.0


class Display(Protocol):
    """Shows the events of one run."""

    def on(self, event: events.Event) -> None:
        """Shows one event; called often, from the thread of the loop."""

    def close(self) -> None:
        """Ends the display; the closing line follows."""


class JsonLines:
    """Writes one JSON object per line to stdout; its key `event` names the event."""

    def __init__(self, out: IO[str] | None = None) -> None:
        self._out = out or sys.stdout

    def on(self, event: events.Event) -> None:
        with suppress(OSError):  # the last line reports a closed pipe
            self._out.write(json_line(event, self._out) + "\n")
            self._out.flush()

    def close(self) -> None:
        pass


class Plain:
    """Writes a progress line to stderr every ten seconds: for pipes, logs and cron."""

    def __init__(self, out: IO[str] | None = None) -> None:
        self._out = out or sys.stderr
        self._progress = Progress()
        self._shown_at = time.monotonic()
        self._warned = 0

    def on(self, event: events.Event) -> None:
        self._progress.on(event)
        is_due = time.monotonic() - self._shown_at >= PLAIN_EVERY_SECONDS
        if is_due or isinstance(event, events.Draining):
            self._shown_at = time.monotonic()
            warning = self._progress.warning()
            pauses = self._progress.last_pause.times if self._progress.last_pause else 0
            if warning and pauses > self._warned:
                self._warned = pauses
                self._print(warning)
            self._print(self._progress.line())

    def _print(self, line: str) -> None:
        with suppress(OSError):  # a closed stderr must not stop a run
            print(line, file=self._out, flush=True)

    def close(self) -> None:
        pass


class Terminal:
    """Draws a progress bar with one line of statistics and one of warnings."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, TaskProgressColumn
        from rich.progress import Progress as Bar

        self._progress = Progress()
        self._bar = Bar(BarColumn(), TaskProgressColumn(), console=Console(stderr=True))
        self._task = self._bar.add_task("documents", total=None)
        self._live = Live(
            get_renderable=self._render,
            console=self._bar.console,
            transient=True,
            refresh_per_second=8,
        )
        self._live.start()

    def _render(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        def line(text: str, style: str) -> Text:
            return Text(text, style=style, no_wrap=True, overflow="ellipsis")

        lines: list[Any] = [self._bar, line(self._progress.line(), "bold")]
        warning = self._progress.warning()
        if warning:
            lines.append(line(warning, "yellow"))
        return Group(*lines)

    def on(self, event: events.Event) -> None:
        self._progress.on(event)
        progress = self._progress
        self._bar.update(self._task, total=progress.total or None, completed=progress.done)

    def close(self) -> None:
        self._live.stop()


class Harmless:
    """A display whose first error ends it: it must not end a paid run."""

    def __init__(self, make: Callable[[], Display]) -> None:
        self._display: Display | None = None
        with self._ending_at_an_error():
            self._display = make()

    def on(self, event: events.Event) -> None:
        if self._display is not None:
            with self._ending_at_an_error():
                self._display.on(event)

    def close(self) -> None:
        if self._display is not None:
            with self._ending_at_an_error():
                self._display.close()

    @contextmanager
    def _ending_at_an_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._display = None
            with suppress(Exception):
                text = f"the display has ended: {type(error).__name__} {reason(error)}"
                print(text, file=sys.stderr, flush=True)


def display(*, as_json: bool) -> Display:
    """The display for the kind of output: JSON, terminal or plain lines."""
    if as_json:
        return JsonLines()
    is_drawable = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return Terminal() if is_drawable else Plain()


def closing_line(ended: Ended) -> str:
    """The last line of every published run: rows, requests, cost and duration."""
    summary = ended.summary
    written = summary.documents - summary.failed - summary.partial
    parts = [f"{written:,} of {many(summary.documents, 'document')} written"]
    if summary.failed or summary.partial:
        file = f" ({printable(str(ended.failures))})" if ended.failures else ""
        counts = [f"{summary.failed:,} failed"] if summary.failed else []
        counts += [f"{summary.partial:,} partial"] if summary.partial else []
        parts.append(" and ".join(counts) + file)
    parts += [
        *_changes(summary),
        many(summary.requests, "request"),
        *cached_share(summary.cached, summary.requests),
        *_ambiguous(summary.usage.ambiguous),
        cost(summary.usage),
        duration(summary.seconds),
    ]
    return ", ".join(parts)


def _ambiguous(calls: int) -> list[str]:
    return [f"{many(calls, 'call')} without an answer may have been billed"] if calls else []


def _changes(summary: events.Summary) -> list[str]:
    """The differences from the last commit, if there was one."""
    if summary.added == summary.documents and not summary.removed:
        return []
    counts = [
        (summary.added, "added"),
        (summary.changed, "changed"),
        (summary.removed, "removed"),
        (summary.retried, "retried"),
        (summary.unchanged, "unchanged"),
    ]
    return [f"{count:,} {name}" for count, name in counts if count]


def endpoint_lines(summary: events.Summary) -> list[str]:
    """The statistics of each endpoint, if there are several."""
    if len(summary.endpoints) < 2:
        return []
    width = max(len(endpoint.name) for endpoint in summary.endpoints)
    lines = []
    for endpoint in summary.endpoints:
        parts = [
            f"{many(endpoint.requests, 'request')} in {many(endpoint.calls, 'call')}",
            many(endpoint.errors, "error"),
        ]
        if endpoint.calls:
            parts.append(f"p50 {endpoint.p50_seconds:.2f} s, p95 {endpoint.p95_seconds:.2f} s")
        parts.append(cost(endpoint))
        lines.append(f"  {endpoint.name:<{width}}  {', '.join(parts)}")
    return lines
