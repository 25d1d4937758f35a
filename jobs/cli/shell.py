"""What every command shares: how it becomes one, one line for a user's error, messages on stderr,
work that ctrl-C may leave."""

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
    """Makes a command of a function that returns the exit code, and reports its errors.

    With `has_json` it takes `--json`, as `as_json`. With `ends_in_json` an error after `--json`
    ends in a last line like that of `run`.
    """

    def made(function: Callable[..., int]) -> click.Command:
        @wraps(function)
        def reporting(**options: Any) -> NoReturn:
            as_json = ends_in_json and options["as_json"]
            sys.exit(reported(lambda: function(**options), as_json=as_json))

        declare = group.command if group is not None else click.command
        declared: click.Command = declare(name, cls=cls)(reporting)
        if has_json:
            flag = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON on stdout.")
            declared.params.append(flag)
        return declared

    return made


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
        print_error(error)
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
    from pipeline.events import Summary, flatten

    summary = Summary(exit=code, class_=CLASSES[code], resumable=is_resumable)
    with suppress(OSError):
        print(msgspec.json.encode(flatten(summary)).decode(), flush=True)


def print_error(error: TextmillError) -> None:
    """The error on stderr, on one line, and its hint on another."""
    print_message(printable(str(error), 2_000))
    if error.hint:
        print_message(f"hint: {printable(error.hint, 500)}")


def print_message(line: str) -> None:
    """Talk on stderr; that nobody listens is no reason to fail."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


T = TypeVar("T")


def run_interruptibly(work: Callable[[], T]) -> T:
    """What the work returns or raises; it goes on in a thread of its own, and is left behind where
    a signal ends the waiting."""
    done: SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = SimpleQueue()

    def worker() -> None:
        try:
            done.put((work(), None))
        except BaseException as error:
            done.put((None, error))

    threading.Thread(target=worker, daemon=True).start()
    found, error = done.get()
    if error is not None:
        raise error
    return found  # type: ignore[return-value]
