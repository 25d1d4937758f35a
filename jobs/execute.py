"""The commands that do a job: `run` and `plan`."""

from __future__ import annotations

import errno
import math
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec

from pipeline.errors import TextmillError, UsageError
from pipeline.escape import printable
from pipeline.secret import mask

if TYPE_CHECKING:
    from jobs.job import Job
    from jobs.register import Run
    from pipeline.ended import Ended
    from pipeline.events import Emit, Event
    from pipeline.records import Endpoint


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
    from jobs.build import build, home
    from jobs.display import closing_line, display, endpoint_lines
    from jobs.paths import refuse_changes
    from jobs.record import recorded
    from jobs.spec import load
    from jobs.streams import placed
    from pipeline import run as engine

    try:
        job = load(source, pairs(overrides), flags)
    except TextmillError:
        if not Path(source).is_file():
            raise
        with recorded(home(), _unread(source), say):  # whoever comes in the morning must see it
            raise
    if as_json and job.output.path == "-":
        raise UsageError("--json and output `-` both want stdout", hint="give -o a path")
    if changes is not None:
        refuse_changes(job, changes)
    told = _told(job, source, overrides, flags)
    with placed(job) as (job, publish), recorded(home(), told, say) as recording:
        pipeline = msgspec.structs.replace(build(job), changes=changes)
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
            tell(ended.error)
        else:
            publish()
            say(closing_line(ended))
        for line in endpoint_lines(ended.summary):
            say(line)
        if as_json:
            print(msgspec.json.encode(ended.summary).decode(), flush=True)
        return ended.summary.exit


def _on_absent(event: Event) -> None:
    from pipeline.events import Absent

    if isinstance(event, Absent):
        say_absent([event.column])


def say_absent(columns: Sequence[str]) -> None:
    """A misspelt column of a rule is safe, and not what was meant."""
    for name in columns:
        say(f"rule.column = `{printable(name)}` is in no row: every row counts as one of that rule")


def heard(*listeners: Emit) -> Emit:
    """One listener that tells all of them."""

    def on(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return on


def _told(job: Job, source: str, overrides: Sequence[str], flags: Mapping[str, object]) -> Run:
    """What the register knows of a run before it begins."""
    from jobs.register import command_line, started

    is_file = Path(source).is_file()
    words = command_line(source, overrides, flags)
    return started(
        job.name,
        file=str(Path(source).absolute()) if is_file else "",
        output=job.output.path if job.output.path == "-" else str(Path(job.output.path).absolute()),
        command=shlex.join(mask(word) for word in words),
    )


def _unread(source: str) -> Run:
    """The same of a job file that was refused: its flags may hold what it was refused for."""
    from jobs.register import started

    path = str(Path(source).absolute())
    return started(
        mask(Path(source).stem), file=path, output="", command=f"textmill run {shlex.quote(path)}"
    )


def plan(
    source: str, overrides: Sequence[str], flags: Mapping[str, object], *, as_json: bool
) -> int:
    """Say what a run would do; 8 where that is over the budget."""
    return reported(lambda: _plan(source, overrides, flags, as_json), as_json=as_json)


def _plan(source: str, overrides: Sequence[str], flags: Mapping[str, object], as_json: bool) -> int:
    from jobs.build import build
    from jobs.display import duration
    from jobs.spec import load
    from jobs.streams import placed
    from jobs.waiting import waited
    from pipeline.cache import AnswerCache
    from pipeline.plan import plan as planned
    from pipeline.survey import survey

    job = load(source, pairs(overrides), flags, needs_output=False)
    with placed(job) as (job, _):
        pipeline = build(job, with_secret=False)
        answers = Path(pipeline.home) / "answers"
        cache = AnswerCache(answers) if answers.is_dir() else None
        surveyed = waited(lambda: survey(pipeline.input))
        told = waited(lambda: planned(pipeline, surveyed, cache))
    if as_json:
        print(msgspec.json.encode(told).decode())
    else:
        print(
            f"{told.documents:,} documents, {told.chunks:,} chunks, {told.requests:,} requests, "
            f"{told.cached:,} cached\n"
            f"left to do: {told.calls:,} calls, {told.tokens:,} tokens, "
            f"up to ${at_most(told.cost_usd)}{unpriced(pipeline.endpoints, told.calls)}, "
            f"about {duration(told.seconds)}"
        )
    if surveyed.rows:
        say_absent(surveyed.absent)
    most = pipeline.max_cost_usd
    if most is not None and told.cost_usd > most and not pipeline.is_partial:
        print(f"over budget.max_cost_usd = {most:g}", file=sys.stderr)
        return 8
    return 0


def at_most(usd: float) -> str:
    """Cents, rounded up: `up to $0.00` is said of nothing that costs."""
    return f"{math.ceil(round(usd * 100, 6)) / 100:,.2f}"


def unpriced(endpoints: Sequence[Endpoint], calls: int) -> str:
    """Who costs nothing only because the job does not say what they cost."""
    names = [e.name for e in endpoints if e.kind != "local" and e.price is None]
    if not calls or not names:
        return ""
    have = "has" if len(names) == 1 else "have"
    return f" ({', '.join(f'`{name}`' for name in names)} {have} no `price`)"


def reported(command: Callable[[], int], *, as_json: bool = False) -> int:
    """The command's exit code; a user's error is one line, a bug keeps its traceback."""
    try:
        code = command()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader went away, as `head` does. What is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except TextmillError as error:
        tell(error)
        code, is_resumable = error.exit_code, error.resumable
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return _bug(as_json)
        print(f"standard output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 13
    except KeyboardInterrupt:
        print("interrupted before anything was sent", file=sys.stderr)
        code, is_resumable = 130, True
    except Exception:
        return _bug(as_json)
    if as_json:
        _last_line(code, is_resumable)
    return code


def _bug(as_json: bool) -> int:
    traceback.print_exc()
    print("this is a bug in textmill; answers so far are kept", file=sys.stderr)
    if as_json:
        _last_line(1, True)
    return 1


def _last_line(code: int, is_resumable: bool) -> None:
    from pipeline.ended import CLASSES
    from pipeline.events import Summary

    summary = Summary(exit=code, class_=CLASSES[code], resumable=is_resumable)
    with suppress(OSError):
        print(msgspec.json.encode(summary).decode(), flush=True)


def tell(error: TextmillError) -> None:
    """The error on stderr, on one line, and its hint on another."""
    say(printable(str(error), 2_000))
    if error.hint:
        say(f"hint: {printable(error.hint, 500)}")


def say(line: str) -> None:
    """Talk on stderr; that nobody listens is no reason to fail."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def pairs(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """`KEY=VALUE` of --set, apart. Raises: UsageError without repeating what may be a secret."""
    found = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UsageError("--set takes KEY=VALUE, such as --set chunk.size=256")
        found.append((key.strip(), value))
    return found


def _has_uvloop() -> bool:
    from importlib.util import find_spec

    return find_spec("uvloop") is not None
