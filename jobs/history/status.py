"""Selection and description of runs in the register, independent of a terminal."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Sequence
from pathlib import Path

from jobs.history.register import KILLED, Run, is_running
from jobs.home import current_folder
from pipeline.disk.output_path import run_folder
from pipeline.errors import COMPLETE, FAILED_ROWS, LockedError, UsageError
from pipeline.text import printable

NOT_OPEN = (COMPLETE, FAILED_ROWS)
"""Exit codes of runs that published."""


def choose(runs: Sequence[Run], name: str | None) -> list[Run]:
    """The runs of a job name, job file, output or run id; all without a name.

    Raises: UsageError if there is no such run.
    """
    if name is None:
        return list(runs)
    path = str(Path(current_folder(), name))
    chosen = [run for run in runs if name in (run.job, run.run, run.entry) or path in paths(run)]
    if not chosen:
        names = sorted({run.job for run in runs})
        raise UsageError(
            f"no run of `{printable(name)}`",
            hint="jobs that ran: " + ", ".join(map(printable, names[:20])) if names else None,
        )
    return chosen


def paths(run: Run) -> tuple[str, ...]:
    """The paths by which a user may name this run; never an empty text."""
    own = run.output.rstrip("/")
    state = str(run_folder(own)) if own else ""
    return tuple(path for path in (run.file, own, state, run.folder) if path)


def with_missing_output(runs: Sequence[Run]) -> list[Run]:
    """The runs of this machine whose output is gone, with its run folder."""
    return [
        run
        for run in runs
        if run.output not in ("", "-")
        and run.host == socket.gethostname()
        and not os.path.lexists(run.output)
        and not run_folder(run.output).exists()
    ]


def unfinished(runs: Sequence[Run]) -> list[Run]:
    """The last run of each output, if it has ended without publishing.

    A job file that could not be read has no output; any later run of the file replaces that entry.
    A run that was refused because of the lock does not count. `runs` is newest first.
    """
    outputs: set[str] = set()
    files: set[str] = set()
    open_runs = []
    for run in runs:
        if run.exit == LockedError.exit_code:
            continue
        has_output = run.output not in ("", "-")
        is_last = (
            run.output not in outputs if has_output else bool(run.file) and run.file not in files
        )
        if is_last and not is_running(run) and run.exit not in NOT_OPEN:
            open_runs.append(run)
        outputs.add(run.output)
        files.add(run.file)
    return open_runs


def open_lines(runs: Sequence[Run]) -> list[str]:
    """The runs that are open or were refused, each with its error and the next command."""
    lines = []
    for run in unfinished(runs):
        error = f": {run.error}" if run.error else ""
        # A run that is closed without a commit needs a person.
        state = "open" if run.resumable else "to fix"
        lines.append(f"{state}: {printable(run.job)}, {ending(run)}{printable(error, 500)}")
        if run.hint:
            lines.append(f"      {printable(run.hint, 500)}")
        lines.append(f"      {next_command(run)}")
    return lines


def next_command(run: Run) -> str:
    """The command that resumes or repeats a run, with its label."""
    label = "resume with" if run.resumable else "after fixing it, run"
    return f"{label}: {printable(command(run), 4_000)}"


def command(run: Run) -> str:
    """The command that starts the same job again, from the current folder."""
    if not run.cwd or run.cwd == current_folder() or (run.file and run.output == ""):
        return run.command
    return f"cd {shlex.quote(run.cwd)} && {run.command}"


def ending(run: Run, *, is_open: bool = False) -> str:
    """How a run ended, or its state: `complete`, `outage (exit 5)`, `running, 41 %`."""
    if is_running(run):
        state = run.live.state if run.live else "running"
        done = run.live.done if run.live else 0.0
        if state == "working" and run.documents:
            return f"running, {int(done * 100 / run.documents)} %"
        return "running" if state == "working" else state
    if run.exit == KILLED:
        return "open (killed)" if is_open else "killed"
    return run.class_ if run.exit == COMPLETE else f"{run.class_} (exit {run.exit})"
