"""Shared by all commands: the decorator, errors on one line, messages on stderr, and
blocking work that ctrl-C can interrupt."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn, TypeVar

import click

from jobs import stdio
from pipeline.disk.durable import system_error
from pipeline.errors import CLASSES, TextmillError, UsageError
from pipeline.text import printable, shown


def command(
    name: str | None = None,
    *,
    group: click.Group | None = None,
    cls: type[click.Command] = click.Command,
    has_json: bool = True,
    ends_in_json: bool = False,
) -> Callable[[Callable[..., int]], click.Command]:
    """Makes a command from a function that returns the exit code, and reports its errors.

    With `has_json` it takes `--json`, as `as_json`. With `ends_in_json` and `--json` an error
    prints a last line like that of `run`.
    """

    def make_command(function: Callable[..., int]) -> click.Command:
        @wraps(function)
        def run_and_exit(**options: Any) -> NoReturn:
            as_json = ends_in_json and options["as_json"]
            sys.exit(exit_code_of(lambda: function(**options), as_json=as_json))

        declare = group.command if group is not None else click.command
        declared: click.Command = declare(name, cls=cls)(run_and_exit)
        if has_json:
            flag = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON on stdout.")
            declared.params.append(flag)
        return declared

    return make_command


def exit_code_of(command: Callable[[], int], *, as_json: bool = False) -> int:
    """The command's exit code. A user's error prints one line, a bug its traceback."""
    try:
        code = command()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print_message("interrupted")
        code, is_resumable = 130, True
    except Exception as error:
        code = report(error)
        is_resumable = error.resumable if isinstance(error, TextmillError) else True
    if as_json and code:
        _print_last_line(code, is_resumable)
    return code


def report(error: Exception) -> int:
    """Prints an error that ends a command; its exit code."""
    if error is stdio.stdout_error():
        return 0  # `stdio.close` reports it and chooses the exit code
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, OSError) and error.errno is not None:
        error = _of_system(error)
    if isinstance(error, TextmillError):
        print_error(error)
        return error.exit_code
    if isinstance(error, MemoryError | RecursionError):
        # A traceback needs memory too, and that of a recursion has a thousand lines.
        print_message(f"{_place(error)}: {type(error).__name__} {printable(str(error), 200)}")
    else:
        print_message("".join(traceback.format_exception(error)).rstrip())
    print_message("this is a bug in textmill; the answers so far are kept")
    return TextmillError.exit_code


def _of_system(error: OSError) -> TextmillError:
    """The error of a system call that no other place describes."""
    if error.filename is not None:
        return system_error(shown(os.fsdecode(error.filename)), error, "cannot be used")
    with suppress(OSError):
        Path.cwd()
        return system_error("textmill", error, "a system call failed")
    return UsageError("the current folder does not exist any more")


def _place(error: BaseException) -> str:
    """The file and line that raised an error."""
    frames = traceback.extract_tb(error.__traceback__, -1)
    return f"{shown(frames[-1].filename)}:{frames[-1].lineno}" if frames else "textmill"


def _print_last_line(code: int, is_resumable: bool) -> None:
    from pipeline.events import Summary, flatten

    summary = Summary(exit=code, class_=CLASSES[code], resumable=is_resumable)
    with suppress(OSError):
        print_json(flatten(summary))


def print_json(record: object, enc_hook: Callable[[Any], Any] | None = None) -> None:
    """Prints a record on one line of stdout."""
    print(stdio.json_line(record, sys.stdout, enc_hook))


def print_error(error: TextmillError) -> None:
    """Prints the error to stderr, its lines and then its hint."""
    for line in (str(error), *error.more):
        print_message(printable(line, 2_000))
    if error.hint:
        print_message(f"hint: {printable(error.hint, 500)}")


def print_message(line: str) -> None:
    """Prints to stderr; a closed stderr is ignored."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


T = TypeVar("T")


def run_interruptibly(work: Callable[[], T]) -> T:
    """The result of blocking work, which runs in a daemon thread.

    A blocking read can delay ctrl-C; the main thread only waits and is interrupted at once.
    """
    done: SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = SimpleQueue()

    def worker() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:
            done.put((None, error))

    threading.Thread(target=worker, daemon=True).start()
    result, error = done.get()
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
