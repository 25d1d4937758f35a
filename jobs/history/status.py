"""The runs of the register, chosen and described, without a terminal."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from jobs.history.register import KILLED, Run, is_running
from pipeline.disk.output_path import run_folder
from pipeline.errors import COMPLETE, FAILED_ROWS, LockedError, UsageError
from pipeline.text import printable

NOT_OPEN = (COMPLETE, FAILED_ROWS)
"""Exit codes of runs that published."""


def choose(told: Sequence[Run], what: str | None) -> list[Run]:
    """The runs of a job's name or file, an output or a run id. Raises: UsageError for no such."""
    if what is None:
        return list(told)
    path = str(Path(what).absolute())
    found = [run for run in told if what in (run.job, run.run, run.entry) or path in paths(run)]
    if not found:
        names = sorted({run.job for run in told})
        raise UsageError(
            f"no run of `{printable(what)}`",
            hint="jobs that ran: " + ", ".join(map(printable, names[:20])) if names else None,
        )
    return found


def paths(run: Run) -> tuple[str, ...]:
    """What a run may be called by, beside its names; never empty text."""
    own = run.output.rstrip("/")
    state = str(run_folder(own)) if own else ""
    return tuple(path for path in (run.file, own, state, run.folder) if path)


def unfinished(told: Sequence[Run]) -> list[Run]:
    """The last run of each output, where it is not under way and did not publish.

    A job file that could not be read has no output; any later run of it settles that. A run that
    was refused because another one had the lock says nothing of its output. `told` is newest first.
    """
    outputs: set[str] = set()
    files: set[str] = set()
    found = []
    for run in told:
        if run.exit == LockedError.exit_code:
            continue
        named = run.output not in ("", "-")
        is_last = run.output not in outputs if named else bool(run.file) and run.file not in files
        if is_last and not is_running(run) and run.exit not in NOT_OPEN:
            found.append(run)
        outputs.add(run.output)
        files.add(run.file)
    return found


def open_lines(told: Sequence[Run]) -> list[str]:
    """What is open or was refused, why, and the command that goes on."""
    lines = []
    for run in unfinished(told):
        why = f": {run.error}" if run.error else ""
        # What is closed without a commit goes nowhere by itself: somebody is to look at it.
        state = "open" if run.resumable else "to do"
        lines.append(f"{state}: {printable(run.job)}, {ending(run)}{printable(why, 500)}")
        if run.hint:
            lines.append(f"      {printable(run.hint, 500)}")
        then = "goes on with" if run.resumable else "then again"
        lines.append(f"      {then}: {printable(command(run), 4_000)}")
    return lines


def command(run: Run) -> str:
    """What starts the same job again, from here."""
    if not run.cwd or run.cwd == os.getcwd() or (run.file and run.output == ""):  # noqa: PTH109
        return run.command
    return f"cd {shlex.quote(run.cwd)} && {run.command}"


def ending(run: Run, *, is_open: bool = False) -> str:
    """How it ended, in words."""
    if is_running(run):
        state = run.live.state if run.live else "running"
        done = run.live.done if run.live else 0.0
        if state == "working" and run.documents:
            return f"running, {int(done * 100 / run.documents)} %"
        return "running" if state == "working" else state
    if run.exit == KILLED:
        return "open (killed)" if is_open else "killed"
    return f"{run.exit} {run.class_}"
