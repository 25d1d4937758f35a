"""The records of a checked job file: what every other room of `jobs/` reads.

They hold what was said, with every default filled in, and decide nothing: `jobs/spec/load.py` makes
them, `jobs/spec/check_job.py`, `jobs/spec/check_endpoints.py` and `jobs/spec/check_paths.py` say
which must not be.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from jobs.secrets import Reference
from pipeline.disk.output_path import output_suffix
from pipeline.endpoints.kinds import KINDS, Kind
from pipeline.records import Deadline, Price, Rule


class InputSpec(Struct, frozen=True):
    """Where the rows are. `path` is as typed, joined to the job file's folder."""

    path: str
    text: str
    id: str | None
    keep: tuple[str, ...] | None


class ChunkSpec(Struct, frozen=True, omit_defaults=True):
    """Where a text is cut. Units: tokens of `tokenizer` (None: the endpoint's own).

    `focus` came later; where it is not given, it leaves the fingerprint of older jobs alone.
    """

    method: str
    size: int
    overlap: int
    tokenizer: str | None
    focus: float | None = None


class EndpointSpec(Struct, frozen=True):
    """Who answers. `url` has no slash at its end and is empty for an embedded model.

    Invariant: a replica has the model and the revision of its origin.
    """

    name: str
    kind: str
    """One of `pipeline.endpoints.kinds.KINDS`."""
    provider: str | None
    model: str | None
    revision: str
    url: str
    api_key: Reference | None
    max_input_tokens: int | None
    concurrency: int
    batch_size: int
    batch_tokens: int
    requests_per_minute: float | None
    tokens_per_minute: float | None
    price: Price | None
    deadline: Deadline
    allow_model_change: bool
    weight: float | None = None
    """None: nothing was said, which weighs 1."""
    fallback: bool = False
    replica_of: str | None = None

    @property
    def facts(self) -> Kind:
        """What its kind can do and needs."""
        return KINDS[self.kind]


class AggregateSpec(Struct, frozen=True):
    """How a document's outcomes are put together."""

    method: Literal["rows", "mean", "text"]


class OutputSpec(Struct, frozen=True):
    """Where the result goes; `path` has no slash at its end."""

    path: str

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

    max_cost_usd: float | None
    partial: bool


class GuardSpec(Struct, frozen=True):
    """What is refused rather than published. Units: share of rows; texts; chunks; bytes."""

    max_failed: float
    max_removed: float
    canary: int
    max_chunks: int
    max_row_bytes: int


class RunSpec(Struct, frozen=True):
    """How one execution ends."""

    max_outage_seconds: float
    grace_seconds: float
    until: str | None
    salvage: bool


class Job(Struct, frozen=True, kw_only=True):
    """A checked job file: every default filled in, every path ready to open.

    Invariant: what `jobs.spec.load.load` returns breaks no rule of `jobs/spec/check_job.py`,
    `jobs/spec/check_endpoints.py` and `jobs/spec/check_paths.py`.
    """

    name: str
    task: str
    """One of `pipeline.tasks.TASKS`."""
    route: Literal["ordered", "cheapest", "fastest", "weighted"] = "ordered"
    input: InputSpec
    chunk: ChunkSpec
    parameters: dict[str, Any]
    """The task's own, as the service names them, without `prompt`: they are sent as they stand."""
    prompt: str | None
    endpoints: tuple[EndpointSpec, ...]
    """In the order of the file; at least one."""
    rules: tuple[Rule, ...] = ()
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
