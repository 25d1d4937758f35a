"""The pipeline of a job: the architecture as one expression.

Only here the engine is connected to the chunkers, the aggregators and the embedded model. It gets
them as callables and depends on none of their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from msgspec.structs import replace

import chunkers
from aggregators import AGGREGATORS
from aggregators import REVISIONS as AGGREGATOR_REVISIONS
from chunkers.boundaries.scan import sentences
from chunkers.boundaries.tables import with_headers
from chunkers.tokens.tokenizers import check_tokenizer, tokenizer
from jobs.home import home, home_to_read
from jobs.secrets import Reference, resolve
from jobs.spec.check_calls import proxy_problem
from jobs.spec.check_job import max_own_tokens
from jobs.spec.fingerprint import fingerprint, input_settings
from jobs.spec.job import EndpointSpec, Job
from pipeline.endpoints.kinds import KINDS
from pipeline.errors import UsageError
from pipeline.limits.descriptors import allow, bounds
from pipeline.prepare.pipeline import Chunking, Output, Pipeline, Prompt, Routing
from pipeline.prepare.prefixes import Embed
from pipeline.prepare.prompts import columns_of, renderer
from pipeline.records import (
    Budget,
    Chunk,
    Document,
    Endpoint,
    Guard,
    Price,
    Request,
    RowRef,
    Stop,
)
from pipeline.secret import Addition, Secret
from pipeline.source.files import InputSpec
from pipeline.tasks import TASKS
from pipeline.text import canonical_url, many


def build(
    job: Job, *, with_secret: bool = True, changes: str | None = None, is_attended: bool = False
) -> Pipeline:
    """The pipeline of this job. Without the secret, and without a home, it can plan, but not run.

    `changes`: path of the file of changes. `is_attended`: a person watches the run.
    Raises: UsageError, also if an extra or a credential is missing.
    """
    aggregator = AGGREGATORS[job.aggregate.method](TASKS[job.task].column)
    check_tokenizer(tokenizer_name(job))
    prompted = columns_of(job.prompt or job.embed.passage_prefix or "")
    rule_columns = [r.column for r in job.rules if r.column not in prompted]
    optional = tuple(dict.fromkeys(rule_columns))
    keep = job.input.keep
    if keep is None and aggregator.per_chunk:
        keep = ()
    return Pipeline(
        name=job.name,
        input=InputSpec(
            path=job.input.path,
            text=job.input.text,
            id=job.input.id,
            keep=keep,
            fields=prompted + optional,
            optional=optional,
            max_row_bytes=job.guard.max_row_bytes,
            salvage=job.input.salvage,
            for_json=job.output.format in ("jsonl", "stream"),
        ),
        chunking=Chunking(
            cut=cut(job),
            size=job.chunk.size,
            max_tokens=max_own_tokens(job),
            split=lambda text, size: _split_text(job, text, size),
            sentences=sentences,
            with_headers=with_headers if job.chunk.repeat_header else None,
        ),
        prompt=Prompt(template=job.prompt, count_tokens=partial(_count, tokenizer_name(job))),
        embed=Embed(job.embed.query_prefix, job.embed.passage_prefix),
        endpoints=tuple(endpoint(job, spec, with_secret=with_secret) for spec in job.endpoints),
        routing=Routing(policy=job.route, rules=job.rules),
        aggregator=aggregator,
        output=Output(
            path=job.output.path,
            metadata=_metadata(job),
            changes=changes,
            answered_only=job.output.rows == "answered",
            replaces_nul=job.output.nul == "replace",
        ),
        dimension=_dimension(job),
        answers=(home() if with_secret else home_to_read()) / "answers",
        fingerprint=_fingerprint(job),
        input_settings=input_settings(job, tokenizer_name(job)),
        guard=Guard(
            max_failed=job.guard.max_failed,
            max_removed=job.guard.max_removed,
            drift_texts=job.guard.drift_texts,
            max_chunks=job.guard.max_chunks,
        ),
        stop=Stop(
            max_start_seconds=job.run.max_start_seconds,
            max_outage_seconds=job.run.max_outage_seconds,
            grace_seconds=job.run.grace_seconds,
            until=job.run.until,
            is_attended=is_attended,
        ),
        budget=Budget(max_cost_usd=job.budget.max_cost_usd, stop_at_cap=job.budget.stop_at_cap),
    )


def within_descriptors(pipeline: Pipeline) -> tuple[Pipeline, str]:
    """The pipeline with no more calls at a time than this process can open connections, and a line
    that says so; empty where all fit. Raises: UsageError."""
    remote = [each for each in pipeline.endpoints if not KINDS[each.kind].is_embedded]
    wanted = sum(each.concurrency for each in remote)
    fitted = allow(wanted)
    if fitted.calls >= wanted:
        return pipeline, ""
    ceilings = bounds([each.concurrency for each in remote], fitted.calls)
    lowered = {each.name: ceiling for each, ceiling in zip(remote, ceilings, strict=True)}
    endpoints = tuple(
        replace(each, concurrency=lowered.get(each.name, each.concurrency))
        for each in pipeline.endpoints
    )
    return replace(pipeline, endpoints=endpoints), (
        f"the limit of {fitted.soft:,} open files allows {many(fitted.calls, 'call')} at a time of "
        f"the {wanted:,} of the job; `ulimit -n` raises it"
    )


def chunker(job: Job) -> Callable[..., Iterator[Chunk]]:
    """The chunker of the job, with its size, overlap and tokenizer."""
    options: dict[str, Any] = {}
    if job.chunk.method == "semantic":
        from pipeline.endpoints import local  # numpy, and the model: for this method only

        try:
            local.embed(["ready"])
        except UsageError as error:  # reported now, not at the first row
            problem = f'{job.address}: chunk.method = "semantic" needs the extra `local`'
            raise UsageError(problem, hint=error.hint) from None
        options["embed"] = local.embed
        if job.chunk.focus is not None:
            options["focus"] = job.chunk.focus
    return partial(
        chunkers.chunker(job.chunk.method),
        size=job.chunk.size,
        overlap=job.chunk.overlap,
        tokenizer=tokenizer_name(job),
        **options,
    )


def cut(job: Job) -> Callable[[str, int], Iterator[Chunk]]:
    """The function that cuts a text into chunks of at most this many tokens. Where they are fewer
    than `chunk.size`, a large overlap shrinks with them."""
    size, overlap, chunk = job.chunk.size, job.chunk.overlap, chunker(job)

    def chunks(text: str, room: int) -> Iterator[Chunk]:
        if room == size:
            return chunk(text)
        shared = min(overlap, max(room // 2, overlap * room // size))
        return chunk(text, size=room, overlap=shared)

    return chunks


def _count(name: str, text: str) -> int:
    """The number of tokens of a text; the tokenizer loads at the first call."""
    return tokenizer(name).count(text)


def _split_text(job: Job, text: str, size: int) -> Iterator[Chunk]:
    """`text` in chunks of at most `size` tokens by the job's method, without overlap."""
    chunk = replace(job.chunk, size=size, overlap=0)
    return chunker(replace(job, chunk=chunk))(text)


