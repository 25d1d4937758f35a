"""What calls took: requests, tokens, money and time, per endpoint."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from pipeline import events
from pipeline.errors import ERRORS


def spent(event: events.CallEnded) -> Spent:
    """What one call took."""
    return Spent(
        calls=int(event.error is None or ERRORS[event.error].is_sent),
        errors=int(event.error is not None),
        requests=event.requests,
        input_tokens=event.input_tokens,
        output_tokens=event.output_tokens,
        cost_usd=event.cost_usd,
        seconds=event.seconds,
        slowest_seconds=event.seconds,
    )


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
