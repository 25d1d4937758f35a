"""One execution of a job: survey, then rows in, results out, then one commit.

    feed ──(opened groups, in order)──> drain          feed: source, chunk, render, key
      └──> dispatch: workers, one writer ──┘ whole     drain: aggregate, sink

Two streams of control meet in `dispatch`: `feed` admits groups of documents, workers settle their
requests in any order, `drain` waits for the oldest group and writes it. A run always surveys, looks
up, and sends what is missing; resuming has no path of its own.
"""

from __future__ import annotations

import shutil
import signal
import sys
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import anyio
import msgspec
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from anyio.to_thread import run_sync
from msgspec import Struct
from msgspec.structs import replace

from pipeline import events
from pipeline.answering import Answering, answering_of
from pipeline.cache import AnswerCache
from pipeline.canary import Canary, Send, has_passed, known_texts, mark_passed
from pipeline.dispatch import TOO_SHORT, Dispatch
from pipeline.errors import (
    BudgetError,
    Interrupted,
    StorageError,
    TextmillError,
    TimeLimit,
    TooManyFailed,
)
from pipeline.files import recheck
from pipeline.flights import Group
from pipeline.folder import RunRecord, run_folder, runs_of
from pipeline.keys import Keys, model_name, prefix
from pipeline.memory import give_back
from pipeline.outcomes import Outcomes
from pipeline.place import lock
from pipeline.plan import plan
from pipeline.prepare import (
    LEAST_SPLIT_TOKENS,
    Entry,
    Opened,
    Pipeline,
    gathered,
    parts_fingerprint,
    resumed,
    split,
)
from pipeline.prices import cost
from pipeline.records import Answer, Endpoint, Failure, Request
from pipeline.reuse import Copied, Reuse, check_removed, reusing
from pipeline.runs import Manifest, new_run_id, this_run
from pipeline.sink import Sink
from pipeline.survey import Survey, survey
from pipeline.until import next_moment, steady
from pipeline.window import Window

LEAST_FAILED = 20
"""`guard.max_failed` never means fewer rows than this: two of five rows are no sign of a fault."""

SIGNALS = [signal.SIGINT, signal.SIGTERM]
if sys.platform != "win32":
    SIGNALS.append(signal.SIGHUP)

OPEN_BYTES = 48 << 20
LOOK_SECONDS = 30.0
"""So often `run.until` is compared with the clock: a machine that slept wakes late otherwise."""
CLASSES = {
    0: "complete",
    1: "internal",
    2: "usage",
    3: "failed rows",
    4: "too many failed",
    5: "outage",
    6: "input",
    7: "refused",
    8: "budget",
    10: "time limit",
    11: "locked",
    12: "state",
    13: "storage",
    14: "guard",
    130: "interrupted",
    143: "interrupted",
}

Opening = tuple[list[Entry], Group, int, int]


class Ended(Struct, frozen=True):
    """How a run ended, and the error that ended it early."""

    summary: events.Summary
    error: TextmillError | None
    failures: Path | None


async def run(pipeline: Pipeline, emit: events.Emit, retry_failed: str | None = None) -> Ended:
    """Run the job to its commit. Never raises a TextmillError: it is in what comes back.

    `retry_failed`: the class of failures that an open run is to try again, or `all`.
    """
    give_back()
    turn = _Turn(pipeline, emit, retry_failed)
    error: TextmillError | None = None
    try:
        async with anyio.create_task_group() as group:
            if threading.current_thread() is threading.main_thread():
                group.start_soon(turn.watch_signals, group)
            if pipeline.until:
                group.start_soon(turn.watch_clock, group, pipeline.until)
            await turn.whole()
            group.cancel_scope.cancel()
    except* TextmillError as errors:
        error = _first(errors)
    stopped_by = turn.dispatch.stopped_by if turn.dispatch else None
    return turn.ended(error or stopped_by or turn.killed_by)