def tokenizer_name(job: Job) -> str:
    """The tokenizer of the job: its own, that of the endpoints if known, or o200k_base."""
    return job.chunk.tokenizer or job.own_tokenizer or "o200k_base"


def endpoint(job: Job, spec: EndpointSpec, *, with_secret: bool) -> Endpoint:
    """The endpoint of a spec, with the parameters that are sent and are part of the cache key."""
    return Endpoint(
        name=spec.name,
        kind=spec.kind,
        task=job.task,
        model=spec.model or "",
        identity=_identity(job, spec),
        url=spec.url,
        parameters=spec.facts.default_parameters.get(job.task, {}) | job.parameters,
        secret=(
            resolve(spec.api_key, job.folder, job.key(spec, "api_key")) if with_secret else None
        ),
        headers=_additions(job, spec, "headers", with_secret=with_secret),
        query=_additions(job, spec, "query", with_secret=with_secret),
        proxy=_proxy(job, spec, with_secret=with_secret),
        allow_http=spec.allow_http,
        concurrency=spec.concurrency,
        is_adaptive=spec.facts.is_adaptive,
        batch_size=spec.batch_size,
        batch_tokens=spec.batch_tokens,
        requests_per_minute=spec.requests_per_minute,
        tokens_per_minute=spec.tokens_per_minute,
        price=Price() if spec.facts.is_embedded else spec.price,
        deadline=spec.deadline,
        allow_model_change=spec.allow_model_change,
        weight=1.0 if spec.weight is None else spec.weight,
        is_fallback=spec.fallback,
        replica_of=spec.replica_of or "",
        origin=_origin(job, spec),
    )


