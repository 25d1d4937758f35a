"""From rows to requests: read, chunk, render, key, in groups that fit in memory.

A plain generator, run in a worker thread: `run` sends what it gives, `plan` only counts it, and so
both see the same requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set

from msgspec import Struct
from msgspec.structs import replace

from pipeline.keys import Keys
from pipeline.prompts import Render, chunk_text
from pipeline.records import Aggregator, Chunk, Chunker, Document, Endpoint, Request, Route, Rule
from pipeline.router import Router
from pipeline.source import read
from pipeline.survey import InputSpec, Survey

LEAST_PIECE_TOKENS = 8
"""No chunker cuts smaller."""


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
    home: str
    fingerprint: str
    metadata: dict[str, str]
    dimension: int | None
    """Of the vectors, where the job or the model says it."""
    sentences: Callable[[str], list[tuple[int, int]]]
    route: str = "ordered"
    rules: tuple[Rule, ...] = ()
    max_failed: float = 0.1
    max_chunks: int = 1_000_000
    max_outage_seconds: float = 1_800.0
    grace_seconds: float = 30.0
    max_cost_usd: float | None = None
    is_partial: bool = False


class Opened(Struct, frozen=True):
    """A document and the requests that it needs, in span order."""

    document: Document
    requests: list[Request]


def prepared(pipeline: Pipeline, survey: Survey) -> Iterator[list[Opened]]:
    """The documents in input order, in groups of at most some hundred and some MB of text."""
    asking = _Asking(pipeline)
    for documents in read(survey):
        yield [_open(pipeline, document, asking) for document in documents]


def split(
    pipeline: Pipeline, opened: Opened, too_long: Set[bytes]
) -> tuple[Opened, list[Request], list[Request]]:
    """The document with the pieces of its requests that are too long in their place; the pieces;
    and those that are too short to be cut again."""
    asking = _Asking(pipeline)
    document, requests = opened.document, list[Request]()
    pieces: list[Request] = []
    hopeless: list[Request] = []
    for request in opened.requests:
        is_long = request.flight in too_long
        cut = _pieces(pipeline, document, request.chunk) if is_long else []
        made = [asking.request(document, chunk, request.route) for chunk in cut]
        if is_long and not made:
            hopeless.append(request)
        requests += made or [request]
        pieces += made
    return Opened(document, requests), pieces, hopeless


class _Asking:
    """Makes requests of chunks: rendered, routed, keyed."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.router = Router(pipeline.endpoints, pipeline.rules)
        self._pipeline = pipeline
        self._keys = Keys(pipeline.endpoints)

    def request(self, document: Document, chunk: Chunk, route: Route) -> Request:
        rendered = self._pipeline.render(document, chunk)
        key, count = self._keys.first(route)(rendered), self._pipeline.count_tokens
        tokens = count(rendered) if count else chunk.tokens
        return Request(key, rendered, tokens, chunk, route, self.router.name(route, key))


def _pieces(pipeline: Pipeline, document: Document, chunk: Chunk) -> list[Chunk]:
    """The halves of a chunk, at semantic boundaries; none where it has hardly any token left."""
    half = (chunk.tokens + 1) // 2
    if half < LEAST_PIECE_TOKENS:
        return []
    start = chunk.start_char
    cut = [
        Chunk(start + each.start_char, start + each.end_char, each.tokens, chunk.section)
        for each in pipeline.split(chunk_text(document, chunk), half)
    ]
    return cut if len(cut) > 1 else []


def _open(pipeline: Pipeline, document: Document, asking: _Asking) -> Opened:
    if document.text is None:
        return Opened(document, [])
    route = asking.router.route(document.fields)
    if route is None:
        return _isolated(document, "the rules of the job leave no endpoint that may answer it")
    requests: list[Request] = []
    for chunk in pipeline.chunk(document.text):
        if len(requests) == pipeline.max_chunks:
            most = f"{pipeline.max_chunks:,}"
            return _isolated(document, f"more than guard.max_chunks = {most} chunks")
        requests.append(asking.request(document, chunk, route))
    return Opened(document, requests)


def _isolated(document: Document, reason: str) -> Opened:
    return Opened(replace(document, text=None, error=reason), [])
