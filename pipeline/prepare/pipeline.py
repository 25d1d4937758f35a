"""A job with its parts resolved: the job file with callables in the place of names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from pipeline.prepare.prefixes import Embed, Prefixes, prefixes_in_effect
from pipeline.records import Aggregator, Budget, Chunk, Endpoint, Guard, Rule, Stop
from pipeline.source.files import InputSpec
from pipeline.source.identity import digest_of


class Chunking(Struct, frozen=True, kw_only=True):
    """How texts are cut."""

    cut: Callable[[str, int], Iterator[Chunk]]
    """Cuts a text into chunks of at most this many tokens, with the job's overlap."""
    size: int
    """Upper bound of a chunk with its prefix and the header of its table, in tokens."""
    max_tokens: int
    """The same, as its model counts."""
    split: Callable[[str, int], Iterator[Chunk]]
    """Cuts the text of a chunk that is too long for the model into pieces of at most this many
    tokens, without overlap."""
    sentences: Callable[[str], list[tuple[int, int]]]
    """Spans of sentences, for the embedded model, whose summaries are sentences of the text."""
    with_headers: Callable[[str, Iterable[Chunk]], Iterator[Chunk]] | None = None
    """Gives the chunks of a text the headers of their tables; None: headers are not repeated."""


class Prompt(Struct, frozen=True, kw_only=True):
    """How a chunk becomes an input."""

    template: str | None = None
    """The prompt of a text task; None: the input is the chunk."""
    count_tokens: Callable[[str], int]
    """Counts the tokens of an input."""


class Routing(Struct, frozen=True, kw_only=True):
    """Which endpoints may answer a row, and which of them gets it."""

    policy: str = "ordered"
    rules: tuple[Rule, ...] = ()


class Output(Struct, frozen=True, kw_only=True):
    """The output, its metadata and its file of changes."""

    path: str
    metadata: dict[str, str] = {}
    changes: str | None = None
    """Path of the file of changes."""
    answered_only: bool = False
    """Leaves out rows without a result."""
    replaces_nul: bool = False
    """Writes U+FFFD in place of U+0000."""


class Pipeline(Struct, frozen=True, kw_only=True):
    """A job as it is written: made by `jobs.build`, run by `pipeline.run`, never changed.

    What servers say about their models and what the last commit says about its vectors is kept
    apart from it, in the `Connections` and the `Target` of a run.
    """

    name: str
    input: InputSpec
    chunking: Chunking
    prompt: Prompt
    embed: Embed = Embed()
    endpoints: tuple[Endpoint, ...]
    """In job-file order."""
    routing: Routing = Routing()
    aggregator: Aggregator
    output: Output
    dimension: int | None = None
    """Dimension of the vectors, if the job or the model declares it."""
    answers: Path
    """Folder of the answer cache."""
    fingerprint: str
    input_settings: dict[str, Any] = {}
    """The keys of the job file that decide how a row becomes inputs. `explain` compares them with
    those of the last run."""
    guard: Guard = Guard()
    stop: Stop = Stop()
    budget: Budget = Budget()


def parts_fingerprint(pipeline: Pipeline, endpoints: Sequence[Endpoint]) -> str:
    """Fingerprint of all settings that parts depend on: under an equal fingerprint, a row with
    equal columns has an equal output. It covers the order in which endpoints are tried."""
    models = {each.name: each.identity for each in endpoints}
    tiers = [(each.identity, each.is_fallback) for each in endpoints]
    rules = [
        (rule.column, rule.value, [models[name] for name in rule.endpoints])
        for rule in pipeline.routing.rules
    ]
    output = [pipeline.guard.max_chunks, pipeline.output.replaces_nul]
    prefixes = prefixes_in_effect(pipeline.embed, endpoints)
    settings = [pipeline.fingerprint, list(dict.fromkeys(tiers)), rules, *output]
    if prefixes != Prefixes():
        settings.append(prefixes)
    return digest_of(map(repr, settings))


def settings_in_effect(pipeline: Pipeline, endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """The settings that decide how a row becomes inputs, with the prefix that the model wants."""
    passage = prefixes_in_effect(pipeline.embed, endpoints).passage
    return pipeline.input_settings | ({"embed.passage_prefix": passage} if passage else {})
