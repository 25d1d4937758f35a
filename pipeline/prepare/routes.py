"""Who may answer a row, and who is to take the next call: pure functions over declared facts.

What may answer a row follows from the job and the row alone, so that no outage and no price can
send a private row where it must not go. Who of these takes a call follows from how they are now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.records import Endpoint, Route, Rule


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
