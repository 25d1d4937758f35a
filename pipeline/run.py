"""Runs a job once: survey the input, see what is reused, process the rows, commit the output.

A run always surveys, reuses what is unchanged, looks requests up, and sends what is missing.
Resuming has no path of its own. Three records are made on the way, each once, and none is changed:
the job as it is written (`Pipeline`), its endpoints as their servers identify them (`Connections`),
and the output with the rows that it reuses and the dimension of its vectors (`Target`).

An error that ends a run is raised by the stage that finds it, or by a watcher beside it, and caught
only in `run`. While calls are in flight, `Dispatch.stop` drains them first.
"""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

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
from pipeline.endpoints.connect import Connections, connect
from pipeline.errors import PlanOverBudget, StorageError, TextmillError
from pipeline.limits import awake
from pipeline.loop import Loop
from pipeline.parts.guards import check_dimension, check_removed, retyped_ids_named
from pipeline.parts.reuse import Reuse, plan_reuse
from pipeline.plan import plan_requests
from pipeline.prepare.factory import MIN_SPLIT_TOKENS, RequestFactory
from pipeline.prepare.pipeline import Pipeline, parts_fingerprint
from pipeline.prepare.prefixes import prefix_note
from pipeline.prepare.requests import prepare
from pipeline.runs.drift import comparison, references
from pipeline.runs.folder import RunRecord, runs_of
from pipeline.runs.interrupts import Interrupts
from pipeline.runs.manifest import planned_manifest, this_run
from pipeline.runs.run_id import new_run_id
from pipeline.runs.summary import Ended, Stages, end_of_run, first_error
from pipeline.sink.counts import refuse_empty_output
from pipeline.sink.sink import Sink
from pipeline.source.files import recheck
from pipeline.source.scan import survey
from pipeline.source.survey import Survey
from pipeline.text import nearest, shown


class Target(NamedTuple):
    """The output of a run: its sink, the rows that it reuses, and the dimension of its vectors, if
    the job, the model or the last commit declares it."""

    sink: Sink
    reuse: Reuse
    dimension: int | None


async def run(
    pipeline: Pipeline,
    emit: events.Emit,
    retry_failed: str | None = None,
    accept_unknown: bool = False,
) -> Ended:
    """Runs the job to its commit. Never raises a TextmillError: the result holds it.

    `retry_failed`: the class of failures that an open run retries, or `all`. `accept_unknown`:
    replaces an output whose rows are unknown.
    """
    return_freed_memory()
    started, error = time.monotonic(), None
    execution = _Run(pipeline, emit, retry_failed, accept_unknown, Interrupts(), Stages())
    try:
        async with anyio.create_task_group() as group:
            if threading.current_thread() is threading.main_thread():
                group.start_soon(execution.interrupts.watch_signals)
            if pipeline.stop.until:
                group.start_soon(execution.interrupts.watch_clock, pipeline.stop.until)
            await execution.execute()
            group.cancel_scope.cancel()
    except* TextmillError as errors:
        error = first_error(errors)
    return end_of_run(error, time.monotonic() - started, execution.stages)


