"""What a run has to compare before it uses kept answers of another server, found offline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct

from pipeline.cache.lookup import CachedOutcome
from pipeline.cache.origins import known_origins, origin_number
from pipeline.cache.store import AnswerCache
from pipeline.prepare.factory import RequestFactory
from pipeline.records import Answer
from pipeline.runs.drift import comparison
from pipeline.text import canonical_url


class PlannedComparison(Struct, frozen=True):
    """Kept answers of another server under the same name. Before they serve for the endpoint, this
    number of texts is sent to it and compared; 0: they serve without."""

    endpoint: str
    url: str
    answered_by: str
    texts: int


class ForeignAnswers:
    """The kept answers of servers that are not known to serve the model of an endpoint."""

    def __init__(self, factory: RequestFactory, cache: AnswerCache | None) -> None:
        self._factory = factory
        self._known = known_origins(cache, factory.endpoints)
        self._numbers = [origin_number(endpoint.origin) for endpoint in factory.endpoints]
        self._counts: Counter[tuple[int, int]] = Counter()

    def server(self, outcome: CachedOutcome) -> tuple[str, bool]:
        """The server that gave a kept answer, empty if the key says it all; and whether it is not
        known to serve the model of the endpoint."""
        settled, _, position = outcome
        if not isinstance(settled, Answer) or not settled.origin:
            return "", False
        known, number = self._known[position], self._numbers[position]
        return known.name(settled.origin), not known.are_same(settled.origin, number)

    def add(self, outcomes: Iterable[CachedOutcome]) -> None:
        """Count those among these outcomes."""
        for outcome in outcomes:
            if isinstance(outcome.settled, Answer) and self.server(outcome)[1]:
                self._counts[outcome.position, outcome.settled.origin] += 1

    @property
    def comparisons(self) -> tuple[PlannedComparison, ...]:
        """What a run compares before it uses them."""
        guard, endpoints = self._factory.guard, self._factory.endpoints
        how = comparison(guard.drift_texts, endpoints[0].task)
        return tuple(
            PlannedComparison(
                endpoints[position].name,
                canonical_url(endpoints[position].url),
                self._known[position].name(number),
                min(count, how.max_texts) if how else 0,
            )
            for (position, number), count in self._counts.items()
        )
