"""The job file as records: what every other room of `jobs/` reads, and all that is known of a key.

A key is one field here (`jobs.spec.table`): its type, default, bounds, meaning, and its flag where
it has one. The records hold what was said, with every default filled in, and decide nothing:
`jobs/spec/load.py` makes them, `jobs/spec/check_job.py`, `jobs/spec/check_endpoints.py` and
`jobs/spec/check_paths.py` say which must not be.
"""

# Without `from __future__ import annotations`: the table of keys reads the annotations at once, and
# to evaluate 60 of them from text adds half to the time that importing this file takes.
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
    """Where the rows are. `path` is as typed, joined to the job file's folder."""

    path: Annotated[str, Key(
        "file, glob, directory, s3://BUCKET/KEY, or - for standard input (-i)",
        flag="--input", short="-i", metavar="PATH", help="File, glob, directory, s3://, -.")]
    text: Annotated[str, Key(
        "column that holds the text",
        flag="--text", metavar="COLUMN", help="Column that holds the text.")] = "text"
    id: Annotated[str | None, Key(
        "column that names a row; default: the row's content",
        flag="--id", metavar="COLUMN", help="Column that names a row.")] = None
    keep: Annotated[tuple[str, ...] | None, Key(
        "columns carried along; default: all for one row per document, none for one row per chunk",
        flag="--keep", metavar="COLUMN", help="Column carried along.")] = None
    salvage: Annotated[bool, Key(
        "true: rows of a damaged part of a Parquet file are isolated; false: the file is refused",
        flag="--salvage", help="Isolate unreadable rows.")] = False


class ChunkSpec(Struct, frozen=True):
    """Where a text is cut. Units: tokens of `tokenizer` (None: the endpoint's own)."""

    method: Annotated[str, Key(
        "where a text may be cut", choices=CHUNKERS, group=GROUP,
        flag="--method", metavar="NAME")] = "structure"
    size: Annotated[int, Key(
        "tokens of a chunk, never exceeded", least=1,
        flag="--size", metavar="TOKENS", help="Tokens of a chunk, at most.")] = 256
    overlap: Annotated[int, Key(
        "tokens shared with the chunk before; `size` includes it",
        flag="--overlap", metavar="TOKENS", help="Tokens shared with the last.")] = 0
    focus: Annotated[float | None, Key(
        "of method semantic: 0 for few long chunks (recall), 1 for many short ones about one thing "
        "(precision); default: 0.75", most=1)] = None
    tokenizer: Annotated[str | None, Key(
        "what counts; default: the endpoint's own where known (all are local), else o200k_base",
        flag="--tokenizer", metavar="NAME", help="What counts tokens.")] = None


_PRICE = Table(keys={
    "input": Key("USD per million tokens read"),
    "output": Key("USD per million tokens written"),
    "request": Key("USD per request"),
    "second": Key("USD per second of computing"),
    "hour": Key("USD per hour of the endpoint"),
})
_DEADLINE = Table(keys={
    "connect_seconds": Key("until connected", above=0, most=_DAYS_30),
    "first_byte_seconds": Key("until the answer begins", above=0, most=_DAYS_30),
    "idle_seconds": Key("between two pieces of an answer", above=0, most=_DAYS_30),
    "call_seconds": Key("for the whole call", above=0, most=_DAYS_30),
})


