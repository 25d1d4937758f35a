"""Which of the endpoints that may answer a call takes it, by the route of the job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class View(NamedTuple):
    """An endpoint as it is now, seen by who is to choose.

    Units: `cost` in USD for the call that is to go; `seconds` until it is answered, 0 while nobody
    knows; `share` requests sent so far, by weight; `limit_seconds` until its limits let the call
    go.
    """

    position: int
    has_room: bool
    cost: float
    seconds: float
    share: float
    step: float
    """What this call would add to its share."""
    limit_seconds: float = 0.0


def takes(policy: str, views: Sequence[View], position: int) -> bool:
    """Whether the endpoint at this position is to take the call, among those that do not rest.

    ordered, cheapest, fastest: the first, cheapest, fastest one that has room; file order decides
    among equals. Whom its limits hold back has no room for ordered and cheapest, is as much slower
    for fastest, and asks its limits, that it knows when to ask again. weighted: shares are kept to
    within one call, whoever has room.
    """
    (me,) = (view for view in views if view.position == position)
    if not me.has_room:
        return False
    if policy == "weighted":
        return me.share <= min(view.share + view.step for view in views)
    rivals = [view for view in views if view.has_room]
    if policy == "fastest":
        return min(rivals, key=_by_seconds) is me
    rank = {"ordered": _in_order, "cheapest": _by_cost}[policy]
    return me.limit_seconds > 0 or min((v for v in rivals if not v.limit_seconds), key=rank) is me


def _in_order(view: View) -> tuple[float, int]:
    return 0.0, view.position


def _by_cost(view: View) -> tuple[float, int]:
    return view.cost, view.position


def _by_seconds(view: View) -> tuple[float, int]:
    return view.seconds, view.position
