"""One execution of a job: survey, then one turn of the mill, then one commit.

A run always surveys, takes over what stands, looks up, and sends what is missing; resuming has no
path of its own.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.to_thread import run_sync
from msgspec.structs import asdict, replace

from pipeline import events
from pipeline.cache.keys import model_name, prefix
from pipeline.cache.store import AnswerCache
from pipeline.disk.locks import lock_run_folder
from pipeline.disk.memory import return_freed_memory
from pipeline.disk.output_path import run_folder
from pipeline.dispatch.dispatch import Dispatch
from pipeline.endpoints.connect import Connection, connect
from pipeline.errors import BudgetError, StorageError, TextmillError
from pipeline.loop import Loop
from pipeline.parts.reuse import Reuse, check_removed, plan_reuse
from pipeline.plan import plan
from pipeline.prepare.pipeline import Pipeline, parts_fingerprint
from pipeline.prepare.requests import MIN_SPLIT_TOKENS
from pipeline.runs.drift import with_drift_check
from pipeline.runs.folder import RunRecord, runs_of
from pipeline.runs.interrupts import Interrupts
from pipeline.runs.manifest import planned_manifest, this_run
from pipeline.runs.run_id import new_run_id
from pipeline.runs.summary import Ended, end_of_run, first_error, summary
from pipeline.sink.sink import Sink
from pipeline.source.files import recheck
from pipeline.source.scan import survey
from pipeline.source.survey import Survey


async def run(pipeline: Pipeline, emit: events.Emit, retry_failed: str | None = None) -> Ended:
    """Run the job to its commit. Never raises a TextmillError: it is in what comes back.

    `retry_failed`: the class of failures that an open run is to try again, or `all`.
    """
    return_freed_memory()
    turn = _Turn(pipeline, emit, retry_failed)
    error: TextmillError | None = None
    try:
        async with anyio.create_task_group() as group:
            interrupts = turn.interrupts = Interrupts(group)
            if threading.current_thread() is threading.main_thread():
                group.start_soon(interrupts.watch_signals)
            if pipeline.until:
                group.start_soon(interrupts.watch_clock, pipeline.until)
            await turn.whole()
            group.cancel_scope.cancel()
    except* TextmillError as errors:
        error = first_error(errors)
    return turn.ended(error)


class _Turn:
    """The state of one run: what `run` would otherwise pass from hand to hand."""

    interrupts: Interrupts

    def __init__(self, pipeline: Pipeline, emit: events.Emit, retry_failed: str | None) -> None:
        self.pipeline = pipeline
        self.emit = emit
        self.retry_failed = retry_failed
        self.started = time.monotonic()
        self.survey: Survey | None = None
        self.dispatch: Dispatch | None = None
        self.sink: Sink | None = None
        self.record: RunRecord | None = None
        self.reuse: Reuse | None = None

    async def whole(self) -> None:
        pipeline = self.pipeline
        with lock_run_folder(run_folder(pipeline.output)):
            surveyed = await run_sync(survey, pipeline.input, abandon_on_cancel=True)
            self.survey = surveyed
            self.emit(events.Surveyed(surveyed.rows, len(surveyed.part_rows)))
            for column in surveyed.absent if surveyed.rows else ():
                self.emit(events.RuleColumnMissing(column))
            cache = await run_sync(AnswerCache, pipeline.answers)
            with closing(cache):
                async with connect(
                    pipeline.endpoints,
                    cache,
                    sentences=pipeline.sentences,
                    chunk_tokens=pipeline.chunk_tokens,
                    max_outage_seconds=pipeline.max_outage_seconds,
                ) as connections:
                    endpoints = tuple(each.endpoint for each in connections)
                    self.pipeline = replace(pipeline, endpoints=endpoints)
                    await self._published(surveyed, cache, connections)

    async def _published(
        self, surveyed: Survey, cache: AnswerCache, connections: Sequence[Connection]
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
            columns = {field.name: str(field.type) for field in sink.schema}
            run = this_run(planned_manifest(pipeline, surveyed, columns), found)
            record = self.record = RunRecord(pipeline.output, run)
            with closing(record), self._closing(record):
                record.begin()
                self.emit(events.Started(run.run, str(record.folder)))
                if self.retry_failed:
                    record.journal.drop(self.retry_failed)
                for endpoint in pipeline.endpoints:  # for `explain`
                    await run_sync(cache.remember_prefix, prefix(endpoint))
                await self._check_budget(surveyed, cache)
                await self._mill(surveyed, reuse, cache, connections, sink, record)
                recheck(surveyed.files)
                sink.refuse_empty_output()
                if self.dispatch and self.dispatch.stopped_by:
                    raise self.dispatch.stopped_by
                record.close()
                self.interrupts.is_committing = True
                changes = Path(pipeline.changes) if pipeline.changes else None
                rows = await run_sync(sink.commit, changes)
                self.emit(events.Committed(pipeline.output, rows))
                counts = sink.counts
                record.manifest = replace(
                    record.manifest,
                    accounting=asdict(reuse.accounting),
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
            if (error := first_error(raised)) is not None and not self.interrupts.is_committing:
                with suppress(StorageError):
                    record.end(error.exit_code)
            raise

    async def _reuse(self, surveyed: Survey, sink: Sink) -> Reuse:
        """What stands already; the guards look at it before anything is paid."""
        pipeline = self.pipeline
        reuse = self.reuse = await run_sync(
            plan_reuse,
            surveyed,
            sink.layout,
            sink.fingerprint,
            sink.snapshot,
            abandon_on_cancel=True,
        )
        if surveyed.rows:  # of an empty input `Sink.refuse_empty_output` tells what is wrong
            check_removed(reuse, pipeline.max_removed, pipeline.output)
        sink.use_plan(reuse)
        self.pipeline = replace(pipeline, dimension=pipeline.dimension or reuse.dimension)
        return reuse

    async def _check_budget(self, surveyed: Survey, cache: AnswerCache) -> None:
        most = self.pipeline.max_cost_usd
        if most is None or self.pipeline.is_partial:
            return
        left = partial(plan, self.pipeline, surveyed, cache, self.reuse)
        planned_manifest = await run_sync(left, abandon_on_cancel=True)
        if planned_manifest.cost_usd > most:
            raise BudgetError(
                f"the plan costs up to ${planned_manifest.cost_usd:.4f}, over "
                f"budget.max_cost_usd = {most:g}",
                hint="raise the budget, or work up to it with --stop-at-cap",
            )

    async def _mill(
        self,
        surveyed: Survey,
        reuse: Reuse,
        cache: AnswerCache,
        connections: Sequence[Connection],
        sink: Sink,
        record: RunRecord,
    ) -> None:
        pipeline = self.pipeline
        dispatch: Dispatch | None = None

        def told(*call: Any) -> None:  # the canary's calls are paid like all others
            assert dispatch is not None
            dispatch.paid(*call)

        marker = run_folder(pipeline.output) / "canary"
        dispatch = self.dispatch = Dispatch(
            await with_drift_check(pipeline, surveyed, reuse, cache, connections, marker, told),
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
            min_split_tokens=MIN_SPLIT_TOKENS,
        )
        self.interrupts.drain = dispatch.stop
        for position, each in enumerate(connections):
            each.listen = partial(dispatch.hear, position=position)
        await Loop(pipeline, surveyed, reuse, cache, dispatch, sink, record, self.emit).run()

    def ended(self, error: TextmillError | None) -> Ended:
        """How this run ended."""
        stopped_by = self.dispatch.stopped_by if self.dispatch else None
        error = error or stopped_by or self.interrupts.by
        seconds = time.monotonic() - self.started
        told = summary(error, seconds, self.survey, self.sink, self.dispatch, self.reuse)
        return end_of_run(told, error, self.record)
