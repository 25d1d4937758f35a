"""`textmill report`: what a run did, as Markdown or JSON."""

from __future__ import annotations

from datetime import datetime

import click

from jobs.cli.shell import command
from jobs.history.register import runs
from jobs.history.report import encode, lines, report_of, runs_of_the_night
from jobs.history.status import choose
from jobs.home import home


@command()
@click.argument("what", metavar="[JOB_OR_OUTPUT]", required=False)
def report(what: str | None, as_json: bool) -> int:
    """Report what a run did and what to do next. Report all runs of the last day
    if no name is given."""
    told, _ = runs(home())
    if not told and what is None:
        print("no runs yet")
        return 0
    found = runs_of_the_night(choose(told, what), datetime.now().astimezone(), only_last=bool(what))
    for number, each in enumerate(map(report_of, found)):
        if as_json:
            print(encode(each).decode())
        else:
            print(("\n" if number else "") + "\n".join(lines(each)))
    return 0
