"""The stages of one job, wired: what a job file says, with callables in the place of names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from pipeline.prepare.prompts import Render
from pipeline.records import Aggregator, Budget, Chunk, Chunker, Endpoint, Guard, Rule, Stop
from pipeline.source.files import InputSpec
from pipeline.source.identity import digest_of


class Chunking(Struct, frozen=True, kw_only=True):
    """How texts are cut."""

    chunk: Chunker
    max_tokens: int
    """The most that a chunk may have, as its model counts."""
    split: Callable[[str, int], Iterator[Chunk]]
    """Cuts the text of a chunk that is too long for the model, into pieces of at most so many
    tokens, without overlap."""
    sentences: Callable[[str], list[tuple[int, int]]]
    """Where sentences lie: for the embedded model, whose summaries are sentences of the text."""


class Prompt(Struct, frozen=True, kw_only=True):
    """What is sent of a chunk."""

    render: Render
    count_tokens: Callable[[str], int] | None = None
    """Counts a rendered prompt; None where the input is the chunk and its tokens are known."""


class Routing(Struct, frozen=True, kw_only=True):
    """Which endpoints may answer a row, and which of them is asked."""

    policy: str = "ordered"
    rules: tuple[Rule, ...] = ()


class Output(Struct, frozen=True, kw_only=True):
    """Where the result goes, and what is written about it."""

    path: str
    metadata: dict[str, str] = {}
    changes: str | None = None
    """The file that says what a commit changed."""


class Pipeline(Struct, frozen=True, kw_only=True):
    """A job as it is written: made by `jobs.build`, run by `pipeline.run`, never changed.

    What its servers say of their models and what the last commit says of its vectors stand beside
    it: in the `Connections` and in the `Target` of a run.
    """

    name: str
    input: InputSpec
    chunking: Chunking
    prompt: Prompt
    endpoints: tuple[Endpoint, ...]
    """Who answers, in job-file order."""
    routing: Routing = Routing()
    aggregator: Aggregator
    output: Output
    dimension: int | None = None
    """Of the vectors, where the job or the model says it."""
    answers: Path
    """The folder of the paid answers."""
    fingerprint: str
    input_settings: dict[str, Any] = {}
    """What of the job decides how a row becomes inputs, by the keys of the job file: for `explain`,
    which compares it with that of the last run."""
    guard: Guard = Guard()
    stop: Stop = Stop()
    budget: Budget = Budget()


def parts_fingerprint(pipeline: Pipeline, endpoints: Sequence[Endpoint]) -> str:
    """Of all of the job that parts depend on: a row whose own columns are equal has an equal output
    under an equal fingerprint. That a chunk is asked of another endpoint first makes it another."""
    models = {each.name: each.identity for each in endpoints}
    tiers = [(each.identity, each.is_fallback) for each in endpoints]
    rules = [
        (rule.column, rule.value, [models[name] for name in rule.endpoints])
        for rule in pipeline.routing.rules
    ]
    told = [pipeline.fingerprint, list(dict.fromkeys(tiers)), rules, pipeline.guard.max_chunks]
    return digest_of(map(repr, told))
