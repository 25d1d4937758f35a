"""What calls cost, in USD, from an endpoint's declared price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.records import Price
from pipeline.tasks import TASKS


def cost(
    price: Price | None,
    *,
    requests: int = 0,
    input_tokens: int = 0,
    output_tokens: int = 0,
    seconds: float = 0.0,
) -> float:
    """USD for these calls, which took so many seconds together; 0 where no price is declared.

    The price of an hour is no price of calls: see `rent`.
    """
    if price is None:
        return 0.0
    return (
        (price.input * input_tokens + price.output * output_tokens) / 1_000_000
        + price.request * requests
        + price.second * seconds
    )


def rent(price: Price | None, seconds: float) -> float:
    """USD for an endpoint that is paid by the hour, for this wall time."""
    return price.hour * seconds / 3_600 if price else 0.0


def output_tokens_bound(task: str, parameters: Mapping[str, Any]) -> int:
    """The most tokens that one answer of this task may have, for a plan."""
    assumed = TASKS[task].output_tokens
    if not assumed:
        return 0
    for name in ("max_completion_tokens", "max_tokens", "max_new_tokens", "max_length"):
        value = parameters.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return assumed
