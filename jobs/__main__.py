"""The command line: what it takes, and nothing of what it does.

Only click is imported here, so that `textmill --help` is as fast as click; each command imports
what it needs when it runs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from jobs.spec.flags import FLAGS

Command = Callable[..., Any]


def job_options(command: Command, without: str = "") -> Command:
    """The options that set a key of the job file, in the order of the file."""
    options = [
        click.option("-i", "--input", metavar="PATH", help="File, glob, directory, s3://, -."),
        click.option("-o", "--output", metavar="PATH", help=".parquet, .jsonl, directory, or -."),
        click.option("--text", metavar="COLUMN", help="Column that holds the text."),
        click.option("--id", metavar="COLUMN", help="Column that names a row."),
        click.option("--keep", metavar="COLUMN", multiple=True, help="Column carried along."),
        click.option("--method", metavar="NAME", help="structure, fixed, markdown or semantic."),
        click.option("--size", metavar="TOKENS", type=int, help="Tokens of a chunk, at most."),
        click.option("--overlap", metavar="TOKENS", type=int, help="Tokens shared with the last."),
        click.option("--tokenizer", metavar="NAME", help="What counts tokens."),
        click.option("--prompt", metavar="TEXT", help="For text tasks, with {chunk}."),
        click.option("--kind", metavar="NAME", help="local, hf, tei or openai."),
        click.option("--model", metavar="NAME", help="As the service names it."),
        click.option("--url", metavar="URL", help="Base URL of the service."),
        click.option("--concurrency", metavar="N", type=int, help="Calls in flight, at most."),
        click.option("--batch-size", metavar="N", type=int, help="Requests per call, at most."),
        click.option("--aggregate", metavar="NAME", help="rows, mean or text."),
        click.option("--max-cost-usd", metavar="USD", type=float, help="Refuse to cost more."),
        click.option("--stop-at-cap", is_flag=True, default=None, help="Work up to that cost."),
        click.option("--max-failed", metavar="SHARE", type=float, help="Of rows; above: exit 4."),
        click.option("--max-removed", metavar="SHARE", type=float, help="Of rows; above: exit 14."),
        click.option("--max-outage", metavar="SECONDS", type=float, help="Without any answer."),
        click.option("--grace", metavar="SECONDS", type=float, help="To drain after ctrl-C."),
        click.option("--until", metavar="TIME", help="Such as 06:00: drain then, and exit 10."),
        click.option("--salvage", is_flag=True, default=None, help="Isolate unreadable rows."),
        click.option(
            "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Any key of the file."
        ),
    ]
    for name, option in reversed(list(zip([*FLAGS, "set"], options, strict=True))):
        command = command if name == without else option(command)
    return command


def flags_of(options: dict[str, Any]) -> dict[str, Any]:
    """The job file's keys that were set by flags."""
    found = {FLAGS[name]: value for name, value in options.items() if name in FLAGS}
    if not found.get("input.keep"):
        found.pop("input.keep", None)
    return {key: value for key, value in found.items() if value is not None}


as_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="textmill", message="%(prog)s %(version)s")
def cli() -> None:
    """A job runner for long texts: rows in, chunks to inference endpoints, ordered results out."""


CLASSES = ("all", "ambiguous", "invalid", "poison", "too_long", "transient")
"""Of final failures, for --retry-failed."""


class Run(click.Command):
    """Reads `run --retry-failed JOB` as people mean it: a word that is no class is the job."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        flag = "--retry-failed"
        if flag in args:
            at = args.index(flag)
            named = args[at + 1 : at + 2]
            if not named or named[0] not in CLASSES:
                args[at] = f"{flag}=all"
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if "unexpected extra argument" in error.message:
                hint = "rows are given with -i, an output with -o"
                if f"{flag}=all" in given:
                    hint = f"after {flag}: {', '.join(CLASSES)}, or nothing"
                raise click.UsageError(f"{error.message}\nhint: {hint}", ctx) from None
            raise


@cli.command(cls=Run)
@click.argument("job")
@job_options
@click.option("--changes", metavar="PATH", help="Write what changed since the last commit.")
@click.option(
    "--retry-failed",
    metavar="[CLASS]",
    type=click.Choice(CLASSES),
    help="Try the failures of an interrupted run again.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done: `plan`.")
@as_json
def run(
    job: str,
    overrides: tuple[str, ...],
    changes: str | None,
    retry_failed: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Run JOB, a job file or the name of a template. Goes on where the last run stopped."""
    from jobs.cli import plan as estimate
    from jobs.cli import run as execute

    flags = flags_of(options)
    if dry_run:
        sys.exit(estimate.plan(job, overrides, flags, as_json=as_json))
    sys.exit(
        execute.run(
            job, overrides, flags, as_json=as_json, retry_failed=retry_failed, changes=changes
        )
    )


