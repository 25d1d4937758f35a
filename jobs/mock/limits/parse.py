"""Parses limits from a few words, as on a command line or in a test.

    bucket calls=50/s                            50 at once, 50 a second
    bucket calls=3000/min tokens=1e6/min headers=openai
    window calls=500/5min headers=hub            aligned windows, as the Hub counts
    sliding calls=50/s rejects=count retry=ms    429s count, too
    slots=32                                     calls at once, no header (TGI)
    permits=512                                  inputs at once, no header (TEI)
    workers=100 change=60s:0.5                   calls at once; the others wait their turn
    bucket calls=50/s change=60s:0.5,120s:1      halves after a minute, for a minute
    bucket calls=50/s headers=openai reported=1e9    a false limit
    bucket calls=50/s tenant=0.4@60s-120s        another client uses 40 % of it meanwhile
    cold=20s outage=60s-90s,200s-210s outage_status=reset latency=200ms sigma=0.5

`headers`: none, openai, hub, cerebras, together, replicate. `reset`: go, seconds, epoch, iso.
`retry`: none, seconds, decimal, ms, date. `refuse`: a status instead of 429.
Moments count from the first call.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any, get_args

from jobs.format import SECONDS
from jobs.mock.limits.counts import Between, Kind, Rate
from jobs.mock.limits.limits import Change, Limit, Reset, Retry, Style
from pipeline.errors import UsageError

TABLE: dict[str, str] = {
    "bucket 1 s": "bucket calls=50/s",
    "bucket 60 s": "bucket calls=3000/min",
    "429s count": "bucket calls=50/s rejects=count",
    "fixed window": "window calls=3000/min",
    # 0.64 s on average, so that 32 slots let 50 calls a second through.
    "32 slots, no header": "slots=32 latency=565ms sigma=0.5",
    "limit halves": "bucket calls=50/s change=300s:0.5",
}
"""The six kinds of limit for measuring a controller, 50 calls a second each."""

_SPAN = re.compile(r"(\d+(?:\.\d+)?(?:e\d+)?|)(ms|s|min|m|h|day|)", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e\d{1,3})?", re.ASCII)
_HINT = "bucket calls=50/s"


def parse(text: str) -> Limit:
    """The limit that the words describe.

    Raises: UsageError, one line with the word, the value and the bound.
    """
    fields: dict[str, Any] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals and word in get_args(Kind):
            name, value = "counts", word
        elif not equals or name not in _READ:
            raise _error(text, f"cannot read `{word}`")
        field, read = _READ[name]
        if field in fields:
            raise _error(text, f"`{name}` is given twice")
        try:
            fields[field] = read(value)
        except ValueError as error:
            raise _error(text, f"`{word}`: {error}") from None
    if "tenant" in fields:
        fields["tenant"], fields["tenant_during"] = fields["tenant"]
    if not fields.keys() - {"counts"}:
        raise _error(text, "nothing is limited")
    if not fields.keys() & {"calls", "tokens"}:
        for field in ("counts", "changes", "tenant", "rejects_count", "reported"):
            if field in fields and not (field == "changes" and "workers" in fields):
                raise _error(text, f"`{_NAMES[field]}` has no effect without `calls` or `tokens`")
    return Limit(**fields)


def _error(text: str, problem: str) -> UsageError:
    return UsageError(f"limit `{text}`: {problem}", hint=_HINT)


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not low <= value <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return value

    return read


def _whole(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,8}", text, re.ASCII):
        raise ValueError("must be a whole number from 1 to 999999999")
    return int(text)


def _seconds(text: str) -> float:
    match = _SPAN.fullmatch(text)
    if not match or not match[1]:
        raise ValueError("must be a time such as `20s`, `200ms`, `5min`")
    return _number(0, 1e9)(match[1]) * SECONDS[match[2]]


def _rate(text: str) -> Rate:
    amount, slash, span = text.partition("/")
    match = _SPAN.fullmatch(span)
    if not slash or not match or not match[2]:
        raise ValueError("must be a rate such as `50/s`, `3000/min`, `500/5min`")
    seconds = _number(0.001, 1e6)(match[1] or "1") * SECONDS[match[2]]
    return Rate(_number(1, 1e12)(amount), seconds)


def _between(text: str) -> Between:
    begin, dash, end = text.partition("-")
    if not dash:
        raise ValueError("must be an interval such as `60s-90s`, `60s-`")
    between = Between(_seconds(begin), _seconds(end) if end else math.inf)
    if between.end <= between.begin:
        raise ValueError("must end after it begins")
    return between


def _changes(text: str) -> tuple[Change, ...]:
    changes = []
    for part in text.split(","):
        at, colon, factor = part.partition(":")
        if not colon:
            raise ValueError("must be moments with factors such as `60s:0.5,120s:1`")
        changes.append(Change(_seconds(at), _number(1e-6, 1e6)(factor)))
    if any(a.at >= b.at for a, b in pairwise(changes)):
        raise ValueError("must be in the order of time")
    return tuple(changes)


def _tenant(text: str) -> tuple[float, Between]:
    share, at, during = text.partition("@")
    return _number(0, 0.95)(share), _between(during) if at else Between()


def _outages(text: str) -> tuple[Between, ...]:
    return tuple(_between(part) for part in text.split(","))


def _status(text: str) -> int:
    if not re.fullmatch(r"[45]\d\d", text, re.ASCII):
        raise ValueError("must be a status from 400 to 599")
    return int(text)


def _outage_status(text: str) -> int | None:
    return None if text == "reset" else _status(text)


def _rejects(text: str) -> bool:
    return _one_of(("count", "free"))(text) == "count"


def _one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError("must be one of " + ", ".join(words))
        return text

    return read


_READ: dict[str, tuple[str, Callable[[str], Any]]] = {
    "counts": ("counts", _one_of(get_args(Kind))),
    "calls": ("calls", _rate),
    "tokens": ("tokens", _rate),
    "slots": ("slots", _whole),
    "permits": ("permits", _whole),
    "workers": ("workers", _whole),
    "rejects": ("rejects_count", _rejects),
    "change": ("changes", _changes),
    "tenant": ("tenant", _tenant),
    "cold": ("cold_seconds", _seconds),
    "outage": ("outages", _outages),
    "outage_status": ("outage_status", _outage_status),
    "refuse": ("refuse_status", _status),
    "headers": ("headers", _one_of(get_args(Style))),
    "reset": ("reset", _one_of(get_args(Reset))),
    "retry": ("retry", _one_of(get_args(Retry))),
    "reported": ("reported", _number(1, 1e15)),
    "latency": ("latency_seconds", _seconds),
    "sigma": ("sigma", _number(0, 5)),
}
_NAMES = {field: name for name, (field, _) in _READ.items()}
