"""Turns rows into requests: read, chunk, render, key, in groups that fit in memory.

A plain generator that runs in a worker thread. `run` sends its requests and `plan` only counts
them, so both see the same ones.
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
from pipeline.records import Document, Request
from pipeline.source.blocks import BATCH_ROWS
from pipeline.source.documents import read
from pipeline.source.survey import Survey
from pipeline.text import many

WorkItem = PreparedDocument | CopiedRows
"""A unit of work between source and sink."""


def prepare(
    factory: RequestFactory, survey: Survey, reuse: Reuse | None = None
) -> Iterator[list[WorkItem]]:
    """The rows in input order, in groups of at most 256 rows and some MB of text: documents with
    their requests, and between them runs of rows that are copied. A long document has one group per
    segment.
    """
    reuse = reuse or Reuse(survey)
    return merge_by_row(_documents(factory, survey, reuse), reuse.copied_runs())


def merge_by_row(
    groups: Iterable[list[PreparedDocument]], copied: Iterator[CopiedRows]
) -> Iterator[list[WorkItem]]:
    """Merges both streams by row number, in the groups of the documents. Runs after the last
    document, before a long one, or enough to fill a group, form groups of their own."""
    run = next(copied, None)
    for group in groups:
        both: list[WorkItem] = []
        for prepared in group:
            while run is not None and run.row < prepared.document.row:
                both.append(run)
                run = next(copied, None)
                if len(both) == BATCH_ROWS:
                    yield both
                    both = []
            if both and prepared.long is not None:
                yield both
                both = []
            both.append(prepared)
        # A document may have 200 MB: no name may keep it alive while the next one is read.
        del group, prepared
        yield both
        del both
    while run is not None:
        yield [run, *islice(copied, BATCH_ROWS - 1)]
        run = next(copied, None)


def _documents(
    factory: RequestFactory, survey: Survey, reuse: Reuse
) -> Iterator[list[PreparedDocument]]:
    """The documents to process, in the groups in which they are read; a long one alone, with one
    group per segment."""
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
            if document.text is not None and route is not None and factory.has_room(document):
                chunks = islice(factory.chunks(document), 1)
                found += [factory.request(document, chunk, route) for chunk in chunks]
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
        cut = factory.pieces(document, request.chunk) if is_long else []
        made = [factory.request(document, chunk, request.route) for chunk in cut]
        if is_long and not made:
            unsplittable.append(request)
        requests += made or [request]
        pieces += made
    return replace(prepare_document, requests=requests), pieces, unsplittable


def prepare_document(factory: RequestFactory, document: Document) -> PreparedDocument:
    """A document and its requests; without requests if it cannot be read or must not be sent."""
    found = _open(factory, document)
    return found if isinstance(found, PreparedDocument) else found.at_once()


def _open(factory: RequestFactory, document: Document) -> PreparedDocument | LongDocument:
    """A document with its requests, or a long document, whose segments have them."""
    if document.text is None:
        return PreparedDocument(document, [])
    route = factory.router.route(document.fields)
    if route is None:
        return _isolated(document, "the rules of the job allow no endpoint for this row")
    if not factory.has_room(document):
        return _isolated(document, factory.too_long(document))
    max_chunks = factory.guard.max_chunks
    chunks = islice(factory.chunks(document), max_chunks + 1)
    short = 0 if len(document.text) > SEGMENT_CHARS else SEGMENT_REQUESTS
    first = [factory.request(document, each, route) for each in islice(chunks, short)]
    further = next(chunks, None)
    if further is None and len(first) <= max_chunks:
        return PreparedDocument(document, first)
    # All chunks are counted before the first request is paid for.
    spans = Spans(len(document.text))
    given = (request.chunk for request in first)
    spans.extend(chain(given, [] if further is None else [further], chunks))
    if len(spans) > max_chunks:
        return _isolated(document, f"more than guard.max_chunks = {many(max_chunks, 'chunk')}")
    return LongDocument(document, route, factory, spans)


def _isolated(document: Document, reason: str) -> PreparedDocument:
    return PreparedDocument(replace(document, text=None, error=reason), [])
