"""From rows to requests: read, chunk, render, key, in groups that fit in memory.

A plain generator, run in a worker thread: `run` sends what it gives, `plan` only counts it, and so
both see the same requests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from functools import partial
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from pipeline.parts.reuse import CopiedRows, Reuse
from pipeline.prepare.long_documents import (
    SEGMENT_CHARS,
    SEGMENT_REQUESTS,
    LongDocument,
    PreparedDocument,
    RequestFactory,
    Spans,
)
from pipeline.prepare.pipeline import Pipeline
from pipeline.prepare.prompts import chunk_text
from pipeline.records import Chunk, Document, Request
from pipeline.source.documents import read
from pipeline.source.jsonl import BATCH_ROWS
from pipeline.source.survey import Survey
from pipeline.text import many

MIN_PIECE_TOKENS = 8
"""No chunker cuts smaller."""
MIN_SPLIT_TOKENS = 2 * MIN_PIECE_TOKENS - 1
"""A chunk of fewer tokens cannot be cut in two."""


def finished_documents(prepare_document: Sequence[WorkItem]) -> list[WorkItem]:
    """The documents of a settled group that can be written. Of a long one a segment is only
    remembered, until the last one came."""
    whole: list[WorkItem] = []
    for each in prepare_document:
        if each.long is None or isinstance(each, CopiedRows):
            whole.append(each)
            continue
        each.long.settle(each.requests)
        if each.is_last:
            whole.append(each.long.whole())
    return whole


def first_requests(pipeline: Pipeline, survey: Survey, rows: Sequence[int]) -> list[Request]:
    """The first request of each of these rows that has one."""
    requests_of, found = RequestFactory(pipeline), list[Request]()
    for documents in read(survey, partial(_by_part, survey, rows)) if rows else ():
        for document in documents:
            route = requests_of.router.route(document.fields)
            chunk = next(pipeline.chunk(document.text), None) if document.text else None
            if chunk is not None and route is not None:
                found.append(requests_of.request(document, chunk, route))
    return found


def _by_part(survey: Survey, rows: Sequence[int]) -> Iterator[npt.NDArray[np.int64]]:
    start, numbers = 0, np.array(rows, np.int64)
    for count in survey.part_rows:
        yield numbers[(numbers >= start) & (numbers < start + count)]
        start += count


WorkItem = PreparedDocument | CopiedRows
"""What travels from source to sink."""


def prepare(
    pipeline: Pipeline, survey: Survey, reuse: Reuse | None = None
) -> Iterator[list[WorkItem]]:
    """The documents in input order, in groups of at most some hundred and some MB of text; a long
    one alone, in as many groups as it has segments. Runs of rows whose output stands are in their
    places: only the others are read, chunked and keyed.
    """
    reuse = reuse or Reuse(survey)
    requests_of = RequestFactory(pipeline)
    runs = reuse.runs()
    to_do = 0
    group: list[WorkItem] = []
    for documents in () if reuse.keeps_all else read(survey, reuse.needed):
        for document in documents:
            while not to_do:
                run = next(runs)
                if isinstance(run, CopiedRows):
                    group.append(run)
                else:
                    to_do = run
            to_do -= 1
            prepare_document = _open(pipeline, document, requests_of)
            if isinstance(prepare_document, PreparedDocument):
                group.append(prepare_document)
                continue
            if group:
                yield group
                group = []
            for segment in prepare_document.segments():
                yield [segment]
                del segment
        if group:
            yield group
        # A document may be 200 MB: no name may hold on to it while the next one is read.
        documents.clear()
        group = []
        del document, prepare_document
    for run in runs:  # behind the last document there are only these
        assert isinstance(run, CopiedRows)
        group.append(run)
        if len(group) == BATCH_ROWS:
            yield group
            group = []
    if group:
        yield group


def split(
    pipeline: Pipeline, prepare_document: PreparedDocument, too_long: Set[bytes]
) -> tuple[PreparedDocument, list[Request], list[Request]]:
    """The document with the pieces of its requests that are too long in their place; the pieces;
    and those that are too short to be cut again."""
    requests_of = RequestFactory(pipeline)
    document, requests = prepare_document.document, list[Request]()
    pieces: list[Request] = []
    unsplittable: list[Request] = []
    for request in prepare_document.requests:
        is_long = request.dedup_key in too_long
        cut = _pieces(pipeline, document, request.chunk) if is_long else []
        made = [requests_of.request(document, chunk, request.route) for chunk in cut]
        if is_long and not made:
            unsplittable.append(request)
        requests += made or [request]
        pieces += made
    return replace(prepare_document, requests=requests), pieces, unsplittable


def _pieces(pipeline: Pipeline, document: Document, chunk: Chunk) -> list[Chunk]:
    """The halves of a chunk, at semantic boundaries; none where it has hardly any token left."""
    half = (chunk.tokens + 1) // 2
    if half < MIN_PIECE_TOKENS:
        return []
    start = chunk.start_char
    cut = [
        Chunk(start + each.start_char, start + each.end_char, each.tokens, chunk.section)
        for each in pipeline.split(chunk_text(document, chunk), half)
    ]
    return cut if len(cut) > 1 else []


def prepare_document(pipeline: Pipeline, document: Document) -> PreparedDocument:
    """One document and its requests; without any where it cannot be read or must not be sent."""
    found = _open(pipeline, document, RequestFactory(pipeline))
    return found if isinstance(found, PreparedDocument) else found.at_once()


def _open(
    pipeline: Pipeline, document: Document, requests_of: RequestFactory
) -> PreparedDocument | LongDocument:
    """The document with its requests, or a long one, whose segments have them."""
    if document.text is None:
        return PreparedDocument(document, [])
    route = requests_of.router.route(document.fields)
    if route is None:
        return _isolated(document, "the rules of the job leave no endpoint that may answer it")
    most = pipeline.max_chunks
    chunks = islice(pipeline.chunk(document.text), most + 1)
    first = [] if len(document.text) > SEGMENT_CHARS else list(islice(chunks, SEGMENT_REQUESTS))
    further = next(chunks, None)
    if further is None and len(first) <= most:
        return PreparedDocument(
            document, [requests_of.request(document, each, route) for each in first]
        )
    # All are counted before the first one is paid for.
    spans = Spans(len(document.text))
    spans.extend(chain(first, [] if further is None else [further], chunks))
    if len(spans) > most:
        return _isolated(document, f"more than guard.max_chunks = {many(most, 'chunk')}")
    return LongDocument(document, route, requests_of, spans)


def _isolated(document: Document, reason: str) -> PreparedDocument:
    return PreparedDocument(replace(document, text=None, error=reason), [])
