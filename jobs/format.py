"""Numbers and times as people read and type them: durations, counts, sizes, costs, shares.

`pipeline.text.many` counts nouns; it is there because messages of the engine use it, too.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, datetime

from pipeline.records import Usage

SECONDS = {
    "": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0,
    "d": 86_400.0, "day": 86_400.0, "w": 7 * 86_400.0, "y": 365 * 86_400.0,
}  # fmt: skip
"""Each unit of time in seconds; a bare number counts seconds."""

_TERM = re.compile(r"(\d{1,9}(?:\.\d{1,3})?) ?([a-z]*) ?", re.ASCII)
_SHORT_UNITS = (("G", 1e9), ("M", 1e6), ("k", 1e3))


def parse_duration(text: str, units: Collection[str]) -> float | None:
    """The seconds of `90d`, `10 min` or `6 min 12 s` in these units; None for any other text.

    Invariant: the output of `duration` is read as the same time, up to its rounding.
    """
    text = text.strip()
    total, at = 0.0, 0
    while at < len(text):
        term = _TERM.match(text, at)
        if term is None or term[2] not in units:
            return None
        if not term[2] and term[0] != text:  # a number without a unit must be the whole text
            return None
        total += float(term[1]) * SECONDS[term[2]]
        at = term.end()
    return total if at else None


def duration(seconds: float) -> str:
    """`3.2 s`, `6 min 12 s`, `27 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def clock_duration(seconds: float) -> str:
    """A duration in few columns: `0.7 s`, `27:03`, `1:27:03`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def compact_count(number: int) -> str:
    """A count in at most six columns: `1,204`, `12.0M`."""
    if number < 100_000:
        return f"{number:,}"
    unit, size = next((unit, size) for unit, size in _SHORT_UNITS if number >= size)
    return f"{number / size:.{0 if number >= 100 * size else 1}f}{unit}"


def cost(usage: Usage) -> str:
    """`$0.41`; with calls that have no price `cost unknown`, or `at least $0.41`."""
    if not usage.unpriced_calls:
        return f"${usage.cost_usd:,.2f}"
    return f"at least ${usage.cost_usd:,.2f}" if usage.cost_usd else "cost unknown"


def cached_share(cached: int, requests: int) -> list[str]:
    """`61 % cached`, as a part of a list; empty without requests."""
    return [f"{cached * 100 // requests} % cached"] if requests else []


def byte_size(n_bytes: float) -> str:
    """`1 byte`, `999 bytes`, `1.5 kB`; units of a thousand."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1_000:
            if unit == "bytes":
                return "1 byte" if n_bytes == 1 else f"{n_bytes:,.0f} bytes"
            return f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1_000
    return f"{n_bytes:,.1f} TB"


def local(at: datetime) -> datetime:
    """A moment, or the local time without a zone, in local time; in UTC where TZ names an
    impossible zone, such as `UTC-99:99`."""
    try:
        return at.astimezone()
    except (ValueError, OverflowError):
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)


def local_now() -> datetime:
    """The current local time."""
    return local(datetime.now(UTC))
