"""`textmill run`: runs a job once."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs import stdio
from jobs.cli.job_options import GroupedCommand, JobSettings, job_options
from jobs.cli.plan import shared_answers_line, show_plan, warn_missing_columns
from jobs.cli.shell import command, print_error, print_json, print_message
from jobs.secrets import mask
from pipeline.errors import FINAL_KINDS, TextmillError, UsageError

if TYPE_CHECKING:
    from jobs.history.register import Run
    from jobs.spec.job import Job
    from pipeline.events import Emit, Event
    from pipeline.runs.summary import Ended


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

CLASSES = ("all", *FINAL_KINDS)
"""The values of --retry-failed: all, or one error kind that is final."""


class RunCommand(GroupedCommand):
    """Reads `run --retry-failed JOB` as intended: a word that is no error class is the job."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        flag = "--retry-failed"
        if flag in args:
            at = args.index(flag)
            next_words = args[at + 1 : at + 2]
            if not next_words or next_words[0] not in CLASSES:
                args[at] = f"{flag}=all"
        typed = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if "unexpected extra argument" in error.message:
                hint = "pass the input with -i and the output with -o"
                if f"{flag}=all" in typed:
                    hint = f"after {flag}: {', '.join(CLASSES)}, or nothing"
                raise click.UsageError(f"{error.message}\nhint: {hint}", ctx) from None
            raise


@command(cls=RunCommand, ends_in_json=True)
@click.argument("source", metavar="JOB")
@job_options()
@click.option(
    "--changes", metavar="PATH", help="Write the changes since the last commit to this .jsonl file."
)
@click.option(
    "--retry-failed",
    metavar="[CLASS]",
    type=click.Choice(CLASSES),
    help="Retry the failed rows of an interrupted run, all or of one class.",
)
@click.option(
    "--accept-unknown",
    is_flag=True,
    help="Allow replacing an output whose rows are unknown (exit 14).",
)
@click.option("--dry-run", is_flag=True, help="Print the plan, as `plan` does, and run nothing.")
def run(
    source: str,
    settings: JobSettings,
    changes: str | None,
    retry_failed: str | None,
    accept_unknown: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Run JOB, a job file or the name of a template. Resume the last run if it was interrupted."""
    if dry_run:
        return show_plan(source, settings, as_json=as_json)
    import anyio

    from jobs.build import build, within_descriptors
    from jobs.cli.streams import with_files_for_streams
    from jobs.display.report_page import write_page
    from jobs.display.terminal import Harmless, closing_line, display, endpoint_lines
    from jobs.history.recorder import record_run
    from jobs.home import home
    from jobs.spec.check_paths import check_changes
    from pipeline import run as engine
    from pipeline.events import flatten

    state = home()
    try:
        job = settings.load(source)
    except TextmillError:
        if not Path(source).is_file():
            raise
        with record_run(state, _record_of_unread_job(source), print_message):
            raise  # `status` and `report` show it
    if as_json and job.output.path == "-":
        raise UsageError("--json and output `-` both write to stdout", hint="use -o PATH")
    if changes is not None:
        check_changes(job, changes)
    record = _record(job, source, settings)
    with (
        with_files_for_streams(job) as (job, publish),
        record_run(state, record, print_message, write_page) as recorder,
    ):
        pipeline, note = within_descriptors(
            build(job, changes=changes, is_attended=stdio.is_attended())
        )
        if note:
            print_message(note)
        progress = Harmless(lambda: display(as_json=as_json))
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        try:
            ended: Ended = anyio.run(
                engine.run,
                pipeline,
                listener_of(progress.on, recorder.on, _warn),
                retry_failed,
                accept_unknown,
                backend_options={"use_uvloop": _has_uvloop()},
            )
        finally:
            progress.close()
            for number, handler in handlers.items():  # the loop resets them to the default
                signal.signal(number, handler)
        recorder.ended(ended)
        if ended.error is not None:
            print_error(ended.error)
        else:
            publish()
            print_message(closing_line(ended))
        for line in endpoint_lines(ended.summary):
            print_message(line)
        if as_json:
            print_json(flatten(ended.summary))
        return ended.summary.exit


def _warn(event: Event) -> None:
    from pipeline.events import AnswersShared, RuleColumnMissing, UsageDoubted, Warned

    match event:
        case RuleColumnMissing():
            warn_missing_columns([event.column], [event.nearest])
        case UsageDoubted():
            print_message(
                f"endpoint `{event.endpoint}` reports {event.reported:,} input tokens where"
                f" {event.counted:,} were counted: its usage is not used for costs"
            )
        case AnswersShared():
            print_message(shared_answers_line(event.endpoint, event.url, event.answered_by))
        case Warned():
            print_message(event.message)


def listener_of(*listeners: Emit) -> Emit:
    """One listener that passes each event to all of them."""

    def on(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return on


def _record(job: Job, source: str, settings: JobSettings) -> Run:
    """The register entry of a run that is about to start."""
    from jobs.history.register import start_record
    from jobs.spec.flags import command_line

    is_file = Path(source).is_file()
    words = command_line(source, settings.overrides, settings.flags)
    return start_record(
        job.name,
        file=str(Path(source).absolute()) if is_file else "",
        output=job.output.path if job.output.path == "-" else str(Path(job.output.path).absolute()),
        command=shlex.join(mask(word) for word in words),
        servers=job.servers,
    )


def _record_of_unread_job(source: str) -> Run:
    """The same for a job file that was refused, without flags: they may be the cause."""
    from jobs.history.register import start_record

    path = str(Path(source).absolute())
    return start_record(
        mask(Path(source).stem), file=path, output="", command=f"textmill run {shlex.quote(path)}"
    )


def _has_uvloop() -> bool:
    from importlib.util import find_spec

    return find_spec("uvloop") is not None
