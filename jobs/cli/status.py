"""`textmill status`: the runs with start, ending, rows, cost and the command that resumes.

Everything comes from the register. No process is contacted, and only --forget writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from jobs.cli.shell import command, print_json, print_message
from jobs.display.terminal import PLAIN_EVERY_SECONDS
from jobs.format import (
    cached_share,
    clock_duration,
    compact_count,
    cost,
    duration,
    local,
    local_now,
)
from jobs.history.ledger import ledger
from jobs.history.register import Run, forget, forgotten, is_running, moment, runs
from jobs.history.status import choose, ending, open_lines, unfinished, with_missing_output
from jobs.home import home, home_to_read
from pipeline.errors import UsageError
from pipeline.events import flatten
from pipeline.text import inflect, many, printable, shown

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


@command()
@click.argument("name", metavar="[JOB_OR_OUTPUT]", required=False)
@click.option("--watch", is_flag=True, help="Follow the running jobs until they have ended.")
@click.option("--limit", default=20, show_default=True, help="Number of runs to list.")
@click.option(
    "--forget",
    "is_forgetting",
    is_flag=True,
    help="Forget the runs of this job or output: lists show them no more; their cost stays.",
)
@click.option(
    "--all-missing",
    is_flag=True,
    help="Name all runs whose output and run folder are gone, for --forget.",
)
def status(
    name: str | None,
    watch: bool,
    limit: int,
    is_forgetting: bool,
    all_missing: bool,
    as_json: bool,
) -> int:
    """List the runs: start, ending, rows, cost, and how to resume."""
    if limit < 1:
        raise UsageError(f"--limit = {limit} must be at least 1")
    if watch and as_json:
        raise UsageError(
            "--watch and --json cannot be combined",
            hint="programs read `textmill run --json`, or repeat `textmill status --json`",
        )

    if all_missing and not is_forgetting:
        raise UsageError("--all-missing needs --forget")
    if is_forgetting:
        return _forget(name, is_all_missing=all_missing)

    def read_runs() -> list[Run]:
        all_runs, unread = runs(home_to_read())
        if unread:
            print_message(
                f"{shown(str(home_to_read()))}/runs.jsonl: {many(unread, 'unreadable line')} "
                f"{inflect(unread, 'is', 'are')} left out"
            )
        return choose(all_runs, name)

    def listed() -> list[Run]:
        left_out = forgotten(home_to_read())
        return [run for run in read_runs() if run.entry not in left_out]

    chosen = listed()
    if as_json:
        tables = {
            "runs": [flatten(run) for run in chosen[:limit]],
            "open": [flatten(run) for run in unfinished(chosen)],
            "ledger": ledger(choose(runs(home_to_read(), with_checks=True)[0], name)),
        }
        print_json(tables)
        return 0
    if watch:
        return _watch(listed, limit)
    if not chosen:
        print("no runs yet")
        return 0
    console = _console()
    console.print(table(chosen, local_now(), limit, console.width))
    for line in open_lines(chosen):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0


def _forget(name: str | None, *, is_all_missing: bool) -> int:
    """Forgets the runs of this name, or all whose output is gone."""
    if (name is None) != is_all_missing:
        raise UsageError(
            "--forget takes a job, an output or a run, or --all-missing",
            hint="textmill status out/vectors.parquet --forget",
        )
    all_runs, _ = runs(home())
    chosen = with_missing_output(all_runs) if is_all_missing else choose(all_runs, name)
    count = forget(home(), chosen)
    print(f"{many(count, 'run')} forgotten; their cost stays in the ledger")
    return 0


def short_time(text: str, now: datetime) -> str:
    """A local time of day, with as much of the date as is needed."""
    at = local(moment(text))
    if at.date() == now.date():
        return at.strftime("%H:%M")
    return at.strftime("%m-%d %H:%M" if at.year == now.year else "%Y-%m-%d")


def table(listed_runs: Sequence[Run], now: datetime, limit: int, width: int = 80) -> RenderableType:
    """One line per run for the `limit` newest. Long job names are cut; 80 columns suffice."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    still_open = {run.entry for run in unfinished(listed_runs)}
    rows = [_cells(run, now, is_open=run.entry in still_open) for run in listed_runs[:limit]]
    widths = [max(map(cell_len, cells)) for cells in zip(COLUMNS, *rows, strict=True)]
    others = sum(widths) - widths[1]
    gap = 2 if others + min(12, widths[1]) + 2 * len(COLUMNS) <= width else 1
    for_names = max(8, width - others - gap * len(COLUMNS))
    text_table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
    for name in COLUMNS:
        side: Any = "left" if name in TEXTS else "right"
        max_width = min(widths[1], for_names) if name == "job" else None
        text_table.add_column(
            name, no_wrap=True, overflow="ellipsis", justify=side, width=max_width
        )
    for run, cells in zip(listed_runs, rows, strict=False):
        styled = [Text(cell, style=_style(run) if at == 2 else "") for at, cell in enumerate(cells)]
        text_table.add_row(*styled)
    return text_table


