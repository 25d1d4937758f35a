"""Chooses the endpoint that takes a call, by the routing policy of the job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


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


def takes(policy: str, views: Sequence[View], position: int) -> bool:
    """True if the endpoint at this position takes the call, among those that are not paused.

    `ordered`, `cheapest` and `fastest` choose the first, cheapest or fastest endpoint with room;
    file order decides among equals. Under `ordered` and `cheapest` a rate-limited endpoint is
    skipped; under `fastest` its wait is added to its latency. It still asks its limiter, to learn
    when to retry. `weighted` keeps the shares equal to within one call, whichever has room.
    """
    (candidate,) = (view for view in views if view.position == position)
    if not candidate.has_room:
        return False
    if policy == "weighted":
        return candidate.share <= min(view.share + view.step for view in views)
    rivals = [view for view in views if view.has_room]
    if policy == "fastest":
        return min(rivals, key=_seconds_rank) is candidate
    rank = {"ordered": _position_rank, "cheapest": _cost_rank}[policy]
    if candidate.limit_seconds > 0:
        return True
    return min((view for view in rivals if not view.limit_seconds), key=rank) is candidate


def _position_rank(view: View) -> tuple[float, int]:
    return 0.0, view.position


def _cost_rank(view: View) -> tuple[float, int]:
    return view.cost, view.position


def _seconds_rank(view: View) -> tuple[float, int]:
    return view.seconds, view.position