class EndpointSpec(Struct, frozen=True, kw_only=True):
    """Who answers. `url` has no slash at its end and is empty for an embedded model.

    Invariant: a replica has the model and the revision of its origin.
    """

    name: Annotated[str, Key(
        "names the endpoint in logs, rules and --set; default: its kind",
        type="slug", is_filled_in=True)]
    kind: Annotated[str, Key(
        "the protocol", choices=KINDS, later=("tgi", "replicate"),
        flag="--kind", metavar="NAME")]
    provider: Annotated[str | None, Key(
        "behind the router of kind hf; default: hf-inference",
        choices=tuple(provider for kind in KINDS.values() for provider in kind.providers))] = None
    model: Annotated[str | None, Key(
        "as the service names it; not needed for local and tei",
        flag="--model", metavar="NAME", help="As the service names it.")] = None
    revision: Annotated[str, Key("of the model, where the service has revisions")] = "main"
    url: Annotated[str, Key(
        "base URL; default: the public service of openai and hf", is_filled_in=True,
        flag="--url", metavar="URL", help="Base URL of the service.")]
    api_key: Annotated[Reference | None, Key(
        'where the key lies: { env = "NAME" } or { file = "path" } with mode 0600; never the key',
    )] = None
    max_input_tokens: Annotated[int | None, Key("what the model reads at once", least=1)] = None
    requests_per_minute: Annotated[float | None, Key(
        "calls per minute; else learned from headers and refusals", least=0.01)] = None
    tokens_per_minute: Annotated[float | None, Key("tokens per minute, the same", least=1)] = None
    concurrency: Annotated[int, Key(
        "calls in flight; default: 16, local 2", least=1, most=10_000, is_filled_in=True,
        flag="--concurrency", metavar="N", help="Calls in flight, at most.")]
    batch_size: Annotated[int, Key(
        "requests per call; default: 32 for embeddings (local 64), 1 for text",
        least=1, most=10_000, is_filled_in=True,
        flag="--batch-size", metavar="N", help="Requests per call, at most.")]
    batch_tokens: Annotated[int, Key("tokens per call", least=1)] = 100_000
    allow_model_change: Annotated[bool, Key(
        "false: a server that answers under another model name than before stops the run")] = False
    weight: Annotated[float | None, Key(
        'share of the load under route = "weighted"; default: 1', above=0)] = None
    """None: nothing was said, which weighs 1."""
    fallback: Annotated[bool, Key(
        "true: gets a request only after the others failed it or while they rest")] = False
    replica_of: Annotated[str | None, Key(
        "name of an endpoint that serves the same model: they share answers and load")] = None
    price: Annotated[Price | None, _PRICE] = None
    deadline: Annotated[Deadline, _DEADLINE] = Deadline()

    @property
    def facts(self) -> Kind:
        """What its kind can do and needs."""
        return KINDS[self.kind]


_RULE = Table("rule", max_tables=1_000, keys={
    "column": Key("a column that says who may read a row; where it is missing or null, all rules "
                  "on it hold"),
    "value": Key("its value", name="equals"),
    "endpoints": Key("names of the only endpoints that may get such a row, also as fallback"),
})


class AggregateSpec(Struct, frozen=True):
    """How a document's outcomes are put together."""

    method: Annotated[Literal["rows", "mean", "text"], Key(
        "rows: one row per chunk; mean, text: one per document; default: rows for embeddings, else "
        "text", is_filled_in=True,
        later=("map_reduce", "refine", "vote", "merge", "labels", "entities", "spans",
               "structured"),
        flag="--aggregate", metavar="NAME")]


class OutputSpec(Struct, frozen=True):
    """Where the result goes; `path` has no slash at its end."""

    path: Annotated[str, Key(
        ".parquet, .jsonl, a directory, or - (-o)",
        flag="--output", short="-o", metavar="PATH", help=".parquet, .jsonl, directory, or -.")]

    @property
    def format(self) -> Literal["parquet", "jsonl", "directory", "stream"]:
        """What is written under the path."""
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
    """What may be spent. Units: USD."""

    max_cost_usd: Annotated[float | None, Key(
        "refuses a run that would cost more", above=0,
        flag="--max-cost-usd", metavar="USD", help="Refuse to cost more.")] = None
    stop_at_cap: Annotated[bool, Key(
        "true: work up to the cap, exit 8, go on next time",
        flag="--stop-at-cap", help="Work up to that cost.")] = False


class GuardSpec(Struct, frozen=True):
    """What is refused rather than published. Units: share of rows; texts; chunks; bytes."""

    max_failed: Annotated[float, Key(
        "share of rows; more and nothing is published", most=1,
        flag="--max-failed", metavar="SHARE", help="Of rows; above: exit 4.")] = 0.1
    max_removed: Annotated[float, Key(
        "share of the last commit's rows, never below 20 of them; more are gone and nothing is "
        "published", most=1,
        flag="--max-removed", metavar="SHARE", help="Of rows; above: exit 14.")] = 0.25
    drift_texts: Annotated[int, Key(
        "texts sent again before new ones: has the model changed? 0 = off")] = 3
    max_chunks: Annotated[int, Key("per document; above, it is isolated", least=1)] = 1_000_000
    max_row_bytes: Annotated[int, Key("per row; above, it is isolated", least=1)] = 1_000_000_000