class _Run(NamedTuple):
    """What all stages of one run share. A stage is a method that returns what it makes."""

    pipeline: Pipeline
    emit: events.Emit
    retry_failed: str | None
    accept_unknown: bool
    interrupts: Interrupts
    stages: Stages

    async def execute(self) -> None:
        """The run from its lock to its commit."""
        pipeline = self.pipeline
        async with AsyncExitStack() as stack:
            stack.enter_context(awake.heartbeat())
            stack.enter_context(lock_run_folder(run_folder(pipeline.output.path)))
            surveyed = await self.survey_input()
            cache = await run_sync(AnswerCache, pipeline.answers)
            stack.enter_context(closing(cache))
            connections = await stack.enter_async_context(
                connect(
                    pipeline.endpoints,
                    cache,
                    sentences=pipeline.chunking.sentences,
                    chunk_tokens=pipeline.chunking.max_tokens,
                    patience=pipeline.stop,
                )
            )
            factory = RequestFactory(pipeline, connections.endpoints)
            if note := prefix_note(pipeline.embed, factory.endpoints):
                self.emit(events.Warned(note))
            sink = stack.enter_context(closing(self.open_sink(surveyed, factory)))
            reuse = await self.find_reuse(surveyed, factory, sink)
            target = Target(sink, reuse, pipeline.dimension or reuse.dimension)
            record = stack.enter_context(closing(self.open_record(surveyed, factory, sink)))
            with _closing(record):
                await self.begin(record, factory, cache)
                await self.check_budget(surveyed, factory, cache, reuse)
                await self.process(surveyed, factory, cache, connections, target, record)
                recheck(surveyed.files)
                record.close()
                if not self.accept_unknown:
                    check_dimension(reuse, sink.dimension, pipeline.output.path)
                refuse_empty_output(
                    sink.layout,
                    sink.counts,
                    surveyed.rows,
                    commonest_failure=record.commonest_failure,
                    failures=str(record.failures_path),
                )
            await self.commit(target, record)

    async def survey_input(self) -> Survey:
        """Reads the input once before the first request."""
        surveyed = await run_sync(survey, self.pipeline.input, abandon_on_cancel=True)
        self.stages.survey = surveyed
        self.emit(events.Surveyed(surveyed.rows, len(surveyed.part_rows)))
        for column in surveyed.absent if surveyed.rows else ():
            near = nearest(column, surveyed.columns)
            self.emit(events.RuleColumnMissing(column, near))
        for warning in surveyed.warnings:
            self.emit(events.Warned(warning))
        return surveyed

    def open_sink(self, surveyed: Survey, factory: RequestFactory) -> Sink:
        """Prepares the new output beside the published one."""
        pipeline = self.pipeline
        sink = self.stages.sink = Sink(
            output=pipeline.output.path,
            # Not the run's id: a kill between the rename and the last line of the manifest leaves
            # a run open whose output is published already.
            run_id=new_run_id(),
            survey=surveyed,
            columns=pipeline.aggregator.columns,
            per_chunk=pipeline.aggregator.per_chunk,
            metadata=pipeline.output.metadata
            | _model_metadata(factory)
            | {"textmill.id": surveyed.spec.id or "id"},
            dimension=pipeline.dimension,
            fingerprint=parts_fingerprint(pipeline, factory.endpoints),
            answered_only=pipeline.output.answered_only,
            changes=Path(pipeline.output.changes) if pipeline.output.changes else None,
            replaces_nul=pipeline.output.replaces_nul,
        )
        return sink

    async def find_reuse(self, surveyed: Survey, factory: RequestFactory, sink: Sink) -> Reuse:
        """Compares the input with the last commit; the guards check it before anything is paid."""
        compare = partial(
            plan_reuse,
            surveyed,
            sink.layout,
            sink.fingerprint,
            sink.snapshot,
            fault=sink.fault,
            has_changes=sink.has_changes,
            accept_unknown=self.accept_unknown,
        )
        reuse = self.stages.reuse = await run_sync(compare, abandon_on_cancel=True)
        reuse.expect_dimension(
            model_name(factory.endpoints[0]), self.pipeline.output.metadata.get("textmill.job", "")
        )
        if reuse.note:
            self.emit(events.Warned(reuse.note))
        if surveyed.rows:  # `refuse_empty_output` reports an empty input
            with retyped_ids_named(sink.layout, surveyed):
                check_removed(reuse, self.pipeline.guard.max_removed, self.pipeline.output.path)
        sink.use_plan(reuse)
        await run_sync(partial(sink.find_former, reuse, accept_unknown=self.accept_unknown))
        await run_sync(sink.sweep, reuse)
        return reuse

    def open_record(self, surveyed: Survey, factory: RequestFactory, sink: Sink) -> RunRecord:
        """The folder of this run: that of the interrupted run, or a new one."""
        path = self.pipeline.output.path
        columns = {field.name: str(field.type) for field in sink.schema}
        found = [each for each in runs_of(path).values() if each]
        new = planned_manifest(self.pipeline, factory.endpoints, surveyed, columns)
        record = self.stages.record = RunRecord(path, this_run(new, found))
        return record

    async def begin(self, record: RunRecord, factory: RequestFactory, cache: AnswerCache) -> None:
        """Writes the manifest, durably."""
        record.begin()
        self.emit(events.Started(record.manifest.run, str(record.folder)))
        if self.retry_failed:
            record.journal.drop(self.retry_failed)
        for endpoint in factory.endpoints:  # for `explain`
            await run_sync(cache.remember_prefix, prefix(endpoint))

    async def check_budget(
        self, surveyed: Survey, factory: RequestFactory, cache: AnswerCache, reuse: Reuse
    ) -> None:
        """Raises: BudgetError if what is left to do may cost more than the budget."""
        budget, policy = self.pipeline.budget, self.pipeline.routing.policy
        if budget.max_cost_usd is None or budget.stop_at_cap:
            return
        left = await run_sync(
            plan_requests, factory, policy, surveyed, cache, reuse, abandon_on_cancel=True
        )
        if (cost_usd := left.cost_usd or 0.0) > budget.max_cost_usd:
            raise PlanOverBudget(
                f"the plan costs up to ${math.ceil(cost_usd * 1e4) / 1e4:.4f}, over "
                f"budget.max_cost_usd = {budget.max_cost_usd:g}",
                hint="raise the budget, or stop at it with --stop-at-cap",
            )

    async def process(
        self,
        surveyed: Survey,
        factory: RequestFactory,
        cache: AnswerCache,
        connections: Connections,
        target: Target,
        record: RunRecord,
    ) -> None:
        """Processes every row; returns when all of them are in the sink."""
        pipeline = self.pipeline
        marker = run_folder(pipeline.output.path) / "drift-check"
        dispatch = self.stages.dispatch = Dispatch(
            [(each.endpoint, each.answer) for each in connections.connections],
            cache,
            self.emit,
            open_endpoints=connections.open,
            policy=pipeline.routing.policy,
            dimension=target.dimension,
            failures=await run_sync(record.journal.load),
            journal=record.journal.put_many,
            comparison=comparison(pipeline.guard.drift_texts, factory.endpoints[0].task),
            free_bytes=lambda: shutil.disk_usage(cache.folder).free,
            patience=pipeline.stop,
            max_cost_usd=pipeline.budget.max_cost_usd,
            clock=awake.now,
            min_split_tokens=MIN_SPLIT_TOKENS,
        )
        known = await run_sync(
            references, factory, surveyed, target.reuse, cache, marker, dispatch.origins
        )
        for position, check in known.checks.items():
            dispatch.guard(position, check)
        loop = Loop(
            factory,
            pipeline.aggregator,
            prepare(factory, surveyed, target.reuse),
            reused=known.foreign,
            rows=surveyed.rows,
            cache=cache,
            dispatch=dispatch,
            sink=target.sink,
            record=record,
            interrupts=self.interrupts,
            emit=self.emit,
        )
        await loop.run()

    async def commit(self, target: Target, record: RunRecord) -> None:
        """Publishes the output. Signals and `run.until` do not interrupt it."""
        self.interrupts.is_committing = True
        output, counts = self.pipeline.output, target.sink.counts
        rows = await run_sync(target.sink.commit)
        self.emit(events.Committed(output.path, rows))
        if await run_sync(target.sink.became_blank):
            problem = "no row has a vector any more; the table keeps the columns of the last commit"
            self.emit(events.Warned(f"{shown(output.path)}: {problem}"))
        record.manifest = replace(
            record.manifest,
            accounting=asdict(target.reuse.accounting),
            parts=[(part.path.name, part.header.sha256) for part in target.sink.published],
        )
        record.end(3 if counts.failed + counts.partial else 0, rows)


def _model_metadata(factory: RequestFactory) -> dict[str, str]:
    """What a reader of the vectors must know: their model, and the texts before its inputs."""
    prefixes = factory.prefixes
    metadata = {"textmill.model": model_name(factory.endpoints[0])}
    if prefixes.query or prefixes.passage:
        metadata["textmill.query_prefix"] = prefixes.query
        metadata["textmill.passage_prefix"] = prefixes.passage
    return metadata


@contextmanager
def _closing(record: RunRecord) -> Iterator[None]:
    """Closes the run after an error that resuming cannot solve. A kill, a bug and a temporary error
    leave it open. The lock is still held here."""
    try:
        yield
    except BaseException as raised:
        if (error := first_error(raised)) is not None:
            with suppress(StorageError):
                record.end(error.exit_code)
        raise
