"""Every noun of textmill, in the order of the data flow.

Records are frozen and flow one way: document -> chunks -> requests -> outcomes -> result -> rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from pipeline.errors import ErrorKind
from pipeline.secret import Addition, Secret

Status = Literal["ok", "partial", "failed"]


class RowRef(NamedTuple):
    """Reference to the kept columns of a document: row `row` of an Arrow record batch.

    Only `pipeline.source.documents` creates it and only `pipeline.sink.sink` reads it, so that
    columns pass through with their Arrow types and without conversion to Python objects.
    """

    batch: Any
    row: int


class Document(Struct, frozen=True):
    """One input row.

    Invariant: `error` is set exactly when the row is isolated; then `text` is None.
    """

    identity: bytes
    """16 bytes: hash of the id as (logical type, value), else of the row's content + occurrence."""
    id: Any
    """The value of the id column; the identity in hex if no id column is named; None:
    unreadable."""
    text: str | None
    fields: dict[str, Any]
    """The columns that prompts and rules read, as Python values."""
    address: str
    """The location of the row, for people: `reports.jsonl:17`, `reports.parquet: row 16`."""
    part: int
    row_ref: RowRef
    error: str | None = None
    row: int = 0
    """Its place in the input, counted from 0: for order, never for identity."""


class Chunk(Struct, frozen=True):
    """A span of a document and its token count; its text is `document.text[start_char:end_char]`.

    Units: code points, half-open; `tokens` as counted by the job's tokenizer.
    """

    start_char: int
    end_char: int
    tokens: int
    section: str | None = None
    header: tuple[int, int] | None = None
    """The span of the header of its table, which precedes it in the request, and only there."""


class Route(Struct, frozen=True):
    """The endpoints that may answer a request, by their positions in the job.

    Shape: `tiers[0]` come first and share the load; each further tier is one fallback, used when
    all tiers before it failed the request or are paused.
    """

    tiers: tuple[tuple[int, ...], ...]

    @property
    def positions(self) -> list[int]:
        """All positions, in job-file order."""
        return sorted(position for tier in self.tiers for position in tier)


SOLE = Route(((0,),))
"""The route of a job with one endpoint."""


class Request(Struct, frozen=True):
    """One input with one task's parameters: the unit of key, cache, retry and accounting."""

    key: bytes
    """The cache key under the first endpoint, in job-file order, that may answer the request."""
    input: str
    """The rendered text: prompt, columns and section already filled in."""
    tokens: int
    """An estimate of the input's tokens, for packing and for the plan's price."""
    chunk: Chunk
    route: Route = SOLE
    dedup_key: bytes = b""
    """Identifies key and route: requests equal in both are sent once. Empty: it is the key."""

    def __post_init__(self) -> None:
        if not self.dedup_key:
            msgspec.structs.force_setattr(self, "dedup_key", self.key)


class Call(Struct, frozen=True):
    """One HTTP exchange that carries one or more requests; the credential is added on sending."""

    url: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class Answer(Struct, frozen=True, array_like=True):
    """The answer of an endpoint to one request, as it is cached.

    Shape: `value` is a vector as little-endian float32 bytes, or a text.
    """

    value: bytes | str
    input_tokens: int = 0
    output_tokens: int = 0
    truncated: bool = False
    """The endpoint stopped at a length limit: the text may end in mid-sentence."""
    model: str = ""
    """The model name as the endpoint reported it; never part of a key."""
    origin: int = 0
    """The number of the server that gave it (`pipeline.cache.origins`); 0 if the key says it."""


class Answered(NamedTuple):
    """What a call brought: an answer or a failure for each of its requests, and the headers of the
    reply, which may name limits."""

    settled: Sequence[Answer | Failure]
    headers: Mapping[str, str] = {}


class Split(Struct, frozen=True):
    """The outcome of a request that is too long for its model: its pieces are sent instead.

    It is cached like an answer, so that the parent is never sent again; the pieces depend on the
    chunk alone (`pipeline.prepare.requests.split`).
    """


class Failure(Struct, frozen=True):
    """The reason why a request has no answer, final for this run."""

    kind: ErrorKind
    message: str
    attempts: int = 1


class Outcome(Struct, frozen=True):
    """A settled request."""

    request: Request
    settled: Answer | Failure


class Column(NamedTuple):
    """A column that an aggregator adds; `pipeline.parts.schema` turns it into an Arrow field."""

    name: str
    type: Literal["vector", "string"]


class Row(Struct, frozen=True):
    """One row of output; `chunk` is None on a row for the whole document."""

    values: tuple[Any, ...]
    """Aligned with the aggregator's columns; a vector as float32 bytes; None: there is none."""
    chunk: Chunk | None = None
    error: str | None = None


class Result(Struct, frozen=True):
    """The rows that an aggregator builds from the outcomes of one document.

    Invariant: `rows` is one row for an aggregator with one row per document, else one per chunk
    (and one without a chunk for a document that has none). It can be iterated only once.
    """

    status: Status
    rows: Iterable[Row]
    error: str | None = None
    chunks: int = 0
    tokens: int = 0
    truncated: bool = False
    model: str | None = None