class RunSpec(Struct, frozen=True):
    """How one execution ends."""

    max_outage_seconds: Annotated[float, Key(
        "without any answer", above=0, most=_DAYS_30,
        flag="--max-outage", metavar="SECONDS", help="Without any answer.")] = 1800.0
    grace_seconds: Annotated[float, Key(
        "to finish calls in flight after ctrl-C", most=_DAYS_30,
        flag="--grace", metavar="SECONDS", help="To drain after ctrl-C.")] = 30.0
    until: Annotated[str | None, Key(
        "local time such as 06:00: when it comes the run drains and exits 10; the next one goes on",
        type="time",
        flag="--until", metavar="TIME", help="Such as 06:00: drain then, and exit 10.")] = None


class Job(Struct, frozen=True, kw_only=True):
    """A checked job file: every default filled in, every path ready to open.

    Invariant: what `jobs.spec.load.load` returns breaks no rule of `jobs/spec/check_job.py`,
    `jobs/spec/check_endpoints.py` and `jobs/spec/check_paths.py`.
    """

    name: Annotated[str, Key(
        "names the job in logs; default: the file's name", type="slug", is_filled_in=True)]
    task: Annotated[str, Key("what the endpoint does with each chunk", choices=TASKS)]
    route: Annotated[Literal["ordered", "cheapest", "fastest", "weighted"], Key(
        "who of several endpoints is asked first: the first of the file with a free slot, or by "
        "price, speed or weight")] = "ordered"
    input: InputSpec
    chunk: ChunkSpec
    parameters: dict[str, Any]
    """The task's own, as the service names them, without `prompt`: they are sent as they stand."""
    prompt: Annotated[str | None, Key(
        "for text tasks, with {chunk}; every other parameter goes to the service as it stands",
        name="parameters.prompt",
        flag="--prompt", metavar="TEXT", help="For text tasks, with {chunk}.")] = None
    endpoints: Annotated[tuple[EndpointSpec, ...], Table("endpoint", max_tables=100)]
    """In the order of the file; at least one."""
    rules: Annotated[tuple[Rule, ...], _RULE] = ()
    aggregate: AggregateSpec
    output: OutputSpec
    budget: BudgetSpec
    guard: GuardSpec
    run: RunSpec
    address: str
    """How errors call the file."""
    folder: str
    """The base of relative paths; empty: the current folder."""

    def key(self, endpoint: EndpointSpec, last: str) -> str:
        """How errors call a key of an endpoint: by its name where there are several."""
        if len(self.endpoints) == 1:
            return f"endpoint.{last}"
        return f"endpoint.{endpoint.name}.{last}"

    def origin(self, endpoint: EndpointSpec) -> EndpointSpec:
        """The endpoint whose model this one serves: itself, but for a replica."""
        named = (each for each in self.endpoints if each.name == endpoint.replica_of)
        return next(named, endpoint)

    @property
    def is_local(self) -> bool:
        """True where nothing but embedded models answers."""
        return all(endpoint.facts.is_embedded for endpoint in self.endpoints)

    @property
    def own_tokenizer(self) -> str | None:
        """The tokenizer of the models of all endpoints, where it is one and known."""
        names = {endpoint.facts.tokenizer for endpoint in self.endpoints}
        return names.pop() if len(names) == 1 else None
# fmt: on


KEYS = tuple(keys_of(Job))
"""Every key of the job file, in the order of its reference."""

KEY = {key.name: key for key in KEYS}

LISTS = lists_of(Job)
"""The lists of the file, and how many tables each may have."""

LATER = frozenset({"notify", "quota", "policy"})
"""Tables of the design that this version does not use; they are refused by name."""