class _Turn:
    """The state of one run: what `run` would otherwise pass from hand to hand."""

    def __init__(
        self, pipeline: Pipeline, emit: events.Emit, retry_failed: str | None = None
    ) -> None:
        self.pipeline = pipeline
        self.emit = emit
        self.retry_failed = retry_failed
        self.started = time.monotonic()
        self.survey: Survey | None = None
        self.dispatch: Dispatch | None = None
        self.sink: Sink | None = None
        self.record: RunRecord | None = None
        self.reuse: Reuse | None = None
        self.killed_by: TextmillError | None = None
        self.is_committing = False

    async def whole(self) -> None:
        pipeline = self.pipeline
        with lock(run_folder(pipeline.output)):
            surveyed = await run_sync(survey, pipeline.input, abandon_on_cancel=True)
            self.survey = surveyed
            self.emit(events.Surveyed(surveyed.rows, len(surveyed.part_rows)))
            cache = await run_sync(AnswerCache, Path(pipeline.home) / "answers")
            with closing(cache):
                async with answering_of(pipeline, cache) as answering:
                    endpoints = tuple(each.endpoint for each in answering)
                    self.pipeline = replace(pipeline, endpoints=endpoints)
                    await self._published(surveyed, cache, answering)

    async def _published(
        self, surveyed: Survey, cache: AnswerCache, answering: Sequence[Answering]
    ) -> None:
        """Everything between a manifest and a commit."""
        pipeline = self.pipeline
        sink = self.sink = Sink(
            output=pipeline.output,
            # Not the run's id, which may be that of a run whose output stands already: a kill
            # between the rename and the last word of its manifest leaves it open.
            run_id=new_run_id(),
            survey=surveyed,
            columns=pipeline.aggregator.columns,
            per_chunk=pipeline.aggregator.per_chunk,
            metadata=pipeline.metadata | {"textmill.model": model_name(pipeline.endpoints[0])},
            dimension=pipeline.dimension,
            fingerprint=parts_fingerprint(pipeline),
        )
        with closing(sink):
            reuse = await self._reuse(surveyed, sink)
            found = [each for each in runs_of(pipeline.output).values() if each]
            run = this_run(_manifest(pipeline, surveyed, sink), found)
            record = self.record = RunRecord(pipeline.output, run)
            with closing(record), self._closing(record):
                record.begin()
                self.emit(events.Began(run.run, str(record.folder)))
                if self.retry_failed:
                    record.journal.drop(self.retry_failed)
                for each in _prefixes(pipeline):
                    await run_sync(cache.remember_prefix, each)
                await self._check_budget(surveyed, cache)
                await self._mill(surveyed, cache, answering)
                recheck(surveyed.files)
                sink.check_loss()
                if self.dispatch and self.dispatch.stopped_by:
                    raise self.dispatch.stopped_by
                record.close()
                self.is_committing = True
                changes = Path(pipeline.changes) if pipeline.changes else None
                rows = await run_sync(sink.commit, changes)
                self.emit(events.Committed(pipeline.output, rows))
                counts = sink.counts
                record.manifest = replace(
                    record.manifest,
                    accounting=msgspec.structs.asdict(reuse.accounting),
                    parts=[(part.path.name, part.header.sha256) for part in sink.published],
                )
                record.end(3 if counts.failed + counts.partial else 0, rows)

    @contextmanager
    def _closing(self, record: RunRecord) -> Iterator[None]:
        """Closes the run where an error says that it cannot be gone on with; a kill, a bug and
        what passes by itself leave it open. The lock is still held here."""
        try:
            yield
        except BaseException as raised:
            if (error := _first(raised)) is not None and not self.is_committing:
                with suppress(StorageError):
                    record.end(error.exit_code)
            raise

    async def _reuse(self, surveyed: Survey, sink: Sink) -> Reuse:
        """What stands already; the guards look at it before anything is paid."""
        pipeline = self.pipeline
        reuse = self.reuse = await run_sync(
            reusing, surveyed, sink.place, sink.fingerprint, sink.standing, abandon_on_cancel=True
        )
        if surveyed.rows:  # of an empty input `Sink.check_loss` tells what is wrong
            check_removed(reuse, pipeline.max_removed, pipeline.output)
        sink.expect(reuse)
        self.pipeline = replace(pipeline, dimension=pipeline.dimension or reuse.dimension)
        return reuse

    async def _check_budget(self, surveyed: Survey, cache: AnswerCache) -> None:
        most = self.pipeline.max_cost_usd
        if most is None or self.pipeline.is_partial:
            return
        left = partial(plan, self.pipeline, surveyed, cache, self.reuse)
        planned = await run_sync(left, abandon_on_cancel=True)
        if planned.cost_usd > most:
            raise BudgetError(
                f"the plan costs up to ${planned.cost_usd:.4f}, over "
                f"budget.max_cost_usd = {most:g}",
                hint="raise the budget, or work up to it with --partial",
            )

    async def _mill(
        self, surveyed: Survey, cache: AnswerCache, answering: Sequence[Answering]
    ) -> None:
        pipeline, record = self.pipeline, self.record
        assert record is not None
        in_flight = sum(each.concurrency * each.batch_size for each in pipeline.endpoints)
        window = Window(OPEN_BYTES, max(4_096, 4 * in_flight))
        dispatch = self.dispatch = Dispatch(
            await self._watched(surveyed, cache, answering),
            cache,
            self.emit,
            policy=pipeline.route,
            dimension=pipeline.dimension,
            failures=await run_sync(record.journal.load),
            journal=record.journal.put_many,
            grace_seconds=pipeline.grace_seconds,
            free_bytes=lambda: shutil.disk_usage(cache.folder).free,
            max_outage_seconds=pipeline.max_outage_seconds,
            max_cost_usd=pipeline.max_cost_usd,
            least_split_tokens=LEAST_SPLIT_TOKENS,
        )
        for position, each in enumerate(answering):
            each.listen = partial(dispatch.hear, position=position)
        put, get = anyio.create_memory_object_stream[Opening](float("inf"))
        # The streams outlive both stages: one that ended early must not break the other.
        with put, get:
            async with anyio.create_task_group() as group:
                group.start_soon(dispatch.run)
                group.start_soon(self._drained, self._feed(surveyed, dispatch, window, put))
                group.start_soon(self._drained, self._drain(surveyed, cache, dispatch, window, get))

    async def _watched(
        self, surveyed: Survey, cache: AnswerCache, answering: Sequence[Answering]
    ) -> list[tuple[Endpoint, Send]]:
        """The endpoints, each behind a canary where vectors must not mix with those of a commit."""
        pipeline, reuse = self.pipeline, self.reuse
        asked: list[tuple[Endpoint, Send]]
        asked = [(each.endpoint, each.answer) for each in answering]
        standing = reuse.standing if reuse else None
        embeds = pipeline.endpoints[0].task == "feature-extraction" and pipeline.drift_texts
        if reuse is None or standing is None or reuse.keeps_all or not embeds:
            return asked
        marker = run_folder(pipeline.output) / "canary"
        if has_passed(marker, standing.run):
            return asked
        known = await run_sync(known_texts, pipeline, surveyed, reuse, cache)
        passed = partial(mark_passed, marker, standing.run)
        return [
            (endpoint, Canary(endpoint, send, texts, passed, self._asked_again).answer)
            for (endpoint, send), texts in zip(asked, known, strict=True)
        ]

    def _asked_again(
        self, endpoint: Endpoint, requests: int, seconds: float, answers: Sequence[Answer]
    ) -> None:
        """The canary's calls are paid like all others."""
        assert self.dispatch is not None
        tally = self.dispatch.tally
        tokens_in = sum(each.input_tokens for each in answers)
        tokens_out = sum(each.output_tokens for each in answers)
        spent = cost(
            endpoint.price,
            requests=requests,
            input_tokens=tokens_in,
            output_tokens=tokens_out,
            seconds=seconds,
        )
        tally.calls += 1
        tally.input_tokens += tokens_in
        tally.output_tokens += tokens_out
        tally.cost_usd += spent
        told = (endpoint.name, requests, seconds, tokens_in, tokens_out, spent)
        self.emit(events.CallEnded(*told))

    async def _drained(self, stage: Coroutine[Any, Any, None]) -> None:
        """A stage that ends the run lets the calls under way come in first: they are paid for."""
        assert self.dispatch is not None
        try:
            await stage
        except TextmillError as error:
            self.dispatch.stop(error)

    async def _feed(
        self,
        surveyed: Survey,
        dispatch: Dispatch,
        window: Window,
        put: MemoryObjectSendStream[Opening],
    ) -> None:
        groups = resumed(self.pipeline, surveyed, self.reuse or Reuse(surveyed))
        with put:
            while dispatch.stopped_by is None:
                opened = await run_sync(next, groups, None, abandon_on_cancel=True)
                if opened is None:
                    return
                requests = [request for each in opened for request in each.requests]
                weight, entries = _weight(opened), len(opened) + len(requests)
                await window.enter(weight, entries)
                group = Group()
                cached = await dispatch.admit(group, requests)
                documents = sum(each.documents for each in opened)
                self.emit(events.Admitted(documents, len(requests), cached))
                put.send_nowait((opened, group, weight, entries))

    async def _drain(
        self,
        surveyed: Survey,
        cache: AnswerCache,
        dispatch: Dispatch,
        window: Window,
        get: MemoryObjectReceiveStream[Opening],
    ) -> None:
        sink = self.sink
        assert sink is not None and self.record is not None
        most_failed = max(LEAST_FAILED, int(self.pipeline.max_failed * surveyed.rows))
        async for opened, group, weight, entries in get:
            await group.whole.wait()
            opened = gathered(await self._with_pieces(opened, dispatch))
            before = sink.counts
            if opened:
                await run_sync(self._write, opened, cache, dispatch.failures)
            window.leave(weight, entries)
            if not opened:
                continue
            counts = sink.counts
            self.emit(
                events.Written(
                    sum(each.documents for each in opened),
                    counts.ok - before.ok,
                    counts.partial - before.partial,
                    counts.failed - before.failed,
                )
            )
            if counts.failed > most_failed:
                raise TooManyFailed(
                    f"{counts.failed:,} of {surveyed.rows:,} documents failed, more than "
                    f"guard.max_failed allows ({most_failed:,}): nothing was published",
                    hint=f"see {self.record.failures_path}; answers so far are kept",
                )
        dispatch.close()

    async def _with_pieces(self, opened: list[Entry], dispatch: Dispatch) -> list[Entry]:
        """The documents with pieces in the place of requests that were too long, all settled."""
        while dispatch.splits:
            too_long = {r.flight for each in opened for r in each.requests} & dispatch.splits
            if not too_long - dispatch.failures.keys():
                return opened
            cut: list[tuple[Entry, list[Request], list[Request]]] = [
                (each, [], []) if isinstance(each, Copied) else split(self.pipeline, each, too_long)
                for each in opened
            ]
            for _, _, hopeless in cut:
                for request in hopeless:
                    dispatch.failures[request.flight] = Failure("too_long", TOO_SHORT)
            opened = [whole for whole, _, _ in cut]
            group, pieces = Group(), [piece for _, made, _ in cut for piece in made]
            cached = await dispatch.admit(group, pieces)
            self.emit(events.Admitted(0, len(pieces), cached))
            await group.whole.wait()
        return opened

    def _write(
        self, opened: list[Entry], cache: AnswerCache, failures: dict[bytes, Failure]
    ) -> None:
        """Aggregate and write these documents; in a worker thread, one group at a time."""
        sink, record, keys = self.sink, self.record, Keys(self.pipeline.endpoints)
        assert sink is not None and record is not None
        for each in opened:
            if isinstance(each, Copied):
                sink.copy(each)
                continue
            document = each.document
            outcomes = Outcomes(each.requests, cache, failures, keys)
            result = self.pipeline.aggregator.step(document, outcomes)
            sink.write(document, result, outcomes)
            if document.error is not None:
                record.isolated(document)
            for position, outcome in outcomes.failed():
                record.failed(document, position, outcome)

    async def watch_clock(self, group: TaskGroup, until: str) -> None:
        """Drains at this time of day; the moment is fixed at the start, whatever the clock does."""
        now = time.time()
        ends = steady() + next_moment(until, now) - now
        while (left := ends - steady()) > 0:  # noqa: ASYNC110 - no event tells the time
            await anyio.sleep(min(left, LOOK_SECONDS))
        if self.is_committing or self.killed_by is not None:
            return
        error = TimeLimit(f"run.until = {until} reached; run the same command to go on")
        if self.dispatch is None:
            self.killed_by = error
            group.cancel_scope.cancel()
        else:
            self.dispatch.stop(error)

    async def watch_signals(self, group: TaskGroup) -> None:
        """The first signal drains, the second one leaves at once; a commit is never torn."""
        # What the caller ignores, as nohup does, is ignored here, too.
        heeded = [each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
        if not heeded:
            return
        with anyio.open_signal_receiver(*heeded) as received:
            async for number in received:
                # A terminal that closes asks for an orderly end, as SIGTERM does.
                error = Interrupted(number.name, 130 if number == signal.SIGINT else 143)
                if self.is_committing:
                    continue
                if self.dispatch is None or self.killed_by is not None:
                    self.killed_by = self.killed_by or error
                    group.cancel_scope.cancel()
                else:
                    self.killed_by = error
                    self.dispatch.stop(error)

    def ended(self, error: TextmillError | None) -> Ended:
        """The summary of this run."""
        counts = self.sink.counts if self.sink else None
        tally = self.dispatch.tally if self.dispatch else None
        failed = (counts.failed + counts.partial) if counts else 0
        code = error.exit_code if error else 3 if failed else 0
        seconds = time.monotonic() - self.started
        spent = tally.cost_usd + self.dispatch.rent_usd if tally and self.dispatch else 0.0
        has_failures = self.record is not None and self.record.failures_path.exists()
        summary = events.Summary(
            exit=code,
            class_=CLASSES.get(code, "internal"),
            resumable=error is not None and error.resumable,
            documents=self.survey.rows if self.survey else 0,
            ok=counts.ok if counts else 0,
            partial=counts.partial if counts else 0,
            failed=counts.failed if counts else 0,
            requests=tally.requests if tally else 0,
            cached=tally.cached if tally else 0,
            calls=tally.calls if tally else 0,
            tokens=tally.input_tokens + tally.output_tokens if tally else 0,
            cost_usd=round(spent, 6),
            seconds=round(seconds, 3),
            endpoints=self.dispatch.endpoints if self.dispatch else (),
            **(msgspec.structs.asdict(self.reuse.accounting) if self.reuse else {}),
        )
        path = self.record.failures_path if self.record and has_failures else None
        return Ended(summary, error, path)


def _weight(opened: Sequence[Entry]) -> int:
    """What a group holds in memory, in bytes or so: a chunk's text stands in the document and once
    more in its request, kept columns lie in the group's one record batch. Of a long document only
    what a segment adds to it: it is held as a whole, and others would wait for its end."""
    inputs = sum(len(request.input) for each in opened for request in each.requests)
    if opened[0].long is not None:
        return 2 * inputs
    texts = sum(each.weight_bytes for each in opened)
    batches = [each.document.kept.batch for each in opened if isinstance(each, Opened)]
    return texts + inputs + sum({id(batch): int(batch.nbytes) for batch in batches}.values())


def _manifest(pipeline: Pipeline, surveyed: Survey, sink: Sink) -> Manifest:
    return Manifest(
        run=new_run_id(),
        number=1,
        started=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        job=pipeline.name,
        fingerprint=pipeline.fingerprint,
        input=surveyed.fingerprint,
        rows=surveyed.rows,
        output=pipeline.output,
        models=[list(endpoint.identity) for endpoint in pipeline.endpoints],
        shaping=pipeline.shaping,
        prefixes=[msgspec.json.decode(each) for each in _prefixes(pipeline)],
        columns={field.name: str(field.type) for field in sink.schema},
        version=_version(),
    )


def _version() -> str:
    try:
        return version("textmill")
    except PackageNotFoundError:  # run from its sources
        return ""


def _first(raised: BaseException) -> TextmillError | None:
    """What ended the run: the error, or the first one in a group of nothing but such errors."""
    if isinstance(raised, TextmillError):
        return raised
    if isinstance(raised, BaseExceptionGroup):
        errors, others = raised.split(TextmillError)
        if errors is not None and others is None:
            return _first(errors.exceptions[0])
    return None


def _prefixes(pipeline: Pipeline) -> list[bytes]:
    """What stands before the input in the keys of each endpoint, for `explain`."""
    return [prefix(endpoint) for endpoint in pipeline.endpoints]
