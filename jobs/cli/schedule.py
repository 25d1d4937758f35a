"""`textmill schedule`: a daily job, started by systemd or cron.

textmill has no daemon, because every machine already has a scheduler that survives a restart. These
commands write its configuration, show it first, and remove it again.
"""

from __future__ import annotations

import re
import shutil
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.cli.shell import command, print_json, print_message
from jobs.format import duration, local_now
from jobs.home import config_folder
from jobs.schedule.backends import Scheduler, scheduler, schedulers
from jobs.schedule.units import (
    Schedule,
    crontab_line,
    next_time,
    read_at,
    read_delay,
    service,
    timer,
)
from pipeline.errors import UsageError
from pipeline.text import printable, shown

if TYPE_CHECKING:
    from jobs.spec.job import Job

_NAME = re.compile(r"[^\W_][\w-]{0,63}")


@click.group()
def schedule() -> None:
    """Run a job every day at a fixed time. Use a systemd timer, or a line of the crontab."""


@command(group=schedule, has_json=False)
@click.argument("job")
@click.option("--at", required=True, metavar="HH:MM", help="Time of day, in local time.")
@click.option("--name", help="Name of the schedule; default: that of the job.")
@click.option(
    "--random-delay",
    default="10m",
    show_default=True,
    metavar="TIME",
    help="Delay the start by up to this long.",
)
@click.option("--crontab", is_flag=True, help="Use cron, not systemd.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@click.option("--yes", is_flag=True, help="Write without a question.")
def add(
    job: str, at: str, name: str | None, random_delay: str, crontab: bool, dry_run: bool, yes: bool
) -> int:
    """Schedule the job file JOB every day at a fixed time."""
    planned, variables = _schedule(job, at, name, random_delay)
    try:
        chosen = scheduler(wants_crontab=crontab)
    except UsageError as error:
        if not dry_run:
            raise
        print_message(str(error))
        _show({"crontab": crontab_line(planned)} if crontab else _units(planned))
        return 0
    _refuse_duplicate(planned, chosen)
    if chosen.is_written(planned):
        print(f"`{planned.name}` is already scheduled: {_when(planned)}, by {chosen.name}")
        return 0
    _show(chosen.texts(planned))
    for line in _credential_notes(planned, variables):
        print_message(line)
    if dry_run:
        return 0
    if not yes and not _confirm():
        print_message("nothing was written")
        return 130
    chosen.write(planned)
    for note in chosen.notes:
        print_message(note)
    print(f"`{planned.name}` is scheduled: {_when(planned)}, by {chosen.name}")
    return 0


def _confirm() -> bool:
    """The user's answer, also from a pipe. Raises: UsageError if there is no answer."""
    try:
        return click.confirm("Write this?", err=True)
    except (click.Abort, OSError):  # ctrl-C, or the end of standard input
        if sys.stdin.isatty():
            return False
        raise UsageError(
            "nothing was written: standard input is closed", hint="use --yes"
        ) from None


@command("list", group=schedule)
def listed(as_json: bool) -> int:
    """List the schedules with time, job and scheduler."""
    schedules = _all_schedules()
    for schedule, by in schedules:
        if as_json:
            print_json(_record(schedule, by))
        else:
            missing = "" if Path(schedule.job).is_file() else "  (no such file)"
            print(
                f"{printable(schedule.name)}  {schedule.at}{_spread(schedule)}  "
                f"{shown(schedule.job)}{missing}  {by.name}"
            )
    if not schedules and not as_json:
        print("no schedules; add one: textmill schedule add JOB --at 02:00")
    return 0


@command("next", group=schedule)
def upcoming(as_json: bool) -> int:
    """List the next start of each schedule."""
    now = local_now()
    schedules = sorted(_all_schedules(), key=lambda pair: (next_time(pair[0], now), pair[0].name))
    for schedule, by in schedules:
        if as_json:
            print_json(_record(schedule, by))
            continue
        due = next_time(schedule, now)
        left = duration((due - now).total_seconds())
        print(f"{due:%a %Y-%m-%d %H:%M}{_spread(schedule)}  in {left}  {printable(schedule.name)}")
    if not schedules and not as_json:
        print("no schedules; add one: textmill schedule add JOB --at 02:00")
    return 0


@command(group=schedule, has_json=False)
@click.argument("name")
def remove(name: str) -> int:
    """Remove the schedule NAME; keep its job and its answers."""
    schedules = [(schedule, by) for schedule, by in _all_schedules() if schedule.name == name]
    if not schedules:
        names = ", ".join(printable(schedule.name) for schedule, _ in _all_schedules())
        raise UsageError(
            f"no schedule `{printable(name)}`",
            hint=f"the schedules are {names}" if names else "there are no schedules",
        )
    for schedule, by in schedules:
        by.remove(schedule)
        for note in by.notes:
            print_message(note)
        print(f"`{printable(name)}` is removed from {by.name}")
    return 0


def _schedule(path: str, at: str, name: str | None, delay: str) -> tuple[Schedule, list[str]]:
    """The schedule of a valid job file, and the environment variables with its keys."""
    from jobs.build import build
    from jobs.home import home
    from jobs.spec.load import load

    if not Path(path).is_file():
        raise UsageError(
            f"{shown(path)}: no such job file",
            hint="textmill templates embed > embed.toml, then set its input and output",
        )
    job = load(path, (), {})
    if "-" in (job.input.path, job.output.path):
        raise UsageError(f"{shown(path)}: a scheduled job cannot use standard input or output")
    build(job, with_secret=False)  # reports a missing extra now, not at night
    name = name or job.name
    if not _NAME.fullmatch(name):
        raise UsageError(f"--name = {printable(name, 80)} must be letters, digits, `-` or `_`")
    real = str(Path(path).absolute())
    for used_path in (real, str(home())):
        if used_path.encode("utf-8", "replace").decode() != used_path:
            raise UsageError(f"{shown(used_path)}: its name is not UTF-8")
    variables = _variables(job)
    schedule = Schedule(
        name=name,
        job=real,
        at=read_at(at),
        program=program(),
        home=str(home()),
        delay_seconds=read_delay(delay),
        grace_seconds=job.run.grace_seconds,
        environment=str(_environment_file()) if variables else "",
    )
    return schedule, variables


def _variables(job: Job) -> list[str]:
    references = [each for endpoint in job.endpoints for each in endpoint.references]
    return sorted({each.env for each in references if each.env})


def _environment_file() -> Path:
    return config_folder() / "textmill" / "env"


def program() -> tuple[str, ...]:
    """The words that start this installation, independent of PATH."""
    script = Path(sys.prefix, "bin", "textmill")
    if script.is_file():
        return (str(script),)
    on_path = shutil.which("textmill")
    return (str(Path(on_path).absolute()),) if on_path else (sys.executable, "-m", "jobs")


def _credential_notes(schedule: Schedule, names: Sequence[str]) -> list[str]:
    """The open steps for the keys. No key is read and none is written."""
    if not names:
        return []
    path = Path(schedule.environment)
    try:
        text, mode = path.read_text("utf-8"), path.stat().st_mode
    except (OSError, UnicodeDecodeError):
        text, mode = "", 0o600
    defined = set(re.findall(r"^\s*(?:export\s+)?(\w+)=", text, re.MULTILINE))
    lines = []
    if stat.S_IMODE(mode) & 0o077:
        lines.append(f"{shown(str(path))}: others can read it, set mode 0600 with chmod 600")
    missing = [name for name in names if name not in defined]
    if missing:
        lines.append(
            f"the job reads {', '.join(missing)}: put {missing[0]}=... into {shown(str(path))} "
            "with mode 0600; a scheduled run does not see the variables of your shell"
        )
    return lines


def _refuse_duplicate(schedule: Schedule, by: Scheduler) -> None:
    for other, keeper in _all_schedules():
        if other.name != schedule.name:
            continue
        if other.job != schedule.job:
            raise UsageError(
                f"`{schedule.name}` is already the schedule of {shown(other.job)}",
                hint="use another --name",
            )
        if keeper.name != by.name:
            raise UsageError(
                f"`{schedule.name}` is already scheduled by {keeper.name}",
                hint=f"textmill schedule remove {schedule.name}",
            )


def _all_schedules() -> list[tuple[Schedule, Scheduler]]:
    return [(schedule, by) for by in schedulers() for schedule in by.schedules()]


def _units(schedule: Schedule) -> dict[str, str]:
    return {"timer": timer(schedule), "service": service(schedule)}


def _show(texts: dict[str, str]) -> None:
    for path, text in texts.items():
        print(f"--- {shown(path)}")
        for line in text.splitlines():
            if not line.startswith("# textmill schedule: "):
                print(printable(line, 10_000))
        print()


def _when(schedule: Schedule) -> str:
    due = next_time(schedule, local_now())
    return f"daily at {schedule.at}{_spread(schedule)}, next on {due:%a %Y-%m-%d}"


def _spread(schedule: Schedule) -> str:
    if not schedule.delay_seconds:
        return ""
    delay = duration(float(schedule.delay_seconds))
    return f" (within {delay.removesuffix(' 0 s').removesuffix(' 0 min')})"


def _record(schedule: Schedule, by: Scheduler) -> dict[str, object]:
    due = next_time(schedule, local_now())
    record = {"name": schedule.name, "job": schedule.job, "at": schedule.at, "by": by.name}
    times = {"random_delay_seconds": schedule.delay_seconds, "next": due.isoformat()}
    return record | times
