"""Answers of another server under the same name: compared before they are used, or reported.

An output holds answers of one model under each key prefix. Kept answers and endpoints whose origins
are not known to serve one model are brought together here, each pair once: where vectors can be
compared, a few texts with kept vectors are sent to the endpoint first; elsewhere an event names
both servers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import anyio
from anyio.to_thread import run_sync
from msgspec.structs import replace

from pipeline import events
from pipeline.cache.lookup import CachedOutcome
from pipeline.cache.origins import KnownOrigins, known_origins, origin_of
from pipeline.cache.store import AnswerCache
from pipeline.dispatch.check import Check
from pipeline.records import Answer, Endpoint, Request, Route, Split

KnownAnswers = Sequence[tuple[Request, Answer]]
Compare = Callable[[int, Check], Awaitable[None]]
"""Sends the texts of a check to the endpoint at this position; returns once none differs."""


class KeptAnswer(NamedTuple):
    """A kept answer, and the endpoint for which it serves."""

    request: Request
    position: int
    answer: Answer


class Comparison(NamedTuple):
    """How answers are compared: with at most `max_texts` texts, at least one.

    `check` makes the check of an endpoint, from known answers and the name of their server.
    """

    max_texts: int
    check: Callable[[Endpoint, KnownAnswers, str], Check]


class Origins:
    """Whose answers this run uses. Only the loop thread calls it.

    Invariant: all origins that a run used under one prefix serve one model, as far as that can be
    compared.
    """

    def __init__(
        self,
        cache: AnswerCache,
        endpoints: Sequence[Endpoint],
        emit: events.Emit,
        compare: Compare,
        comparison: Comparison | None,
    ) -> None:
        self._endpoints, self._emit = endpoints, emit
        self._compare, self._comparison = compare, comparison
        self._lock = anyio.Lock()
        self._origins = [origin_of(endpoint) for endpoint in endpoints]
        self._numbers = [origin.number if origin else 0 for origin in self._origins]
        known = known_origins(cache, endpoints)
        by_known = {id(each): _Used(each) for each in known}
        self._used = [by_known[id(each)] for each in known]
        """By position; endpoints with one prefix share it."""
        self._accepted: list[set[int]] = [set() for _ in endpoints]
        """By position: the origins whose answers serve for the endpoint at once."""
        self._ready: set[int] = set()
        """Endpoints whose origin is named in the cache."""
        self.shared: list[events.AnswersShared] = []
        """What could not be compared, as it was reported."""

    @property
    def has_others(self) -> bool:
        """True if answers are kept that would have to be compared before this run may use them."""
        return any(
            used.known.has_others(number)
            for used, number in zip(self._used, self._numbers, strict=True)
        )

    def is_foreign(self, position: int, answer: Answer) -> bool:
        """True if the answer is of an origin not known to serve the model of this endpoint."""
        return not self._is_own(position, answer.origin)

    def marked(self, position: int, outcome: Answer | Split) -> Answer | Split:
        """The outcome with the number of the endpoint that gave it."""
        if number := self._numbers[position]:
            return replace(outcome, origin=number) if isinstance(outcome, Answer) else outcome
        return outcome

    async def use_cached(
        self, requests: Sequence[Request], stored: Mapping[bytes, CachedOutcome]
    ) -> None:
        """The same as `use` for outcomes of the cache, by `dedup_key`."""
        has_others = len(self._endpoints) > 1
        kept: list[KeptAnswer] = []
        for request in requests:
            if (hit := stored.get(request.dedup_key)) is None:
                continue
            outcome, _, position = hit
            if isinstance(outcome, Answer) and (
                has_others or outcome.origin not in self._accepted[position]
            ):
                kept.append(KeptAnswer(request, position, outcome))
        if kept:
            await self.use(kept)

    async def use(self, kept: Sequence[KeptAnswer]) -> None:
        """Return once these kept answers may be used. Raises: TextmillError if they may not."""
        others: dict[tuple[int, int], list[KeptAnswer]] = {}
        for each in kept:
            if not self._accepts(each.position, each.answer.origin):
                others.setdefault((each.position, each.answer.origin), []).append(each)
        for (position, number), group in others.items():
            await self._join(position, number, [(each.request, each.answer) for each in group])
        self._remember(kept)

    async def answered(self, position: int, answers: KnownAnswers) -> None:
        """Return once these new answers of the endpoint may be kept. Raises: as `use`."""
        used, origin, own = self._used[position], self._origins[position], self._numbers[position]
        if not self._accepts(position, own):
            await self._join(position, own, [])
        if origin is not None and position not in self._ready:
            await run_sync(used.known.record, origin)
            self._ready.add(position)
        self._remember(KeptAnswer(request, position, answer) for request, answer in answers)

    def _accepts(self, position: int, number: int) -> bool:
        """True if answers of this origin serve for the endpoint without a comparison; they and the
        endpoint are then part of what the run uses."""
        if number in self._accepted[position]:
            return True
        used, own = self._used[position], self._numbers[position]
        if not all(self._is_own(position, each) for each in (number, *used.numbers)):
            return False
        used.numbers |= {number, own}
        self._accepted[position] |= used.numbers
        return True

    def _remember(self, kept: Iterable[KeptAnswer]) -> None:
        """Keep a few answers: another endpoint of this run may have to be compared with them."""
        max_texts = self._comparison.max_texts if self._comparison else 0
        if len(self._endpoints) > 1 and max_texts:
            for request, position, answer in kept:
                answers = self._used[position].answers.setdefault(request.route, [])
                if len(answers) < max_texts:
                    answers.append((request, answer))

    async def _join(self, position: int, number: int, known: KnownAnswers) -> None:
        """Bring an origin, and that of the endpoint that it serves for, into what the run uses."""
        used = self._used[position]
        async with self._lock:
            await self._match(position, number, known)
            while not self._accepts(position, number):
                other = next(each for each in used.numbers if not self._is_own(position, each))
                await self._match(position, other, used.known_to(position))

    def _is_own(self, position: int, number: int) -> bool:
        return self._used[position].known.are_same(number, self._numbers[position])

    async def _match(self, position: int, number: int, known: KnownAnswers) -> None:
        """Return once the endpoint is known to serve the model of this origin, or it was reported
        that its answers are used without."""
        used, own = self._used[position], self._numbers[position]
        if used.known.are_same(number, own):
            return
        await run_sync(used.known.read)  # another run may have compared them meanwhile
        if used.known.are_same(number, own):
            return
        endpoint, origin, name = self._endpoints[position], self._origins[position], used.known.name
        if self._comparison is not None and known and origin:
            texts = known[: self._comparison.max_texts]
            await self._compare(position, self._comparison.check(endpoint, texts, name(number)))
            await run_sync(used.known.record, origin)
            await run_sync(used.known.confirm, number, own)
            return
        used.known.join(number, own)
        event = events.AnswersShared(endpoint.name, str(origin), name(number))
        self.shared.append(event)
        self._emit(event)


class _Used:
    """The origins whose answers the run uses under one prefix, with a few of these answers."""

    def __init__(self, known: KnownOrigins) -> None:
        self.known = known
        self.numbers: set[int] = set()
        self.answers: dict[Route, list[tuple[Request, Answer]]] = {}

    def known_to(self, position: int) -> KnownAnswers:
        """Answers to requests that the endpoint at this position may get."""
        return [
            answer
            for route, answers in self.answers.items()
            if position in route.positions
            for answer in answers
        ]
