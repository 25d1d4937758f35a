"""What a run would do and cost, before it does: counted, not guessed, and without the network."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from pipeline.cache import AnswerCache
from pipeline.endpoints.info import recalled
from pipeline.prepare import Pipeline, prepared
from pipeline.prices import cost, output_tokens_bound, rent
from pipeline.survey import Survey

ASSUMED_CALL_SECONDS = 0.5
ASSUMED_LOCAL_TOKENS_PER_SECOND = 200_000


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
    """The plan of this job against the answers in this cache. Blocks: run it in a thread."""
    endpoint = recalled(pipeline.endpoints[0], cache, pipeline.chunk_tokens)
    pipeline = replace(pipeline, endpoints=(endpoint, *pipeline.endpoints[1:]))
    seen: set[bytes] = set()
    requests = cached = new = tokens = calls = batched = batched_tokens = 0
    for group in prepared(pipeline, survey):
        unseen = []
        for opened in group:
            requests += len(opened.requests)
            for request in opened.requests:
                if request.key not in seen:
                    seen.add(request.key)
                    unseen.append(request)
        found = cache.get_many([r.key for r in unseen]) if cache and unseen else {}
        cached += len(found)
        for request in unseen:
            if request.key in found:
                continue
            new += 1
            tokens += request.tokens
            over = batched_tokens + request.tokens > endpoint.batch_tokens
            if not batched or batched == endpoint.batch_size or over:
                calls += 1
                batched = batched_tokens = 0
            batched += 1
            batched_tokens += request.tokens
    if endpoint.kind == "local":
        seconds = tokens / ASSUMED_LOCAL_TOKENS_PER_SECOND
    else:
        seconds = calls * ASSUMED_CALL_SECONDS / max(1, min(endpoint.concurrency, calls))
    spent = cost(
        endpoint.price,
        requests=new,
        input_tokens=tokens,
        output_tokens=new * output_tokens_bound(endpoint.task, endpoint.parameters),
        seconds=calls * ASSUMED_CALL_SECONDS,
    ) + rent(endpoint.price, seconds)
    # An equal request in the same input is answered once: it costs as little as a cached one.
    repeated = requests - len(seen)
    return Plan(
        survey.rows, requests, requests, cached + repeated, calls, tokens, spent, round(seconds, 1)
    )
