"""`textmill plan`: an estimate of the calls and the cost of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from jobs.cli.job_options import GroupedCommand, JobSettings, job_options
from jobs.cli.shell import command, print_json, print_message, run_interruptibly
from jobs.format import duration
from pipeline.errors import TextmillError
from pipeline.records import Usage
from pipeline.text import did_you_mean, inflect, many, printable

if TYPE_CHECKING:
    from jobs.spec.job import Job
    from pipeline.comparisons import PlannedComparison
    from pipeline.plan import CallTime, Plan


def warn_missing_columns(columns: Sequence[str], names: Sequence[str] = ()) -> None:
    """Warns about columns of rules that no row has: safe, but probably a typing error. `names`:
    those that rows have."""
    for name in columns:
        print_message(missing_column_line(name, names))


def missing_column_line(column: str, names: Sequence[str]) -> str:
    """The line about a column of a rule that no row has."""
    meant = did_you_mean(column, names)
    return (
        f"rule.column: no row has the column `{printable(column)}`{meant}, "
        "the rule applies to every row"
    )


def shared_answers_line(endpoint: str, url: str, answered_by: str) -> str:
    """The line that says whose answers serve for an endpoint, and how to separate them."""
    return printable(
        f"endpoint `{endpoint}`: answers of {answered_by} serve for {url}, which gives its model "
        f'the same name; endpoint.identity = "NAME" keeps them apart',
        600,
    )


def _comparison_line(planned: PlannedComparison) -> str:
    if not planned.texts:
        return shared_answers_line(planned.endpoint, planned.url, planned.answered_by)
    return printable(
        f"endpoint `{planned.endpoint}`: {many(planned.texts, 'text')} sent to {planned.url} "
        f"first, to compare its model with that of the kept answers of {planned.answered_by}",
        600,
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
    from jobs.cli.streams import with_input_file
    from pipeline.cache.read_only import open_to_read
    from pipeline.plan import plan as make_plan
    from pipeline.plan import with_cached_identities
    from pipeline.prepare.prefixes import prefix_note
    from pipeline.source.scan import survey

    job = settings.load(source, needs_output=False)
    with with_input_file(job) as job:
        pipeline = build(job, with_secret=False)
        cache = open_to_read(pipeline.answers)
        surveyed = run_interruptibly(lambda: survey(pipeline.input))
        times = call_times(job)
        estimate = run_interruptibly(lambda: make_plan(pipeline, surveyed, cache, times))
    if as_json:
        print_json(estimate)
    else:
        print(
            f"{many(estimate.documents, 'document')}, {many(estimate.chunks, 'chunk')}, "
            f"{many(estimate.requests, 'request')}, {estimate.cached:,} cached\n"
            f"left to do: {many(estimate.calls, 'call')}, {many(estimate.tokens, 'token')}, "
            f"{largest_cost(estimate)}, {time_left(estimate)}"
        )
        for each in estimate.compared:
            print(_comparison_line(each))
    if note := prefix_note(pipeline.embed, with_cached_identities(pipeline, cache)):
        print_message(note)
    if surveyed.rows:
        warn_missing_columns(surveyed.absent, surveyed.columns)
        for warning in surveyed.warnings:
            print_message(warning)
    budget = pipeline.budget
    max_cost_usd = budget.max_cost_usd
    known_usd = estimate.cost_usd or 0.0
    if max_cost_usd is not None and known_usd > max_cost_usd and not budget.stop_at_cap:
        print_message(f"over budget.max_cost_usd = {max_cost_usd:g}")
        return 8
    return 0


def time_left(estimate: Plan) -> str:
    """`about 14 s`, from the last run's calls; unknown for servers that were never called."""
    return "time unknown" if estimate.seconds is None else f"about {duration(estimate.seconds)}"


def call_times(job: Job) -> dict[str, CallTime]:
    """What a call of each endpoint took in the last run, of any job, that was answered by the same
    server; without those that no run in the register has met."""
    from jobs.history.register import runs
    from jobs.home import home_to_read
    from pipeline.plan import CallTime

    times: dict[str, CallTime] = {}
    with suppress(TextmillError):
        for run in runs(home_to_read())[0]:
            met = {run.servers.get(name): usage for name, usage in run.endpoints.items()}
            for name, server in job.servers.items():
                usage = met.get(server, Usage())
                if name not in times and usage.requests and run.seconds:
                    times[name] = CallTime(usage.seconds / usage.calls, run.seconds / usage.calls)
    return times


def largest_cost(estimate: Plan) -> str:
    """`up to $0.16`, rounded up to a cent; unknown for calls to endpoints without a price."""
    cents = math.ceil(round((estimate.cost_usd or 0.0) * 100, 6))
    bound = f"up to ${cents / 100:,.2f}"
    if not estimate.unpriced:
        return bound
    have = inflect(len(estimate.unpriced), "has", "have")
    names = f"{', '.join(f'`{name}`' for name in estimate.unpriced)} {have} no known `price`"
    return f"{bound} plus an unknown cost ({names})" if cents else f"cost unknown ({names})"
