"""What was spent: by call, by run, by day. Sums of the register, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipeline.records import Usage

if TYPE_CHECKING:
    from jobs.history.register import Run


def ledger(told: Iterable[Run]) -> list[dict[str, object]]:
    """What was spent, by local day and job, newest day first; `endpoints` holds the shares.

    The cost of a day can be more than that of its endpoints: rent by the hour is of none of them.
    """
    from jobs.history.register import moment

    days: dict[tuple[str, str], list[Run]] = {}
    for run in told:
        day = moment(run.started_at).astimezone().strftime("%Y-%m-%d")
        days.setdefault((day, run.job), []).append(run)
    return [
        {
            "day": day,
            "job": job,
            "runs": len(of_day),
            "requests": sum(run.requests for run in of_day),
            "cached": sum(run.cached for run in of_day),
            **sum((run.usage for run in of_day), Usage()).totals,
            "endpoints": _by_endpoint(of_day),
        }
        for (day, job), of_day in sorted(days.items(), reverse=True)
    ]


def _by_endpoint(told: Iterable[Run]) -> dict[str, Usage]:
    total: dict[str, Usage] = {}
    for run in told:
        for name, usage in run.endpoints.items():
            total[name] = total.get(name, Usage()) + usage
    return {name: usage.rounded() for name, usage in sorted(total.items())}
