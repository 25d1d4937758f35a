"""The records of a job file, and everything known about each of its keys.

A key is one field (`jobs.spec.table`): type, default, bounds, meaning, and the flag if there is
one. The records hold the values with every default filled in and contain no rules:
`jobs/spec/load.py` makes them; `jobs/spec/check_job.py`, `jobs/spec/check_endpoints.py` and
`jobs/spec/check_paths.py` refuse the invalid ones.
"""

# Without `from __future__ import annotations`: the table of keys reads the annotations at import,
# and evaluating 60 of them from text takes longer than importing this file.
from typing import Annotated, Any, Literal

from msgspec import Struct

from chunkers import CHUNKERS, GROUP
from jobs.secrets import Reference
from jobs.spec.table import Key, Table, keys_of, lists_of
from pipeline.disk.output_path import output_suffix
from pipeline.endpoints.kinds import KINDS, Kind
from pipeline.records import Deadline, Price, Rule
from pipeline.tasks import TASKS

_DAYS_30 = 2_592_000


# fmt: off
class InputSpec(Struct, frozen=True):
    """The input rows. `path` is as typed, joined to the folder of the job file."""

    path: Annotated[str, Key(
        "file, glob, directory, s3://BUCKET/KEY, https://HOST/PATH, hf://datasets/OWNER/NAME/PATH, "
        "or - for standard input (-i)",
        flag="--input", short="-i", metavar="PATH",
        help="Input rows: file, glob, directory, URL or -.")]
    text: Annotated[str, Key(
        "column that holds the text",
        flag="--text", metavar="COLUMN", help="Column that holds the text.")] = "text"
    id: Annotated[str | None, Key(
        "column that identifies a row; default: a hash of its content, of a text file its path",
        flag="--id", metavar="COLUMN", help="Column that identifies a row.")] = None
    keep: Annotated[tuple[str, ...] | None, Key(
        "columns to copy to the output; default: all for one row per document, none for one row "
        "per chunk",
        flag="--keep", metavar="COLUMN", help="Column to copy to the output.")] = None
    salvage: Annotated[bool, Key(
        "true: only the rows in a damaged part of a Parquet file fail; false: the file is refused",
        flag="--salvage", help="Fail unreadable rows, not the file.")] = False


class ChunkSpec(Struct, frozen=True):
    """How a text is chunked. Units: tokens of `tokenizer` (None: that of the endpoint)."""

    method: Annotated[str, Key(
        "chunking method", choices=CHUNKERS, group=GROUP,
        flag="--method", metavar="NAME", help="Chunking method")] = "structure"
    size: Annotated[int, Key(
        "maximum tokens per chunk, never exceeded", least=1,
        flag="--size", metavar="TOKENS", help="Maximum tokens per chunk.")] = 256
    overlap: Annotated[int, Key(
        "tokens shared with the previous chunk; `size` includes them",
        flag="--overlap", metavar="TOKENS", help="Tokens shared with the previous chunk.")] = 0
    focus: Annotated[float | None, Key(
        "only with method semantic: 0 makes few long chunks (recall), 1 makes many short chunks "
        "about one thing each (precision); default: 0.75", most=1)] = None
    tokenizer: Annotated[str | None, Key(
        "tokenizer that counts; default: that of the model where it is known (all endpoints are "
        "local), else o200k_base",
        flag="--tokenizer", metavar="NAME", help="Tokenizer that counts tokens.")] = None
    repeat_header: Annotated[bool, Key(
        "true: a chunk that continues a Markdown table is sent with the header of the table; "
        "`size` includes it, the output does not hold it")] = False


class EmbedSpec(Struct, frozen=True):
    """The texts that an embedding model reads before its inputs; None: what the model wants."""

    query_prefix: Annotated[str | None, Key(
        'text before a question of `search`; default: what the family of the model wants, "" none',
        type="text", may_be_empty=True)] = None
    passage_prefix: Annotated[str | None, Key(
        "text before each chunk, also with {section} and {column}; `chunk.size` includes it, the "
        'output does not hold it; default: what the family of the model wants, "" none',
        type="text", may_be_empty=True)] = None


