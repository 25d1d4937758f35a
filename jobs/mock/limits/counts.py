"""The usage of one rate, in the three ways in which services count.

All three reduce to one number, the used amount: for a bucket it drains steadily, for a window it
drops to 0 at the end of the window, for a sliding window it drops call by call. The remainder is
the limit minus that, so that a changing limit needs no bookkeeping.
"""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

Kind = Literal["bucket", "window", "sliding"]

# Of an amount, and in seconds: a client that waits exactly the reported time must not be rejected
# for a rounding error. The amount admitted because of it is owed, so that errors do not add up.
CLOSE = 1e-6
INSTANT = 1e-9


class Rate(Struct, frozen=True):
    """An amount per number of seconds; a bucket holds the whole amount."""

    amount: float
    seconds: float


class Between(Struct, frozen=True):
    """A half-open interval of time."""

    begin: float = 0.0
    end: float = math.inf

    def holds(self, at: float) -> bool:
        """True if the interval contains the moment."""
        return self.begin <= at + INSTANT < self.end


class Count(Struct, frozen=True):
    """The used amount of one rate. Units: times in seconds since the server's first call.

    Invariant: with `sliding`, `used` is the sum of `log`, which holds (time, amount), oldest first.
    """

    used: float = 0.0
    window: int = 0
    log: tuple[tuple[float, float], ...] = ()


def left(rate: Rate, count: Count, factor: float) -> float:
    """The remaining amount; negative after a limit became smaller."""
    return rate.amount * factor - count.used


def fits(rate: Rate, want: float, room: float) -> bool:
    """True if `want` fits into `room`, apart from rounding."""
    return want <= room + CLOSE * max(1.0, rate.amount)


def spent(kind: Kind, count: Count, now: float, amount: float) -> Count:
    """The count after this amount was used now."""
    if amount <= 0:
        return count
    log = (*count.log, (now, amount)) if kind == "sliding" else ()
    return replace(count, used=count.used + amount, log=log)


def later(kind: Kind, rate: Rate, count: Count, factor: float, before: float, now: float) -> Count:
    """The count after an interval without calls."""
    if kind == "bucket":
        refill = (now - before) * rate.amount * factor / rate.seconds
        return replace(count, used=max(0.0, count.used - refill))
    if kind == "window":
        window = _window(rate, now)
        return count if window == count.window else Count(window=window)
    past, gone = 0, 0.0
    while past < len(count.log) and count.log[past][0] <= now - rate.seconds + INSTANT:
        gone += count.log[past][1]
        past += 1
    if not past:
        return count
    log = count.log[past:]
    return Count(count.used - gone if log else 0.0, log=log)


def capped(kind: Kind, rate: Rate, count: Count, factor: float) -> Count:
    """The count after a change of the limit: a smaller bucket is empty at worst, not in debt."""
    if kind != "bucket":
        return count
    return replace(count, used=min(count.used, rate.amount * factor))


def wait(kind: Kind, rate: Rate, count: Count, factor: float, now: float, short: float) -> float:
    """Seconds until `short` more is available, without other calls; always more than 0."""
    if kind == "bucket":
        speed = rate.amount * factor / rate.seconds
        seconds = short / speed if speed > 0 else math.inf
    elif kind == "window":
        seconds = (_window(rate, now) + 1) * rate.seconds - now
    else:
        seconds = rate.seconds
        for at, amount in count.log:
            short -= amount
            if short <= CLOSE * max(1.0, rate.amount):
                seconds = at + rate.seconds - now
                break
    return max(seconds, CLOSE)


def whole(kind: Kind, rate: Rate, count: Count, factor: float, now: float) -> float:
    """Seconds until the full limit is available, without other calls."""
    if kind == "sliding":
        return count.log[-1][0] + rate.seconds - now if count.log else 0.0
    if kind == "window" or count.used > 0:
        return wait(kind, rate, count, factor, now, count.used)
    return 0.0


def _window(rate: Rate, now: float) -> int:
    """The number of the window; a client that waited for its beginning is in it despite
    rounding."""
    return math.floor((now + INSTANT) / rate.seconds)