class Usage(Struct, frozen=True):
    """The usage of calls. It adds up over calls, endpoints, runs and days.

    Units: tokens, USD, seconds.
    Invariant: `+` is associative and commutative, and `Usage()` is its zero.
    """

    calls: int = 0
    """Calls that were sent."""
    requests: int = 0
    """Requests that were answered, with answers that were kept."""
    errors: int = 0
    """Calls that brought an error, sent or not."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    """Includes the estimated cost of errors that may be billed, and nothing for unpriced calls."""
    seconds: float = 0.0
    """Sum over all calls."""
    slowest_seconds: float = 0.0
    """Duration of the slowest call."""
    unpriced_calls: int = 0
    """Calls of endpoints without a price: what they cost is unknown."""
    ambiguous: int = 0
    """Calls that brought no usable answer and may have been billed all the same."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.requests + other.requests,
            self.errors + other.errors,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cost_usd + other.cost_usd,
            self.seconds + other.seconds,
            max(self.slowest_seconds, other.slowest_seconds),
            self.unpriced_calls + other.unpriced_calls,
            self.ambiguous + other.ambiguous,
        )

    @property
    def tokens(self) -> int:
        """Input and output tokens."""
        return self.input_tokens + self.output_tokens

    @property
    def totals(self) -> dict[str, int | float | None]:
        """The figures for a line about a whole run or a day."""
        return {
            "calls": self.calls,
            "tokens": self.tokens,
            "cost_usd": self.known_cost_usd,
            "unpriced_calls": self.unpriced_calls,
            "ambiguous": self.ambiguous,
        }

    @property
    def known_cost_usd(self) -> float | None:
        """At least this much; None if nothing is known about the cost of any call."""
        return round(self.cost_usd, 6) if self.cost_usd or not self.unpriced_calls else None

    def rounded(self) -> Usage:
        """The usage with rounded figures, for output: sums of floats have rounding errors."""
        return replace(
            self,
            cost_usd=round(self.cost_usd, 9),
            seconds=round(self.seconds, 3),
            slowest_seconds=round(self.slowest_seconds, 3),
        )


class Price(Struct, frozen=True):
    """The price of an endpoint. Units: USD per million tokens, a request, a second, an hour."""

    input: float = 0.0
    output: float = 0.0
    request: float = 0.0
    second: float = 0.0
    hour: float = 0.0


class Deadline(Struct, frozen=True):
    """Time limits of the parts of a call."""

    connect_seconds: float = 10.0
    first_byte_seconds: float = 120.0
    idle_seconds: float = 30.0
    call_seconds: float = 600.0
    loading_seconds: float = 1_800.0
    """Of a model that is loading: many calls, all refused."""


class Endpoint(Struct, frozen=True):
    """An inference endpoint: protocol, URL, model, credential, limits, price."""

    name: str
    kind: str
    task: str
    model: str
    identity: tuple[str, ...]
    """The model's part of a cache key: kind, provider, model, revision; never URL or name."""
    url: str = ""
    parameters: dict[str, Any] = {}
    """Parameters of the task, in the names of the service; sent unchanged."""
    secret: Secret | None = None
    headers: tuple[Addition, ...] = ()
    query: tuple[Addition, ...] = ()
    """Added to every URL that is called."""
    proxy: Secret | None = None
    """Its URL, which may hold a user and a password."""
    allow_http: bool = False
    """True: plain HTTP may leave the own network."""
    concurrency: int = 256
    is_adaptive: bool = True
    """False: `concurrency` calls may be in flight, whatever their latency."""
    batch_size: int = 32
    batch_tokens: int = 100_000
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    price: Price | None = None
    """None: unknown. An embedded model costs nothing."""
    deadline: Deadline = Deadline()
    allow_model_change: bool = False
    weight: float = 1.0
    """Share of the load under `route = "weighted"`."""
    is_fallback: bool = False
    """True: it gets a request only after the others failed it or while they are paused."""
    replica_of: str = ""
    """The endpoint that serves the same model: they share keys and load."""
    adds_prompt: bool = False
    """True: its server puts a text before each input, as its `/info` says."""
    origin: str = ""
    """What its answers come from: the model and revision as its server names them, else its URL;
    empty if the identity needs no further evidence. Answers of two origins are compared."""


class Rule(Struct, frozen=True):
    """Rows whose column holds this value go to these endpoints only; see
    `pipeline.prepare.routes`."""

    column: str
    value: bool | int | str
    endpoints: tuple[str, ...]


class Guard(Struct, frozen=True, kw_only=True):
    """What is refused rather than published. Units: shares of rows; texts; chunks of a document."""

    max_failed: float = 0.1
    max_removed: float = 0.25
    drift_texts: int = 3
    """Texts of the last commit that are sent again, to see whether a model moved under its name."""
    max_chunks: int = 1_000_000


class Stop(Struct, frozen=True, kw_only=True):
    """What ends a run before its input does, and how long it may take to end."""

    max_start_seconds: float = 60.0
    """Until the first reply of an endpoint, of any status."""
    max_outage_seconds: float = 1_800.0
    """Without an answer, from the first reply on."""
    grace_seconds: float = 30.0
    until: str | None = None
    """Local time at which the run drains and ends: `06:00`."""
    is_attended: bool = False
    """A person watches: what only that person can correct ends the run at once."""


class Budget(Struct, frozen=True, kw_only=True):
    """What a run may cost. Units: USD; None: no bound."""

    max_cost_usd: float | None = None
    stop_at_cap: bool = False
    """Work up to the bound instead of refusing a plan that is over it."""


class Aggregator(Protocol):
    """A pure function from the outcomes of a document to its result."""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The added columns, in order."""

    @property
    def per_chunk(self) -> bool:
        """True: one row per chunk; False: one row per document."""

    def step(self, document: Document, outcomes: Iterable[Outcome]) -> Result:
        """The result; `outcomes` are in span order and are read lazily, at most twice."""
