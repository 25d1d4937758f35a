"""Processes the rows of a run: reads and sends them at one end, writes results at the other.

    feed ──(open groups, in order)──> drain          feed: source, chunk, render, key
      └─> dispatch: workers, one writer ─┘ whole     drain: aggregate, sink

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
from pipeline.dispatch.origins import KeptAnswer
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
"""`guard.max_failed` always allows this number of rows: two failed rows of five prove nothing."""

MAX_OPEN_BYTES = 48 << 20

OpenGroup = tuple[list[WorkItem], Group, int, int]


class Loop:
    """Processes all rows; publishing is left to the caller. `reused`: answers in rows that are
    copied, which must be allowed like those of the cache."""

    def __init__(
        self,
        factory: RequestFactory,
        aggregator: Aggregator,
        groups: Iterator[list[WorkItem]],
        *,
        reused: Sequence[KeptAnswer] = (),
        rows: int,
        cache: AnswerCache,
        dispatch: Dispatch,
        sink: Sink,
        record: RunRecord,
        interrupts: Interrupts,
        emit: events.Emit,
    ) -> None:
        self._factory, self._aggregator, self._groups = factory, aggregator, groups
        self._max_failed = max(MIN_FAILED_ROWS, int(factory.guard.max_failed * rows))
        self._rows, self._reused = rows, reused
        self._cache, self._dispatch = cache, dispatch
        self._sink, self._record = sink, record
        self._interrupts, self._emit = interrupts, emit
        in_flight = sum(each.concurrency * each.batch_size for each in factory.endpoints)
        self._window = Window(MAX_OPEN_BYTES, max(4_096, 4 * in_flight))

    async def run(self) -> None:
        """Returns when every row is in the sink. Raises: the error that stopped the dispatch."""
        put, get = anyio.create_memory_object_stream[OpenGroup](float("inf"))
        # The stream outlives both stages: a stage that ends early must not break the other one.
        with put, get:
            async with anyio.create_task_group() as group:
                group.start_soon(self._send)
                group.start_soon(self._drained, self._feed(put))
                group.start_soon(self._drained, self._drain(get))

    async def _send(self) -> None:
        """Sends the calls. A signal or a time limit drains the dispatch, which then raises it
        here."""
        with self._interrupts.draining(self._dispatch.stop):
            await self._dispatch.run()

    async def _drained(self, stage: Coroutine[Any, Any, None]) -> None:
        """Runs a stage. If it fails, the calls in flight are drained first: they are paid for."""
        try:
            await stage
        except TextmillError as error:
            self._dispatch.stop(error)

    async def _feed(self, put: MemoryObjectSendStream[OpenGroup]) -> None:
        dispatch = self._dispatch
        with put:
            await dispatch.origins.use(self._reused)
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
            if counts.failed > self._max_failed:
                bound = (
                    f"{self._max_failed:,}"
                    if self._max_failed > MIN_FAILED_ROWS
                    else f"{MIN_FAILED_ROWS} rows, which may always fail"
                )
                raise TooManyFailed(
                    f"{counts.failed:,} of {many(self._rows, 'document')} failed, more than "
                    f"guard.max_failed allows ({bound}): nothing was published; most often: "
                    f"{self._record.commonest_failure}",
                    hint=f"see {self._record.failures_path}; answers so far are kept",
                )
        self._dispatch.close()

    async def _with_pieces(self, opened: list[WorkItem]) -> list[WorkItem]:
        """The documents with settled pieces in the place of requests that were too long."""
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
        """Aggregates and writes one group, in a worker thread."""
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
    """About how many bytes a group holds in memory. A chunk's text is in its document and again in
    its request; kept columns are in the group's record batch. A segment of a long document counts
    only what it adds: the whole document stays in memory, and other groups would wait for it."""
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
    """Bounds how much of the input is open, in bytes and in entries. A single group always enters.

    Invariant: with more than one group open, neither count is above its bound.
    """

    def __init__(self, max_bytes: int, max_entries: int) -> None:
        self._max = (max_bytes, max_entries)
        self._open = (0, 0)
        self._groups = 0
        self._left = anyio.Event()

    async def enter(self, weight: int, entries: int) -> None:
        """Waits until a group of this size has room."""
        while self._groups and not self._fits(weight, entries):
            await self._left.wait()
        self._groups += 1
        self._open = (self._open[0] + weight, self._open[1] + entries)

    def leave(self, weight: int, entries: int) -> None:
        """Gives back the room of a group that is written."""
        self._groups -= 1
        self._open = (self._open[0] - weight, self._open[1] - entries)
        self._left.set()
        self._left = anyio.Event()

    def _fits(self, weight: int, entries: int) -> bool:
        return self._open[0] + weight <= self._max[0] and self._open[1] + entries <= self._max[1]
