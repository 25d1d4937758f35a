"""What is settled already: the one place that walks the keys of requests through the cache.

A request may have been answered by any model that its route allows. Its keys are looked up in
job-file order, and the first outcome counts, so that every run sees the same one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.cache.keys import Keys
from pipeline.cache.store import AnswerCache
from pipeline.errors import StateError
from pipeline.records import Answer, Failure, Outcome, Request, Split


class CachedOutcome(NamedTuple):
    """An outcome that stands in the cache."""

    settled: Answer | Split
    is_first: bool
    """It stands under the first model that may answer the request."""


def look_up(
    cache: AnswerCache, keys: Keys, requests: Sequence[Request]
) -> dict[bytes, CachedOutcome]:
    """The outcomes there are, by flight. Blocks on the cache."""
    stored = cache.get_many([each.key for each in requests])
    found = {e.dedup_key: CachedOutcome(stored[e.key], True) for e in requests if e.key in stored}
    if keys.is_one:
        return found
    others = {each.dedup_key: keys.others(each) for each in requests if each.dedup_key not in found}
    stored = cache.get_many([key for some in others.values() for key in some])
    for flight, some in others.items():
        settled = next((stored[key] for key in some if key in stored), None)
        if settled is not None:
            found[flight] = CachedOutcome(settled, False)
    return found


AT_ONCE = 1_024
"""Answers read back at once: those of a document of a million chunks are never all in memory."""


class Outcomes:
    """A document's outcomes in span order, read back from the cache; can be iterated again."""

    def __init__(
        self,
        requests: Sequence[Request],
        cache: AnswerCache,
        failures: dict[bytes, Failure],
        keys: Keys,
    ) -> None:
        self.is_first = True
        """Every answer that was read stands under the first model that could give it."""
        self._requests = requests
        self._cache = cache
        self._failures = failures
        self._keys = keys
        self._small: list[Outcome] | None = None

    def __iter__(self) -> Iterator[Outcome]:
        if len(self._requests) > AT_ONCE:
            return self._read()
        if self._small is None:
            self._small = list(self._read())
        return iter(self._small)

    def failed(self) -> Iterator[tuple[int, Outcome]]:
        """The outcomes that are failures, with their positions."""
        if not self._failures:
            return
        for position, request in enumerate(self._requests):
            failure = self._failures.get(request.dedup_key)
            if failure is not None:
                yield position, Outcome(request, failure)

    def _read(self) -> Iterator[Outcome]:
        for start in range(0, len(self._requests), AT_ONCE):
            some = self._requests[start : start + AT_ONCE]
            asked = [request for request in some if request.dedup_key not in self._failures]
            found = look_up(self._cache, self._keys, asked)
            self.is_first = self.is_first and all(each.is_first for each in found.values())
            for request in some:
                settled: Answer | Split | Failure | None = self._failures.get(request.dedup_key)
                if settled is None and request.dedup_key in found:
                    settled = found[request.dedup_key].settled
                if settled is None or isinstance(settled, Split):
                    raise StateError(
                        f"{self._cache.folder}: a settled answer cannot be read back "
                        f"(key {request.key.hex()[:12]})",
                        hint="run again: it is the only one that will be asked for again",
                    )
                yield Outcome(request, settled)
