"""One rate and what was used of it, in the three ways in which services count.

All three come down to one number, what is used up: a bucket's drains steadily, a window's drops to
nothing at the window's end, a sliding one's drops call by call. What is left is the limit less
that, and a limit that changes needs no bookkeeping.
"""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

Kind = Literal["bucket", "window", "sliding"]

# Of an amount, and in seconds: who waits exactly as long as told must not be refused for a rounding
# error. What is let through because of it is owed, so that it does not add up.
CLOSE = 1e-6
INSTANT = 1e-9


class Rate(Struct, frozen=True):
    """So much per so many seconds; a bucket holds the whole of it."""

    amount: float
    seconds: float


class Between(Struct, frozen=True):
    """A stretch of time, half-open."""

    begin: float = 0.0
    end: float = math.inf

    def holds(self, at: float) -> bool:
        """Whether the moment lies in it."""
        return self.begin <= at + INSTANT < self.end


class Count(Struct, frozen=True):
    """What was used up of one rate. Units: times in seconds since the server's first call.

    Invariant: with `sliding`, `used` is the sum of `log`, which holds (time, amount), oldest first.
    """

    used: float = 0.0
    window: int = 0
    log: tuple[tuple[float, float], ...] = ()


def left(rate: Rate, count: Count, factor: float) -> float:
    """What may still be used; negative where more is owed, as after a limit became smaller."""
    return rate.amount * factor - count.used


def fits(rate: Rate, want: float, room: float) -> bool:
    """Whether so much fits into so much room, rounding apart."""
    return want <= room + CLOSE * max(1.0, rate.amount)


def spent(kind: Kind, count: Count, now: float, amount: float) -> Count:
    """With so much more used up now."""
    if amount <= 0:
        return count
    log = (*count.log, (now, amount)) if kind == "sliding" else ()
    return replace(count, used=count.used + amount, log=log)


def later(kind: Kind, rate: Rate, count: Count, factor: float, before: float, now: float) -> Count:
    """After a time in which nobody came."""
    if kind == "bucket":
        back = (now - before) * rate.amount * factor / rate.seconds
        return replace(count, used=max(0.0, count.used - back))
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
    """When the limit changes: a bucket that became smaller is empty at worst, not in debt."""
    if kind != "bucket":
        return count
    return replace(count, used=min(count.used, rate.amount * factor))


def wait(kind: Kind, rate: Rate, count: Count, factor: float, now: float, short: float) -> float:
    """Seconds until so much more is left, if nobody else comes; always more than 0."""
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
    """Seconds until nothing is used up, if nobody else comes."""
    if kind == "sliding":
        return count.log[-1][0] + rate.seconds - now if count.log else 0.0
    if kind == "window" or count.used > 0:
        return wait(kind, rate, count, factor, now, count.used)
    return 0.0


def _window(rate: Rate, now: float) -> int:
    """Which window this is; who waited for its beginning is in it, whatever the rounding."""
    return math.floor((now + INSTANT) / rate.seconds)
