"""The two streams of a run: rows in at one end, results out at the other, calls between them.

    feed ──(opened groups, in order)──> drain          feed: source, chunk, render, key
      └──> dispatch: workers, one writer ──┘ whole     drain: aggregate, sink

`feed` admits groups of documents, workers settle their requests in any order, `drain` waits for the
oldest group and writes it.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from anyio.to_thread import run_sync

from pipeline import events
from pipeline.cache.lookup import Outcomes
from pipeline.cache.store import AnswerCache
from pipeline.dispatch.dispatch import Dispatch
from pipeline.dispatch.queue import Group
from pipeline.dispatch.settling import TOO_SHORT
from pipeline.errors import TextmillError, TooManyFailed
from pipeline.parts.reuse import CopiedRows
from pipeline.prepare.factory import RequestFactory
from pipeline.prepare.long_documents import PreparedDocument
from pipeline.prepare.requests import WorkItem, finished_documents, requests_of, split
from pipeline.records import Aggregator, Document, Failure, Request
from pipeline.runs.folder import RunRecord
from pipeline.runs.interrupts import Interrupts
from pipeline.sink.sink import Sink
from pipeline.text import many

MIN_FAILED_ROWS = 20
"""`guard.max_failed` never means fewer rows than this: two of five rows are no sign of a fault."""

MAX_OPEN_BYTES = 48 << 20

OpenGroup = tuple[list[WorkItem], Group, int, int]


class Loop:
    """One turn of the mill, from the first row to the last; nothing is published here."""

    def __init__(
        self,
        factory: RequestFactory,
        aggregator: Aggregator,
        groups: Iterator[list[WorkItem]],
        *,
        rows: int,
        cache: AnswerCache,
        dispatch: Dispatch,
        sink: Sink,
        record: RunRecord,
        interrupts: Interrupts,
        emit: events.Emit,
    ) -> None:
        self._factory, self._aggregator, self._groups = factory, aggregator, groups
        self._most_failed = max(MIN_FAILED_ROWS, int(factory.guard.max_failed * rows))
        self._rows = rows
        self._cache, self._dispatch = cache, dispatch
        self._sink, self._record = sink, record
        self._interrupts, self._emit = interrupts, emit
        in_flight = sum(each.concurrency * each.batch_size for each in factory.endpoints)
        self._window = Window(MAX_OPEN_BYTES, max(4_096, 4 * in_flight))

    async def run(self) -> None:
        """Return when every row is in the sink. Raises: what the dispatch was stopped by."""
        put, get = anyio.create_memory_object_stream[OpenGroup](float("inf"))
        # The streams outlive both stages: one that ended early must not break the other.
        with put, get:
            async with anyio.create_task_group() as group:
                group.start_soon(self._send)
                group.start_soon(self._drained, self._feed(put))
                group.start_soon(self._drained, self._drain(get))

    async def _send(self) -> None:
        """Whatever ends the run while calls are made stops the dispatch, and comes home here."""
        with self._interrupts.draining(self._dispatch.stop):
            await self._dispatch.run()

    async def _drained(self, stage: Coroutine[Any, Any, None]) -> None:
        """A stage that ends the run lets the calls under way come in first: they are paid for."""
        try:
            await stage
        except TextmillError as error:
            self._dispatch.stop(error)

    async def _feed(self, put: MemoryObjectSendStream[OpenGroup]) -> None:
        dispatch = self._dispatch
        with put:
            while dispatch.stopped_by is None:
                opened = await run_sync(next, self._groups, None, abandon_on_cancel=True)
                if opened is None:
                    return
                requests = requests_of(opened)
                weight, entries = _weight(opened), len(opened) + len(requests)
                await self._window.enter(weight, entries)
                group = Group()
                cached = await dispatch.admit(group, requests)
                documents = sum(each.documents for each in opened)
                self._emit(events.Admitted(documents, len(requests), cached))
                put.send_nowait((opened, group, weight, entries))

    async def _drain(self, get: MemoryObjectReceiveStream[OpenGroup]) -> None:
        async for opened, group, weight, entries in get:
            await group.whole.wait()
            opened = finished_documents(await self._with_pieces(opened))
            before = self._sink.counts
            if opened:
                await run_sync(self._write, opened)
            self._window.leave(weight, entries)
            if not opened:
                continue
            counts = self._sink.counts
            self._emit(
                events.Written(
                    sum(each.documents for each in opened),
                    counts.ok - before.ok,
                    counts.partial - before.partial,
                    counts.failed - before.failed,
                )
            )
            if counts.failed > self._most_failed:
                raise TooManyFailed(
                    f"{counts.failed:,} of {many(self._rows, 'document')} failed, more than "
                    f"guard.max_failed allows ({self._most_failed:,}): nothing was published",
                    hint=f"see {self._record.failures_path}; answers so far are kept",
                )
        self._dispatch.close()

    async def _with_pieces(self, opened: list[WorkItem]) -> list[WorkItem]:
        """The documents with pieces in the place of requests that were too long, all settled."""
        dispatch = self._dispatch
        while dispatch.splits:
            too_long = {request.dedup_key for request in requests_of(opened)} & dispatch.splits
            if not too_long - dispatch.failures.keys():
                return opened
            whole: list[WorkItem] = []
            pieces: list[Request] = []
            unsplittable: list[Request] = []
            for each in opened:
                if isinstance(each, PreparedDocument):
                    each, made, too_short = split(self._factory, each, too_long)
                    pieces += made
                    unsplittable += too_short
                whole.append(each)
            opened = whole
            if unsplittable:
                await dispatch.fail(unsplittable, Failure("too_long", TOO_SHORT))
            group = Group()
            cached = await dispatch.admit(group, pieces)
            self._emit(events.Admitted(0, len(pieces), cached))
            await group.whole.wait()
        return opened

    def _write(self, opened: list[WorkItem]) -> None:
        """Aggregate and write these documents; in a worker thread, one group at a time."""
        for each in opened:
            match each:
                case CopiedRows():
                    self._sink.copy(each)
                case PreparedDocument():
                    self._write_document(each.document, each.requests)

    def _write_document(self, document: Document, requests: Sequence[Request]) -> None:
        failures, record = self._dispatch.failures, self._record
        outcomes = Outcomes(requests, self._cache, failures, self._factory.keys)
        result = self._aggregator.step(document, outcomes)
        self._sink.write(document, result, outcomes)
        if document.error is not None:
            record.isolated(document)
        for position, outcome in outcomes.failed():
            record.failed(document, position, outcome)


def _weight(group: Sequence[WorkItem]) -> int:
    """What a group holds in memory, in bytes or so: a chunk's text stands in the document and once
    more in its request, kept columns lie in the group's one record batch. Of a long document only
    what a segment adds to it: it is held as a whole, and others would wait for its end."""
    weight, batches = 0, dict[int, int]()
    for each in group:
        match each:
            case CopiedRows():
                weight += each.weight_bytes
            case PreparedDocument(document=document, requests=requests, long=None):
                batch = document.row_ref.batch
                batches[id(batch)] = int(batch.nbytes)
                weight += len(document.text or "") + sum(len(r.input) for r in requests)
            case PreparedDocument(requests=requests):
                weight += 2 * sum(len(request.input) for request in requests)
    return weight + sum(batches.values())


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
