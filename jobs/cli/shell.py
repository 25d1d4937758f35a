"""Shared by all commands: the decorator, errors on one line, messages on stderr, and
blocking work that ctrl-C can interrupt."""

from __future__ import annotations

import errno
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from queue import SimpleQueue
from typing import Any, NoReturn, TypeVar

import click
import msgspec

from pipeline.errors import CLASSES, TextmillError
from pipeline.text import printable


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
    except BrokenPipeError:
        # The reader closed the pipe, as `head` does. The buffered rest must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except TextmillError as error:
        print_error(error)
        code, is_resumable = error.exit_code, error.resumable
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return _report_bug(as_json)
        print(f"standard output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 13
    except KeyboardInterrupt:
        print("interrupted before anything was sent", file=sys.stderr)
        code, is_resumable = 130, True
    except Exception:
        return _report_bug(as_json)
    if as_json:
        _print_last_line(code, is_resumable)
    return code


def _report_bug(as_json: bool) -> int:
    traceback.print_exc()
    print("this is a bug in textmill; the answers so far are kept", file=sys.stderr)
    if as_json:
        _print_last_line(1, True)
    return 1


def _print_last_line(code: int, is_resumable: bool) -> None:
    from pipeline.events import Summary, flatten

    summary = Summary(exit=code, class_=CLASSES[code], resumable=is_resumable)
    with suppress(OSError):
        print(msgspec.json.encode(flatten(summary)).decode(), flush=True)


def print_error(error: TextmillError) -> None:
    """Prints the error to stderr on one line, and its hint on another."""
    print_message(printable(str(error), 2_000))
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
