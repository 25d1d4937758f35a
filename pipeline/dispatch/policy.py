"""Chooses the endpoint that takes a call, by the routing policy of the job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

LEND_AFTER_SECONDS = 1.0


class View(NamedTuple):
    """An endpoint as routing compares it now.

    Units: `cost` in USD of the next call; `seconds` until its answer, 0 while unknown; `share` in
    requests sent so far, divided by weight; `limit_seconds` until the rate limits admit the call.
    """

    position: int
    has_room: bool
    cost: float
    seconds: float
    share: float
    step: float
    """The increase of `share` through this call."""
    limit_seconds: float = 0.0

    @property
    def is_able(self) -> bool:
        """True if a call could go at once."""
        return self.has_room and not self.limit_seconds


def takes(policy: str, views: Sequence[View], position: int) -> bool:
    """True if the endpoint at this position takes the call, among those that are not paused.

    `ordered`, `cheapest` and `fastest` choose the first, cheapest or fastest endpoint with room;
    file order decides among equals. Under `ordered` and `cheapest` a rate-limited endpoint is
    skipped; under `fastest` its wait is added to its latency. It still asks its limiter, to learn
    when to retry.
    """
    candidate = _at(views, position)
    if not candidate.has_room:
        return False
    rivals = [view for view in views if view.has_room]
    if policy == "fastest":
        return min(rivals, key=_seconds_rank) is candidate
    rank = {"ordered": _position_rank, "cheapest": _cost_rank}[policy]
    if candidate.limit_seconds > 0:
        return True
    return min((view for view in rivals if not view.limit_seconds), key=rank) is candidate


Turn = Literal["takes", "waits", "held"]
"""held: only endpoints that cannot take a call now are further behind."""


def weighted_turn(views: Sequence[View], position: int) -> Turn:
    """Whether the endpoint at this position takes the call under `weighted`, which keeps the shares
    equal to within one call."""
    candidate = _at(views, position)
    if not candidate.has_room:
        return "waits"
    if candidate.limit_seconds > 0:
        return "takes"  # it asks its limiter, to learn when to retry
    behind = [view for view in views if view.share + view.step < candidate.share]
    if not behind:
        return "takes"
    return "waits" if any(view.is_able for view in behind) else "held"


class Lending(NamedTuple):
    """Whether the endpoints of a tier that cannot use their share of `weighted` lend it.

    Weights decide while all keep up. Endpoints that hold the others up for a second in total lend
    their share until they keep up again. Units: seconds on the caller's monotonic clock.
    """

    at: float = 0.0
    held_seconds: float = 0.0
    """How long others were held up; a second without is worth a tenth of one with."""
    is_held: bool = False
    lends: bool = False
    """True: an endpoint that is held up takes the call."""

    def observed(self, now: float, is_held: bool) -> Lending:
        """The state after an endpoint that could take a call found that it is held up, or not."""
        seconds = now - self.at
        held = self.held_seconds + (seconds if self.is_held else -seconds / 10)
        held = min(LEND_AFTER_SECONDS, max(0.0, held))
        lends = held >= LEND_AFTER_SECONDS * (0.5 if self.lends else 1.0)
        return Lending(now, held, is_held, lends)


def _at(views: Sequence[View], position: int) -> View:
    (candidate,) = (view for view in views if view.position == position)
    return candidate


def _position_rank(view: View) -> tuple[float, int]:
    return 0.0, view.position


def _cost_rank(view: View) -> tuple[float, int]:
    return view.cost, view.position


def _seconds_rank(view: View) -> tuple[float, int]:
    return view.seconds, view.position
