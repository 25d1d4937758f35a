"""Plans a run: counts its work and cost exactly, without network access."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import compress
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from pipeline.cache.lookup import look_up
from pipeline.cache.store import AnswerCache
from pipeline.comparisons import ForeignAnswers, PlannedComparison
from pipeline.endpoints.kinds import KINDS
from pipeline.endpoints.server_info import identity_from_cache
from pipeline.limits.prices import cost, output_tokens_bound, rent
from pipeline.parts.reuse import Reuse
from pipeline.parts.schema import output_schema
from pipeline.prepare.factory import RequestFactory
from pipeline.prepare.pipeline import Pipeline
from pipeline.prepare.requests import prepare, requests_of
from pipeline.records import Endpoint, Request
from pipeline.source.survey import Survey


class CallTime(NamedTuple):
    """What a call of an endpoint took in an earlier run, on average. Units: seconds."""

    seconds: float
    """From its start to its end."""
    run_seconds: float
    """Its share of the run, which makes several calls at once."""


class Plan(Struct, frozen=True):
    """The remaining work. `requests` counts all; `calls`, `tokens`, cost and time only new ones.

    Units: tokens of the chunker's tokenizer, input only; USD, with the upper bound of output
    tokens; seconds, an estimate from measured speeds. All other figures are exact.
    """

    documents: int
    chunks: int
    requests: int
    cached: int
    calls: int
    tokens: int
    cost_usd: float | None
    """The known part of it; None if nothing is known."""
    seconds: float | None
    """None: an endpoint with planned calls was never measured."""
    unpriced: tuple[str, ...] = ()
    """Endpoints whose planned calls cost an unknown amount: without a price, or priced by time and
    never measured."""
    compared: tuple[PlannedComparison, ...] = ()
    """What has to be compared first; its calls are not part of the figures."""


def plan(
    pipeline: Pipeline,
    survey: Survey,
    cache: AnswerCache | None,
    call_times: Mapping[str, CallTime] = {},
) -> Plan:
    """The plan of this job against the answers in this cache, with the last known identities of its
    servers; `call_times`: what calls of the endpoints took so far, by name. Blocks: run it in a
    thread."""
    output_schema(  # a run refuses the same columns
        survey.schema,
        pipeline.aggregator.columns,
        per_chunk=pipeline.aggregator.per_chunk,
        id=survey.spec.id,
        text=survey.spec.text,
    )
    factory = RequestFactory(pipeline, with_cached_identities(pipeline, cache))
    return plan_requests(factory, pipeline.routing.policy, survey, cache, call_times=call_times)


def plan_requests(
    factory: RequestFactory,
    policy: str,
    survey: Survey,
    cache: AnswerCache | None,
    reuse: Reuse | None = None,
    call_times: Mapping[str, CallTime] = {},
) -> Plan:
    """The plan of these requests; with `reuse`, rows that are copied from the last output are left
    out. Blocks: run it in a thread."""
    keys = factory.keys
    loads = [_Load(endpoint, call_times.get(endpoint.name)) for endpoint in factory.endpoints]
    known_keys, foreign = KnownKeys(), ForeignAnswers(factory, cache)
    total = cached = 0
    for group in prepare(factory, survey, reuse):
        requests = requests_of(group)
        total += len(requests)
        are_new = known_keys.are_new([request.dedup_key for request in requests])
        new = list(compress(requests, are_new))
        stored = look_up(cache, keys, new) if cache and new else {}
        cached += len(stored)
        foreign.add(stored.values())
        for request in new:
            if request.dedup_key not in stored:
                _first_choice(policy, loads, request).add(request)
    unpriced = tuple(load.endpoint.name for load in loads if load.is_unpriced)
    cost_usd = sum(load.cost_usd for load in loads)
    seconds = [load.seconds for load in loads if load.calls]
    return Plan(
        documents=survey.rows,
        chunks=total,
        requests=total,
        # An equal request in the same input is answered once: it costs as little as a cached one.
        cached=cached + total - len(known_keys),
        calls=sum(load.calls for load in loads),
        tokens=sum(load.tokens for load in loads),
        cost_usd=None if unpriced and not cost_usd else cost_usd,
        seconds=_longest(seconds),
        unpriced=unpriced,
        compared=foreign.comparisons,
    )


def with_cached_identities(pipeline: Pipeline, cache: AnswerCache | None) -> tuple[Endpoint, ...]:
    """The endpoints of a job with the last known identities of their servers."""
    max_tokens = pipeline.chunking.max_tokens
    identified = [identity_from_cache(one, cache, max_tokens) for one in pipeline.endpoints]
    by_name = {endpoint.name: endpoint for endpoint in identified}
    return tuple(
        replace(endpoint, identity=by_name[endpoint.replica_of].identity)
        if endpoint.replica_of
        else endpoint
        for endpoint in identified
    )


def _longest(seconds: Sequence[float | None]) -> float | None:
    """The time of endpoints that work at once; None if one is unknown."""
    known = [each for each in seconds if each is not None]
    return round(max(known, default=0.0), 1) if len(known) == len(seconds) else None


class _Load:
    """The planned work of one endpoint."""

    def __init__(self, endpoint: Endpoint, call_time: CallTime | None) -> None:
        self.endpoint = endpoint
        self.call_time = call_time
        self.requests = self.calls = self.tokens = 0
        self._batched = self._batched_tokens = 0

    def add(self, request: Request) -> None:
        endpoint = self.endpoint
        is_full = self._batched_tokens + request.tokens > endpoint.batch_tokens
        if not self._batched or self._batched == endpoint.batch_size or is_full:
            self.calls += 1
            self._batched = self._batched_tokens = 0
        self._batched += 1
        self._batched_tokens += request.tokens
        self.requests += 1
        self.tokens += request.tokens

    @property
    def is_unpriced(self) -> bool:
        """True if its calls cost an unknown amount."""
        price = self.endpoint.price
        if price is None or not self.calls:
            return self.calls > 0
        return bool(price.second or price.hour) and self.seconds is None

    @property
    def share(self) -> float:
        return self.requests / self.endpoint.weight

    def price(self, request: Request) -> float:
        """USD of this request with its longest possible answer."""
        endpoint = self.endpoint
        bound = output_tokens_bound(endpoint.task, endpoint.parameters)
        return cost(endpoint.price, requests=1, input_tokens=request.tokens, output_tokens=bound)

    @property
    def seconds(self) -> float | None:
        if speed := KINDS[self.endpoint.kind].tokens_per_second:
            return self.tokens / speed
        return self.calls * self.call_time.run_seconds if self.call_time else None

    @property
    def cost_usd(self) -> float:
        endpoint = self.endpoint
        bound = output_tokens_bound(endpoint.task, endpoint.parameters)
        return cost(
            endpoint.price,
            requests=self.requests,
            input_tokens=self.tokens,
            output_tokens=self.requests * bound,
            seconds=self.calls * self.call_time.seconds if self.call_time else 0.0,
        ) + rent(endpoint.price, self.seconds or 0.0)


def _first_choice(policy: str, loads: Sequence[_Load], request: Request) -> _Load:
    """The endpoint that routing would choose if all were idle; where speeds are unknown, the most
    expensive, so that the estimate is an upper bound."""
    tier = [loads[position] for position in request.route.tiers[0]]
    match policy:
        case "cheapest":
            return min(tier, key=lambda load: load.price(request))
        case "fastest":
            return max(tier, key=lambda load: load.price(request))
        case "weighted":
            return min(tier, key=lambda load: load.share)
    return tier[0]


MAX_RECENT = 50_000


class KnownKeys:
    """A set of the keys so far, 8 bytes each. Two of a million collide once in 30 million plans."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._older = np.empty(0, np.uint64)

    def __len__(self) -> int:
        return len(self._recent) + len(self._older)

    def are_new(self, keys: Sequence[bytes]) -> list[bool]:
        """For each key, True at its first occurrence; all of them are known afterwards."""
        hashes = [int.from_bytes(sha256(key).digest()[:8], "big") for key in keys]
        array = np.array(hashes, np.uint64)
        older = np.zeros(len(keys), np.bool_)
        if len(self._older):
            at = np.searchsorted(self._older, array)
            older = self._older[np.minimum(at, len(self._older) - 1)] == array
        are_new = []
        for number, is_old in zip(hashes, older.tolist(), strict=True):
            is_new = not is_old and number not in self._recent
            if is_new:
                self._recent.add(number)
            are_new.append(is_new)
        if len(self._recent) > MAX_RECENT:
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._older = np.sort(np.concatenate([self._older, recent]))
            self._recent.clear()
        return are_new
