"""`textmill report`: what a run did, as Markdown or JSON."""

from __future__ import annotations

from datetime import datetime

from jobs.cli.shell import reported
from jobs.history.register import runs
from jobs.history.report import encode, lines, report_of, runs_of_the_night
from jobs.history.status import choose


def report(what: str | None, *, as_json: bool) -> int:
    """The last run of a job or an output; without one, of all that ran within a day."""
    return reported(lambda: _report(what, as_json))


def _report(what: str | None, as_json: bool) -> int:
    from jobs.home import home

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