@cli.command()
@click.argument("job")
@job_options
@as_json
def plan(job: str, overrides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Say what a run of JOB would do and cost, without the network."""
    from jobs.cli import plan as estimate

    sys.exit(estimate.plan(job, overrides, flags_of(options), as_json=as_json))


@cli.command()
@click.argument("job")
@click.option("--id", "name", metavar="ID", required=True, help="Of the row to explain.")
@partial(job_options, without="id")
@as_json
def explain(job: str, name: str, overrides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Say why a row of JOB would be paid for again, or would not."""
    from jobs.cli import explain as explain_command

    flags = flags_of(options)
    sys.exit(explain_command.explain(job, name, overrides, flags, as_json=as_json))


@cli.command()
@click.argument("source", metavar="[FILE_OR_JOB]", required=False)
@job_options
@click.option("--only", metavar="ID", help="Only the document with this id.")
@click.option("--html", metavar="PATH", help="One page for a browser; - for stdout.")
@as_json
def chunks(
    source: str | None,
    overrides: tuple[str, ...],
    only: str | None,
    html: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show where the documents of FILE_OR_JOB (- for stdin) are cut."""
    from jobs.cli import chunks as cuts

    sys.exit(cuts.chunks(source, overrides, flags_of(options), only, html, as_json=as_json))


@cli.command()
@click.argument("output", metavar="OUT")
@click.argument("question")
@click.option("-n", "--count", default=5, show_default=True, help="How many chunks.")
@click.option("--job", metavar="JOB", help="Its endpoint embeds the question, if not local.")
@click.option("--kind", metavar="NAME", help="Of that endpoint, without a job file.")
@click.option("--model", metavar="NAME", help="Of that endpoint.")
@click.option("--url", metavar="URL", help="Of that endpoint.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Any key of it.")
@as_json
def search(
    output: str,
    question: str,
    count: int,
    job: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Ask an embedded corpus: the chunks of OUT nearest to QUESTION."""
    from jobs.cli import search as show

    flags = flags_of(options)
    sys.exit(show.search(output, question, count, job, overrides, flags, as_json=as_json))


@cli.command()
@click.argument("name", required=False)
@as_json
def templates(name: str | None, as_json: bool) -> None:
    """List the templates, or print the one called NAME. It is a job file."""
    from jobs.cli import templates as listed

    sys.exit(listed.templates(name, as_json=as_json))


@cli.group()
def cache() -> None:
    """The answers that are kept: count, check, prune and carry them."""


@cache.command()
@as_json
def stats(as_json: bool) -> None:
    """Say how many answers are kept, of what kind and since when."""
    from jobs.cli import cache as cache_commands

    sys.exit(cache_commands.stats(as_json=as_json))


@cache.command()
@click.option("--repair", "--delete", is_flag=True, help="Remove damaged ones: ask again.")
@as_json
def verify(repair: bool, as_json: bool) -> None:
    """Check every answer. Exit 12 where damage was found and not removed."""
    from jobs.cli import cache as cache_commands

    sys.exit(cache_commands.verify(repair=repair, as_json=as_json))


@cache.command()
@click.option("--older-than", metavar="AGE", required=True, help="Such as 90d; h, d, w or y.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@as_json
def prune(older_than: str, dry_run: bool, as_json: bool) -> None:
    """Remove old answers; nothing else ever removes one."""
    from jobs.cli import cache as cache_commands

    sys.exit(cache_commands.prune(older_than, dry_run=dry_run, as_json=as_json))


@cache.command("export")
@click.argument("file")
@as_json
def export_(file: str, as_json: bool) -> None:
    """Write all answers to FILE (- for stdout), to carry or to keep."""
    from jobs.cli import cache as cache_commands

    sys.exit(cache_commands.export_to(file, as_json=as_json))


@cache.command("import")
@click.argument("file")
@as_json
def import_(file: str, as_json: bool) -> None:
    """Add the answers of FILE (- for stdin) that are not here yet."""
    from jobs.cli import cache as cache_commands

    sys.exit(cache_commands.import_from(file, as_json=as_json))


@cli.command()
@click.argument("what", metavar="[JOB_OR_OUTPUT]", required=False)
@click.option("--watch", is_flag=True, help="Follow what runs until it has ended.")
@click.option("--limit", default=20, show_default=True, help="How many runs.")
@as_json
def status(what: str | None, watch: bool, limit: int, as_json: bool) -> None:
    """What ran, when, how it ended, what it cost, and what is open."""
    from jobs.cli import status as shown

    sys.exit(shown.status(what, limit, watch=watch, as_json=as_json))


@cli.command()
@click.argument("what", metavar="[JOB_OR_OUTPUT]", required=False)
@as_json
def report(what: str | None, as_json: bool) -> None:
    """What a run did and what is to be done. Without a name, all runs of a day."""
    from jobs.cli import report as told

    sys.exit(told.report(what, as_json=as_json))


@cli.group()
def schedule() -> None:
    """Run a job every night. By a systemd timer, or a line of the crontab."""


@schedule.command()
@click.argument("job")
@click.option("--at", required=True, metavar="HH:MM", help="Local time of day.")
@click.option("--name", help="Of the schedule; default: the job's.")
@click.option(
    "--random-delay", default="10m", show_default=True, metavar="TIME", help="Start up to so late."
)
@click.option("--crontab", is_flag=True, help="Not by systemd.")
@click.option("--dry-run", is_flag=True, help="Only show what would be written.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def add(
    job: str,
    at: str,
    name: str | None,
    random_delay: str,
    crontab: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Run the job file JOB every day at a time."""
    from jobs.cli import schedule as schedules

    sys.exit(schedules.add(job, at, name, random_delay, crontab=crontab, dry_run=dry_run, yes=yes))


@schedule.command("list")
@as_json
def list_(as_json: bool) -> None:
    """Every schedule: its time, its job, who keeps it."""
    from jobs.cli import schedule as schedules

    sys.exit(schedules.listed(as_json=as_json))


@schedule.command("next")
@as_json
def next_(as_json: bool) -> None:
    """When each schedule is due next."""
    from jobs.cli import schedule as schedules

    sys.exit(schedules.upcoming(as_json=as_json))


@schedule.command()
@click.argument("name")
def remove(name: str) -> None:
    """Take the schedule NAME away; its job and its answers stay."""
    from jobs.cli import schedule as schedules

    sys.exit(schedules.remove(name))


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True, help="0: a free one.")
@click.option("--key", metavar="KEY", help="Refuse calls without this bearer key.")
@click.option("--latency", default=0.0, show_default=True, help="Seconds per call.")
@click.option("--dimension", default=384, show_default=True, help="Of its vectors.")
@click.option("--batch-limit", type=int, metavar="N", help="Refuse calls with more inputs.")
@click.option("--max-input-tokens", type=int, metavar="N", help="Refuse longer inputs.")
@click.option("--engine", default="tei", show_default=True, help="Behind `/`: tei or tgi.")
@click.option("--task", "tasks", multiple=True, metavar="MODEL=TAG", help="What a model serves.")
@click.option(
    "--fault", "faults", multiple=True, metavar="FAULT", help="Such as '429 x3' or '500 30%'."
)
@click.option("--limit", metavar="LIMIT", help="Such as 'bucket calls=50/s headers=openai'.")
@click.option("--seed", default=0, show_default=True, help="Of faults by chance.")
@click.option("--record", is_flag=True, help="Keep inputs and bodies for the bill.")
@click.option("--public", is_flag=True, help="Allow a host that others can reach.")
def mock(latency: float, **options: Any) -> None:
    """Serve every protocol with made-up answers. Misbehaves as told, and keeps the bill."""
    from jobs.cli.shell import reported
    from jobs.mock import serve

    def command() -> int:
        serve(latency_seconds=latency, **options)
        return 0

    sys.exit(reported(command))


def main() -> None:
    """The console script: what the shell sees of a start or an end that no command controls."""
    # Arrow reads this once, when it is loaded. Its own allocator keeps what a large page took.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    for descriptor in (0, 1, 2):  # one that the caller closed would become some file of ours
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGTERM, _terminated)
    code: Any = 0
    try:
        code = cli.main(prog_name="textmill", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except SystemExit as ended:
        code = ended.code
    if code in (130, 143):
        # Threads may still be reading a long input; what they find is of no use any more.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _terminated(*_: object) -> None:
    sys.exit(143)


if __name__ == "__main__":
    main()
