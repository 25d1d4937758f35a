"""The two streams of a run: rows in at one end, results out at the other, calls between them.

    feed ──(opened groups, in order)──> drain          feed: source, chunk, render, key
      └──> dispatch: workers, one writer ──┘ whole     drain: aggregate, sink

`feed` admits groups of documents, workers settle their requests in any order, `drain` waits for the
oldest group and writes it.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from anyio.to_thread import run_sync

from pipeline import events
from pipeline.cache.keys import Keys
from pipeline.cache.lookup import Outcomes
from pipeline.cache.store import AnswerCache
from pipeline.dispatch.dispatch import Dispatch
from pipeline.dispatch.queue import Group
from pipeline.dispatch.settling import TOO_SHORT
from pipeline.errors import TextmillError, TooManyFailed
from pipeline.parts.reuse import CopiedRows, Reuse
from pipeline.prepare.long_documents import PreparedDocument
from pipeline.prepare.pipeline import Pipeline
from pipeline.prepare.requests import WorkItem, finished_documents, prepare, split
from pipeline.records import Failure, Request
from pipeline.runs.folder import RunRecord
from pipeline.sink.sink import Sink
from pipeline.source.survey import Survey
from pipeline.text import many

MIN_FAILED_ROWS = 20
"""`guard.max_failed` never means fewer rows than this: two of five rows are no sign of a fault."""

MAX_OPEN_BYTES = 48 << 20

OpenGroup = tuple[list[WorkItem], Group, int, int]


class Loop:
    """One turn of the mill, from the first row to the last; nothing is published here."""

    def __init__(
        self,
        pipeline: Pipeline,
        survey: Survey,
        reuse: Reuse,
        cache: AnswerCache,
        dispatch: Dispatch,
        sink: Sink,
        record: RunRecord,
        emit: events.Emit,
    ) -> None:
        self._pipeline, self._survey, self._reuse = pipeline, survey, reuse
        self._cache, self._dispatch = cache, dispatch
        self._sink, self._record, self._emit = sink, record, emit
        self._keys = Keys(pipeline.endpoints)
        in_flight = sum(each.concurrency * each.batch_size for each in pipeline.endpoints)
        self._window = Window(MAX_OPEN_BYTES, max(4_096, 4 * in_flight))

    async def run(self) -> None:
        """Return when every row is in the sink, or the dispatch was stopped.

        Raises: what the dispatch was stopped by; TooManyFailed.
        """
        put, get = anyio.create_memory_object_stream[OpenGroup](float("inf"))
        # The streams outlive both stages: one that ended early must not break the other.
        with put, get:
            async with anyio.create_task_group() as group:
                group.start_soon(self._dispatch.run)
                group.start_soon(self._drained, self._feed(put))
                group.start_soon(self._drained, self._drain(get))

    async def _drained(self, stage: Coroutine[Any, Any, None]) -> None:
        """A stage that ends the run lets the calls under way come in first: they are paid for."""
        try:
            await stage
        except TextmillError as error:
            self._dispatch.stop(error)

    async def _feed(self, put: MemoryObjectSendStream[OpenGroup]) -> None:
        groups, dispatch = prepare(self._pipeline, self._survey, self._reuse), self._dispatch
        with put:
            while dispatch.stopped_by is None:
                opened = await run_sync(next, groups, None, abandon_on_cancel=True)
                if opened is None:
                    return
                requests = [request for each in opened for request in each.requests]
                weight, entries = _weight(opened), len(opened) + len(requests)
                await self._window.enter(weight, entries)
                group = Group()
                cached = await dispatch.admit(group, requests)
                documents = sum(each.documents for each in opened)
                self._emit(events.Admitted(documents, len(requests), cached))
                put.send_nowait((opened, group, weight, entries))

    async def _drain(self, get: MemoryObjectReceiveStream[OpenGroup]) -> None:
        sink, rows = self._sink, self._survey.rows
        most_failed = max(MIN_FAILED_ROWS, int(self._pipeline.max_failed * rows))
        async for opened, group, weight, entries in get:
            await group.whole.wait()
            opened = finished_documents(await self._with_pieces(opened))
            before = sink.counts
            if opened:
                await run_sync(self._write, opened)
            self._window.leave(weight, entries)
            if not opened:
                continue
            counts = sink.counts
            self._emit(
                events.Written(
                    sum(each.documents for each in opened),
                    counts.ok - before.ok,
                    counts.partial - before.partial,
                    counts.failed - before.failed,
                )
            )
            if counts.failed > most_failed:
                raise TooManyFailed(
                    f"{counts.failed:,} of {many(rows, 'document')} failed, more than "
                    f"guard.max_failed allows ({most_failed:,}): nothing was published",
                    hint=f"see {self._record.failures_path}; answers so far are kept",
                )
        self._dispatch.close()

    async def _with_pieces(self, opened: list[WorkItem]) -> list[WorkItem]:
        """The documents with pieces in the place of requests that were too long, all settled."""
        dispatch = self._dispatch
        while dispatch.splits:
            too_long = {r.dedup_key for each in opened for r in each.requests} & dispatch.splits
            if not too_long - dispatch.failures.keys():
                return opened
            cut: list[tuple[WorkItem, list[Request], list[Request]]] = [
                (each, [], [])
                if isinstance(each, CopiedRows)
                else split(self._pipeline, each, too_long)
                for each in opened
            ]
            for _, _, unsplittable in cut:
                for request in unsplittable:
                    dispatch.failures[request.dedup_key] = Failure("too_long", TOO_SHORT)
            opened = [whole for whole, _, _ in cut]
            group, pieces = Group(), [piece for _, made, _ in cut for piece in made]
            cached = await dispatch.admit(group, pieces)
            self._emit(events.Admitted(0, len(pieces), cached))
            await group.whole.wait()
        return opened

    def _write(self, opened: list[WorkItem]) -> None:
        """Aggregate and write these documents; in a worker thread, one group at a time."""
        sink, record, failures = self._sink, self._record, self._dispatch.failures
        for each in opened:
            if isinstance(each, CopiedRows):
                sink.copy(each)
                continue
            document = each.document
            outcomes = Outcomes(each.requests, self._cache, failures, self._keys)
            result = self._pipeline.aggregator.step(document, outcomes)
            sink.write(document, result, outcomes)
            if document.error is not None:
                record.isolated(document)
            for position, outcome in outcomes.failed():
                record.failed(document, position, outcome)


def _weight(opened: Sequence[WorkItem]) -> int:
    """What a group holds in memory, in bytes or so: a chunk's text stands in the document and once
    more in its request, kept columns lie in the group's one record batch. Of a long document only
    what a segment adds to it: it is held as a whole, and others would wait for its end."""
    inputs = sum(len(request.input) for each in opened for request in each.requests)
    if opened[0].long is not None:
        return 2 * inputs
    texts = sum(each.weight_bytes for each in opened)
    batches = [each.document.row_ref.batch for each in opened if isinstance(each, PreparedDocument)]
    return texts + inputs + sum({id(batch): int(batch.nbytes) for batch in batches}.values())


class Window:
    """Counts what is open, in bytes or so and in entries; one that is alone always enters.

    Invariant: with more than one group open, neither count is above its bound.
    """

    def __init__(self, most_bytes: int, most_entries: int) -> None:
        self._most = (most_bytes, most_entries)
        self._open = (0, 0)
        self._groups = 0
        self._left = anyio.Event()

    async def enter(self, weight: int, entries: int) -> None:
        """Return when a group of this size has room."""
        while self._groups and not self._fits(weight, entries):
            await self._left.wait()
        self._groups += 1
        self._open = (self._open[0] + weight, self._open[1] + entries)

    def leave(self, weight: int, entries: int) -> None:
        """A group of this size is written."""
        self._groups -= 1
        self._open = (self._open[0] - weight, self._open[1] - entries)
        self._left.set()
        self._left = anyio.Event()

    def _fits(self, weight: int, entries: int) -> bool:
        return self._open[0] + weight <= self._most[0] and self._open[1] + entries <= self._most[1]