_PROBE = "The weir was repaired in spring, and the water has been clear since then."
"""What `check` sends: no text of the user, since an endpoint may not see every row."""


def probe(job: Job) -> Request:
    """A request like those of the job, with a fixed sentence; columns of its prompt are empty.

    A prefix that the model wants is left out: it changes what a vector means, not whether one
    comes.
    """
    whole = Chunk(0, len(_PROBE), 0)
    document = Document(b"", None, _PROBE, {}, "", 0, RowRef(None, 0))
    rendered = renderer(job.prompt or "{chunk}")(document, whole)
    return Request(b"", rendered, _count(tokenizer_name(job), rendered), whole)


def _additions(
    job: Job, spec: EndpointSpec, last: str, *, with_secret: bool
) -> tuple[Addition, ...]:
    """The headers or the query of an endpoint; without the secret only what the job file holds."""
    values: dict[str, str | Reference] = getattr(spec, last)
    return tuple(
        Addition(
            name, value if isinstance(value, str) else _resolved(job, spec, value, f"{last}.{name}")
        )
        for name, value in values.items()
        if with_secret or isinstance(value, str)
    )


def _proxy(job: Job, spec: EndpointSpec, *, with_secret: bool) -> Secret | None:
    """The URL of the proxy. Raises: UsageError for a reference to something else."""
    if spec.proxy is None or isinstance(spec.proxy, str):
        return Secret(spec.proxy) if spec.proxy else None
    if not with_secret:
        return None
    proxy = _resolved(job, spec, spec.proxy, "proxy")
    if wrong := proxy_problem(proxy.reveal()):
        raise UsageError(f"{job.address}: {job.key(spec, 'proxy')} {wrong}")
    return proxy


def _resolved(job: Job, spec: EndpointSpec, reference: Reference, last: str) -> Secret:
    secret = resolve(reference, job.folder, job.key(spec, last), is_line=True)
    assert secret is not None
    return secret


def _identity(job: Job, spec: EndpointSpec) -> tuple[str, ...]:
    """The model's part of the cache key; it has the URL only if nothing else names the model.

    A replica has the identity of its origin, also if their servers report another one.
    """
    spec = job.origin(spec)
    if local_model := spec.facts.models.get(job.task):
        return (spec.kind, local_model)
    if spec.identity:
        return (spec.kind, spec.provider or "", spec.model or "", spec.revision, spec.identity)
    if spec.model is None:
        return (spec.kind, "", canonical_url(spec.url))
    return (spec.kind, spec.provider or "", spec.model, spec.revision)


def _origin(job: Job, spec: EndpointSpec) -> str:
    """What its answers come from, until its server names its model; empty where the key says it:
    an embedded model, a declared identity, a URL in the key."""
    named = job.origin(spec)
    is_named = named.model or named.facts.names_itself
    if spec.facts.is_embedded or named.identity or not is_named:
        return ""
    return canonical_url(spec.url)


def _metadata(job: Job) -> dict[str, str]:
    return {
        "textmill.task": job.task,
        "textmill.tokenizer": tokenizer_name(job),
        "textmill.job": _fingerprint(job),
    }


def _dimension(job: Job) -> int | None:
    if TASKS[job.task].value != "vector":
        return None
    dimensions = job.parameters.get("dimensions")
    if isinstance(dimensions, int) and not isinstance(dimensions, bool) and dimensions > 0:
        return dimensions
    return job.endpoints[0].facts.dimension  # all serve one model


def _fingerprint(job: Job) -> str:
    method, aggregate = job.chunk.method, job.aggregate.method
    return fingerprint(
        job,
        {"chunker": chunkers.revision(method), "aggregator": AGGREGATOR_REVISIONS[aggregate]},
    )