COLUMNS = ("when", "job", "ended", "rows", "failed", "calls", "cost", "took")
TEXTS = ("when", "job", "ended")


def _cells(run: Run, now: datetime, *, is_open: bool) -> tuple[str, ...]:
    seconds = run.seconds or (0.0 if run.ended_at else _since(run, now))
    return (
        short_time(run.started_at, now),
        printable(run.job, 200),
        ending(run, is_open=is_open),
        compact_count(run.documents) if run.documents else "-",
        compact_count(run.failed + run.partial),
        compact_count(run.usage.calls),
        cost(run.usage).removeprefix("cost "),
        clock_duration(seconds),
    )


def _style(run: Run) -> str:
    if is_running(run):
        return "cyan"
    return {0: "green", 3: "yellow"}.get(run.exit or 0, "red")


def _since(run: Run, now: datetime) -> float:
    return max(0.0, (now - moment(run.started_at)).total_seconds())


def _console(*, to_stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(highlight=False, stderr=to_stderr)


def _watch(
    read_runs: Callable[[], list[Run]],
    limit: int,
    wait: Callable[[float], Any] = time.sleep,
) -> int:
    """Follows the running jobs until none is left."""
    console = _console()
    try:
        if console.is_terminal:
            _watch_live(console, read_runs, limit, wait)
        else:
            _watch_plain(read_runs, wait)
    except KeyboardInterrupt:  # the normal way to stop watching
        return 130
    for line in open_lines(read_runs()):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return 0


def _watch_live(
    console: Console, read_runs: Callable[[], list[Run]], limit: int, wait: Callable[[float], Any]
) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    def view(current: Sequence[Run]) -> RenderableType:
        lines = [line for run in current for line in live_lines(run, local_now())]
        texts = [Text(printable(line, 500)) for line in lines]
        return Group(table(current, local_now(), max_runs, console.width), *texts)

    current = read_runs()
    max_runs = min(limit, max(3, console.height - 6))
    with Live(view(current), console=console, auto_refresh=False) as live:
        while any(map(is_running, current)):
            wait(1.0)
            current = read_runs()
            live.update(view(current), refresh=True)


def _watch_plain(read_runs: Callable[[], list[Run]], wait: Callable[[float], Any]) -> None:
    """Prints a line per running job every ten seconds, and one for each that ends."""
    followed: set[str] = set()
    waited = PLAIN_EVERY_SECONDS
    while True:
        current = read_runs()
        for run in current:
            if is_running(run) and waited >= PLAIN_EVERY_SECONDS:
                print(f"{printable(run.job)}: {statistics(run)}", flush=True)
            elif not is_running(run) and run.entry in followed:
                print(f"{printable(run.job)}: ended, {ending(run)}, {statistics(run)}", flush=True)
        waited = waited % PLAIN_EVERY_SECONDS
        before, followed = followed, {run.entry for run in current if is_running(run)}
        if not followed:
            if not before:
                print("no job is running")
            return
        wait(1.0)
        waited += 1.0


def statistics(run: Run) -> str:
    """The statistics of a run on one line."""
    done = int(run.live.done) if run.live else run.ok + run.partial + run.failed
    parts = [f"{done:,} of {many(run.documents, 'document')}", many(run.usage.calls, "call")]
    parts += cached_share(run.cached, run.requests)
    if run.failed or run.partial:
        parts.append(f"{run.failed + run.partial:,} failed")
    return ", ".join([*parts, cost(run.usage)])


def live_lines(run: Run, now: datetime) -> list[str]:
    """The lines about a running job: statistics, pauses, missing updates."""
    if not is_running(run):
        return []
    lines = [f"{run.job}: {statistics(run)}"]
    if run.live and run.live.pause:
        lines.append(f"  paused: {run.live.pause}")
    silent_seconds = (now - moment(run.live.seen_at)).total_seconds() if run.live else 0.0
    if silent_seconds > 30:
        silence = duration(silent_seconds)
        lines.append(f"  no update for {silence}: the process or the disk does not respond")
    return lines
