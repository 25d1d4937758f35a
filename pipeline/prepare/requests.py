"""From rows to requests: read, chunk, render, key, in groups that fit in memory.

A plain generator, run in a worker thread: `run` sends what it gives, `plan` only counts it, and so
both see the same requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from functools import partial
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from pipeline.parts.reuse import CopiedRows, Reuse
from pipeline.prepare.factory import RequestFactory
from pipeline.prepare.long_documents import (
    SEGMENT_CHARS,
    SEGMENT_REQUESTS,
    LongDocument,
    PreparedDocument,
    Spans,
)
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


WorkItem = PreparedDocument | CopiedRows
"""What travels from source to sink."""


def prepare(
    factory: RequestFactory, survey: Survey, reuse: Reuse | None = None
) -> Iterator[list[WorkItem]]:
    """The rows in input order, in groups of at most some hundred and some MB of text: those that
    are to be done as documents with their requests, and between them runs of rows that are copied.
    A long document has as many groups as it has segments.
    """
    reuse = reuse or Reuse(survey)
    return merge_by_row(_documents(factory, survey, reuse), reuse.copied_runs())


def merge_by_row(
    groups: Iterable[list[PreparedDocument]], copied: Iterator[CopiedRows]
) -> Iterator[list[WorkItem]]:
    """Both streams in the order of their rows, in the documents' groups. Runs behind the last
    document, before a long one, or enough to fill a group, are groups of their own."""
    run = next(copied, None)
    for group in groups:
        both: list[WorkItem] = []
        for prepare_document in group:
            while run is not None and run.row < prepare_document.document.row:
                both.append(run)
                run = next(copied, None)
                if len(both) == BATCH_ROWS:
                    yield both
                    both = []
            if both and prepare_document.long is not None:
                yield both
                both = []
            both.append(prepare_document)
        # A document may be 200 MB: no name may hold on to it while the next one is read.
        del group, prepare_document
        yield both
        del both
    while run is not None:
        yield [run, *islice(copied, BATCH_ROWS - 1)]
        run = next(copied, None)


def _documents(
    factory: RequestFactory, survey: Survey, reuse: Reuse
) -> Iterator[list[PreparedDocument]]:
    """The documents that are to be done, in the groups in which they are read; a long one alone, in
    as many groups as it has segments."""
    for documents in () if reuse.keeps_all else read(survey, reuse.needed):
        group: list[PreparedDocument] = []
        for document in documents:
            match found := _open(factory, document):
                case PreparedDocument():
                    group.append(found)
                case LongDocument():
                    if group:
                        yield group
                        group = []
                    for segment in found.segments():
                        yield [segment]
                        del segment
        if group:
            yield group
        # As above: the list is the reader's too.
        documents.clear()
        del document, found, group


def requests_of(group: Iterable[WorkItem]) -> list[Request]:
    """All requests of this group; rows that are copied need none."""
    return [r for each in group if isinstance(each, PreparedDocument) for r in each.requests]


def finished_documents(group: Sequence[WorkItem]) -> list[WorkItem]:
    """What of a settled group can be written. Of a long document a segment is only remembered,
    until the last one came."""
    found: list[WorkItem] = []
    for each in group:
        match each:
            case PreparedDocument(long=LongDocument() as long):
                long.settle(each.requests)
                if each.is_last:
                    found.append(long.whole())
            case _:
                found.append(each)
    return found


def first_requests(factory: RequestFactory, survey: Survey, rows: Sequence[int]) -> list[Request]:
    """The first request of each of these rows that has one."""
    found = list[Request]()
    for documents in read(survey, partial(_by_part, survey, rows)) if rows else ():
        for document in documents:
            route = factory.router.route(document.fields)
            chunk = next(factory.chunking.chunk(document.text), None) if document.text else None
            if chunk is not None and route is not None:
                found.append(factory.request(document, chunk, route))
    return found


def _by_part(survey: Survey, rows: Sequence[int]) -> Iterator[npt.NDArray[np.int64]]:
    start, numbers = 0, np.array(rows, np.int64)
    for count in survey.part_rows:
        yield numbers[(numbers >= start) & (numbers < start + count)]
        start += count


def split(
    factory: RequestFactory, prepare_document: PreparedDocument, too_long: Set[bytes]
) -> tuple[PreparedDocument, list[Request], list[Request]]:
    """The document with the pieces of its requests that are too long in their place; the pieces;
    and those that are too short to be cut again."""
    document, requests = prepare_document.document, list[Request]()
    pieces: list[Request] = []
    unsplittable: list[Request] = []
    for request in prepare_document.requests:
        is_long = request.dedup_key in too_long
        cut = _pieces(factory, document, request.chunk) if is_long else []
        made = [factory.request(document, chunk, request.route) for chunk in cut]
        if is_long and not made:
            unsplittable.append(request)
        requests += made or [request]
        pieces += made
    return replace(prepare_document, requests=requests), pieces, unsplittable


def _pieces(factory: RequestFactory, document: Document, chunk: Chunk) -> list[Chunk]:
    """The halves of a chunk, at semantic boundaries; none where it has hardly any token left."""
    half = (chunk.tokens + 1) // 2
    if half < MIN_PIECE_TOKENS:
        return []
    start = chunk.start_char
    cut = [
        Chunk(start + each.start_char, start + each.end_char, each.tokens, chunk.section)
        for each in factory.chunking.split(chunk_text(document, chunk), half)
    ]
    return cut if len(cut) > 1 else []


def prepare_document(factory: RequestFactory, document: Document) -> PreparedDocument:
    """One document and its requests; without any where it cannot be read or must not be sent."""
    found = _open(factory, document)
    return found if isinstance(found, PreparedDocument) else found.at_once()


def _open(factory: RequestFactory, document: Document) -> PreparedDocument | LongDocument:
    """The document with its requests, or a long one, whose segments have them."""
    if document.text is None:
        return PreparedDocument(document, [])
    route = factory.router.route(document.fields)
    if route is None:
        return _isolated(document, "the rules of the job leave no endpoint that may answer it")
    most = factory.guard.max_chunks
    chunks = islice(factory.chunking.chunk(document.text), most + 1)
    first = [] if len(document.text) > SEGMENT_CHARS else list(islice(chunks, SEGMENT_REQUESTS))
    further = next(chunks, None)
    if further is None and len(first) <= most:
        return PreparedDocument(
            document, [factory.request(document, each, route) for each in first]
        )
    # All are counted before the first one is paid for.
    spans = Spans(len(document.text))
    spans.extend(chain(first, [] if further is None else [further], chunks))
    if len(spans) > most:
        return _isolated(document, f"more than guard.max_chunks = {many(most, 'chunk')}")
    return LongDocument(document, route, factory, spans)


def _isolated(document: Document, reason: str) -> PreparedDocument:
    return PreparedDocument(replace(document, text=None, error=reason), [])
