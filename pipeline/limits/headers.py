"""Parses the rate limits in the headers of a reply; it never raises, whatever they hold.

Three families are in use: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}` (OpenAI and
compatible servers), `RateLimit` with `RateLimit-Policy` (IETF drafts, the Hugging Face Hub), and
the older `RateLimit-{Limit,Remaining,Reset}`. None is complete. A limit without a window is read as
per minute only where that is the custom, so that an error is on the high side, where 429s correct
it; a limit that is too low would never be corrected.

`Retry-After` is not parsed here: it belongs to the error (`pipeline.endpoints.responses`), and it
is ignored on an answer. Source: OpenAI API reference, "Rate limits" (2025);
draft-ietf-httpapi-ratelimit-headers-03 to -09.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, NamedTuple

MAX_PACED_SECONDS = 600.0
"""A limit over a longer window (an hour, a day) is not paced: calls go as fast as they can until
the headers report it exhausted."""

_LONGEST = 1_000
"""Characters of a header that are read; real ones have 100."""
_WINDOWS = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0, "month": 2_592_000.0}
_CALLS = {"request", "requests", "req", "calls"}
_TOKENS = {"token", "tokens"}
_NUMBER = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18})?(?:[eE]\+?[0-9]{1,2})?")
_GO = re.compile(r"(?:[0-9]{1,18}(?:\.[0-9]{1,18})?(?:ns|us|µs|μs|ms|h|m|s))+")
_GO_PART = re.compile(r"([0-9.]+)(ns|us|ms|h|m|s)")
_GO_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_PIECES = re.compile(r'"(?:[^"\\]|\\.)*"|[^";,]+|[;,]|"')


class Limit(NamedTuple):
    """One limit; None: not given. Invariant: each number is finite, and 0 or above."""

    per_minute: float | None = None
    """Above 0."""
    remaining: float | None = None
    reset_seconds: float | None = None
    """From now until the limit is fully available again, or until a new window begins."""
    is_window: bool = False
    """True: by definition nothing becomes available before the reset."""


class RateLimits(NamedTuple):
    """The limits of one reply; the defaults are unknown limits."""

    calls: Limit = Limit()
    tokens: Limit = Limit()


_Subject = Literal["calls", "tokens"]


class _Statement(NamedTuple):
    """One limit as one header states it."""

    subject: _Subject
    window: float | None
    limit: float | None = None
    remaining: float | None = None
    reset_seconds: float | None = None
    is_window: bool = False


def parse_rate_limits(headers: Mapping[str, str], now_wall: float) -> RateLimits:
    """The limits of a reply's headers, the tightest where several windows are named.

    Units: `now_wall` in seconds since 1970, for resets that are times of day.
    """
    lower = {
        name.lower(): value[:_LONGEST]
        for name, value in headers.items()
        if "ratelimit" in name.lower()
    }
    if not lower:
        return RateLimits()
    statements = [
        *_x_ratelimit(lower, now_wall),
        *_ietf_draft_03(lower, now_wall),
        *_ietf_draft_07(lower, now_wall),
    ]
    return RateLimits(_tightest(statements, "calls"), _tightest(statements, "tokens"))


def exhausted_seconds(rate_limits: RateLimits) -> float:
    """Seconds until the end of a window that is used up.

    0 where the reply does not clearly report one; the caller clamps the time like any pause.
    """
    return max(
        limit.reset_seconds or 0.0 if limit.is_window and limit.remaining == 0 else 0.0
        for limit in rate_limits
    )


def _tightest(statements: list[_Statement], subject: _Subject) -> Limit:
    limits = [
        Limit(_per_minute(one), one.remaining, one.reset_seconds, one.is_window)
        for one in statements
        if one.subject == subject
    ]
    if not limits:
        return Limit()
    rates = [limit.per_minute for limit in limits if limit.per_minute is not None]
    # Of several windows the one with the least remaining decides; among empty ones the longest.
    tightest = min(
        limits,
        key=lambda limit: (
            limit.remaining if limit.remaining is not None else float("inf"),
            -(limit.reset_seconds or 0.0),
        ),
    )
    return tightest._replace(per_minute=min(rates, default=None))


def _per_minute(statement: _Statement) -> float | None:
    limit, window = statement.limit, statement.window
    if not limit or window is None or not 0 < window <= MAX_PACED_SECONDS:
        return None
    return limit * 60 / window


# --- x-ratelimit-... -----------------------------------------------------------------------------


def _x_ratelimit(lower: Mapping[str, str], now_wall: float) -> Iterator[_Statement]:
    """`x-ratelimit-limit-requests`, `...-tokens-minute`, and bare `x-ratelimit-limit`."""
    values: dict[tuple[_Subject, str], dict[str, float]] = {}
    for name, value in lower.items():
        if not name.startswith("x-ratelimit-"):
            continue
        figure, *words = name.removeprefix("x-ratelimit-").split("-")
        number = _seconds(value, now_wall) if figure == "reset" else _number(value)
        subject = _subject(words)
        if figure in ("limit", "remaining", "reset") and number is not None and subject is not None:
            window = next((word for word in words if word in _WINDOWS), "minute" if words else "")
            values.setdefault((subject, window), {})[figure] = number
    for (subject, unit), figures in values.items():
        yield _Statement(
            subject,
            _WINDOWS.get(unit),
            figures.get("limit"),
            figures.get("remaining"),
            figures.get("reset"),
        )


def _subject(words: list[str]) -> _Subject | None:
    """What the limit counts; None for a part only (generated tokens, images, ...)."""
    left = [word for word in words if word not in _WINDOWS and word not in ("prompt", "input")]
    if not left or (len(left) == 1 and left[0] in _CALLS):
        return "calls"
    return "tokens" if len(left) == 1 and left[0] in _TOKENS else None


# --- RateLimit-Limit, -Remaining, -Reset ---------------------------------------------------------


def _ietf_draft_03(lower: Mapping[str, str], now_wall: float) -> Iterator[_Statement]:
    """`RateLimit-Limit: 100, 100;w=60`: a window only where the policy names one."""
    if not any(f"ratelimit-{figure}" in lower for figure in ("limit", "remaining", "reset")):
        return
    items = _items(lower.get("ratelimit-limit", ""))
    limit = _number(items[0].names[0]) if items and items[0].names else None
    window = next(
        (
            _number(item.values["w"])
            for item in items
            if "w" in item.values and item.names and _number(item.names[0]) == limit
        ),
        None,
    )
    remaining = _number(lower.get("ratelimit-remaining", ""))
    reset = _seconds(lower.get("ratelimit-reset", ""), now_wall)
    yield _Statement("calls", window, limit, remaining, reset)


# --- RateLimit, RateLimit-Policy -----------------------------------------------------------------


class _Item(NamedTuple):
    names: list[str]
    values: dict[str, str]


def _ietf_draft_07(lower: Mapping[str, str], now_wall: float) -> Iterator[_Statement]:
    """`RateLimit: "api";r=0;t=55` with `RateLimit-Policy: "fixed window";"api";q=500;w=300`."""
    policies = _items(lower.get("ratelimit-policy", ""))
    states = _items(lower.get("ratelimit", ""))
    if states and all(not state.names for state in states):  # draft 07: limit=9, remaining=1, ...
        merged = {key: value for state in states for key, value in state.values.items()}
        yield _Statement(
            "calls",
            None,
            _number(merged.get("limit", "")),
            _number(merged.get("remaining", merged.get("r", ""))),
            _seconds(merged.get("reset", merged.get("t", "")), now_wall),
            is_window=True,
        )
        states = []
    for policy in policies:
        subject = _policy_subject(policy)
        if subject is not None:
            limit, window = (_number(policy.values.get(key, "")) for key in "qw")
            yield _Statement(subject, window, limit)
    for state in states:
        policy = next((p for p in policies if set(p.names) & set(state.names)), state)
        subject = _policy_subject(policy)
        if subject is not None:
            remaining, reset = _number(state.values.get("r", "")), state.values.get("t", "")
            yield _Statement(
                subject,
                None,
                None,
                remaining,
                _seconds(reset, now_wall),
                is_window=remaining is not None,
            )


def _policy_subject(item: _Item) -> _Subject | None:
    """What a policy counts: requests, unless its unit or its name says tokens."""
    unit = item.values.get("qu", "").strip('"').lower()
    if unit and unit not in _CALLS:
        return "tokens" if unit in _TOKENS else None
    return "tokens" if any("token" in name.lower() for name in item.names) else "calls"


def _items(value: str) -> list[_Item]:
    """A list of names with `key=value` parameters; tolerant, because servers differ."""
    items: list[_Item] = []
    item = _Item([], {})
    for piece in [*_PIECES.findall(value), ","]:
        text = piece.strip()
        if piece == ",":
            if item.names or item.values:
                items.append(item)
            item = _Item([], {})
        elif text.startswith('"'):
            item.names.append(text.strip('"'))
        elif "=" in text:
            key, _, parameter = text.partition("=")
            item.values.setdefault(key.strip().lower(), parameter.strip())
        elif text not in ("", ";"):
            item.names.append(text)
    return items


# --- numbers and times ---------------------------------------------------------------------------


def _number(text: str) -> float | None:
    """A plain number, 0 or above."""
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _seconds(text: str, now_wall: float) -> float | None:
    """Seconds from now: of `6m0s`, `8.64`, seconds or milliseconds since 1970, or a date; 0 if
    past."""
    text = text.strip()
    number = _number(text)
    if number is not None:
        if number > 1e11:
            number /= 1000
        return max(0.0, number - now_wall) if number > 1e9 else number
    if _GO.fullmatch(text):
        text = text.replace("µ", "u").replace("μ", "u")
        return sum(float(n) * _GO_UNITS[unit] for n, unit in _GO_PART.findall(text))
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            moment = read(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            return max(0.0, moment.timestamp() - now_wall)
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return None
