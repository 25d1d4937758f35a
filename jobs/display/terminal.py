"""What a person or a program sees of a run: in a terminal, in a pipe, as JSON lines.

All three only listen to the events of `pipeline.events`. Warnings count, they do not scroll.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, Protocol

import msgspec

from jobs.format import duration
from jobs.history.progress import Progress
from pipeline import events
from pipeline.text import many, printable

if TYPE_CHECKING:
    from pipeline.runs.summary import Ended

PLAIN_EVERY_SECONDS = 10.0


class Display(Protocol):
    """Shows the events of one run, then how it ended."""

    def on(self, event: events.Event) -> None:
        """One event; called often, from the loop's thread."""

    def close(self) -> None:
        """No more events; the closing line follows."""


class JsonLines:
    """One JSON object a line on stdout; `event` names what it is."""

    def __init__(self, out: IO[str] | None = None) -> None:
        self._out = out or sys.stdout
        self._encode = msgspec.json.Encoder().encode

    def on(self, event: events.Event) -> None:
        with suppress(OSError):  # a reader that went away is told at the last line
            self._out.write(self._encode(event).decode() + "\n")
            self._out.flush()

    def close(self) -> None:
        pass


class Plain:
    """A line on stderr now and then: for pipes, logs and cron."""

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
                self._say(warning)
            self._say(self._progress.line())

    def _say(self, line: str) -> None:
        with suppress(OSError):  # nobody listens: no reason to stop a run
            print(line, file=self._out, flush=True)

    def close(self) -> None:
        pass


class Terminal:
    """A live bar with one line of figures and one of warnings."""

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

        def line(told: str, style: str) -> Text:
            return Text(told, style=style, no_wrap=True, overflow="ellipsis")

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


def display(*, as_json: bool) -> Display:
    """What suits the place where the run is watched."""
    if as_json:
        return JsonLines()
    return Terminal() if sys.stderr.isatty() else Plain()


def closing_line(ended: Ended) -> str:
    """The last line of every run that published: what was written, and what it took."""
    told = ended.summary
    written = told.documents - told.failed - told.partial
    share = told.cached * 100 // told.requests if told.requests else 0
    parts = [f"{written:,} of {many(told.documents, 'document')} written"]
    if told.failed or told.partial:
        where = f" ({printable(str(ended.failures))})" if ended.failures else ""
        counts = [f"{told.failed:,} failed"] if told.failed else []
        counts += [f"{told.partial:,} partial"] if told.partial else []
        parts.append(" and ".join(counts) + where)
    parts += _since(told)
    parts += [
        many(told.requests, "request"),
        f"{share} % cached",
        f"${told.usage.cost_usd:,.2f}",
        duration(told.seconds),
    ]
    return ", ".join(parts)


def _since(told: events.Summary) -> list[str]:
    """What is new since the last commit, where there was one."""
    if told.added == told.documents and not told.removed:
        return []
    counts = [
        (told.added, "added"),
        (told.changed, "changed"),
        (told.removed, "removed"),
        (told.retried, "tried again"),
        (told.unchanged, "unchanged"),
    ]
    return [f"{count:,} {what}" for count, what in counts if count]


def endpoint_lines(told: events.Summary) -> list[str]:
    """What each endpoint did, where there are several."""
    if len(told.endpoints) < 2:
        return []
    width = max(len(each.name) for each in told.endpoints)
    return [
        f"  {each.name:<{width}}  {many(each.requests, 'request')} in "
        f"{many(each.calls, 'call')}, {many(each.errors, 'error')}, "
        f"p50 {each.p50_seconds:.2f} s, p95 {each.p95_seconds:.2f} s, ${each.cost_usd:,.2f}"
        for each in told.endpoints
    ]
