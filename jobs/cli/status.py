"""`textmill status`: what ran, when, how it ended, rows, cost, and what is open.

Everything comes from the register; nothing is asked of a process, and nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from jobs.cli.shell import command, print_message
from jobs.display.terminal import PLAIN_EVERY_SECONDS
from jobs.format import clock_duration, compact_count, duration
from jobs.history.ledger import ledger
from jobs.history.register import Run, is_running, moment, runs
from jobs.history.status import choose, ending, open_lines, unfinished
from jobs.home import home
from pipeline.errors import UsageError
from pipeline.events import flatten
from pipeline.text import agreeing, many, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


@command()
@click.argument("what", metavar="[JOB_OR_OUTPUT]", required=False)
@click.option("--watch", is_flag=True, help="Follow the running jobs until they have ended.")
@click.option("--limit", default=20, show_default=True, help="Number of runs to list.")
def status(what: str | None, watch: bool, limit: int, as_json: bool) -> int:
    """List the runs: start, ending, rows, cost, and how to resume."""
    if limit < 1:
        raise UsageError(f"--limit = {limit} must be at least 1")
    if watch and as_json:
        raise UsageError(
            "--watch is for people", hint="programs read `textmill run --json`, or ask again"
        )

    def look() -> list[Run]:
        told, unread = runs(home())
        if unread:
            print_message(
                f"{home()}/runs.jsonl: {many(unread, 'line')} cannot be read and "
                f"{agreeing(unread, 'is', 'are')} left out"
            )
        return choose(told, what)

    told = look()
    if as_json:
        shown = {
            "runs": [flatten(run) for run in told[:limit]],
            "open": [flatten(run) for run in unfinished(told)],
            "ledger": ledger(told),
        }
        print(msgspec.json.encode(shown).decode())
        return 0
    if watch:
        return _watch(look, limit)
    if not told:
        print("no runs yet")
        return 0
    console = _console()
    console.print(table(told, _now(), limit, console.width))
    for line in open_lines(told):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0


def when(told: str, now: datetime) -> str:
    """A time of day, with as much of the date as is needed; in local time."""
    at = moment(told).astimezone()
    if at.date() == now.date():
        return at.strftime("%H:%M")
    return at.strftime("%m-%d %H:%M" if at.year == now.year else "%Y-%m-%d")


def table(told: Sequence[Run], now: datetime, limit: int, width: int = 80) -> RenderableType:
    """One line a run: the newest ones, so many. Long names of jobs are cut; 80 columns suffice."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    still_open = {run.entry for run in unfinished(told)}
    rows = [_cells(run, now, is_open=run.entry in still_open) for run in told[:limit]]
    widths = [max(map(cell_len, cells)) for cells in zip(COLUMNS, *rows, strict=True)]
    others = sum(widths) - widths[1]
    gap = 2 if others + min(12, widths[1]) + 2 * len(COLUMNS) <= width else 1
    for_names = max(8, width - others - gap * len(COLUMNS))
    shown = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
    for name in COLUMNS:
        side: Any = "left" if name in TEXTS else "right"
        most = min(widths[1], for_names) if name == "job" else None
        shown.add_column(name, no_wrap=True, overflow="ellipsis", justify=side, width=most)
    for run, cells in zip(told, rows, strict=False):
        styled = [Text(cell, style=_style(run) if at == 2 else "") for at, cell in enumerate(cells)]
        shown.add_row(*styled)
    return shown


COLUMNS = ("when", "job", "ended", "rows", "failed", "calls", "cost", "took")
TEXTS = ("when", "job", "ended")


def _cells(run: Run, now: datetime, *, is_open: bool) -> tuple[str, ...]:
    seconds = run.seconds or (0.0 if run.ended_at else _since(run, now))
    return (
        when(run.started_at, now),
        printable(run.job, 200),
        ending(run, is_open=is_open),
        compact_count(run.documents) if run.documents else "-",
        compact_count(run.failed + run.partial),
        compact_count(run.usage.calls),
        f"${run.usage.cost_usd:,.2f}",
        clock_duration(seconds),
    )


def _style(run: Run) -> str:
    if is_running(run):
        return "cyan"
    return {0: "green", 3: "yellow"}.get(run.exit or 0, "red")


def _since(run: Run, now: datetime) -> float:
    return max(0.0, (now - moment(run.started_at)).total_seconds())


def _now() -> datetime:
    return datetime.now().astimezone()


def _console(*, to_stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(highlight=False, stderr=to_stderr)


def _watch(
    look: Callable[[], list[Run]],
    limit: int,
    wait: Callable[[float], Any] = time.sleep,
) -> int:
    """Follows the runs under way until none is."""
    console = _console()
    try:
        if console.is_terminal:
            _watch_live(console, look, limit, wait)
        else:
            _watch_plain(look, wait)
    except KeyboardInterrupt:  # the way to leave
        return 130
    for line in open_lines(look()):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0


def _watch_live(
    console: Console, look: Callable[[], list[Run]], limit: int, wait: Callable[[float], Any]
) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    def shown(told: Sequence[Run]) -> RenderableType:
        of_runs = [Text(printable(each, 500)) for run in told for each in live_lines(run, _now())]
        return Group(table(told, _now(), most, console.width), *of_runs)

    told = look()
    most = min(limit, max(3, console.height - 6))
    with Live(shown(told), console=console, auto_refresh=False) as live:
        while any(map(is_running, told)):
            wait(1.0)
            told = look()
            live.update(shown(told), refresh=True)


def _watch_plain(look: Callable[[], list[Run]], wait: Callable[[float], Any]) -> None:
    """A line a run now and then, and one for each that ends."""
    followed: set[str] = set()
    waited = PLAIN_EVERY_SECONDS
    while True:
        told = look()
        for run in told:
            if is_running(run) and waited >= PLAIN_EVERY_SECONDS:
                print(f"{printable(run.job)}: {figures(run)}", flush=True)
            elif not is_running(run) and run.entry in followed:
                print(f"{printable(run.job)}: ended, {ending(run)}, {figures(run)}", flush=True)
        waited = waited % PLAIN_EVERY_SECONDS
        before, followed = followed, {run.entry for run in told if is_running(run)}
        if not followed:
            if not before:
                print("nothing is running")
            return
        wait(1.0)
        waited += 1.0


def figures(run: Run) -> str:
    """A run's figures on one line."""
    done = int(run.live.done) if run.live else run.ok + run.partial + run.failed
    parts = [f"{done:,} of {many(run.documents, 'document')}", many(run.usage.calls, "call")]
    if run.requests:
        parts.append(f"{run.cached * 100 // run.requests} % cached")
    if run.failed or run.partial:
        parts.append(f"{run.failed + run.partial:,} failed")
    return ", ".join([*parts, f"${run.usage.cost_usd:,.2f}"])


def live_lines(run: Run, now: datetime) -> list[str]:
    """What there is to say of a run under way."""
    if not is_running(run):
        return []
    lines = [f"{run.job}: {figures(run)}"]
    if run.live and run.live.pause:
        lines.append(f"  paused {run.live.pause}")
    silent = (now - moment(run.live.seen_at)).total_seconds() if run.live else 0.0
    if silent > 30:
        lines.append(f"  no sign of life for {duration(silent)}: its process or its disk hangs")
    return lines
