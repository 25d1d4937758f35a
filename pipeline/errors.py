"""Exceptions, named by who handles them.

A failed request is a record (`records.Failure`), not an exception. What ends a run is a
`TextmillError`: one line for the user, an optional hint, and the exit code of its class. What a
`decode` raises is an `EndpointError`, and only `pipeline.limits.retries` decides what follows from
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal


class TextmillError(Exception):
    """Ends the run with one line, `address: what is wrong`, and a hint with one command or key."""

    exit_code: int = 1
    resumable: bool = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(TextmillError):
    """The command line, the job file, or a configuration that the server refuses."""

    exit_code = 2


class TooManyFailed(TextmillError):
    """More rows failed than `guard.max_failed` allows; nothing was committed."""

    exit_code = 4


class OutageError(TextmillError):
    """No answer for `max_outage_seconds`; trying again later goes on where it stopped."""

    exit_code = 5
    resumable = True


class InputError(TextmillError):
    """The input is unreadable, changed while it was read, or its ids are not unique."""

    exit_code = 6


class RefusedError(TextmillError):
    """The endpoint refuses for good: credential, permission, payment, certificate."""

    exit_code = 7
    resumable = True


class BudgetError(TextmillError):
    """The budget does not cover what is left to do."""

    exit_code = 8
    resumable = True


class TimeLimit(TextmillError):
    """`run.until` was reached: what was under way was drained, the next run goes on."""

    exit_code = 10
    resumable = True


class LockedError(TextmillError):
    """Another run holds the run folder."""

    exit_code = 11
    resumable = True


class StateError(TextmillError):
    """An answer that was settled cannot be read back; the next run sends it again."""

    exit_code = 12
    resumable = True


class StorageError(TextmillError):
    """The cache, the run folder or the output cannot be written."""

    exit_code = 13
    resumable = True


class GuardError(TextmillError):
    """A guard refused to publish: the output would lose more than was declared."""

    exit_code = 14


class Interrupted(TextmillError):
    """A signal ended the run: what was under way was drained, the next run goes on."""

    resumable = True

    def __init__(self, signal_name: str, exit_code: int) -> None:
        super().__init__(f"interrupted by {signal_name}; run the same command to go on")
        self.exit_code = exit_code


ErrorKind = Literal[
    "too_long",  # the input, or the batch, is larger than the model or the server takes
    "loading",  # the model is starting
    "rate",  # 429 with or without a time to wait
    "overload",  # 503, 529: the server has no room
    "unreachable",  # no connection, no name: nothing was sent
    "quota",  # paid credits are used up
    "auth",  # credential or permission
    "poison",  # the server refuses this input, or one input of this batch
    "config",  # the server refuses every input: wrong model, wrong path, redirect
    "transient",  # 408, 409, 425, 5xx
    "ambiguous",  # sent, and no whole answer came back: it may have been billed
    "invalid",  # 200, but not an answer to what was asked
]


class EndpointError(Exception):
    """A call that brought no answers. `kind` comes from the parsed body, else from the status.

    Units: `retry_after` in seconds, None where the server named no time. `status` is None where
    not even the head of a reply came. `headers` are those of the reply: they may name limits.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.status = status
        self.retry_after = retry_after
        self.headers: Mapping[str, str] = {}


PAUSING: frozenset[ErrorKind] = frozenset({"rate", "overload", "loading", "unreachable"})
"""Classes that say something of the endpoint, not of the request: the whole endpoint rests."""
