"""The traffic through a limit, counted by the server: the proof that a client respected it.

A client counts when it sends, the server when it admits; a service bills and bans by the latter.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from itertools import pairwise

from msgspec import Struct

from jobs.mock.limits.counts import INSTANT, Between
from jobs.mock.limits.limits import Limit, Verdict, factor

WINDOWS = (1.0, 60.0)


class Figures(Struct, frozen=True):
    """The traffic in figures. Units: tokens as estimated by the client."""

    seconds: float
    """From the first call to the last."""
    admitted: int
    admitted_tokens: float
    refused: dict[str, int]
    """By the word of the verdict: rate, slots, too_large, cold, outage."""
    rejects_share: float
    """Share of calls that a rate or the slots rejected; cold starts and outages do not count."""
    goodput: float | None
    """Admitted traffic as a share of the limit, without the tenant's part, cold start and outages;
    above 1 if a full bucket came on top. None: there is no limit."""
    peak_calls: dict[str, float]
    """By window in seconds: the most admitted calls in any interval of that length."""
    peak_tokens: dict[str, float]


class Traffic:
    """Counts calls while a server runs. Units: times in seconds since the first call.

    Cost: O(1) a call; memory for the calls of the longest window, and a number a second.
    """

    def __init__(self, limit: Limit, windows: Iterable[float] = WINDOWS) -> None:
        rates = [rate.seconds for rate in (limit.calls, limit.tokens) if rate is not None]
        self.limit = limit
        self.admitted = 0
        self.admitted_tokens = 0.0
        self.refused: Counter[str] = Counter()
        self.last = 0.0
        self.by_second: Counter[int] = Counter()
        """Calls admitted in each second since the first call."""
        self.refused_by_second: Counter[int] = Counter()
        """Calls that a rate or the slots rejected."""
        self.busy_seconds = 0.0
        """Sum of the durations of ended calls."""
        self._windows = {seconds: _Window(seconds) for seconds in {*windows, *rates}}

    def count(self, now: float, tokens: float, verdict: Verdict) -> None:
        """Count a call with its verdict."""
        self.last = max(self.last, now)
        if verdict.word != "admitted":
            self.refused[verdict.word] += 1
            self.refused_by_second[int(now)] += verdict.word in ("rate", "slots", "too_large")
            return
        self.admitted += 1
        self.admitted_tokens += tokens
        self.by_second[int(now)] += 1
        for window in self._windows.values():
            window.add(now, tokens)

    def peak(self, seconds: float) -> tuple[int, float]:
        """The most calls and the most tokens that were admitted in any interval of this length."""
        window = self._windows[seconds]
        return window.max_calls, window.max_tokens

    def goodput(self, begin: float = 0.0, end: float | None = None) -> float | None:
        """Calls admitted between two whole seconds, as a share of the limit.

        None: calls are not limited, or no time has passed.
        """
        end = self.last if end is None else end
        if self.limit.calls is None:
            return None
        whole = _open_seconds(self.limit, begin, end)
        allowed = self.limit.calls.amount / self.limit.calls.seconds * whole
        calls = sum(n for at, n in self.by_second.items() if begin <= at < end)
        return calls / allowed if allowed > 0 else None

    def figures(self) -> Figures:
        """The current figures."""
        refused = dict(self.refused.copy())
        breaches = sum(refused.get(word, 0) for word in ("rate", "slots", "too_large"))
        windows = list(self._windows.items())
        return Figures(
            seconds=self.last,
            admitted=self.admitted,
            admitted_tokens=self.admitted_tokens,
            refused=refused,
            rejects_share=breaches / max(1, self.admitted + sum(refused.values())),
            goodput=self._goodput(),
            peak_calls={f"{seconds:g}": one.max_calls for seconds, one in windows},
            peak_tokens={f"{seconds:g}": one.max_tokens for seconds, one in windows},
        )

    def _goodput(self) -> float | None:
        """The share of the limit with the highest usage: it is the binding one."""
        shares = []
        whole = _open_seconds(self.limit, 0.0, self.last)
        if whole > 0:
            for rate, used in (
                (self.limit.calls, float(self.admitted)),
                (self.limit.tokens, self.admitted_tokens),
            ):
                if rate is not None:
                    shares.append(used * rate.seconds / (rate.amount * whole))
            if self.limit.slots is not None:
                plain = Limit(cold_seconds=self.limit.cold_seconds, outages=self.limit.outages)
                slots = self.limit.slots * _open_seconds(plain, 0.0, self.last)
                shares.append(self.busy_seconds / slots)
        return max(shares, default=None)


class _Window:
    """The sum over the last `seconds`, and its maximum."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.calls: deque[tuple[float, float]] = deque()
        self.tokens = 0.0
        self.max_calls = 0
        self.max_tokens = 0.0

    def add(self, now: float, tokens: float) -> None:
        while self.calls and self.calls[0][0] <= now - self.seconds + INSTANT:
            self.tokens -= self.calls.popleft()[1]
        self.calls.append((now, tokens))
        self.tokens += tokens
        self.max_calls = max(self.max_calls, len(self.calls))
        self.max_tokens = max(self.max_tokens, self.tokens)


def _open_seconds(limit: Limit, begin: float, end: float) -> float:
    """Seconds in which the server admitted calls, each weighted by the limit at that moment."""
    cold = Between(0.0, limit.cold_seconds)
    marks = {begin, end, limit.cold_seconds, limit.tenant_during.begin, limit.tenant_during.end}
    marks.update(change.at for change in limit.changes)
    marks.update(at for one in limit.outages for at in (one.begin, one.end))
    marked = sorted(mark for mark in marks if begin <= mark <= end)
    whole = 0.0
    for a, b in pairwise(marked):
        middle = (a + b) / 2
        if cold.holds(middle) or any(one.holds(middle) for one in limit.outages):
            continue
        others = limit.tenant if limit.tenant_during.holds(middle) else 0.0
        whole += (b - a) * factor(limit, middle) * (1 - others)
    return whole
