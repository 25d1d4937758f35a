"""The settings that turn a row into inputs, and the fingerprint of a job."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

import chunkers
from jobs.spec.job import EndpointSpec, Job
from pipeline.tasks import answer_parameters

if TYPE_CHECKING:
    from jobs.spec.job import Job


def input_settings(job: Job, tokenizer: str) -> dict[str, Any]:
    """By the keys of the job file, without unset ones. The manifest of a run holds them."""
    chunk = {f"chunk.{name}": value for name, value in msgspec.to_builtins(job.chunk).items()}
    settings: dict[str, Any] = chunk | {
        "chunk.tokenizer": tokenizer,  # the default is the endpoint's
        "chunk.revision": chunkers.revision(job.chunk.method),
        "input.text": job.input.text,
        "parameters.prompt": job.prompt,
        "embed.passage_prefix": job.embed.passage_prefix,
    }
    return {name: value for name, value in settings.items() if value is not None}


def fingerprint(job: Job, revisions: Mapping[str, int | str] = {}) -> str:
    """32 hex digits over the keys that affect answers, and the chunker and aggregator revisions.

    Invariant: equal for equal task, text column, chunk, prefixes, parameters, prompt, aggregate,
    rules and model identities in the order of use; the URL counts only if nothing else names the
    model. Replicas, names, route and weights do not count.
    """

    def model(endpoint: EndpointSpec) -> tuple[str | None, ...]:
        e = job.origin(endpoint)
        if e.identity:
            return e.kind, e.provider, e.model, e.revision, None, e.identity
        return e.kind, e.provider, e.model, e.revision, e.url if e.model is None else None

    in_order = sorted(job.endpoints, key=lambda endpoint: endpoint.fallback)
    models = list(dict.fromkeys(map(model, in_order)))
    chunk = msgspec.to_builtins(job.chunk)
    if job.chunk.focus is None:  # added later; older fingerprints stay the same
        del chunk["focus"]
    affecting: list[object] = [
        job.task,
        job.input.text,
        chunk,
        answer_parameters(job.parameters),
        job.prompt,
        models,
        msgspec.to_builtins(job.embed),
    ]
    if job.rules:  # a job without rules keeps its fingerprint from before there were rules
        models_by_name = {endpoint.name: model(endpoint) for endpoint in job.endpoints}
        allowed = [{models_by_name[name] for name in rule.endpoints} for rule in job.rules]
        affecting.append(
            [
                [rule.column, rule.value, [m for m in models if m in allowed_models]]
                for rule, allowed_models in zip(job.rules, allowed, strict=True)
            ]
        )
    content = [*affecting, job.aggregate.method, dict(revisions)]
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:32]
