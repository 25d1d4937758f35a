"""What the headers of a reply say about limits; garbage and lies included, it never raises.

Three families are in use: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}` (OpenAI and who
speaks like it), `RateLimit` with `RateLimit-Policy` (IETF drafts, the Hugging Face Hub), and their
elder `RateLimit-{Limit,Remaining,Reset}`. None says all: a limit without a window is read as per
minute only where that is the custom, so that a misreading errs on the high side, where 429s
correct it; too low nothing would.

`Retry-After` is not here: it belongs to the error (`pipeline.endpoints.responses`), and on an
answer it is ignored. Source: OpenAI API reference, "Rate limits" (2025);
draft-ietf-httpapi-ratelimit-headers-03 to -09.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, NamedTuple

MAX_PACED_SECONDS = 600.0
"""A limit over a longer window (an hour, a day) is not paced: it may be spent as fast as it goes,
and says when it is used up."""

_LONGEST = 1_000
"""Characters of a header that are read; true ones have 100."""
_WINDOWS = {"second": 1.0, "minute": 60.0, "hour": 3_600.0, "day": 86_400.0, "month": 2_592_000.0}
_CALLS = {"request", "requests", "req", "calls"}
_TOKENS = {"token", "tokens"}
_NUMBER = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,18})?(?:[eE]\+?[0-9]{1,2})?")
_GO = re.compile(r"(?:[0-9]{1,18}(?:\.[0-9]{1,18})?(?:ns|us|µs|μs|ms|h|m|s))+")
_GO_PART = re.compile(r"([0-9.]+)(ns|us|ms|h|m|s)")
_GO_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_PIECES = re.compile(r'"(?:[^"\\]|\\.)*"|[^";,]+|[;,]|"')


class Limit(NamedTuple):
    """One limit; None: not said. Invariant: each number is finite, and 0 or above."""

    per_minute: float | None = None
    """Above 0."""
    remaining: float | None = None
    reset_seconds: float | None = None
    """From now until it is whole again: all of it, or a new window."""
    is_window: bool = False
    """By its own words nothing is given back before the reset."""


class RateLimits(NamedTuple):
    """What one reply says; the defaults say nothing."""

    calls: Limit = Limit()
    tokens: Limit = Limit()


_Subject = Literal["calls", "tokens"]


class _Found(NamedTuple):
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
    found = [
        *_x_ratelimit(lower, now_wall),
        *_ietf_draft_03(lower, now_wall),
        *_ietf_draft_07(lower, now_wall),
    ]
    return RateLimits(_tightest(found, "calls"), _tightest(found, "tokens"))


def exhausted_seconds(what: RateLimits) -> float:
    """How long nothing will be granted: until a window in which nothing is left has gone by.

    0 where the reply does not clearly say so; the caller clamps it as any pause.
    """
    return max(
        quota.reset_seconds or 0.0 if quota.is_window and quota.remaining == 0 else 0.0
        for quota in what
    )


def _tightest(found: list[_Found], subject: _Subject) -> Limit:
    quotas = [
        Limit(_per_minute(each), each.remaining, each.reset_seconds, each.is_window)
        for each in found
        if each.subject == subject
    ]
    if not quotas:
        return Limit()
    limits = [quota.per_minute for quota in quotas if quota.per_minute is not None]
    # Of several windows the one with the least left says when to wait; used up ones the longest.
    least = min(
        quotas,
        key=lambda quota: (
            quota.remaining if quota.remaining is not None else float("inf"),
            -(quota.reset_seconds or 0.0),
        ),
    )
    return least._replace(per_minute=min(limits, default=None))


def _per_minute(each: _Found) -> float | None:
    if not each.limit or each.window is None or not 0 < each.window <= MAX_PACED_SECONDS:
        return None
    return each.limit * 60 / each.window


# --- x-ratelimit-... -----------------------------------------------------------------------------


def _x_ratelimit(lower: Mapping[str, str], now_wall: float) -> Iterator[_Found]:
    """`x-ratelimit-limit-requests`, `...-tokens-minute`, and bare `x-ratelimit-limit`."""
    values: dict[tuple[_Subject, str], dict[str, float]] = {}
    for name, value in lower.items():
        if not name.startswith("x-ratelimit-"):
            continue
        what, *rest = name.removeprefix("x-ratelimit-").split("-")
        number = _seconds(value, now_wall) if what == "reset" else _number(value)
        subject = _subject(rest)
        if what in ("limit", "remaining", "reset") and number is not None and subject is not None:
            window = next((word for word in rest if word in _WINDOWS), "minute" if rest else "")
            values.setdefault((subject, window), {})[what] = number
    for (subject, unit), each in values.items():
        yield _Found(
            subject,
            _WINDOWS.get(unit),
            each.get("limit"),
            each.get("remaining"),
            each.get("reset"),
        )


def _subject(words: list[str]) -> _Subject | None:
    """What is counted; None for a part of it only (generated tokens, images, ...)."""
    left = [word for word in words if word not in _WINDOWS and word not in ("prompt", "input")]
    if not left or (len(left) == 1 and left[0] in _CALLS):
        return "calls"
    return "tokens" if len(left) == 1 and left[0] in _TOKENS else None


# --- RateLimit-Limit, -Remaining, -Reset ---------------------------------------------------------


def _ietf_draft_03(lower: Mapping[str, str], now_wall: float) -> Iterator[_Found]:
    """`RateLimit-Limit: 100, 100;w=60`: a window only where the policy names one."""
    if not any(f"ratelimit-{what}" in lower for what in ("limit", "remaining", "reset")):
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
    yield _Found("calls", window, limit, remaining, reset)


# --- RateLimit, RateLimit-Policy -----------------------------------------------------------------


class _Item(NamedTuple):
    names: list[str]
    values: dict[str, str]


def _ietf_draft_07(lower: Mapping[str, str], now_wall: float) -> Iterator[_Found]:
    """`RateLimit: "api";r=0;t=55` with `RateLimit-Policy: "fixed window";"api";q=500;w=300`."""
    policies = _items(lower.get("ratelimit-policy", ""))
    states = _items(lower.get("ratelimit", ""))
    if states and all(not state.names for state in states):  # draft 07: limit=9, remaining=1, ...
        merged = {key: value for state in states for key, value in state.values.items()}
        yield _Found(
            "calls",
            None,
            _number(merged.get("limit", "")),
            _number(merged.get("remaining", merged.get("r", ""))),
            _seconds(merged.get("reset", merged.get("t", "")), now_wall),
            is_window=True,
        )
        states = []
    for policy in policies:
        subject = _counted(policy)
        if subject is not None:
            quota, window = (_number(policy.values.get(key, "")) for key in "qw")
            yield _Found(subject, window, quota)
    for state in states:
        policy = next((p for p in policies if set(p.names) & set(state.names)), state)
        subject = _counted(policy)
        if subject is not None:
            left, reset = _number(state.values.get("r", "")), state.values.get("t", "")
            yield _Found(
                subject, None, None, left, _seconds(reset, now_wall), is_window=left is not None
            )


def _counted(item: _Item) -> _Subject | None:
    """What a policy counts: requests unless it says otherwise, by its unit or in its name."""
    unit = item.values.get("qu", "").strip('"').lower()
    if unit and unit not in _CALLS:
        return "tokens" if unit in _TOKENS else None
    return "tokens" if any("token" in name.lower() for name in item.names) else "calls"


def _items(value: str) -> list[_Item]:
    """A list of names with `key=value` parameters, as tolerant as its writers are free."""
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
            key, _, told = text.partition("=")
            item.values.setdefault(key.strip().lower(), told.strip())
        elif text not in ("", ";"):
            item.names.append(text)
    return items


# --- numbers and times ---------------------------------------------------------------------------


def _number(text: str) -> float | None:
    """A plain number, 0 or above."""
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def _seconds(text: str, now_wall: float) -> float | None:
    """From now: `6m0s`, `8.64`, seconds or milliseconds since 1970, or a date; 0 if it is past."""
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
