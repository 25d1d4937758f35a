"""What calls cost, in USD, from an endpoint's declared price."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.records import Price
from pipeline.tasks import OUTPUT_LIMITS, TASKS


def cost(
    price: Price | None,
    *,
    requests: int = 0,
    input_tokens: int = 0,
    output_tokens: int = 0,
    seconds: float = 0.0,
) -> float:
    """USD for these calls; `seconds` is the sum of their durations. 0 without a declared price.

    The price per hour is not part of it: see `rent`.
    """
    if price is None:
        return 0.0
    return (
        (price.input * input_tokens + price.output * output_tokens) / 1_000_000
        + price.request * requests
        + price.second * seconds
    )


def is_believable(reported: int, counted: int, characters: int, requests: int) -> bool:
    """True if a server can have read this number of tokens, by our own count of the same inputs.

    Tokenizers differ by a factor of 2, and a chat template or a system prompt of the service adds
    tokens to each request. A count of characters is not one of tokens. 0: nothing was reported.
    """
    if reported == 0:
        return True
    if reported > 2 * counted and abs(reported - characters) <= characters // 50 + requests:
        return False
    return counted // 4 <= reported <= 3 * counted + 300 * requests


def rent(price: Price | None, seconds: float) -> float:
    """USD for this wall time of an endpoint that is paid by the hour."""
    return price.hour * seconds / 3_600 if price else 0.0


def output_tokens_bound(task: str, parameters: Mapping[str, Any]) -> int:
    """The upper bound of output tokens of one answer of this task, for a plan."""
    default_tokens = TASKS[task].output_tokens
    if not default_tokens:
        return 0
    for name in OUTPUT_LIMITS:
        value = parameters.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return default_tokens