_PRICE = Table(keys={
    "input": Key("USD per million tokens read"),
    "output": Key("USD per million tokens written"),
    "request": Key("USD per request"),
    "second": Key("USD per second of compute time"),
    "hour": Key("USD per hour that the endpoint is rented"),
})
_DEADLINE = Table(keys={
    "connect_seconds": Key("timeout for connecting", above=0, most=_DAYS_30),
    "first_byte_seconds": Key("timeout for the first byte of the answer", above=0, most=_DAYS_30),
    "idle_seconds": Key("timeout between two pieces of an answer", above=0, most=_DAYS_30),
    "call_seconds": Key("timeout for the whole call", above=0, most=_DAYS_30),
    "loading_seconds": Key("longest time for which the server may say that its model is loading",
                           above=0, most=_DAYS_30),
})


class EndpointSpec(Struct, frozen=True, kw_only=True):
    """One endpoint. `url` has no slash at its end and is empty for an embedded model.

    Invariant: a replica has the model and the revision of its origin.
    """

    name: Annotated[str, Key(
        "name of the endpoint in logs, rules and --set; default: its kind",
        type="slug", is_filled_in=True)]
    kind: Annotated[str, Key(
        "protocol of the endpoint", choices=KINDS, later=("tgi", "replicate"),
        flag="--kind", metavar="NAME", help="Protocol")]
    provider: Annotated[str | None, Key(
        "provider behind the router of kind hf; default: hf-inference",
        choices=tuple(provider for kind in KINDS.values() for provider in kind.providers))] = None
    model: Annotated[str | None, Key(
        "model as the service names it; not needed for local and tei",
        flag="--model", metavar="NAME", help="Model as the service names it.")] = None
    revision: Annotated[str, Key("revision of the model, if the service has revisions")] = "main"
    identity: Annotated[str | None, Key(
        "name for what this endpoint serves, part of the cache key: other answers under another "
        "name, the same ones under one name whatever the URL; needed where a model name such as "
        "`default` means different models at different URLs", type="slug")] = None
    url: Annotated[str, Key(
        "base URL; default: the public service of openai and hf", is_filled_in=True,
        flag="--url", metavar="URL", help="Base URL of the service.")]
    api_key: Annotated[Reference | None, Key(
        'where to find the key, never the key itself: { env = "NAME" } or { file = "path" } with '
        "mode 0600",
    )] = None
    allow_http: Annotated[bool, Key(
        "true: http:// also to addresses that are not loopback, private or link-local")] = False
    headers: Annotated[dict[str, str | Reference], Key(
        "headers that are added to every call; a credential only as a reference, like api_key; no "
        "part of the cache key: see identity")] = {}
    query: Annotated[dict[str, str | Reference], Key(
        'query that is added to every URL, such as { api-version = "2024-10-21" }; otherwise like '
        "headers")] = {}
    proxy: Annotated[str | Reference | None, Key(
        "URL of an HTTP proxy, http://HOST:PORT; a reference if it holds a password; variables "
        "such as HTTPS_PROXY are not used")] = None
    max_input_tokens: Annotated[int | None, Key(
        "longest input that the model reads, in tokens", least=1)] = None
    requests_per_minute: Annotated[float | None, Key(
        "calls per minute; default: learned from headers and 429 responses", least=0.01)] = None
    tokens_per_minute: Annotated[float | None, Key(
        "tokens per minute; default: learned from headers and 429 responses", least=1)] = None
    concurrency: Annotated[int, Key(
        "maximum calls in flight; default: 256, local 2", least=1, most=10_000, is_filled_in=True,
        flag="--concurrency", metavar="N", help="Maximum calls in flight.")]
    batch_size: Annotated[int, Key(
        "maximum requests per call; default: 32 for embeddings (local 64), 1 for text",
        least=1, most=10_000, is_filled_in=True,
        flag="--batch-size", metavar="N", help="Maximum requests per call.")]
    batch_tokens: Annotated[int, Key("maximum tokens per call", least=1)] = 100_000
    allow_model_change: Annotated[bool, Key(
        "false: the run stops if the server reports another model than before")] = False
    weight: Annotated[float | None, Key(
        'share of the load under route = "weighted"; default: 1', above=0)] = None
    """None: not set, counts as 1."""
    fallback: Annotated[bool, Key(
        "true: gets a request only after the others failed on it or while they are paused")] = False
    replica_of: Annotated[str | None, Key(
        "name of another endpoint with the same model; the two share answers and load")] = None
    price: Annotated[Price | None, _PRICE] = None
    deadline: Annotated[Deadline, _DEADLINE] = Deadline()

    @property
    def facts(self) -> Kind:
        """The facts of its kind: tasks, defaults, needs."""
        return KINDS[self.kind]

    @property
    def references(self) -> list[Reference]:
        """The places of all its credentials."""
        values = (self.api_key, self.proxy, *self.headers.values(), *self.query.values())
        return [value for value in values if isinstance(value, Reference)]


