"""How a run ended: exit code, its class in words, and the figures."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict

from pipeline import events
from pipeline.dispatch.dispatch import Dispatch
from pipeline.errors import CLASSES, COMPLETE, FAILED_ROWS, TextmillError
from pipeline.parts.reuse import Reuse
from pipeline.records import Usage
from pipeline.runs.folder import RunRecord
from pipeline.sink.sink import Sink
from pipeline.source.survey import Survey


class Ended(Struct, frozen=True):
    """How a run ended, and the error that ended it early."""

    summary: events.Summary
    error: TextmillError | None
    failures: Path | None


def first_error(raised: BaseException) -> TextmillError | None:
    """The error that ended the run, or the first one of a group of such errors; else None."""
    if isinstance(raised, TextmillError):
        return raised
    if isinstance(raised, BaseExceptionGroup):
        errors, others = raised.split(TextmillError)
        if errors is not None and others is None:
            return first_error(errors.exceptions[0])
    return None


class Stages(Struct):
    """How far a run came: each stage is set once it exists. Only the summary reads them."""

    survey: Survey | None = None
    reuse: Reuse | None = None
    sink: Sink | None = None
    record: RunRecord | None = None
    dispatch: Dispatch | None = None


def summary(error: TextmillError | None, seconds: float, stages: Stages) -> events.Summary:
    """The figures of a run so far."""
    survey, reuse = stages.survey, stages.reuse
    sink, dispatch = stages.sink, stages.dispatch
    counts, tally = (sink.counts if sink else None), (dispatch.tally if dispatch else None)
    usage = dispatch.usage + Usage(cost_usd=dispatch.rent_usd) if dispatch else Usage()
    failed = (counts.failed + counts.partial) if counts else 0
    code = error.exit_code if error else FAILED_ROWS if failed else COMPLETE
    return events.Summary(
        exit=code,
        class_=CLASSES.get(code, "internal"),
        resumable=error is not None and error.resumable,
        documents=survey.rows if survey else 0,
        ok=counts.ok if counts else 0,
        partial=counts.partial if counts else 0,
        failed=counts.failed if counts else 0,
        requests=tally.requests if tally else 0,
        cached=tally.cached if tally else 0,
        usage=usage.rounded(),
        seconds=round(seconds, 3),
        endpoints=dispatch.endpoints if dispatch else (),
        answers_shared=tuple(dispatch.origins.shared) if dispatch else (),
        **(asdict(reuse.accounting) if reuse else {}),
    )


def end_of_run(error: TextmillError | None, seconds: float, stages: Stages) -> Ended:
    """How a run ended, with its file of failures if there is one."""
    record = stages.record
    path = record.failures_path if record and record.failures_path.exists() else None
    return Ended(summary(error, seconds, stages), error, path)
