"""What a run would do and cost, before it does: counted, not guessed, and without the network."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import compress

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from pipeline.cache.lookup import look_up
from pipeline.cache.store import AnswerCache
from pipeline.endpoints.kinds import KINDS
from pipeline.endpoints.server_info import identity_from_cache
from pipeline.limits.prices import cost, output_tokens_bound, rent
from pipeline.parts.reuse import Reuse
from pipeline.prepare.factory import RequestFactory
from pipeline.prepare.pipeline import Pipeline
from pipeline.prepare.requests import prepare, requests_of
from pipeline.records import Endpoint, Request
from pipeline.source.survey import Survey

ASSUMED_CALL_SECONDS = 0.5


class Plan(Struct, frozen=True):
    """What is left to do. `requests` counts all; `calls`, `tokens`, cost and time only new ones.

    Units: tokens of the chunker's tokenizer, input only; USD, with the output tokens' upper bound;
    seconds, from assumed speeds: a guess, all other figures are exact.
    """

    documents: int
    chunks: int
    requests: int
    cached: int
    calls: int
    tokens: int
    cost_usd: float
    seconds: float


def plan(pipeline: Pipeline, survey: Survey, cache: AnswerCache | None) -> Plan:
    """The plan of this job against the answers in this cache, under the models that its servers
    named when last asked. Blocks: run it in a thread."""
    factory = RequestFactory(pipeline, with_cached_identities(pipeline, cache))
    return plan_requests(factory, pipeline.routing.policy, survey, cache)


def plan_requests(
    factory: RequestFactory,
    policy: str,
    survey: Survey,
    cache: AnswerCache | None,
    reuse: Reuse | None = None,
) -> Plan:
    """The same for these requests, without the rows whose output stands where `reuse` is given."""
    keys, packed = factory.keys, [_Packed(endpoint) for endpoint in factory.endpoints]
    seen = RecentKeys()
    requests = cached = 0
    for group in prepare(factory, survey, reuse):
        asked = requests_of(group)
        requests += len(asked)
        are_new = seen.are_new([request.dedup_key for request in asked])
        unseen = list(compress(asked, are_new))
        found = look_up(cache, keys, unseen) if cache and unseen else {}
        cached += len(found)
        for request in unseen:
            if request.dedup_key not in found:
                _asked(policy, packed, request).add(request)
    return Plan(
        documents=survey.rows,
        chunks=requests,
        requests=requests,
        # An equal request in the same input is answered once: it costs as little as a cached one.
        cached=cached + requests - len(seen),
        calls=sum(each.calls for each in packed),
        tokens=sum(each.tokens for each in packed),
        cost_usd=sum(each.cost_usd for each in packed),
        seconds=round(max(each.seconds for each in packed), 1),
    )


def with_cached_identities(pipeline: Pipeline, cache: AnswerCache | None) -> tuple[Endpoint, ...]:
    """The endpoints of a job as their servers named themselves when last asked."""
    known = [
        identity_from_cache(each, cache, pipeline.chunking.max_tokens)
        for each in pipeline.endpoints
    ]
    named = {each.name: each for each in known}
    return tuple(
        replace(each, identity=named[each.replica_of].identity) if each.replica_of else each
        for each in known
    )


class _Packed:
    """What one endpoint would have to do."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.requests = self.calls = self.tokens = 0
        self._batched = self._batched_tokens = 0

    def add(self, request: Request) -> None:
        endpoint = self.endpoint
        over = self._batched_tokens + request.tokens > endpoint.batch_tokens
        if not self._batched or self._batched == endpoint.batch_size or over:
            self.calls += 1
            self._batched = self._batched_tokens = 0
        self._batched += 1
        self._batched_tokens += request.tokens
        self.requests += 1
        self.tokens += request.tokens

    @property
    def share(self) -> float:
        return self.requests / self.endpoint.weight

    def price(self, request: Request) -> float:
        """USD of this request, at its longest answer."""
        endpoint = self.endpoint
        bound = output_tokens_bound(endpoint.task, endpoint.parameters)
        return cost(endpoint.price, requests=1, input_tokens=request.tokens, output_tokens=bound)

    @property
    def seconds(self) -> float:
        if speed := KINDS[self.endpoint.kind].tokens_per_second:
            return self.tokens / speed
        parallel = max(1, min(self.endpoint.concurrency, self.calls))
        return self.calls * ASSUMED_CALL_SECONDS / parallel

    @property
    def cost_usd(self) -> float:
        endpoint = self.endpoint
        bound = output_tokens_bound(endpoint.task, endpoint.parameters)
        return cost(
            endpoint.price,
            requests=self.requests,
            input_tokens=self.tokens,
            output_tokens=self.requests * bound,
            seconds=self.calls * ASSUMED_CALL_SECONDS,
        ) + rent(endpoint.price, self.seconds)


def _asked(policy: str, packed: Sequence[_Packed], request: Request) -> _Packed:
    """Who would be asked first, if nobody is busy or away; of unknown speeds the dearest."""
    first = [packed[position] for position in request.route.tiers[0]]
    match policy:
        case "cheapest":
            return min(first, key=lambda each: each.price(request))
        case "fastest":
            return max(first, key=lambda each: each.price(request))
        case "weighted":
            return min(first, key=lambda each: each.share)
    return first[0]


RECENT = 50_000


class RecentKeys:
    """The names so far. Two of them may be taken for one: of a million once in 30 million plans."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._older = np.empty(0, np.uint64)

    def __len__(self) -> int:
        return len(self._recent) + len(self._older)

    def are_new(self, names: Sequence[bytes]) -> list[bool]:
        """Of each name whether it comes for the first time; all of them have come then."""
        marks = [int.from_bytes(sha256(name).digest()[:8], "big") for name in names]
        packed = np.array(marks, np.uint64)
        older = np.zeros(len(names), np.bool_)
        if len(self._older):
            at = np.searchsorted(self._older, packed)
            older = self._older[np.minimum(at, len(self._older) - 1)] == packed
        found = []
        for mark, is_old in zip(marks, older.tolist(), strict=True):
            is_new = not is_old and mark not in self._recent
            if is_new:
                self._recent.add(mark)
            found.append(is_new)
        if len(self._recent) > RECENT:
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._older = np.sort(np.concatenate([self._older, recent]))
            self._recent.clear()
        return found
