"""Who may answer a row, and who is to take the next call: pure functions over declared facts.

What may answer a row follows from the job and the row alone, so that no outage and no price can
send a private row where it must not go. Who of these takes a call follows from how they are now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.records import Endpoint, Route, Rule


class View(NamedTuple):
    """An endpoint as it is now, seen by who is to choose.

    Units: `cost` in USD for the call that is to go; `seconds` until it is answered, 0 while nobody
    knows; `share` requests sent so far, by weight; `held_seconds` until its limits let the call go.
    """

    position: int
    has_room: bool
    cost: float
    seconds: float
    share: float
    step: float
    """What this call would add to its share."""
    held_seconds: float = 0.0


class Router:
    """The routes of a job: by its endpoints, their order in the file, and its rules."""

    def __init__(self, endpoints: Sequence[Endpoint], rules: Sequence[Rule] = ()) -> None:
        self._is_fallback = [endpoint.is_fallback for endpoint in endpoints]
        self._all = frozenset(range(len(endpoints)))
        self._routes: dict[frozenset[int], Route | None] = {}
        self._masks: dict[Route, bytes] = {}
        positions = {endpoint.name: at for at, endpoint in enumerate(endpoints)}
        self._rules: dict[str, list[tuple[bool | int | str, frozenset[int]]]] = {}
        for rule in rules:
            named = frozenset(positions[name] for name in rule.endpoints)
            self._rules.setdefault(rule.column, []).append((rule.value, named))

    def route(self, fields: Mapping[str, Any]) -> Route | None:
        """The route of a row with these columns; None where its rules leave nobody to ask.

        A rule holds for the rows with its value. A column that is missing, null or of another type
        than its rules name counts as the strictest: all rules on it hold.
        """
        allowed = self._all
        for column, rules in self._rules.items():
            value = fields.get(column)
            known = any(type(value) is type(named) for named, _ in rules)
            for named, endpoints in rules:
                if not known or (type(value) is type(named) and value == named):
                    allowed &= endpoints
        if allowed not in self._routes:
            self._routes[allowed] = self._route(allowed)
        return self._routes[allowed]

    def name(self, route: Route, key: bytes) -> bytes:
        """What names key and route together, the same in every run of the job."""
        if (mask := self._masks.get(route)) is None:
            bits = sum(1 << position for position in route.positions)
            whole = bits == (1 << len(self._all)) - 1
            mask = b"" if whole else bits.to_bytes((len(self._all) + 7) // 8, "big")
            self._masks[route] = mask
        return key + mask if mask else key

    def _route(self, allowed: frozenset[int]) -> Route | None:
        first = tuple(at for at in sorted(allowed) if not self._is_fallback[at])
        fallbacks = tuple((at,) for at in sorted(allowed) if self._is_fallback[at])
        tiers = ((first,) if first else ()) + fallbacks
        return Route(tiers) if tiers else None


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
    return me.held_seconds > 0 or min((v for v in rivals if not v.held_seconds), key=rank) is me


def _in_order(view: View) -> tuple[float, int]:
    return 0.0, view.position


def _by_cost(view: View) -> tuple[float, int]:
    return view.cost, view.position


def _by_seconds(view: View) -> tuple[float, int]:
    return view.seconds, view.position