_RULE = Table("rule", max_tables=1_000, keys={
    "column": Key("column that decides which endpoints may read a row; where it is missing or "
                  "null, all rules on it apply"),
    "value": Key("value of the column for which the rule applies", name="equals"),
    "endpoints": Key("names of the only endpoints that may get such a row, also as fallback"),
})


class AggregateSpec(Struct, frozen=True):
    """How the results of a document's chunks are combined."""

    method: Annotated[Literal["rows", "mean", "text"], Key(
        "aggregation: rows writes one row per chunk, mean and text one per document; default: rows "
        "for embeddings, else text", is_filled_in=True,
        later=("map_reduce", "refine", "vote", "merge", "labels", "entities", "spans",
               "structured"),
        flag="--aggregate", metavar="NAME", help="Aggregation of the chunks")]


class OutputSpec(Struct, frozen=True):
    """The output; `path` has no slash at its end."""

    path: Annotated[str, Key(
        ".parquet, .jsonl (also .ndjson, .jsonlines), a directory, or - (-o)",
        flag="--output", short="-o", metavar="PATH",
        help="Output: .parquet, .jsonl, directory or -.")]
    rows: Annotated[Literal["all", "answered"], Key(
        "answered: rows without a result (failed, or with a blank text) are left out; they still "
        "count, and the guards know them")] = "all"
    nul: Annotated[Literal["keep", "replace"], Key(
        "U+0000 in texts: keep, or replace it by U+FFFD for a database that refuses it")] = "keep"

    @property
    def format(self) -> Literal["parquet", "jsonl", "directory", "stream"]:
        """The format written to the path."""
        if self.path == "-":
            return "stream"
        match output_suffix(self.path):
            case ".parquet":
                return "parquet"
            case ".jsonl":
                return "jsonl"
            case _:
                return "directory"


class BudgetSpec(Struct, frozen=True):
    """Cost limits. Units: USD."""

    max_cost_usd: Annotated[float | None, Key(
        "largest cost of a run; a run that could cost more is refused", above=0,
        flag="--max-cost-usd", metavar="USD", help="Largest cost of a run (exit 8).")] = None
    stop_at_cap: Annotated[bool, Key(
        "true: stop at the largest cost, keep the answers and exit 8; the next run resumes",
        flag="--stop-at-cap", help="Stop at that cost and keep what is done.")] = False


class GuardSpec(Struct, frozen=True):
    """Limits above which nothing is published. Units: share of rows; texts; chunks; bytes."""

    max_failed: Annotated[float, Key(
        "largest share of failed rows (20 rows may always fail, but not all); above it nothing is "
        "published", most=1,
        flag="--max-failed", metavar="SHARE",
        help="Largest share of failed rows; above it nothing is published (exit 4).")] = 0.1
    max_removed: Annotated[float, Key(
        "largest share of the last commit's rows that may be missing from the input (20 rows may "
        "always); above it nothing is published", most=1,
        flag="--max-removed", metavar="SHARE",
        help="Largest share of removed rows; above it nothing is published (exit 14).")] = 0.25
    drift_texts: Annotated[int, Key(
        "cached texts sent again first, to detect a changed model; 0 turns this off")] = 3
    max_chunks: Annotated[int, Key(
        "maximum chunks per document; a larger document fails", least=1)] = 1_000_000
    max_row_bytes: Annotated[int, Key(
        "maximum bytes per row; a larger row fails", least=1)] = 1_000_000_000


