"""What a service tells about its limit: the headers, in the form of each service, lies included.

Clients learn their pace from these; every service writes them differently, and none as another's
documentation says.
Source: protocols collected August 2026; what is marked so was not seen on a wire.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import formatdate

from jobs.mock.limits.counts import Kind
from jobs.mock.limits.limits import Left, Limit, Reset, State, Verdict, What, remaining

Headers = tuple[tuple[str, str], ...]

# What a service without slots to spare says when it must name a time.
SLOT_SECONDS = 1.0

_POLICIES: dict[Kind, str] = {
    "window": "fixed window",
    "sliding": "sliding window",  # unverified: the Hub has fixed windows
    "bucket": "token bucket",  # unverified
}


def headers(limit: Limit, state: State, verdict: Verdict, wall: float) -> Headers:
    """The headers of an answer or refusal that was decided at the state's moment.

    Units: `wall` in seconds since 1970, as dates are told.
    """
    if verdict.word in ("outage", "cold"):
        return ()  # what answers then is a gateway that knows of no limit
    left = remaining(limit, state) if limit.headers != "none" else {}
    return _limits(limit, left, wall) + _retry(limit, verdict, wall)


def go_duration(seconds: float) -> str:
    """A duration as Go prints it, rounded up to milliseconds: `12ms`, `8.64s`, `6m0s`, `1h2m3s`."""
    thousandths = _ceil(seconds * 1000)
    if thousandths == 0:
        return "0s"
    if thousandths < 1000:
        return f"{thousandths}ms"
    minutes, rest = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    told = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{told}"
    return f"{minutes}m{told}" if minutes else told


def _limits(limit: Limit, left: dict[What, Left], wall: float) -> Headers:
    match limit.headers:
        case "openai":
            return _pairs(limit, left, limit.reset, wall)
        case "cerebras":
            return _pairs(limit, left, "seconds", wall)
        case "hub":
            one = left.get("requests") or left.get("tokens")
            if one is None:
                return ()
            most, rest = _told(limit, one, 1.0)
            policy = f'"{_POLICIES[limit.counts]}";"api";q={most};w={_ceil(one.rate.seconds)}'
            return (
                ("RateLimit", f'"api";r={rest};t={_ceil(one.seconds)}'),
                ("RateLimit-Policy", policy),
            )
        case "together":
            if (one := left.get("requests")) is None:
                return ()
            most, rest = _told(limit, one, 1 / one.rate.seconds)
            return (
                ("x-ratelimit-limit", str(most)),
                ("x-ratelimit-remaining", str(rest)),
                ("x-ratelimit-reset", str(_ceil(one.seconds))),
            )
        case "replicate":
            if (one := left.get("requests")) is None:
                return ()
            rest = _told(limit, one, 1.0)[1]
            return (
                ("ratelimit-remaining", str(rest)),
                ("ratelimit-reset", str(_ceil(one.seconds))),
            )
        case _:
            return ()


def _pairs(limit: Limit, left: dict[What, Left], reset: Reset, wall: float) -> Headers:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`; they speak of minutes."""
    pairs: list[tuple[str, str]] = []
    for what, one in left.items():
        most, rest = _told(limit, one, max(1.0, 60 / one.rate.seconds))
        name: str = what
        if limit.headers == "cerebras":
            name += "-minute" if one.rate.seconds <= 60 else "-day"
        pairs += [
            (f"x-ratelimit-limit-{name}", str(most)),
            (f"x-ratelimit-remaining-{name}", str(rest)),
            (f"x-ratelimit-reset-{name}", _reset(reset, one.seconds, wall)),
        ]
    return tuple(pairs)


def _told(limit: Limit, one: Left, scale: float) -> tuple[int, int]:
    """The limit and what is left of it, as whole numbers; a lie takes the limit's place."""
    most, rest = one.limit * scale, one.left * scale
    if limit.told is not None:
        most, rest = limit.told, limit.told - (most - rest)
    return math.floor(most + 1e-6), max(0, math.floor(rest + 1e-6))


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
        # Together asks to wait after answers as well: it must be ignored.
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
    """Rounded up, so that nobody is told too short a time; noise of floats is none."""
    return math.ceil(number - 1e-6)
