"""What came through a limit, counted by the server itself: the proof that a client kept to it.

A client's own count says when it sent, the server's when it let in; only the latter is what the
service bills and bans by.
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
    """Traffic in figures. Units: tokens as the client's requests have them."""

    seconds: float
    """From the first call to the last."""
    admitted: int
    admitted_tokens: float
    refused: dict[str, int]
    """By the word of the verdict: rate, slots, too_large, cold, outage."""
    rejects_share: float
    """Of all calls, those that a rate or the slots refused; cold starts and outages are no
    breach."""
    goodput: float | None
    """What was admitted as a share of what the limit let through, the tenant's part, cold start
    and outages taken off; above 1 where a full bucket was given on top. None: nothing limits."""
    peak_calls: dict[str, float]
    """By window in seconds: the most that was admitted in any stretch of that length."""
    peak_tokens: dict[str, float]


class Watch:
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
        """Calls that a rate or the slots refused."""
        self.busy_seconds = 0.0
        """The time of all slots together, of calls that have ended."""
        self._windows = {seconds: _Window(seconds) for seconds in {*windows, *rates}}

    def saw(self, now: float, tokens: float, verdict: Verdict) -> None:
        """A call, with what became of it."""
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
        """The most calls and the most tokens that were admitted in any stretch so long."""
        window = self._windows[seconds]
        return window.most_calls, window.most_tokens

    def goodput(self, begin: float = 0.0, end: float | None = None) -> float | None:
        """Calls admitted between two whole seconds, as a share of what the limit let through.

        None: calls are not limited, or no time has gone by.
        """
        end = self.last if end is None else end
        if self.limit.calls is None:
            return None
        whole = _open_seconds(self.limit, begin, end)
        allowed = self.limit.calls.amount / self.limit.calls.seconds * whole
        calls = sum(n for at, n in self.by_second.items() if begin <= at < end)
        return calls / allowed if allowed > 0 else None

    def figures(self) -> Figures:
        """The figures as they stand."""
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
            peak_calls={f"{seconds:g}": one.most_calls for seconds, one in windows},
            peak_tokens={f"{seconds:g}": one.most_tokens for seconds, one in windows},
        )

    def _goodput(self) -> float | None:
        """Of the limits that there are, the share of the one that was used best: it binds."""
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
    """The sum over the last so many seconds, and its largest value."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.calls: deque[tuple[float, float]] = deque()
        self.tokens = 0.0
        self.most_calls = 0
        self.most_tokens = 0.0

    def add(self, now: float, tokens: float) -> None:
        while self.calls and self.calls[0][0] <= now - self.seconds + INSTANT:
            self.tokens -= self.calls.popleft()[1]
        self.calls.append((now, tokens))
        self.tokens += tokens
        self.most_calls = max(self.most_calls, len(self.calls))
        self.most_tokens = max(self.most_tokens, self.tokens)


def _open_seconds(limit: Limit, begin: float, end: float) -> float:
    """The time in which the server took calls, each second weighted by the limit of that moment."""
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
