"""`textmill plan`: what a run would do and cost."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from jobs.cli.job_options import GroupedCommand, JobSettings, job_options
from jobs.cli.shell import command, print_message, run_interruptibly
from jobs.format import duration
from pipeline.text import many, printable

if TYPE_CHECKING:
    from pipeline.records import Endpoint


def say_absent(columns: Sequence[str]) -> None:
    """A misspelt column of a rule is safe, and not what was meant."""
    for name in columns:
        print_message(
            f"rule.column = `{printable(name)}` is in no row: every row counts as one of that rule"
        )


@command(cls=GroupedCommand, ends_in_json=True)
@click.argument("source", metavar="JOB")
@job_options()
def plan(source: str, settings: JobSettings, as_json: bool) -> int:
    """Estimate the calls and the cost of a run of JOB, offline."""
    return show_plan(source, settings, as_json=as_json)


def show_plan(source: str, settings: JobSettings, *, as_json: bool) -> int:
    """Print the plan; 8 where it is over the budget."""
    from jobs.build import build
    from jobs.cli.streams import with_files_for_streams
    from pipeline.cache.store import AnswerCache
    from pipeline.plan import plan as planned
    from pipeline.source.scan import survey

    job = settings.load(source, needs_output=False)
    with with_files_for_streams(job) as (job, _):
        pipeline = build(job, with_secret=False)
        cache = AnswerCache(pipeline.answers) if pipeline.answers.is_dir() else None
        surveyed = run_interruptibly(lambda: survey(pipeline.input))
        told = run_interruptibly(lambda: planned(pipeline, surveyed, cache))
    if as_json:
        print(msgspec.json.encode(told).decode())
    else:
        print(
            f"{many(told.documents, 'document')}, {many(told.chunks, 'chunk')}, "
            f"{many(told.requests, 'request')}, {told.cached:,} cached\n"
            f"left to do: {many(told.calls, 'call')}, {many(told.tokens, 'token')}, "
            f"up to ${at_most(told.cost_usd)}{unpriced(pipeline.endpoints, told.calls)}, "
            f"about {duration(told.seconds)}"
        )
    if surveyed.rows:
        say_absent(surveyed.absent)
    most = pipeline.max_cost_usd
    if most is not None and told.cost_usd > most and not pipeline.is_partial:
        print(f"over budget.max_cost_usd = {most:g}", file=sys.stderr)
        return 8
    return 0


def at_most(usd: float) -> str:
    """Cents, rounded up: `up to $0.00` is said of nothing that costs."""
    return f"{math.ceil(round(usd * 100, 6)) / 100:,.2f}"


def unpriced(endpoints: Sequence[Endpoint], calls: int) -> str:
    """Who costs nothing only because the job does not say what they cost."""
    from pipeline.endpoints.kinds import KINDS

    names = [e.name for e in endpoints if not KINDS[e.kind].is_embedded and e.price is None]
    if not calls or not names:
        return ""
    have = "has" if len(names) == 1 else "have"
    return f" ({', '.join(f'`{name}`' for name in names)} {have} no `price`)"
