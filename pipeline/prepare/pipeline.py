"""The stages of one job, wired."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from pipeline.prepare.prompts import Render
from pipeline.records import Aggregator, Chunk, Chunker, Endpoint, Rule
from pipeline.source.files import InputSpec
from pipeline.source.identity import digest_of


class Pipeline(Struct, frozen=True, kw_only=True):
    """The stages of one job, wired: made by `jobs.build`, run by `pipeline.run`."""

    name: str
    input: InputSpec
    chunk: Chunker
    chunk_tokens: int
    """The most that a chunk may have, as its model counts."""
    render: Render
    split: Callable[[str, int], Iterator[Chunk]]
    """Cuts the text of a chunk that is too long for the model, into pieces of at most so many
    tokens, without overlap."""
    count_tokens: Callable[[str], int] | None
    """Counts a rendered prompt; None where the input is the chunk and its tokens are known."""
    endpoints: tuple[Endpoint, ...]
    """Who answers, in job-file order."""
    aggregator: Aggregator
    output: str
    answers: Path
    """The folder of the paid answers."""
    fingerprint: str
    input_settings: dict[str, Any] = {}
    """What of the job decides how a row becomes inputs, by the keys of the job file: for `explain`,
    which compares it with that of the last run."""
    metadata: dict[str, str]
    dimension: int | None
    """Of the vectors, where the job or the model says it."""
    sentences: Callable[[str], list[tuple[int, int]]]
    route: str = "ordered"
    rules: tuple[Rule, ...] = ()
    max_failed: float = 0.1
    max_removed: float = 0.25
    drift_texts: int = 3
    """So many are asked again, to see whether a model moved under its name."""
    changes: str | None = None
    max_chunks: int = 1_000_000
    max_outage_seconds: float = 1_800.0
    grace_seconds: float = 30.0
    until: str | None = None
    """Local time at which the run drains and ends: `06:00`."""
    max_cost_usd: float | None = None
    is_partial: bool = False


def parts_fingerprint(pipeline: Pipeline) -> str:
    """Of all of the job that parts depend on: a row whose own columns are equal has an equal output
    under an equal fingerprint. That a chunk is asked of another endpoint first makes it another."""
    models = {each.name: each.identity for each in pipeline.endpoints}
    tiers = [(each.identity, each.is_fallback) for each in pipeline.endpoints]
    rules = [
        (rule.column, rule.value, [models[name] for name in rule.endpoints])
        for rule in pipeline.rules
    ]
    told = [pipeline.fingerprint, list(dict.fromkeys(tiers)), rules, pipeline.max_chunks]
    return digest_of(map(repr, told))
