"""What was spent: by call, by run, by day. Sums of the register, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

if TYPE_CHECKING:
    from jobs.register import Run


class Spent(Struct, frozen=True):
    """What the calls to one endpoint took. Units: seconds of all calls together, tokens, USD."""

    calls: int = 0
    errors: int = 0
    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    slowest_seconds: float = 0.0


def ledger(told: Iterable[Run]) -> list[dict[str, object]]:
    """What was spent, by local day and job, newest day first; `endpoints` holds the shares.

    The cost of a day can be more than that of its endpoints: rent by the hour is of none of them.
    """
    from jobs.register import moment

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


def added(one: Spent, other: Spent) -> Spent:
    """Both together."""
    return Spent(
        one.calls + other.calls,
        one.errors + other.errors,
        one.requests + other.requests,
        one.input_tokens + other.input_tokens,
        one.output_tokens + other.output_tokens,
        one.cost_usd + other.cost_usd,
        one.seconds + other.seconds,
        max(one.slowest_seconds, other.slowest_seconds),
    )


def rounded(spent: Spent) -> Spent:
    """As it is written: sums of floats have tails that nobody asked for."""
    return replace(
        spent,
        cost_usd=round(spent.cost_usd, 9),
        seconds=round(spent.seconds, 3),
        slowest_seconds=round(spent.slowest_seconds, 3),
    )
