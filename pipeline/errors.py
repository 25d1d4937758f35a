"""Errors, named by who handles them, and what each class of them means.

A failed request is a record (`records.Failure`), not an exception. What ends a run is a
`TextmillError`: one line for the user, an optional hint, and the exit code of its class. What a
`decode` raises is an `EndpointError`; what follows from it is read from one table, `ERRORS`, by
everything that asks: retries, pauses, bills, outages, the drift check. So no other file compares
the class of an error with a name, and a new class is a new row.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple


class TextmillError(Exception):
    """Ends the run with one line, `address: what is wrong`, and a hint with one command or key."""

    exit_code: int = 1
    exit_class: str = "internal"
    resumable: bool = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(TextmillError):
    """The command line, the job file, or a configuration that the server refuses."""

    exit_code = 2
    exit_class = "usage"


class TooManyFailed(TextmillError):
    """More rows failed than `guard.max_failed` allows; nothing was committed."""

    exit_code = 4
    exit_class = "too many failed"


class OutageError(TextmillError):
    """No answer for `max_outage_seconds`; trying again later goes on where it stopped."""

    exit_code = 5
    exit_class = "outage"
    resumable = True


class InputError(TextmillError):
    """The input is unreadable, changed while it was read, or its ids are not unique."""

    exit_code = 6
    exit_class = "input"


class RefusedError(TextmillError):
    """The endpoint refuses for good: credential, permission, payment, certificate."""

    exit_code = 7
    exit_class = "refused"
    resumable = True


class BudgetError(TextmillError):
    """The budget does not cover what is left to do."""

    exit_code = 8
    exit_class = "budget"
    resumable = True


class TimeLimit(TextmillError):
    """`run.until` was reached: what was under way was drained, the next run goes on."""

    exit_code = 10
    exit_class = "time limit"
    resumable = True


class LockedError(TextmillError):
    """Another run holds the run folder."""

    exit_code = 11
    exit_class = "locked"
    resumable = True


class StateError(TextmillError):
    """An answer that was settled cannot be read back; the next run sends it again."""

    exit_code = 12
    exit_class = "state"
    resumable = True


class StorageError(TextmillError):
    """The cache, the run folder or the output cannot be written."""

    exit_code = 13
    exit_class = "storage"
    resumable = True


class GuardError(TextmillError):
    """A guard refused to publish: the output would lose more than was declared."""

    exit_code = 14
    exit_class = "guard"


class Interrupted(TextmillError):
    """A signal ended the run: what was under way was drained, the next run goes on."""

    exit_code = 130
    exit_class = "interrupted"
    resumable = True

    def __init__(self, signal_name: str, exit_code: int) -> None:
        super().__init__(f"interrupted by {signal_name}; run the same command to go on")
        self.exit_code = exit_code


COMPLETE = 0
FAILED_ROWS = 3
"""Published, and some rows failed or are partial."""
TERMINATED = 143
"""`Interrupted` by anything but SIGINT."""

_ENDS: list[type[TextmillError]] = TextmillError.__subclasses__()

CLASSES: dict[int, str] = {
    COMPLETE: "complete",
    FAILED_ROWS: "failed rows",
    TERMINATED: Interrupted.exit_class,
    TextmillError.exit_code: TextmillError.exit_class,
    **{error.exit_code: error.exit_class for error in _ENDS},
}
"""Every exit code of a run, in words."""

CLOSING = frozenset(error.exit_code for error in _ENDS if not error.resumable)
"""Exit codes that close a run without a commit: what is to be done next is not what was begun. All
others leave it open, as a kill does."""


ErrorKind = Literal[
    "too_long",
    "loading",
    "rate",
    "overload",
    "unreachable",
    "quota",
    "auth",
    "poison",
    "config",
    "transient",
    "ambiguous",
    "invalid",
]


class ErrorFacts(NamedTuple):
    """What a class of error means.

    Invariant: one of three is at fault: the endpoint (`is_endpoints_fault`), the job
    (`stops_with`), or else the request (`is_requests_own`).
    """

    is_endpoints_fault: bool = False
    """Counts towards an outage, and pauses the endpoint or counts towards its breaker."""
    is_sent: bool = True
    """The server got it: it counts as a call."""
    may_be_billed: bool = False
    """Its estimated cost counts as spent, or a budget would not hold."""
    attempts: int = 1
    """Attempts after which it is final for a request; one that waits for a pause uses up none."""
    attempts_by_status: Mapping[int, int] = MappingProxyType({})
    """The same under an HTTP status that means less than the class does otherwise."""
    attempts_in_silence: int = 0
    """The same, if more, where nothing has come from the endpoint since before the call."""
    retry_cost: float = 0.0
    """What a retry takes from the retry budget (`pipeline.limits.retry_budget`)."""
    base_pause_seconds: float = 0.0
    """The endpoint pauses, for a time that doubles from this one; 0: it does not pause."""
    max_pause_seconds: float = 300.0
    """The longest time that the server may ask for."""
    lowers: Literal["rate limit", "concurrency"] | None = None
    """What the endpoint is asked for less of, from then on."""
    is_refusal: bool = False
    """The server refuses this input. Refused alike, the first inputs mean that the job is wrong."""
    is_too_large: bool = False
    """The size may be at fault: answered halves bound the batch, one chunk is cut in pieces."""
    stops_with: type[TextmillError] | None = None
    """No request of this run can be answered: it ends with this."""
    hint: str | None = None
    """Of what it ends with."""

    @property
    def is_pausing(self) -> bool:
        """The whole endpoint waits, and the request with it."""
        return self.base_pause_seconds > 0

    @property
    def is_requests_own(self) -> bool:
        """Another request may be answered all the same."""
        return not self.is_endpoints_fault and self.stops_with is None


_RETRY = 14.0
_THROTTLED = 5.0
"""Of a call that the server had no room for: it cost the server little."""

ERRORS: dict[ErrorKind, ErrorFacts] = {
    # The input, or the batch, is larger than the model or the server takes.
    "too_long": ErrorFacts(is_refusal=True, is_too_large=True),
    # The model is starting. The time that the server estimates is a guess: it is asked again.
    "loading": ErrorFacts(
        is_endpoints_fault=True,
        base_pause_seconds=1.0,
        max_pause_seconds=20.0,
        retry_cost=_THROTTLED,
    ),
    # 429, with or without a time to wait.
    "rate": ErrorFacts(
        is_endpoints_fault=True,
        base_pause_seconds=1.0,
        lowers="rate limit",
        retry_cost=_THROTTLED,
    ),
    # 503, 529: the server has no room.
    "overload": ErrorFacts(
        is_endpoints_fault=True,
        base_pause_seconds=1.0,
        lowers="concurrency",
        retry_cost=_THROTTLED,
    ),
    # No connection, no name: nothing was sent.
    "unreachable": ErrorFacts(
        is_endpoints_fault=True,
        is_sent=False,
        base_pause_seconds=0.25,
        retry_cost=_THROTTLED,
    ),
    # Paid credits are used up.
    "quota": ErrorFacts(
        stops_with=RefusedError,
        hint="payment or quota is used up; answers so far are kept, run again after it is restored",
    ),
    # Credential or permission; a certificate that does not hold.
    "auth": ErrorFacts(
        stops_with=RefusedError,
        hint="check `endpoint.api_key` and what it may call; answers so far are kept",
    ),
    # The server refuses this input, or one input of this batch: 424 may be of a neighbour.
    "poison": ErrorFacts(
        attempts_by_status=MappingProxyType({424: 2}),
        retry_cost=_RETRY,
        is_refusal=True,
    ),
    # The server refuses every input: wrong model, wrong path, redirect.
    "config": ErrorFacts(
        stops_with=UsageError,
        hint="check `endpoint.url`, `endpoint.model` and `parameters`",
    ),
    # 408, 409, 425, 5xx.
    "transient": ErrorFacts(is_endpoints_fault=True, attempts=12, retry_cost=_RETRY),
    # Sent, and no whole answer came back.
    "ambiguous": ErrorFacts(
        is_endpoints_fault=True,
        may_be_billed=True,
        attempts=2,
        attempts_in_silence=12,
        retry_cost=_RETRY,
    ),
    # 200, but not an answer to what was asked.
    "invalid": ErrorFacts(may_be_billed=True, attempts=3, retry_cost=_RETRY),
}
"""What follows from each class of error; `docs/errors.md` says how each is recognised."""

FINAL_KINDS = tuple(
    sorted(kind for kind, facts in ERRORS.items() if not (facts.is_pausing or facts.stops_with))
)
"""The classes of final failures: all others wait for the endpoint, or stop the run."""


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

    @property
    def facts(self) -> ErrorFacts:
        """What its class means."""
        return ERRORS[self.kind]
