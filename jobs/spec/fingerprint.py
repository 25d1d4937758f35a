"""What of a job decides how a row becomes inputs: the rest of a key than model and parameters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

import chunkers
from jobs.spec.job import EndpointSpec, Job

if TYPE_CHECKING:
    from jobs.spec.job import Job


def input_settings(job: Job, tokenizer: str) -> dict[str, Any]:
    """By the keys of the job file; what is not said is absent. The manifest of a run holds it."""
    said = {f"chunk.{name}": value for name, value in msgspec.to_builtins(job.chunk).items()}
    told: dict[str, Any] = said | {
        "chunk.tokenizer": tokenizer,  # the default is the endpoint's
        "chunk.revision": chunkers.revision(job.chunk.method),
        "input.text": job.input.text,
        "parameters.prompt": job.prompt,
    }
    return {name: value for name, value in told.items() if value is not None}


def fingerprint(job: Job, revisions: Mapping[str, int | str] = {}) -> str:
    """32 hex digits over the keys that affect answers, and the revisions of who cuts and joins.

    Invariant: the same for equal task, text column, chunk, parameters, prompt, aggregate, model
    identities in the order in which they are asked, and rules; the URL stands in only where no
    model is named. A replica adds nothing; nor do names, route and weights.
    """

    def model(endpoint: EndpointSpec) -> tuple[str | None, ...]:
        e = job.origin(endpoint)
        return e.kind, e.provider, e.model, e.revision, e.url if e.model is None else None

    asked = sorted(job.endpoints, key=lambda endpoint: endpoint.fallback)
    models = list(dict.fromkeys(map(model, asked)))
    chunk = msgspec.to_builtins(job.chunk)
    if job.chunk.focus is None:  # it came later, and leaves the fingerprints of before alone
        del chunk["focus"]
    said: list[object] = [job.task, job.input.text, chunk, job.parameters, job.prompt, models]
    if job.rules:  # those of a job without rules stand as they were before there were any
        named = {endpoint.name: model(endpoint) for endpoint in job.endpoints}
        allowed = [{named[name] for name in rule.endpoints} for rule in job.rules]
        said.append(
            [
                [rule.column, rule.value, [each for each in models if each in only]]
                for rule, only in zip(job.rules, allowed, strict=True)
            ]
        )
    content = [*said, job.aggregate.method, dict(revisions)]
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:32]
