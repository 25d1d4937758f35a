"""What of a job decides how a row becomes inputs: the rest of a key than model and parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

import chunkers

if TYPE_CHECKING:
    from jobs.job import Job


def shaping(job: Job, tokenizer: str) -> dict[str, Any]:
    """By the keys of the job file; what is not said is absent. The manifest of a run holds it."""
    said = {f"chunk.{name}": value for name, value in msgspec.to_builtins(job.chunk).items()}
    told: dict[str, Any] = said | {
        "chunk.tokenizer": tokenizer,  # the default is the endpoint's
        "chunk.revision": chunkers.revision(job.chunk.method),
        "input.text": job.input.text,
        "parameters.prompt": job.prompt,
    }
    return {name: value for name, value in told.items() if value is not None}
