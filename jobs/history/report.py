"""The report of a run as Markdown: ending, rows, failures, endpoints and the next step.

It is made from the register and from the run's folder: the manifest, the failures and the event
log. The statistics are those with which the run ended; nothing is counted a second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from jobs.format import cached_share, cost, duration, local
from jobs.history.register import KILLED, Run, is_running, moment
from jobs.history.status import NOT_OPEN, ending, next_command
from pipeline.disk.json_lines import JsonLines
from pipeline.errors import COMPLETE, FAILED_ROWS, LockedError
from pipeline.events import flatten
from pipeline.records import Usage
from pipeline.text import many, printable

EXAMPLES = 3
SINCE = timedelta(hours=24)
CHANGES = ("added", "changed", "removed", "unchanged")

NEXT = {
    0: "nothing",
    1: "report this bug with the traceback that the run printed; the answers so far are kept",
    2: "fix the cause above, then run it again",
    3: "fix the rows below; the next run retries only those",
    4: "fix the rows or the server (see the failures below), or raise guard.max_failed",
    5: "run it again when the endpoint is back; the answers so far are kept",
    6: "check that the input is whole and no longer changes, then run it again; the answers so far "
    "are kept",
    7: "check the key, its permissions and the account, then run it again; the answers so far are "
    "kept",
    8: "raise budget.max_cost_usd, or run it again: each run has the whole budget",
    10: "nothing: the time limit is over, and the next run resumes",
    11: "nothing: another run was using this output",
    12: "run it again: answers that cannot be read are requested again",
    13: "free disk space or restore the write permission, then run it again",
    14: "check the cause above; the previous output is unchanged",
    130: "run it again: it resumes where it stopped",
    143: "run it again: it resumes where it stopped",
    KILLED: "run it again: it resumes where it stopped; often the machine ran out of memory",
}


class Failures(Struct, frozen=True):
    """The number of failures of one error kind, with some examples."""

    kind: str
    count: int
    examples: list[str]


class Report(Struct, frozen=True):
    """One run with everything that its report shows."""

    run: Run
    changes: dict[str, int]
    failures: list[Failures]
    paused: dict[str, float]
    """The seconds for which each endpoint was paused."""
    next: str


Line = tuple[int, str]
"""The nesting depth, from 1, and a text that is safe for a terminal."""


def runs_of_the_night(newest_first: Sequence[Run], now: datetime, *, only_last: bool) -> list[Run]:
    """The last run of each job within a day, newest first; if there is none, the last run.

    A run that was refused because another run held the lock is skipped.
    """
    runs = [run for run in newest_first if run.exit != LockedError.exit_code] or [*newest_first]
    if only_last:
        return runs[:1]
    last: dict[tuple[str, str], Run] = {}
    for run in runs:
        if now - moment(run.started_at) <= SINCE:
            last.setdefault((run.job, run.output), run)
    return list(last.values()) or runs[:1]


def as_record(report: Report) -> dict[str, Any]:
    """The report for programs."""
    return {**msgspec.to_builtins(report), "run": flatten(report.run)}


def report_of(run: Run) -> Report:
    """The report of a run, from its folder; missing files are left out."""
    folder = Path(run.folder) if run.folder else None
    return Report(
        run,
        _changes(folder),
        _failures(folder),
        _paused(folder),
        _next(run),
    )


def _next(run: Run) -> str:
    if is_running(run):
        return "nothing yet: the run is in progress"
    return run.hint or NEXT.get(run.exit or 0, NEXT[1])


def lines(report: Report) -> list[str]:
    """The report as Markdown, safe for a terminal."""
    markdown = [f"# {headline(report)}", "", *(_bullet(*line) for line in facts(report))]
    for name, section_lines in sections(report):
        markdown += ["", f"## {name}", "", *(_bullet(*line) for line in section_lines)]
    return markdown


def _bullet(depth: int, line: str) -> str:
    return "  " * (depth - 1) + f"- {line}"


def headline(report: Report) -> str:
    """The job and its ending: `embed: published, 1 of 44 rows failed (exit 3)`."""
    run = report.run
    state = ending(run, is_open=run.exit == KILLED)
    if run.exit == FAILED_ROWS:
        counts = [f"{run.failed:,} of {many(run.documents, 'row')} failed"] if run.failed else []
        of = "" if counts else f" of {many(run.documents, 'row')}"
        counts += [f"{run.partial:,}{of} partial"] if run.partial else []
        state = f"published, {' and '.join(counts)} (exit {run.exit})"
    return f"{printable(run.job)}: {state}"


def facts(report: Report) -> list[Line]:
    """The first lines: time, output, error and next step."""
    run = report.run
    texts = [_when(run)]
    if run.output:
        state = "" if run.exit in NOT_OPEN or is_running(run) else " (unchanged)"
        texts.append(f"output: {printable(run.output, 4_096)}{state}")
    if run.error:
        texts.append(f"cause: {printable(run.error, 2_000)}")
    texts.append(f"next: {printable(report.next, 500)}")
    if run.exit not in (COMPLETE, LockedError.exit_code, None):
        texts.append(next_command(run))
    return [(1, text) for text in texts]


def sections(report: Report) -> list[tuple[str, list[Line]]]:
    """The other lines under their headings; an empty section is left out."""
    all_sections = [
        ("Rows", _row_lines(report)),
        ("Failures", _failure_lines(report)),
        ("Endpoints, slowest first", _endpoint_lines(report)),
        ("Notes", [(1, printable(note, 500)) for note in report.run.notes]),
    ]
    return [(name, section_lines) for name, section_lines in all_sections if section_lines]


def _when(run: Run) -> str:
    started = local(moment(run.started_at))
    if is_running(run):
        return f"since {started:%a %Y-%m-%d %H:%M}"
    ended = local(moment(run.ended_at))
    day = "" if ended.date() == started.date() else "%a %Y-%m-%d "
    end = ended.strftime(f"{day}%H:%M")
    return f"{started:%a %Y-%m-%d %H:%M} to {end}, {duration(run.seconds)}"


def _row_lines(report: Report) -> list[Line]:
    run = report.run
    parts = [f"{run.ok:,} ok"]
    parts += [f"{run.partial:,} partial"] if run.partial else []
    parts += [f"{run.failed:,} failed"] if run.failed else []
    left = run.documents - run.ok - run.partial - run.failed
    parts += [f"{left:,} not processed"] if left > 0 else []
    texts = [f"{many(run.documents, 'row')}: {', '.join(parts)}"]
    if report.changes:
        changes = ", ".join(f"{number:,} {name}" for name, number in report.changes.items())
        texts.append(f"since the previous run: {changes}")
    usage, share = run.usage, cached_share(run.cached, run.requests)
    requests = many(run.requests, "request")
    texts.append(", ".join([requests, *share, many(usage.calls, "call")]))
    paid = cost(usage)
    texts.append(f"{many(usage.tokens, 'token')}, {paid}")
    return [(1, text) for text in texts]


def _failure_lines(report: Report) -> list[Line]:
    failure_lines: list[Line] = []
    for failures in report.failures:
        failure_lines.append((1, f"{printable(failures.kind)}: {failures.count:,}"))
        failure_lines += [(2, example) for example in failures.examples]
    if failure_lines:
        path = f"{printable(report.run.folder, 4_096)}/failures.jsonl"
        failure_lines.append((1, f"all failures: {path}"))
    return failure_lines


def _endpoint_lines(report: Report) -> list[Line]:
    def mean(usage: Usage) -> float:
        return usage.seconds / max(1, usage.calls, usage.errors)

    run = report.run
    endpoint_lines: list[Line] = []
    for name, usage in sorted(run.endpoints.items(), key=lambda item: -mean(item[1])):
        parts = [many(usage.calls, "call")]
        parts += [many(usage.errors, "error")] if usage.errors else []
        latency = f"mean {mean(usage):.2f} s"
        if name in run.latency:
            # The percentiles are bounds of buckets, the slowest call is exact: it bounds them.
            percentiles = (min(bound, usage.slowest_seconds) for bound in run.latency[name])
            latency = "p50 {:.2f} s, p95 {:.2f} s".format(*percentiles)
        parts += [f"{latency}, slowest {usage.slowest_seconds:.2f} s"]
        if paused_seconds := report.paused.get(name):
            parts.append(f"paused for {duration(paused_seconds)}")
        parts.append(cost(usage))
        endpoint_lines.append((1, f"{printable(name)}: {', '.join(parts)}"))
    return endpoint_lines


def _changes(folder: Path | None) -> dict[str, int]:
    """The differences from the input of the previous run, if the manifest has them."""
    if folder is None:
        return {}
    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    if not isinstance(manifest, dict):
        return {}
    nested = [value for value in manifest.values() if isinstance(value, dict)]
    for table in [manifest, *nested]:
        changes = {name: table[name] for name in CHANGES if type(table.get(name)) is int}
        if len(changes) > 1:
            return changes
    return {}


def _failures(folder: Path | None) -> list[Failures]:
    """Every kind of failure, most frequent first."""
    counts: dict[str, int] = {}
    examples: dict[str, list[str]] = {}
    for failure in records(folder, "failures.jsonl"):
        kind = str(failure.get("kind") or "row")
        counts[kind] = counts.get(kind, 0) + 1
        if len(kind_examples := examples.setdefault(kind, [])) < EXAMPLES:
            kind_examples.append(_example(failure))
    most_first = sorted(counts, key=lambda kind: (-counts[kind], kind))
    return [Failures(kind, counts[kind], examples[kind]) for kind in most_first]


def _example(failure: dict[str, Any]) -> str:
    """`reports.jsonl:17 (r-17) chunk 3: 8,000 tokens`."""
    place = str(failure.get("file") or "")
    place += f":{failure['line']}" if "line" in failure else ""
    place += f": row {failure['row']}" if "row" in failure else ""
    row_id = f" ({printable(str(failure['id']), 80)})" if failure.get("id") is not None else ""
    chunk = f" chunk {failure['chunk']}" if "chunk" in failure else ""
    reason = printable(str(failure.get("reason") or ""), 200)
    return f"{printable(place, 200)}{row_id}{chunk}: {reason}"


def _paused(folder: Path | None) -> dict[str, float]:
    total: dict[str, float] = {}
    for event in records(folder, "events.jsonl"):
        if event.get("event") == "pauses":
            name, seconds = str(event.get("endpoint")), event.get("seconds")
            total[name] = total.get(name, 0.0) + (seconds if isinstance(seconds, float) else 0.0)
    return total


def records(folder: Path | None, name: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in this file of a run; none if there is no such file."""
    with suppress(OSError):
        if folder is not None:
            yield from JsonLines(folder / name, dict[str, Any])
