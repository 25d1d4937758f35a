"""`textmill plan`: an estimate of the calls and the cost of a run."""

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
from pipeline.text import inflect, many, printable

if TYPE_CHECKING:
    from pipeline.plan import Plan


def warn_missing_columns(columns: Sequence[str]) -> None:
    """Warns about columns of rules that no row has: safe, but probably a typing error."""
    for name in columns:
        print_message(
            f"rule.column: no row has the column `{printable(name)}`, the rule applies to every row"
        )


@command(cls=GroupedCommand, ends_in_json=True)
@click.argument("source", metavar="JOB")
@job_options()
def plan(source: str, settings: JobSettings, as_json: bool) -> int:
    """Estimate the calls and the cost of a run of JOB, offline."""
    return show_plan(source, settings, as_json=as_json)


def show_plan(source: str, settings: JobSettings, *, as_json: bool) -> int:
    """Prints the plan. The exit code is 8 if the plan is over the budget."""
    from jobs.build import build
    from jobs.cli.streams import with_files_for_streams
    from pipeline.cache.store import AnswerCache
    from pipeline.plan import plan as make_plan
    from pipeline.source.scan import survey

    job = settings.load(source, needs_output=False)
    with with_files_for_streams(job) as (job, _):
        pipeline = build(job, with_secret=False)
        cache = AnswerCache(pipeline.answers) if pipeline.answers.is_dir() else None
        surveyed = run_interruptibly(lambda: survey(pipeline.input))
        estimate = run_interruptibly(lambda: make_plan(pipeline, surveyed, cache))
    if as_json:
        print(msgspec.json.encode(estimate).decode())
    else:
        print(
            f"{many(estimate.documents, 'document')}, {many(estimate.chunks, 'chunk')}, "
            f"{many(estimate.requests, 'request')}, {estimate.cached:,} cached\n"
            f"left to do: {many(estimate.calls, 'call')}, {many(estimate.tokens, 'token')}, "
            f"{largest_cost(estimate)}, about {duration(estimate.seconds)}"
        )
    if surveyed.rows:
        warn_missing_columns(surveyed.absent)
        for warning in surveyed.warnings:
            print_message(warning)
    budget = pipeline.budget
    max_cost_usd = budget.max_cost_usd
    if max_cost_usd is not None and estimate.cost_usd > max_cost_usd and not budget.stop_at_cap:
        print(f"over budget.max_cost_usd = {max_cost_usd:g}", file=sys.stderr)
        return 8
    return 0


def largest_cost(estimate: Plan) -> str:
    """`up to $0.16`, rounded up to a cent; unknown for calls to endpoints without a price."""
    cents = math.ceil(round(estimate.cost_usd * 100, 6))
    bound = f"up to ${cents / 100:,.2f}"
    if not estimate.unpriced:
        return bound
    have = inflect(len(estimate.unpriced), "has", "have")
    names = f"{', '.join(f'`{name}`' for name in estimate.unpriced)} {have} no `price`"
    return f"{bound} plus an unknown cost ({names})" if cents else f"cost unknown ({names})"
