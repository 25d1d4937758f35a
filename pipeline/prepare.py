"""From rows to requests: read, chunk, render, key, in groups that fit in memory.

A plain generator, run in a worker thread: `run` sends what it gives, `plan` only counts it, and so
both see the same requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from functools import partial
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from pipeline.files import digest_of
from pipeline.jsonl import BATCH_ROWS
from pipeline.keys import Keys
from pipeline.prompts import Render, chunk_text
from pipeline.records import Aggregator, Chunk, Chunker, Document, Endpoint, Request, Route, Rule
from pipeline.reuse import Copied, Reuse
from pipeline.router import Router
from pipeline.source import read
from pipeline.spans import Requests, Spans
from pipeline.survey import InputSpec, Survey

LEAST_PIECE_TOKENS = 8
"""No chunker cuts smaller."""
LEAST_SPLIT_TOKENS = 2 * LEAST_PIECE_TOKENS - 1
"""A chunk of fewer tokens cannot be cut in two."""


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
    shaping: dict[str, Any] = {}
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


SEGMENT_REQUESTS = 1_024
SEGMENT_CHARS = 4_000_000
"""A document with more of either is asked about segment by segment."""


class Opened(Struct, frozen=True):
    """A document and the requests that it needs, in span order; or a segment of a long one."""

    document: Document
    requests: Sequence[Request]
    long: Long | None = None
    """What the segments of a long document have in common."""
    is_last: bool = True

    @property
    def documents(self) -> int:
        """Whole documents that it completes."""
        return int(self.is_last)

    @property
    def weight_bytes(self) -> int:
        """The document's text, in bytes or so."""
        return len(self.document.text or "")


class Long:
    """A document whose requests are never all in memory, and its chunks as they are settled."""

    def __init__(self, document: Document, route: Route, asking: _Asking, chunks: Spans) -> None:
        self._document, self._route, self._asking = document, route, asking
        self._chunks = chunks
        self._settled = Spans(len(document.text or ""))

    def segments(self) -> Iterator[Opened]:
        left = len(self._chunks)
        for some in self._chunks.segments(SEGMENT_REQUESTS, SEGMENT_CHARS):
            left -= len(some)
            requests = [self._asking.request(self._document, each, self._route) for each in some]
            yield Opened(self._document, requests, self, not left)

    def settle(self, requests: Iterable[Request]) -> None:
        self._settled.extend(request.chunk for request in requests)

    def whole(self) -> Opened:
        """The document with the requests that were settled, pieces among them."""
        return self._made(self._settled)

    def at_once(self) -> Opened:
        """The document with its requests, before any of them is sent."""
        return self._made(self._chunks)

    def _made(self, chunks: Spans) -> Opened:
        """With requests that are made again, one by one; their tokens are the chunks'."""

        def make(chunk: Chunk) -> Request:
            return self._asking.request(self._document, chunk, self._route, is_counted=False)

        return Opened(self._document, Requests(chunks, make))


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


def gathered(opened: Sequence[Entry]) -> list[Entry]:
    """The documents of a settled group that can be written. Of a long one a segment is only
    remembered, until the last one came."""
    whole: list[Entry] = []
    for each in opened:
        if each.long is None or isinstance(each, Copied):
            whole.append(each)
            continue
        each.long.settle(each.requests)
        if each.is_last:
            whole.append(each.long.whole())
    return whole


def first_requests(pipeline: Pipeline, survey: Survey, rows: Sequence[int]) -> list[Request]:
    """The first request of each of these rows that has one."""
    asking, found = _Asking(pipeline), list[Request]()
    for documents in read(survey, partial(_by_part, survey, rows)) if rows else ():
        for document in documents:
            route = asking.router.route(document.fields)
            chunk = next(pipeline.chunk(document.text), None) if document.text else None
            if chunk is not None and route is not None:
                found.append(asking.request(document, chunk, route))
    return found


def _by_part(survey: Survey, rows: Sequence[int]) -> Iterator[npt.NDArray[np.int64]]:
    start, numbers = 0, np.array(rows, np.int64)
    for count in survey.part_rows:
        yield numbers[(numbers >= start) & (numbers < start + count)]
        start += count


Entry = Opened | Copied
"""What travels from source to sink."""


def prepared(
    pipeline: Pipeline, survey: Survey, reuse: Reuse | None = None
) -> Iterator[list[Entry]]:
    """The documents in input order, in groups of at most some hundred and some MB of text; a long
    one alone, in as many groups as it has segments. Runs of rows whose output stands are in their
    places: only the others are read, chunked and keyed.
    """
    reuse = reuse or Reuse(survey)
    asking = _Asking(pipeline)
    runs = reuse.runs()
    to_do = 0
    group: list[Entry] = []
    for documents in () if reuse.keeps_all else read(survey, reuse.needed):
        for document in documents:
            while not to_do:
                run = next(runs)
                if isinstance(run, Copied):
                    group.append(run)
                else:
                    to_do = run
            to_do -= 1
            opened = _open(pipeline, document, asking)
            if isinstance(opened, Opened):
                group.append(opened)
                continue
            if group:
                yield group
                group = []
            for segment in opened.segments():
                yield [segment]
                del segment
        if group:
            yield group
        # A document may be 200 MB: no name may hold on to it while the next one is read.
        documents.clear()
        group = []
        del document, opened
    for run in runs:  # behind the last document there are only these
        assert isinstance(run, Copied)
        group.append(run)
        if len(group) == BATCH_ROWS:
            yield group
            group = []
    if group:
        yield group


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
    return replace(opened, requests=requests), pieces, hopeless


class _Asking:
    """Makes requests of chunks: rendered, routed, keyed."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.router = Router(pipeline.endpoints, pipeline.rules)
        self._pipeline = pipeline
        self._keys = Keys(pipeline.endpoints)

    def request(
        self, document: Document, chunk: Chunk, route: Route, *, is_counted: bool = True
    ) -> Request:
        rendered = self._pipeline.render(document, chunk)
        key, count = self._keys.first(route)(rendered), self._pipeline.count_tokens
        tokens = count(rendered) if count and is_counted else chunk.tokens
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


def opened(pipeline: Pipeline, document: Document) -> Opened:
    """One document and its requests; without any where it cannot be read or must not be sent."""
    found = _open(pipeline, document, _Asking(pipeline))
    return found if isinstance(found, Opened) else found.at_once()


def _open(pipeline: Pipeline, document: Document, asking: _Asking) -> Opened | Long:
    """The document with its requests, or a long one, whose segments have them."""
    if document.text is None:
        return Opened(document, [])
    route = asking.router.route(document.fields)
    if route is None:
        return _isolated(document, "the rules of the job leave no endpoint that may answer it")
    most = pipeline.max_chunks
    chunks = islice(pipeline.chunk(document.text), most + 1)
    first = [] if len(document.text) > SEGMENT_CHARS else list(islice(chunks, SEGMENT_REQUESTS))
    further = next(chunks, None)
    if further is None and len(first) <= most:
        return Opened(document, [asking.request(document, each, route) for each in first])
    # All are counted before the first one is paid for.
    spans = Spans(len(document.text))
    spans.extend(chain(first, [] if further is None else [further], chunks))
    if len(spans) > most:
        return _isolated(document, f"more than guard.max_chunks = {most:,} chunks")
    return Long(document, route, asking, spans)


def _isolated(document: Document, reason: str) -> Opened:
    return Opened(replace(document, text=None, error=reason), [])
