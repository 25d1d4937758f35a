"""What happens in a run, as frozen records: one stream, many listeners.

Display, ledger, audit, metrics and report subscribe; nothing in the engine knows them. No event
holds a text, an answer or a credential.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from pipeline.errors import ErrorKind


class Surveyed(Struct, frozen=True, tag_field="event", tag="surveyed"):
    """The input was read once: what is to be done is known."""

    documents: int
    parts: int


class Started(Struct, frozen=True, tag_field="event", tag="began"):
    """The run has a name and a folder of its own: its manifest comes next, then the first call."""

    run: str
    folder: str


class RuleColumnMissing(Struct, frozen=True, tag_field="event", tag="absent"):
    """No row has this column of a rule: every row then counts as one of the rule's."""

    column: str


class Admitted(Struct, frozen=True, tag_field="event", tag="admitted"):
    """Documents were chunked and looked up. `requests` counts chunks; `cached` those answered."""

    documents: int
    requests: int
    cached: int


class CallEnded(Struct, frozen=True, tag_field="event", tag="call"):
    """A call settled its requests, or brought an error. Units: seconds, tokens, USD."""

    endpoint: str
    requests: int
    seconds: float
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    error: ErrorKind | None = None
    message: str | None = None


class Paused(Struct, frozen=True, tag_field="event", tag="paused"):
    """The endpoint rests, for the `times`-th time in this run."""

    endpoint: str
    seconds: float
    asked: bool
    times: int
    kind: str
    message: str


class Written(Struct, frozen=True, tag_field="event", tag="written"):
    """So many more documents are in a part, in input order."""

    documents: int
    ok: int
    partial: int
    failed: int


class Draining(Struct, frozen=True, tag_field="event", tag="draining"):
    """No new call is made; calls under way are waited for."""

    reason: str
    in_flight: int


class Committed(Struct, frozen=True, tag_field="event", tag="committed"):
    """The output stands under its name."""

    path: str
    rows: int


Event = (
    Surveyed
    | RuleColumnMissing
    | Started
    | Admitted
    | CallEnded
    | Paused
    | Written
    | Draining
    | Committed
)
Emit = Callable[[Event], None]


class Summary(Struct, frozen=True, kw_only=True, rename={"class_": "class"}):
    """How a run ended: the last line of `run --json`."""

    exit: int
    class_: str
    resumable: bool
    documents: int = 0
    ok: int = 0
    partial: int = 0
    failed: int = 0
    requests: int = 0
    cached: int = 0
    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    seconds: float = 0.0
    endpoints: tuple[EndpointStats, ...] = ()
    """What each endpoint did, in job-file order."""
    added: int = 0
    """Rows against those of the last commit: added + changed + unchanged + retried = documents."""
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    retried: int = 0
    """Unchanged, but failed or partial the last time."""


class EndpointStats(Struct, frozen=True, kw_only=True):
    """What one endpoint did in a run. Units: seconds, tokens, USD; `success`: share of calls."""

    name: str
    calls: int
    requests: int
    """Answered, and kept."""
    errors: int
    success: float
    input_tokens: int
    output_tokens: int
    cost_usd: float
    p50_seconds: float
    p95_seconds: float
    requests_per_second: float
    """From its first call to its last answer."""
