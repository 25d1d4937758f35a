"""The commands that do a job: `run` and `plan`."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec

from jobs.cli.plan import say_absent
from jobs.cli.shell import pairs, print_error, print_message, reported
from jobs.secrets import mask
from pipeline.errors import TextmillError, UsageError

if TYPE_CHECKING:
    from jobs.history.register import Run
    from jobs.spec.job import Job
    from pipeline.events import Emit, Event
    from pipeline.runs.summary import Ended


def run(
    source: str,
    overrides: Sequence[str],
    flags: Mapping[str, object],
    *,
    as_json: bool,
    retry_failed: str | None = None,
    changes: str | None = None,
) -> int:
    """Run a job; the exit code. Data on stdout, talk on stderr, what changed in `changes`."""
    return reported(
        lambda: _run(source, overrides, flags, as_json, retry_failed, changes), as_json=as_json
    )


def _run(
    source: str,
    overrides: Sequence[str],
    flags: Mapping[str, object],
    as_json: bool,
    retry_failed: str | None,
    changes: str | None,
) -> int:
    from jobs.build import build
    from jobs.cli.streams import with_files_for_streams
    from jobs.display.report_page import write_page
    from jobs.display.terminal import closing_line, display, endpoint_lines
    from jobs.history.recorder import record_run
    from jobs.home import home
    from jobs.spec.check_paths import check_changes
    from jobs.spec.load import load
    from pipeline import run as engine

    try:
        job = load(source, pairs(overrides), flags)
    except TextmillError:
        if not Path(source).is_file():
            raise
        with record_run(
            home(), _unread(source), print_message
        ):  # whoever comes in the morning must see it
            raise
    if as_json and job.output.path == "-":
        raise UsageError("--json and output `-` both want stdout", hint="give -o a path")
    if changes is not None:
        check_changes(job, changes)
    told = _told(job, source, overrides, flags)
    with (
        with_files_for_streams(job) as (job, publish),
        record_run(home(), told, print_message, write_page) as recording,
    ):
        pipeline = build(job, changes=changes)
        shown = display(as_json=as_json)
        at_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            ended: Ended = anyio.run(
                engine.run,
                pipeline,
                heard(shown.on, recording.on, _on_absent),
                retry_failed,
                backend_options={"use_uvloop": _has_uvloop()},
            )
        finally:
            shown.close()
            signal.signal(signal.SIGTERM, at_sigterm)  # the loop left the default behind
        recording.ended(ended)
        if ended.error is not None:
            print_error(ended.error)
        else:
            publish()
            print_message(closing_line(ended))
        for line in endpoint_lines(ended.summary):
            print_message(line)
        if as_json:
            print(msgspec.json.encode(ended.summary).decode(), flush=True)
        return ended.summary.exit


def _on_absent(event: Event) -> None:
    from pipeline.events import RuleColumnMissing

    if isinstance(event, RuleColumnMissing):
        say_absent([event.column])


def heard(*listeners: Emit) -> Emit:
    """One listener that tells all of them."""

    def on(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return on


def _told(job: Job, source: str, overrides: Sequence[str], flags: Mapping[str, object]) -> Run:
    """What the register knows of a run before it begins."""
    from jobs.history.register import start_record
    from jobs.spec.flags import command_line

    is_file = Path(source).is_file()
    words = command_line(source, overrides, flags)
    return start_record(
        job.name,
        file=str(Path(source).absolute()) if is_file else "",
        output=job.output.path if job.output.path == "-" else str(Path(job.output.path).absolute()),
        command=shlex.join(mask(word) for word in words),
    )


def _unread(source: str) -> Run:
    """The same of a job file that was refused: its flags may hold what it was refused for."""
    from jobs.history.register import start_record

    path = str(Path(source).absolute())
    return start_record(
        mask(Path(source).stem), file=path, output="", command=f"textmill run {shlex.quote(path)}"
    )


def _has_uvloop() -> bool:
    from importlib.util import find_spec

    return find_spec("uvloop") is not None