class RunSpec(Struct, frozen=True):
    """When a run stops."""

    max_start_seconds: Annotated[float, Key(
        "longest time until an endpoint sends its first reply of any status; then the run exits 5, "
        "unless another endpoint may answer the rows", above=0, most=_DAYS_30,
        flag="--max-start", metavar="SECONDS",
        help="Longest time until the first reply of a server (exit 5).")] = 60.0
    max_outage_seconds: Annotated[float, Key(
        "longest time without any answer, from the first reply on; then the run exits 5",
        above=0, most=_DAYS_30,
        flag="--max-outage", metavar="SECONDS",
        help="Longest time without any answer (exit 5).")] = 1800.0
    grace_seconds: Annotated[float, Key(
        "time to finish calls in flight after ctrl-C", most=_DAYS_30,
        flag="--grace", metavar="SECONDS",
        help="Time to finish calls in flight after ctrl-C.")] = 30.0
    until: Annotated[str | None, Key(
        "local time such as 06:00 at which the run drains and exits 10; the next run resumes",
        type="time",
        flag="--until", metavar="TIME",
        help="Time of day, such as 06:00, at which to drain and exit 10.")] = None


class Job(Struct, frozen=True, kw_only=True):
    """A checked job file: every default filled in, every path ready to open.

    Invariant: what `jobs.spec.load.load` returns breaks no rule of `jobs/spec/check_job.py`,
    `jobs/spec/check_endpoints.py` and `jobs/spec/check_paths.py`.
    """

    name: Annotated[str, Key(
        "name of the job in logs; default: that of the file", type="slug", is_filled_in=True)]
    task: Annotated[str, Key("task that the endpoint does for each chunk", choices=TASKS)]
    route: Annotated[Literal["ordered", "cheapest", "fastest", "weighted"], Key(
        "order in which several endpoints are tried: as in the file (the first with a free slot), "
        "or by price, speed or weight")] = "ordered"
    input: InputSpec
    chunk: ChunkSpec
    embed: EmbedSpec
    parameters: dict[str, Any]
    """Of the task, as the service names them, without `prompt`: they are sent unchanged."""
    prompt: Annotated[str | None, Key(
        "prompt of a text task, with {chunk}; other parameters are sent to the service unchanged",
        name="parameters.prompt", type="text",
        flag="--prompt", metavar="TEXT", help="Prompt of a text task, with {chunk}.")] = None
    endpoints: Annotated[tuple[EndpointSpec, ...], Table("endpoint", max_tables=100)]
    """In the order of the file; at least one."""
    rules: Annotated[tuple[Rule, ...], _RULE] = ()
    aggregate: AggregateSpec
    output: OutputSpec
    budget: BudgetSpec
    guard: GuardSpec
    run: RunSpec
    address: str
    """The name of the file in errors."""
    folder: str
    """The base of relative paths; empty: the current folder."""

    def key(self, endpoint: EndpointSpec, last: str) -> str:
        """An endpoint's key as errors name it: with the endpoint's name if there are several."""
        if len(self.endpoints) == 1:
            return f"endpoint.{last}"
        return f"endpoint.{endpoint.name}.{last}"

    def origin(self, endpoint: EndpointSpec) -> EndpointSpec:
        """The endpoint whose model this one serves: itself, or the origin of a replica."""
        origins = (other for other in self.endpoints if other.name == endpoint.replica_of)
        return next(origins, endpoint)

    @property
    def is_local(self) -> bool:
        """True if every endpoint is an embedded model."""
        return all(endpoint.facts.is_embedded for endpoint in self.endpoints)

    @property
    def servers(self) -> dict[str, str]:
        """Who answers for each endpoint, by its name: the measured times belong to it."""
        return {
            e.name: f"{self.task} {e.kind} {e.provider or ''} {e.url or ''} {e.model or ''}"
            for e in self.endpoints
        }

    @property
    def own_tokenizer(self) -> str | None:
        """The tokenizer of the endpoints' models, if it is known and the same for all."""
        names = {endpoint.facts.tokenizer for endpoint in self.endpoints}
        return names.pop() if len(names) == 1 else None
# fmt: on


KEYS = tuple(keys_of(Job))
"""Every key of the job file, in the order of its reference."""

KEY = {key.name: key for key in KEYS}

LISTS = lists_of(Job)
"""The lists of the file, with the maximum number of tables of each."""

LATER = frozenset({"notify", "quota", "policy"})
"""Tables of the design that this version does not support; they are refused by name."""
