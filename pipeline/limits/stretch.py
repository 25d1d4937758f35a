"""A stretch of answers at one size of the window, and what two of them show.

Throughput is not counted by the clock: it is the number of calls in flight divided by their mean
latency (Little's law), so that a stretch may begin and end at any call.
"""

from __future__ import annotations

from typing import NamedTuple

_SURE = 9.0
"""Squared standard errors. At 4, chance ended one rise in ten, at an eighth of the right size."""


class Stretch(NamedTuple):
    """The answers of some time: their number, and sums over them."""

    answers: int = 0
    load: float = 0.0
    """Calls in flight when each of them was sent."""
    seconds: float = 0.0
    squares: float = 0.0
    """Latencies, and their squares."""

    def plus(self, load: int, seconds: float) -> Stretch:
        """With one answer more."""
        return Stretch(
            self.answers + 1,
            self.load + load,
            self.seconds + seconds,
            self.squares + seconds * seconds,
        )

    @property
    def mean_load(self) -> float:
        return self.load / self.answers if self.answers else 0.0

    @property
    def latency(self) -> float:
        """Seconds per answer; 0 without one."""
        return self.seconds / self.answers if self.answers else 0.0

    @property
    def error(self) -> float:
        """Variance of the mean latency, relative to its square."""
        if self.answers < 2 or not self.seconds:
            return 0.0
        spread = self.squares / self.seconds * (self.answers / self.seconds) - 1
        return max(0.0, spread) / (self.answers - 1)

    @property
    def throughput(self) -> float:
        """Answers per second."""
        return self.mean_load / self.latency if self.seconds else 0.0


def is_useless(before: Stretch, now: Stretch) -> bool:
    """True if half of the growth between these was of no use, and chance does not explain it."""
    if not before.seconds:
        return False
    growth, longer = now.mean_load / before.mean_load, now.latency / before.latency
    return longer**2 > growth and (longer - 1) ** 2 > _SURE * (now.error + before.error)
