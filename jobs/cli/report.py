"""`textmill report`: the report of a run, as Markdown or JSON."""

from __future__ import annotations

import click

from jobs.cli.shell import command, print_json
from jobs.format import local_now
from jobs.history.register import forgotten, runs
from jobs.history.report import as_record, lines, report_of, runs_of_the_night
from jobs.history.status import choose
from jobs.home import home_to_read


@command()
@click.argument("name", metavar="[JOB_OR_OUTPUT]", required=False)
def report(name: str | None, as_json: bool) -> int:
    """Report what a run did and what to do next. Report all runs of the last day
    if no name is given."""
    all_runs, _ = runs(home_to_read())
    if name is None:
        left_out = forgotten(home_to_read())
        all_runs = [run for run in all_runs if run.entry not in left_out]
    if not all_runs and name is None:
        print("no runs yet")
        return 0
    chosen = runs_of_the_night(choose(all_runs, name), local_now(), only_last=bool(name))
    for number, run_report in enumerate(map(report_of, chosen)):
        if as_json:
            print_json(as_record(run_report))
        else:
            print(("\n" if number else "") + "\n".join(lines(run_report)))
    return 0
