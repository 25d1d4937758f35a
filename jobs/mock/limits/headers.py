"""The rate limit headers in the format of each service, false limits included.

Clients learn their rate from these; every service writes them differently, and often differently
from its documentation.
Source: protocols collected August 2026; entries marked unverified were not observed on a wire.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import formatdate

from jobs.mock.limits.counts import Kind
from jobs.mock.limits.limits import Left, Limit, Reset, State, Verdict, What, remaining

Headers = tuple[tuple[str, str], ...]

# The wait that a service without free slots names if it must name one.
SLOT_SECONDS = 1.0

_POLICIES: dict[Kind, str] = {
    "window": "fixed window",
    "sliding": "sliding window",  # unverified: the Hub has fixed windows
    "bucket": "token bucket",  # unverified
}


def headers(limit: Limit, state: State, verdict: Verdict, wall: float) -> Headers:
    """The headers of an answer or refusal that was decided at the state's moment.

    Units: `wall` in seconds since 1970, for dates.
    """
    if verdict.word in ("outage", "cold"):
        return ()  # a gateway without limits answers then
    left = remaining(limit, state) if limit.headers != "none" else {}
    return _limits(limit, left, wall) + _retry(limit, verdict, wall)


def go_duration(seconds: float) -> str:
    """A duration as Go prints it, rounded up to milliseconds: `12ms`, `8.64s`, `6m0s`, `1h2m3s`."""
    thousandths = _ceil(seconds * 1000)
    if thousandths == 0:
        return "0s"
    if thousandths < 1000:
        return f"{thousandths}ms"
    minutes, milliseconds = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    tail = f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{tail}"
    return f"{minutes}m{tail}" if minutes else tail


def _limits(limit: Limit, left: dict[What, Left], wall: float) -> Headers:
    match limit.headers:
        case "openai":
            return _pairs(limit, left, limit.reset, wall)
        case "cerebras":
            return _pairs(limit, left, "seconds", wall)
        case "hub":
            rate = left.get("requests") or left.get("tokens")
            if rate is None:
                return ()
            limit_value, remaining_value = _reported(limit, rate, 1.0)
            policy = (
                f'"{_POLICIES[limit.counts]}";"api";q={limit_value};w={_ceil(rate.rate.seconds)}'
            )
            return (
                ("RateLimit", f'"api";r={remaining_value};t={_ceil(rate.seconds)}'),
                ("RateLimit-Policy", policy),
            )
        case "together":
            if (rate := left.get("requests")) is None:
                return ()
            limit_value, remaining_value = _reported(limit, rate, 1 / rate.rate.seconds)
            return (
                ("x-ratelimit-limit", str(limit_value)),
                ("x-ratelimit-remaining", str(remaining_value)),
                ("x-ratelimit-reset", str(_ceil(rate.seconds))),
            )
        case "replicate":
            if (rate := left.get("requests")) is None:
                return ()
            remaining_value = _reported(limit, rate, 1.0)[1]
            return (
                ("ratelimit-remaining", str(remaining_value)),
                ("ratelimit-reset", str(_ceil(rate.seconds))),
            )
        case _:
            return ()


def _pairs(limit: Limit, left: dict[What, Left], reset: Reset, wall: float) -> Headers:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`; per minute."""
    pairs: list[tuple[str, str]] = []
    for what, rate in left.items():
        limit_value, remaining_value = _reported(limit, rate, max(1.0, 60 / rate.rate.seconds))
        name: str = what
        if limit.headers == "cerebras":
            name += "-minute" if rate.rate.seconds <= 60 else "-day"
        pairs += [
            (f"x-ratelimit-limit-{name}", str(limit_value)),
            (f"x-ratelimit-remaining-{name}", str(remaining_value)),
            (f"x-ratelimit-reset-{name}", _reset(reset, rate.seconds, wall)),
        ]
    return tuple(pairs)


def _reported(limit: Limit, rate: Left, scale: float) -> tuple[int, int]:
    """The limit and its remainder, as whole numbers; a false limit replaces the true one."""
    total, left = rate.limit * scale, rate.left * scale
    if limit.reported is not None:
        total, left = limit.reported, limit.reported - (total - left)
    return math.floor(total + 1e-6), max(0, math.floor(left + 1e-6))


def _reset(form: Reset, seconds: float, wall: float) -> str:
    match form:
        case "seconds":
            return f"{seconds:.2f}"
        case "epoch":
            return str(_ceil(wall + seconds))
        case "iso":
            at = datetime.fromtimestamp(_ceil(wall + seconds), UTC)
            return at.strftime("%Y-%m-%dT%H:%M:%SZ")
        case _:
            return go_duration(seconds)


def _retry(limit: Limit, verdict: Verdict, wall: float) -> Headers:
    if verdict.word == "admitted":
        # Together requests a wait after answers as well: clients must ignore it.
        return (("retry-after", "2"),) if limit.headers == "together" else ()
    form = limit.retry
    if form is None and verdict.word == "rate":
        form = "seconds"
    if form is None or form == "none" or verdict.word == "too_large":
        return ()
    seconds = verdict.wait if math.isfinite(verdict.wait) else SLOT_SECONDS
    whole = str(max(1, _ceil(seconds)))
    match form:
        case "decimal":
            return (("retry-after", f"{_ceil(seconds * 1000) / 1000:g}"),)
        case "ms":
            return (("retry-after-ms", str(_ceil(seconds * 1000))), ("retry-after", whole))
        case "date":
            return (("retry-after", formatdate(_ceil(wall + seconds), usegmt=True)),)
        case _:
            return (("retry-after", whole),)


def _ceil(number: float) -> int:
    """Rounded up, so that no reported wait is too short; rounding errors of floats are ignored."""
    return math.ceil(number - 1e-6)
