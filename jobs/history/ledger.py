"""The costs by day and job, summed from the register of runs only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from jobs.format import local
from pipeline.events import usage_fields
from pipeline.records import Usage

if TYPE_CHECKING:
    from jobs.history.register import Run


def ledger(runs: Iterable[Run]) -> list[dict[str, object]]:
    """The usage by local day and job, newest day first; `endpoints` holds that of each endpoint.

    A day can cost more than its endpoints: rent by the hour belongs to none of them.
    """
    from jobs.history.register import moment

    days: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        day = local(moment(run.started_at)).strftime("%Y-%m-%d")
        days.setdefault((day, run.job), []).append(run)
    return [
        {
            "day": day,
            "job": job,
            "runs": sum(not run.is_check for run in day_runs),
            "requests": sum(run.requests for run in day_runs),
            "cached": sum(run.cached for run in day_runs),
            **sum((run.usage for run in day_runs), Usage()).totals,
            "endpoints": _usage_by_endpoint(day_runs),
        }
        for (day, job), day_runs in sorted(days.items(), reverse=True)
    ]


def _usage_by_endpoint(runs: Iterable[Run]) -> dict[str, dict[str, Any]]:
    total: dict[str, Usage] = {}
    for run in runs:
        for name, usage in run.endpoints.items():
            total[name] = total.get(name, Usage()) + usage
    return {name: usage_fields(usage) for name, usage in sorted(total.items())}
