"""The events of a run, as frozen records: one stream, many listeners.

Display, ledger, audit, metrics and report subscribe; the engine does not know them. No event holds
a text, an answer or a credential.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from pipeline.errors import ERRORS, ErrorKind
from pipeline.records import Usage


class Surveyed(Struct, frozen=True, tag_field="event", tag="surveyed"):
    """The input was read once: the amount of work is known."""

    documents: int
    parts: int


class Started(Struct, frozen=True, tag_field="event", tag="started"):
    """The run has its id and its folder: its manifest comes next, then the first call."""

    run: str
    folder: str


class RuleColumnMissing(Struct, frozen=True, tag_field="event", tag="rule_column_missing"):
    """No row has this column of a rule: the rule then applies to every row."""

    column: str
    nearest: str = ""
    """The column that was probably meant; empty: none is similar."""


class AnswersShared(Struct, frozen=True, tag_field="event", tag="answers_shared"):
    """Answers of another server serve for this endpoint, because both give the model one name. They
    were not compared: only vectors can be."""

    endpoint: str
    url: str
    """Its URL."""
    answered_by: str
    """The URL of the server that gave the answers."""


class Warned(Struct, frozen=True, tag_field="event", tag="warned"):
    """What the user should know, in one line; the run continues."""

    message: str


class Admitted(Struct, frozen=True, tag_field="event", tag="admitted"):
    """Documents were chunked and looked up. `requests` counts chunks; `cached` the answered
    ones."""

    documents: int
    requests: int
    cached: int


class CallEnded(Struct, frozen=True, tag_field="event", tag="call_ended"):
    """A call settled its requests, or brought an error. Units: seconds, tokens, USD."""

    endpoint: str
    requests: int
    """Number of settled requests; for an error, of all requests in the call. A call of a drift
    check settles none."""
    seconds: float
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = 0.0
    """None: the endpoint has no price."""
    error: ErrorKind | None = None
    message: str | None = None

    @property
    def usage(self) -> Usage:
        """The usage of the call."""
        calls = int(self.error is None or ERRORS[self.error].is_sent)
        return Usage(
            calls=calls,
            # The requests of a failed call are sent again: a request is counted once.
            requests=self.requests if self.error is None else 0,
            errors=int(self.error is not None),
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cost_usd=self.cost_usd or 0.0,
            seconds=self.seconds,
            slowest_seconds=self.seconds,
            unpriced_calls=calls if self.cost_usd is None else 0,
            ambiguous=int(self.error is not None and ERRORS[self.error].may_be_billed),
        )


class UsageDoubted(Struct, frozen=True, tag_field="event", tag="usage_doubted"):
    """The endpoint reports a usage that is far from the counted tokens of the same call, for the
    first time in this run: costs are estimated from the counted ones. Units: tokens."""

    endpoint: str
    reported: int
    counted: int


class Paused(Struct, frozen=True, tag_field="event", tag="paused"):
    """The endpoint pauses, for the `times`-th time in this run; `asked`: the server requested
    it."""

    endpoint: str
    seconds: float
    asked: bool
    times: int
    kind: str
    message: str


class Written(Struct, frozen=True, tag_field="event", tag="written"):
    """Number of further documents that were written to a part, in input order."""

    documents: int
    ok: int
    partial: int
    failed: int


class Draining(Struct, frozen=True, tag_field="event", tag="draining"):
    """No new call is sent; the run waits for calls in flight."""

    reason: str
    in_flight: int


class Committed(Struct, frozen=True, tag_field="event", tag="committed"):
    """The output is published under its name."""

    path: str
    rows: int


Event = (
    Surveyed
    | RuleColumnMissing
    | Warned
    | Started
    | AnswersShared
    | Admitted
    | CallEnded
    | UsageDoubted
    | Paused
    | Written
    | Draining
    | Committed
)
Emit = Callable[[Event], None]


class RunStats(Struct, frozen=True, kw_only=True):
    """The progress or the result of a run."""

    documents: int = 0
    ok: int = 0
    partial: int = 0
    failed: int = 0
    requests: int = 0
    """Requests of these documents, cached or not."""
    cached: int = 0
    """Requests that needed no call."""
    usage: Usage = Usage()
    """Usage of its calls, with the rent of endpoints that are paid by the hour."""
    seconds: float = 0.0
    """From its start to its end."""


def flatten(stats: RunStats) -> dict[str, Any]:
    """The record as a flat dict for programs; the fields of a subclass come first."""
    fields: dict[str, Any] = msgspec.to_builtins(stats)
    match getattr(stats, "endpoints", None):
        case dict() as by_name:
            fields["endpoints"] = {name: usage_fields(usage) for name, usage in by_name.items()}
        case tuple() as listed:
            fields["endpoints"] = [usage_fields(usage) for usage in listed]
    counts: dict[str, Any] = {name: fields.pop(name) for name in RunStats.__struct_fields__}
    del counts["usage"], counts["seconds"]
    return fields | counts | stats.usage.totals | {"seconds": stats.seconds}


def usage_fields(usage: Usage) -> dict[str, Any]:
    """The usage as a dict for programs: an unknown cost is None."""
    fields: dict[str, Any] = msgspec.to_builtins(usage.rounded())
    return fields | {"cost_usd": usage.known_cost_usd}


class Summary(RunStats, frozen=True, kw_only=True, rename={"class_": "class"}):
    """The result of a run; `flatten` gives the last line of `run --json`."""

    exit: int
    class_: str
    resumable: bool
    endpoints: tuple[EndpointStats, ...] = ()
    """The statistics of each endpoint, in job-file order."""
    answers_shared: tuple[AnswersShared, ...] = ()
    """Endpoints for which answers of other servers serve."""
    added: int = 0
    """Rows compared with the last commit: added + changed + unchanged + retried = documents."""
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    retried: int = 0
    """Unchanged, but failed or partial the last time; without rows that are at fault themselves."""


class EndpointStats(Usage, frozen=True, kw_only=True):
    """The statistics of one endpoint in a run. `success`: share of answered calls."""

    name: str
    success: float
    p50_seconds: float
    p95_seconds: float
    requests_per_second: float
    """From its first call to its last answer."""
