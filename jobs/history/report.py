"""`textmill report`: what a person wants to know in the morning, as Markdown.

It is made of the register, and of what the run left in its folder: the manifest, the failures, the
journal of events. Nothing is counted twice: the figures are those that the run ended with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from jobs.format import duration
from jobs.history.register import KILLED, Run, is_running, moment
from jobs.history.status import NOT_OPEN, command, ending
from pipeline.disk.json_lines import JsonLines
from pipeline.errors import COMPLETE, LockedError
from pipeline.events import flatten
from pipeline.records import Usage
from pipeline.text import many, printable

EXAMPLES = 3
SINCE = timedelta(hours=24)
CHANGES = ("added", "changed", "removed", "unchanged")

NEXT = {
    0: "nothing",
    1: "this is a bug in textmill: its traceback is where the run said it; answers are kept",
    2: "mend what the line above names, then run it again",
    3: "the output stands; mend what is below: the next run tries it again, the rest costs nothing",
    4: "see the failures below: mend the rows or the server, or raise guard.max_failed",
    5: "run it again when the endpoint is back; answers so far are kept",
    6: "see that the input is whole and at rest, then run it again; answers so far are kept",
    7: "see to the key, its rights and the account, then run it again; answers so far are kept",
    8: "raise budget.max_cost_usd, or go on with what the budget gives on the next run",
    10: "the next run goes on where the time was over",
    11: "nothing: another run was at work on this output",
    12: "run it again: what cannot be read back is asked again",
    13: "make room, or give back the right to write, then run it again",
    14: "look at what the line above refused; the output of before stands",
    130: "run it again: it goes on where it stopped",
    143: "run it again: it goes on where it stopped",
    KILLED: "run it again: it goes on where it stopped; often the machine ran out of memory",
}


class Failures(Struct, frozen=True):
    """Failures of one class, and where to see some of them."""

    kind: str
    count: int
    examples: list[str]


class Report(Struct, frozen=True):
    """One run, as the morning wants it."""

    run: Run
    changes: dict[str, int]
    failures: list[Failures]
    paused: dict[str, float]
    """Seconds that each endpoint rested."""
    next: str


Line = tuple[int, str]
"""How deep it stands, from 1, and what it says, safe for a terminal."""


def runs_of_the_night(told: Sequence[Run], now: datetime, *, only_last: bool) -> list[Run]:
    """The last run of each job within a day, newest first; the very last one where there is none.

    `told` is newest first. A run that was refused because another one worked is passed over.
    """
    told = [run for run in told if run.exit != LockedError.exit_code] or list(told)
    if only_last:
        return list(told[:1])
    last: dict[tuple[str, str], Run] = {}
    for run in told:
        if now - moment(run.started_at) <= SINCE:
            last.setdefault((run.job, run.output), run)
    return list(last.values()) or list(told[:1])


def encode(told: Report) -> bytes:
    """The report for programs."""
    return msgspec.json.encode(msgspec.to_builtins(told) | {"run": flatten(told.run)})


def report_of(run: Run) -> Report:
    """What the run left, read from its folder; what is not there is left out."""
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
        return "nothing yet: it is running"
    return run.hint or NEXT.get(run.exit or 0, NEXT[1])


def lines(told: Report) -> list[str]:
    """The report as Markdown, safe for a terminal."""
    shown = [f"# {head(told)}", "", *(_bullet(*line) for line in facts(told))]
    for name, of_section in sections(told):
        shown += ["", f"## {name}", "", *(_bullet(*line) for line in of_section)]
    return shown


def _bullet(depth: int, line: str) -> str:
    return "  " * (depth - 1) + f"- {line}"


def head(told: Report) -> str:
    """The job and how it ended."""
    run = told.run
    return f"{printable(run.job)}: {ending(run, is_open=run.exit == KILLED)}"


def facts(told: Report) -> list[Line]:
    """What comes first: when, where, why and what to do."""
    run = told.run
    found = [_when(run)]
    if run.output:
        stands = "" if run.exit in NOT_OPEN or is_running(run) else " (as it was before)"
        found.append(f"output: {printable(run.output, 4_096)}{stands}")
    if run.error:
        found.append(f"why: {printable(run.error, 2_000)}")
    found.append(f"to do: {printable(told.next, 500)}")
    if run.exit not in (COMPLETE, LockedError.exit_code, None):
        found.append(f"again: {printable(command(run), 4_000)}")
    return [(1, fact) for fact in found]


def sections(told: Report) -> list[tuple[str, list[Line]]]:
    """The rest, under its headings; a heading without anything is left out."""
    found = [
        ("Rows", _rows(told)),
        ("Failures", _of_failures(told)),
        ("Endpoints, the slowest first", _endpoints(told)),
        ("Notes", [(1, printable(note, 500)) for note in told.run.notes]),
    ]
    return [(name, of_section) for name, of_section in found if of_section]


def _when(run: Run) -> str:
    began = moment(run.started_at).astimezone()
    if is_running(run):
        return f"since {began:%a %Y-%m-%d %H:%M}"
    ended = moment(run.ended_at).astimezone()
    day = "" if ended.date() == began.date() else "%a %Y-%m-%d "
    end = ended.strftime(f"{day}%H:%M")
    return f"{began:%a %Y-%m-%d %H:%M} to {end}, {duration(run.seconds)}"


def _rows(told: Report) -> list[Line]:
    run = told.run
    parts = [f"{run.ok:,} ok"]
    parts += [f"{run.partial:,} partial"] if run.partial else []
    parts += [f"{run.failed:,} failed"] if run.failed else []
    left = run.documents - run.ok - run.partial - run.failed
    parts += [f"{left:,} not reached"] if left > 0 else []
    found = [f"{many(run.documents, 'row')}: {', '.join(parts)}"]
    if told.changes:
        of = ", ".join(f"{number:,} {name}" for name, number in told.changes.items())
        found.append(f"against the run before: {of}")
    share = run.cached * 100 // run.requests if run.requests else 0
    asked = f"{many(run.requests, 'request')}, {share} % cached"
    usage = run.usage
    found.append(f"{asked}, {many(usage.calls, 'call')}")
    found.append(f"{many(usage.tokens, 'token')}, ${usage.cost_usd:,.2f}")
    return [(1, each) for each in found]


def _of_failures(told: Report) -> list[Line]:
    found: list[Line] = []
    for each in told.failures:
        found.append((1, f"{printable(each.kind)}: {each.count:,}"))
        found += [(2, example) for example in each.examples]
    if found:
        found.append((1, f"all of them: {printable(told.run.folder, 4_096)}/failures.jsonl"))
    return found


def _endpoints(told: Report) -> list[Line]:
    def mean(usage: Usage) -> float:
        return usage.seconds / max(1, usage.calls, usage.errors)

    found: list[Line] = []
    for name, usage in sorted(told.run.endpoints.items(), key=lambda each: -mean(each[1])):
        parts = [many(usage.calls, "call")]
        parts += [many(usage.errors, "error")] if usage.errors else []
        usual = f"{mean(usage):.2f} s each"
        if name in told.run.latency:
            # They are of buckets, the slowest is exact: none of them is slower than that.
            known = (min(each, usage.slowest_seconds) for each in told.run.latency[name])
            usual = "p50 {:.2f} s, p95 {:.2f} s".format(*known)
        parts += [f"{usual}, {usage.slowest_seconds:.2f} s the slowest"]
        if paused := told.paused.get(name):
            parts.append(f"rested {duration(paused)}")
        found.append((1, f"{printable(name)}: {', '.join(parts)}, ${usage.cost_usd:,.2f}"))
    return found


def _changes(folder: Path | None) -> dict[str, int]:
    """How the input differs from that of the run before, where the manifest tells."""
    if folder is None:
        return {}
    try:
        manifest = msgspec.json.decode((folder / "manifest.json").read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return {}
    if not isinstance(manifest, dict):
        return {}
    nested = [value for value in manifest.values() if isinstance(value, dict)]
    for told in [manifest, *nested]:
        found = {name: told[name] for name in CHANGES if type(told.get(name)) is int}
        if len(found) > 1:
            return found
    return {}


def _failures(folder: Path | None) -> list[Failures]:
    """Every class of failure, the most frequent first."""
    counts: dict[str, int] = {}
    examples: dict[str, list[str]] = {}
    for told in records(folder, "failures.jsonl"):
        kind = str(told.get("kind") or "row")
        counts[kind] = counts.get(kind, 0) + 1
        if len(shown := examples.setdefault(kind, [])) < EXAMPLES:
            shown.append(_example(told))
    most_first = sorted(counts, key=lambda kind: (-counts[kind], kind))
    return [Failures(kind, counts[kind], examples[kind]) for kind in most_first]


def _example(told: dict[str, Any]) -> str:
    """`reports.jsonl:17 (r-17) chunk 3: why`."""
    place = str(told.get("file") or "")
    place += f":{told['line']}" if "line" in told else ""
    place += f": row {told['row']}" if "row" in told else ""
    named = f" ({printable(str(told['id']), 80)})" if told.get("id") is not None else ""
    chunk = f" chunk {told['chunk']}" if "chunk" in told else ""
    reason = printable(str(told.get("reason") or ""), 200)
    return f"{printable(place, 200)}{named}{chunk}: {reason}"


def _paused(folder: Path | None) -> dict[str, float]:
    total: dict[str, float] = {}
    for told in records(folder, "events.jsonl"):
        if told.get("event") == "pauses":
            name, seconds = str(told.get("endpoint")), told.get("seconds")
            total[name] = total.get(name, 0.0) + (seconds if isinstance(seconds, float) else 0.0)
    return total


def records(folder: Path | None, name: str) -> Iterator[dict[str, Any]]:
    """The JSON lines that a run left in this file; none where there is no such file."""
    with suppress(OSError):
        if folder is not None:
            yield from JsonLines(folder / name, dict[str, Any])
