"""What every command shares: one line for a user's error, messages on stderr, work that ctrl-C may
leave."""

from __future__ import annotations

import errno
import os
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeVar

import msgspec

from pipeline.errors import CLASSES, TextmillError, UsageError
from pipeline.text import printable


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
    from pipeline.events import Summary

    summary = Summary(exit=code, class_=CLASSES[code], resumable=is_resumable)
    with suppress(OSError):
        print(msgspec.json.encode(summary).decode(), flush=True)


def print_error(error: TextmillError) -> None:
    """The error on stderr, on one line, and its hint on another."""
    print_message(printable(str(error), 2_000))
    if error.hint:
        print_message(f"hint: {printable(error.hint, 500)}")


def print_message(line: str) -> None:
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
