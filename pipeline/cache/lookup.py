"""Looks requests up in the cache, under every model that may answer them.

Any model that a request's route allows may have answered it. Its keys are looked up in job-file
order and the first outcome counts, so that every run uses the same one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pipeline.cache.keys import Keys
from pipeline.cache.store import AnswerCache
from pipeline.errors import StateError
from pipeline.records import Answer, Failure, Outcome, Request, Split


class CachedOutcome(NamedTuple):
    """A settled outcome from the cache."""

    settled: Answer | Split
    is_first: bool
    """Whether it is an answer of the first model that may answer the request."""
    position: int
    """The first endpoint, in job-file order, whose key it has."""


def look_up(
    cache: AnswerCache, keys: Keys, requests: Sequence[Request]
) -> dict[bytes, CachedOutcome]:
    """The cached outcomes, by `dedup_key`. Blocks on the cache."""
    stored = cache.get_many([request.key for request in requests])
    outcomes = {
        e.dedup_key: CachedOutcome(stored[e.key], True, e.route.positions[0])
        for e in requests
        if e.key in stored
    }
    if keys.is_one:
        return outcomes
    missing = {r.dedup_key: r for r in requests if r.dedup_key not in outcomes}
    other_keys = {dedup_key: keys.others(request) for dedup_key, request in missing.items()}
    stored = cache.get_many([key for candidates in other_keys.values() for key in candidates])
    for dedup_key, candidates in other_keys.items():
        at = next((at for at, key in enumerate(candidates) if key in stored), None)
        if at is not None:
            position = keys.other_positions(missing[dedup_key].route)[at]
            outcomes[dedup_key] = CachedOutcome(stored[candidates[at]], False, position)
    return outcomes


BATCH_REQUESTS = 1_024
"""Answers read at a time; those of a document of a million chunks are never all in memory."""


class Outcomes:
    """A document's outcomes in span order, read from the cache; can be iterated repeatedly."""

    def __init__(
        self,
        requests: Sequence[Request],
        cache: AnswerCache,
        failures: Mapping[bytes, Failure],
        keys: Keys,
    ) -> None:
        self.is_first = True
        """Whether every answer read so far is from the first model that may answer its request."""
        self._requests = requests
        self._cache = cache
        self._failures = failures
        self._keys = keys
        self._small: list[Outcome] | None = None

    def __iter__(self) -> Iterator[Outcome]:
        if len(self._requests) > BATCH_REQUESTS:
            return self._read()
        if self._small is None:
            self._small = list(self._read())
        return iter(self._small)

    def failed(self) -> Iterator[tuple[int, Outcome]]:
        """The failed outcomes, with their positions."""
        if not self._failures:
            return
        for position, request in enumerate(self._requests):
            failure = self._failures.get(request.dedup_key)
            if failure is not None:
                yield position, Outcome(request, failure)

    def _read(self) -> Iterator[Outcome]:
        for start in range(0, len(self._requests), BATCH_REQUESTS):
            batch = self._requests[start : start + BATCH_REQUESTS]
            pending = [request for request in batch if request.dedup_key not in self._failures]
            cached = look_up(self._cache, self._keys, pending)
            self.is_first = self.is_first and all(c.is_first for c in cached.values())
            for request in batch:
                settled: Answer | Split | Failure | None = self._failures.get(request.dedup_key)
                if settled is None and request.dedup_key in cached:
                    settled = cached[request.dedup_key].settled
                if settled is None or isinstance(settled, Split):
                    raise StateError(
                        f"{self._cache.folder}: a settled answer cannot be read back "
                        f"(key {request.key.hex()[:12]})",
                        hint="run again: only this request is sent again",
                    )
                yield Outcome(request, settled)
