"""What was spent: by call, by run, by day. Sums of the register, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from jobs.history.spent import Spent, added, rounded

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
            "calls": sum(run.calls for run in of_day),
            "requests": sum(run.requests for run in of_day),
            "cached": sum(run.cached for run in of_day),
            "tokens": sum(run.tokens for run in of_day),
            "cost_usd": round(sum(run.cost_usd for run in of_day), 6),
            "endpoints": _by_endpoint(of_day),
        }
        for (day, job), of_day in sorted(days.items(), reverse=True)
    ]


def _by_endpoint(told: Iterable[Run]) -> dict[str, Spent]:
    total: dict[str, Spent] = {}
    for run in told:
        for name, spent in run.endpoints.items():
            total[name] = added(total.get(name, Spent()), spent)
    return {name: rounded(spent) for name, spent in sorted(total.items())}
