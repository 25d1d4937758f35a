"""`textmill plan`: what a run would do and cost."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from jobs.cli.shell import pairs, print_message, reported
from pipeline.text import printable

if TYPE_CHECKING:
    from pipeline.records import Endpoint


def say_absent(columns: Sequence[str]) -> None:
    """A misspelt column of a rule is safe, and not what was meant."""
    for name in columns:
        print_message(
            f"rule.column = `{printable(name)}` is in no row: every row counts as one of that rule"
        )


def plan(
    source: str, overrides: Sequence[str], flags: Mapping[str, object], *, as_json: bool
) -> int:
    """Say what a run would do; 8 where that is over the budget."""
    return reported(lambda: _plan(source, overrides, flags, as_json), as_json=as_json)


def _plan(source: str, overrides: Sequence[str], flags: Mapping[str, object], as_json: bool) -> int:
    from jobs.build import build
    from jobs.cli.shell import run_interruptibly
    from jobs.cli.streams import with_files_for_streams
    from jobs.format import duration
    from jobs.spec.load import load
    from pipeline.cache.store import AnswerCache
    from pipeline.plan import plan as planned
    from pipeline.source.scan import survey

    job = load(source, pairs(overrides), flags, needs_output=False)
    with with_files_for_streams(job) as (job, _):
        pipeline = build(job, with_secret=False)
        answers = Path(pipeline.home) / "answers"
        cache = AnswerCache(answers) if answers.is_dir() else None
        surveyed = run_interruptibly(lambda: survey(pipeline.input))
        told = run_interruptibly(lambda: planned(pipeline, surveyed, cache))
    if as_json:
        print(msgspec.json.encode(told).decode())
    else:
        print(
            f"{told.documents:,} documents, {told.chunks:,} chunks, {told.requests:,} requests, "
            f"{told.cached:,} cached\n"
            f"left to do: {told.calls:,} calls, {told.tokens:,} tokens, "
            f"up to ${at_most(told.cost_usd)}{unpriced(pipeline.endpoints, told.calls)}, "
            f"about {duration(told.seconds)}"
        )
    if surveyed.rows:
        say_absent(surveyed.absent)
    most = pipeline.budget.max_cost_usd
    if most is not None and told.cost_usd > most and not pipeline.budget.is_partial:
        print(f"over budget.max_cost_usd = {most:g}", file=sys.stderr)
        return 8
    return 0


def at_most(usd: float) -> str:
    """Cents, rounded up: `up to $0.00` is said of nothing that costs."""
    return f"{math.ceil(round(usd * 100, 6)) / 100:,.2f}"


def unpriced(endpoints: Sequence[Endpoint], calls: int) -> str:
    """Who costs nothing only because the job does not say what they cost."""
    names = [e.name for e in endpoints if e.kind != "local" and e.price is None]
    if not calls or not names:
        return ""
    have = "has" if len(names) == 1 else "have"
    return f" ({', '.join(f'`{name}`' for name in names)} {have} no `price`)"
