"""Errors, named by their handlers, and the meaning of each class.

A failed request is a record (`records.Failure`), not an exception. A `TextmillError` ends a run: it
has one line for the user, an optional hint, and the exit code of its class. `decode` raises
`EndpointError`; one table, `ERRORS`, defines its consequences for retries, pauses, bills, outages
and the drift check. So no other file compares the class of an error with a name, and a new class is
a new row.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple


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
    """No answer for `max_outage_seconds`; a later run resumes where this one stopped."""

    exit_code = 5
    exit_class = "outage"
    resumable = True


class InputError(TextmillError):
    """The input is unreadable, changed while it was read, or its ids are not unique."""

    exit_code = 6
    exit_class = "input"


class RefusedError(TextmillError):
    """The endpoint rejects every call: credential, permission, payment, certificate."""

    exit_code = 7
    exit_class = "refused"
    resumable = True


class BudgetError(TextmillError):
    """The budget does not cover the remaining work."""

    exit_code = 8
    exit_class = "budget"
    resumable = True


class PlanOverBudget(BudgetError):
    """The plan of a run costs more than its budget: the same command is refused again."""

    resumable = False


class TimeLimit(TextmillError):
    """`run.until` was reached: calls in flight were drained, the next run resumes."""

    exit_code = 10
    exit_class = "time limit"
    resumable = True


class LockedError(TextmillError):
    """Another run holds the run folder."""

    exit_code = 11
    exit_class = "locked"
    resumable = True


class StateError(TextmillError):
    """A settled answer cannot be read back; the next run sends its request again."""

    exit_code = 12
    exit_class = "state"
    resumable = True


class StorageError(TextmillError):
    """The cache, the run folder or the output cannot be written."""

    exit_code = 13
    exit_class = "storage"
    resumable = True


class DescriptorError(StorageError):
    """The process, or the machine, has too many open files."""

    errnos = frozenset({errno.EMFILE, errno.ENFILE})

    def __init__(self, address: str) -> None:
        super().__init__(
            f"{address}: too many open files",
            hint="raise the limit with `ulimit -n 4096`, or lower endpoint.concurrency",
        )


class GuardError(TextmillError):
    """A guard blocked publishing: the output would lose more than the job declares."""

    exit_code = 14
    exit_class = "guard"


class Interrupted(TextmillError):
    """A signal ended the run: calls in flight were drained, the next run resumes."""

    exit_code = 130
    exit_class = "interrupted"
    resumable = True

    def __init__(self, signal_name: str, exit_code: int) -> None:
        super().__init__(f"interrupted by {signal_name}; run the same command to resume")
        self.exit_code = exit_code


COMPLETE = 0
FAILED_ROWS = 3
"""Published, but some rows failed or are partial."""
TERMINATED = 143
"""`Interrupted` by any signal but SIGINT."""

_ENDS: list[type[TextmillError]] = TextmillError.__subclasses__()

CLASSES: dict[int, str] = {
    COMPLETE: "complete",
    FAILED_ROWS: "failed rows",
    TERMINATED: Interrupted.exit_class,
    TextmillError.exit_code: TextmillError.exit_class,
    **{error.exit_code: error.exit_class for error in _ENDS},
}
"""The class of every exit code of a run."""

CLOSING = frozenset(error.exit_code for error in _ENDS if not error.resumable)
"""Exit codes that close a run without a commit: the next run starts anew. All others leave it open,
as a kill does."""


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
    "truncated",
]


class ErrorFacts(NamedTuple):
    """The meaning of a class of error.

    Invariant: exactly one of three is at fault: the endpoint (`is_endpoints_fault`), the job
    (`stops_with`), or else the request (`is_requests_own`).
    """

    is_endpoints_fault: bool = False
    """Counts towards an outage, and pauses the endpoint or counts towards its breaker."""
    is_sent: bool = True
    """The request reached the server: it counts as a call."""
    may_be_billed: bool = False
    """The estimated cost counts as spent, or a budget would not hold."""
    attempts: int = 1
    """Attempts after which the error is final for a request; waiting for a pause uses up none."""
    attempts_by_status: Mapping[int, int] = MappingProxyType({})
    """The same for HTTP statuses that are weaker evidence than the class."""
    attempts_in_silence: int = 0
    """The same, if larger, while the endpoint has sent nothing since before the call."""
    retry_cost: float = 0.0
    """The cost of a retry in the retry budget (`pipeline.limits.retry_budget`)."""
    base_pause_seconds: float = 0.0
    """First pause of the endpoint, doubling from there; 0: it does not pause."""
    max_pause_seconds: float = 300.0
    """Upper bound of a wait that the server requests."""
    lowers: Literal["rate limit", "concurrency"] | None = None
    """What admission control lowers from then on."""
    is_refusal: bool = False
    """The server rejects this input. If it rejects each of the first inputs, the job is wrong."""
    is_too_large: bool = False
    """The size may be at fault: answered halves bound the batch, a single chunk is split."""
    stops_with: type[TextmillError] | None = None
    """No request of this run can be answered: the run ends with this error."""
    hint: str | None = None
    """Hint of that error."""

    @property
    def is_pausing(self) -> bool:
        """True if the request waits without using up an attempt; the endpoint pauses with it,
        except after a 429 that names no time."""
        return self.base_pause_seconds > 0

    @property
    def is_requests_own(self) -> bool:
        """True if other requests may be answered all the same."""
        return not self.is_endpoints_fault and self.stops_with is None


_RETRY = 14.0
_THROTTLED = 5.0
"""For a call that the server had no room for: it cost the server little."""

ERRORS: dict[ErrorKind, ErrorFacts] = {
    # The input, or the batch, is larger than the model or the server takes.
    "too_long": ErrorFacts(is_refusal=True, is_too_large=True),
    # The model is starting. The time that the server estimates is a guess: calls are retried
    # earlier.
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
        hint="check `endpoint.api_key` and its permissions; answers so far are kept",
    ),
    # The server rejects this input, or one input of this batch: a 424 may concern a neighbour.
    "poison": ErrorFacts(
        attempts_by_status=MappingProxyType({424: 2}),
        retry_cost=_RETRY,
        is_refusal=True,
    ),
    # The server rejects every input: wrong model, wrong path, redirect.
    "config": ErrorFacts(
        stops_with=UsageError,
        hint="check `endpoint.url`, `endpoint.model` and `parameters`",
    ),
    # 408, 409, 425, 5xx.
    "transient": ErrorFacts(is_endpoints_fault=True, attempts=12, retry_cost=_RETRY),
    # Sent, and no complete answer arrived.
    "ambiguous": ErrorFacts(
        is_endpoints_fault=True,
        may_be_billed=True,
        attempts=2,
        attempts_in_silence=12,
        retry_cost=_RETRY,
    ),
    # 200, but not a valid answer to the request.
    "invalid": ErrorFacts(may_be_billed=True, attempts=3, retry_cost=_RETRY),
    # 200, but the token limit ran out before the text began: another try costs the same.
    "truncated": ErrorFacts(may_be_billed=True),
}
"""The consequences of each class of error; `docs/errors.md` describes how each is recognised."""

FINAL_KINDS = tuple(
    sorted(kind for kind, facts in ERRORS.items() if not (facts.is_pausing or facts.stops_with))
)
"""The classes of final failures: all others wait for the endpoint, or stop the run."""


class EndpointError(Exception):
    """A call that brought no answers. `kind` comes from the parsed body, else from the status.

    Units: `retry_after` in seconds, None if the server named no time. `status` is None if not even
    the head of a reply arrived. `headers` are those of the reply: they may hold rate limits.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.status = status
        self.retry_after = retry_after
        self.own_hint = hint
        self.headers: Mapping[str, str] = {}
        self.ask_with: Mapping[str, Any] = {}
        """Parameters that the endpoint asks with instead from now on: the server refuses the way of
        asking, not the request. The call is sent again at once, and uses up no attempt."""

    @property
    def facts(self) -> ErrorFacts:
        """The meaning of its class."""
        return ERRORS[self.kind]

    @property
    def hint(self) -> str | None:
        """The next step: its own, where the cause is known better than by its class."""
        return self.own_hint or self.facts.hint
