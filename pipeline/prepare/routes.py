"""Which endpoints may answer a row: a pure function of the job and the row.

No outage and no price can send a private row where it must not go. Which of the allowed endpoints
takes a call is decided in `pipeline.dispatch.policy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.records import Endpoint, Route, Rule


class Router:
    """The routes of a job, from its endpoints, their order in the file, and its rules."""

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
        """The route of a row with these columns; None if its rules allow no endpoint.

        A rule applies to the rows with its value. If its column is missing, null or of a type that
        no rule on it has, all rules on that column apply.
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
        """A name for key and route together, the same in every run of the job."""
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
