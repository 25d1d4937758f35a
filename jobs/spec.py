"""The job file: TOML in, one frozen `Job` out, or one line that says what is wrong and where.

`KEYS` is the only place that knows names, types, defaults and bounds: the check of the file, flags
and `--set`, "did you mean" and docs/job-file.md all read it. What a job may not say beyond the
bounds of one key stands in `jobs/refusals.py` (URLs, secrets, contradictions) and `jobs/paths.py`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from jobs.keys import Key, Places, check, read_toml, read_value, unknown
from jobs.paths import refuse_paths
from jobs.refusals import refuse_relations, refuse_secrets, served_url
from pipeline.errors import UsageError
from pipeline.escape import printable
from pipeline.files import is_s3
from pipeline.records import Deadline, Price
from pipeline.secret import Reference, mask

_DAYS_30 = 2_592_000
_LARGEST_JOB_BYTES = 1_000_000


class Kind(Struct, frozen=True):
    """What an endpoint kind serves, and its defaults."""

    tasks: tuple[str, ...]
    url: str | None = None
    provider: str | None = None
    concurrency: int = 16
    embedding_batch: int = 32


KINDS = {
    "local": Kind(("feature-extraction", "summarization"), concurrency=2, embedding_batch=64),
    "hf": Kind(
        ("feature-extraction", "summarization", "chat-completion"),
        url="https://router.huggingface.co",
        provider="hf-inference",
    ),
    "tei": Kind(("feature-extraction",)),
    "openai": Kind(("feature-extraction", "chat-completion"), url="https://api.openai.com/v1"),
}

# fmt: off
KEYS = (
    Key("name", "slug", None, "names the job in logs; default: the file's name"),
    Key("task", "string", None, "what the endpoint does with each chunk",
        choices=("feature-extraction", "summarization", "chat-completion")),
    Key("input.path", "string", None, "file, glob, directory, s3://BUCKET/KEY, or - for "
        "standard input (-i)"),
    Key("input.text", "string", "text", "column that holds the text"),
    Key("input.id", "string", None, "column that names a row; default: the row's content"),
    Key("input.keep", "strings", None, "columns carried along; default: all for one row per "
        "document, none for one row per chunk"),
    Key("chunk.method", "string", "structure", "where a text may be cut",
        choices=("structure", "fixed", "markdown", "semantic"), group="textmill.chunkers"),
    Key("chunk.size", "integer", 256, "tokens of a chunk, never exceeded", least=1),
    Key("chunk.overlap", "integer", 0, "tokens shared with the chunk before; `size` includes it"),
    Key("chunk.focus", "number", None, "of method semantic: 0 for few long chunks (recall), 1 for "
        "many short ones about one thing (precision); default: 0.75", most=1),
    Key("chunk.tokenizer", "string", None, "what counts; default: the endpoint's own where known "
        "(local), else o200k_base"),
    Key("parameters.prompt", "string", None, "for text tasks, with {chunk}; every other parameter "
        "goes to the service as it stands"),
    Key("endpoint.name", "slug", None, "names the endpoint in logs and --set; default: its kind"),
    Key("endpoint.kind", "string", None, "the protocol", choices=tuple(KINDS),
        later=("tgi", "replicate")),
    Key("endpoint.provider", "string", None, "behind the router of kind hf; default: hf-inference",
        choices=("hf-inference",)),
    Key("endpoint.model", "string", None, "as the service names it; not needed for local and tei"),
    Key("endpoint.revision", "string", "main", "of the model, where the service has revisions"),
    Key("endpoint.url", "string", None, "base URL; default: the public service of openai and hf"),
    Key("endpoint.api_key", "reference", None, 'where the key lies: { env = "NAME" } or '
        '{ file = "path" } with mode 0600; never the key'),
    Key("endpoint.max_input_tokens", "integer", None, "what the model reads at once", least=1),
    Key("endpoint.requests_per_minute", "number", None, "calls per minute; else learned from "
        "headers and refusals", least=0.01),
    Key("endpoint.tokens_per_minute", "number", None, "tokens per minute, the same", least=1),
    Key("endpoint.concurrency", "integer", None, "calls in flight; default: 16, local 2", least=1,
        most=10_000),
    Key("endpoint.batch_size", "integer", None, "requests per call; default: 32 for embeddings "
        "(local 64), 1 for text", least=1, most=10_000),
    Key("endpoint.batch_tokens", "integer", 100_000, "tokens per call", least=1),
    Key("endpoint.allow_model_change", "boolean", False, "false: a server that answers under "
        "another model name than before stops the run"),
    Key("endpoint.price.input", "number", 0.0, "USD per million tokens read"),
    Key("endpoint.price.output", "number", 0.0, "USD per million tokens written"),
    Key("endpoint.price.request", "number", 0.0, "USD per request"),
    Key("endpoint.price.second", "number", 0.0, "USD per second of computing"),
    Key("endpoint.price.hour", "number", 0.0, "USD per hour of the endpoint"),
    Key("endpoint.deadline.connect_seconds", "number", 10.0, "until connected", above=0,
        most=_DAYS_30),
    Key("endpoint.deadline.first_byte_seconds", "number", 120.0, "until the answer begins",
        above=0, most=_DAYS_30),
    Key("endpoint.deadline.idle_seconds", "number", 30.0, "between two pieces of an answer",
        above=0, most=_DAYS_30),
    Key("endpoint.deadline.call_seconds", "number", 600.0, "for the whole call", above=0,
        most=_DAYS_30),
    Key("aggregate.method", "string", None, "rows: one row per chunk; mean, text: one per "
        "document; default: rows for embeddings, else text", choices=("rows", "mean", "text"),
        later=("map_reduce", "refine", "vote", "merge", "labels", "entities", "spans",
               "structured")),
    Key("output.path", "string", None, ".parquet, .jsonl, a directory, or - (-o)"),
    Key("budget.max_cost_usd", "number", None, "refuses a run that would cost more", above=0),
    Key("budget.partial", "boolean", False, "true: work up to the cap, exit 8, go on next time"),
    Key("guard.max_failed", "number", 0.1, "share of rows; more and nothing is published", most=1),
    Key("guard.max_chunks", "integer", 1_000_000, "per document; above, it is isolated", least=1),
    Key("guard.max_row_bytes", "integer", 1_000_000_000, "per row; above, it is isolated", least=1),
    Key("run.max_outage_seconds", "number", 1800.0, "without any answer", above=0, most=_DAYS_30),
    Key("run.grace_seconds", "number", 30.0, "to finish calls in flight after ctrl-C",
        most=_DAYS_30),
)
# fmt: on

LATER = frozenset(
    ["route", "rule", "notify", "quota", "policy", "run.until", "run.salvage", "guard.canary",
     "guard.max_removed", "endpoint.weight", "endpoint.fallback",
     "endpoint.replica_of"]
)  # fmt: skip
"""Keys of the design that this version does not use; they are refused by name."""


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
    """Who answers. `url` has no slash at its end and is empty for kind local."""

    name: str
    kind: Literal["local", "hf", "tei", "openai"]
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
        suffix = Path(self.path).suffix
        if suffix == ".parquet":
            return "parquet"
        return "jsonl" if suffix == ".jsonl" else "directory"


class BudgetSpec(Struct, frozen=True):
    """What may be spent. Units: USD."""

    max_cost_usd: float | None
    partial: bool


class GuardSpec(Struct, frozen=True):
    """What is refused rather than published. Units: share of rows; chunks; bytes."""

    max_failed: float
    max_chunks: int
    max_row_bytes: int


class RunSpec(Struct, frozen=True):
    """How one execution ends."""

    max_outage_seconds: float
    grace_seconds: float


class Job(Struct, frozen=True):
    """A checked job file: every default filled in, every path ready to open.

    Invariant: what `load` returns breaks no rule of `jobs/refusals.py` and `jobs/paths.py`.
    """

    name: str
    task: Literal["feature-extraction", "summarization", "chat-completion"]
    input: InputSpec
    chunk: ChunkSpec
    parameters: dict[str, Any]
    """The task's own, as the service names them, without `prompt`: they are sent as they stand."""
    prompt: str | None
    endpoints: tuple[EndpointSpec, ...]
    aggregate: AggregateSpec
    output: OutputSpec
    budget: BudgetSpec
    guard: GuardSpec
    run: RunSpec
    address: str
    """How errors call the file."""
    folder: str
    """The base of relative paths; empty: the current folder."""


def load(
    path_or_template: str | Path,
    overrides: Sequence[tuple[str, str]] = (),
    flags: Mapping[str, object] = {},
    *,
    needs_output: bool = True,
) -> Job:
    """The job of a file, or of a template where no such file exists.

    Flags (None: not given) win over the file, `--set` overrides over flags, the last one over all.
    Without `needs_output` a missing output is `-`: for commands that write none.
    Raises: UsageError. No key is read: see `pipeline.secret.resolve`.
    """
    text, address, folder, stem = _found(path_or_template)
    tree = read_toml(text, address)
    places = Places(address, {})
    _one_endpoint(tree, places)
    for key, value in flags.items():
        if value is not None:
            place = _flag(key)
            if isinstance(value, tuple):
                value = list(value)
            _override(
                tree, key, os.fspath(value) if isinstance(value, Path) else value, place, places
            )
    for key, raw in overrides:
        _override(tree, key, raw, f"--set {printable(mask(key), 80)}", places)
    refuse_secrets(tree, places)
    given = check(tree, KEYS, LATER, places)
    if not needs_output:
        given.setdefault("output.path", "-")
    for key in ("task", "endpoint.kind", "input.path", "output.path"):
        if key not in given:
            raise _missing(key, places)
    job = _job(given, places, stem, folder)
    refuse_relations(job, KINDS[job.endpoints[0].kind].tasks, places)
    refuse_paths(job, given["output.path"], places)
    return job


def templates() -> list[tuple[str, str]]:
    """Name and first comment line of every template, by name."""
    folder = resources.files("jobs") / "templates"
    files = sorted((file.name, file) for file in folder.iterdir() if file.name.endswith(".toml"))
    return [
        (name.removesuffix(".toml"), file.read_text("utf-8").split("\n", 1)[0].strip("# "))
        for name, file in files
    ]


def reference() -> list[tuple[str, str, str, str]]:
    """Rows of docs/job-file.md: key, what it takes, default, meaning."""
    return [(key.name, key.takes(), key.shown_default(), key.meaning) for key in KEYS]


def fingerprint(job: Job, revisions: Mapping[str, int | str] = {}) -> str:
    """32 hex digits over the keys that affect answers, and the revisions of who cuts and joins.

    Invariant: the same for equal task, text column, chunk, parameters, prompt, aggregate and model
    identity; the URL stands in only where no model is named.
    """
    models = [
        (e.kind, e.provider, e.model, e.revision, e.url if e.model is None else None)
        for e in job.endpoints
    ]
    said = [job.task, job.input.text, job.chunk, job.parameters, job.prompt, models]
    content = [*said, job.aggregate.method, dict(revisions)]
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:32]


def _found(path: str | Path) -> tuple[str, str, str, str]:
    """Text, address, base folder and default name of a job file or a template."""
    typed = os.fspath(path)
    address = printable(mask(typed))
    try:
        with Path(typed).open("rb") as file:
            content = file.read(_LARGEST_JOB_BYTES + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError):
        return _template(typed, address)
    except OSError as error:
        raise UsageError(f"{address}: cannot be read: {error.strerror}") from None
    if len(content) > _LARGEST_JOB_BYTES:
        raise UsageError(f"{address}: larger than {_LARGEST_JOB_BYTES:,} bytes, no job file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{address}:{line}: not UTF-8") from None
    stem = re.sub(r"[^\w-]+", "-", mask(Path(typed).stem))[:64].strip("-_")
    return text, address, str(Path(typed).parent), stem or "job"


def _template(typed: str, address: str) -> tuple[str, str, str, str]:
    names = [name for name, _ in templates()]
    if typed in names:
        template = resources.files("jobs") / "templates" / f"{typed}.toml"
        return template.read_text("utf-8"), f"template `{typed}`", "", typed
    raise UsageError(
        f"{address}: no such job file or template{unknown(typed, names)}",
        hint="templates are " + ", ".join(names),
    )


def _one_endpoint(tree: dict[str, Any], places: Places) -> None:
    """Makes of the list of endpoints the one table that this version takes."""
    endpoints = tree.get("endpoint", [{}])
    if isinstance(endpoints, dict):
        raise places.refuse("`endpoint` is a list, write [[endpoint]] instead of [endpoint]")
    if not isinstance(endpoints, list) or not all(isinstance(e, dict) for e in endpoints):
        raise places.refuse("`endpoint` must be a table, written [[endpoint]]")
    if len(endpoints) > 1:
        raise places.refuse("more than one `[[endpoint]]` is not supported yet in this version")
    tree["endpoint"] = endpoints[0] if endpoints else {}


def _override(tree: dict[str, Any], key: str, value: object, place: str, places: Places) -> None:
    """Sets one key of the tree as the command line says it: --set in TOML, a flag as it stands."""
    parts = key.split(".")
    endpoint = tree["endpoint"]
    if parts[0] == "endpoint" and len(parts) > 2 and isinstance(endpoint, dict):
        names = {known.name.split(".")[1] for known in KEYS if known.name.startswith("endpoint.")}
        if parts[1] not in names and parts[1] == endpoint.get("name", endpoint.get("kind")):
            del parts[1]
    full = ".".join(parts)
    types = {known.name: known.type for known in KEYS}
    sections = {full for name in types if name.startswith(full + ".")}
    reference = full in ("endpoint.api_key.env", "endpoint.api_key.file")
    free = parts[0] == "parameters" and all(parts) and len(parts) < 10
    later = any(full == name or full.startswith(name + ".") for name in LATER)
    places.typed[full] = place
    if not (full in types or sections or reference or free or later):
        raise places.unknown(full, KEYS)
    is_text = types.get(full) in ("string", "slug")
    if isinstance(value, str) and not (is_text and not place.startswith("--set")):
        value = read_value(value, "string" if reference else types.get(full, "any"), full, places)
    if reference:
        value = {parts.pop(): value}
    node = tree
    for part in parts[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise places.refuse(f"`{part}` is not a table", full)
    node[parts[-1]] = value


def _flag(key: str) -> str:
    """How the command line calls a key."""
    short = {"input.path": "-i", "output.path": "-o"}
    last = key.rpartition(".")[2].replace("_", "-").removesuffix("-seconds")
    return short.get(key, f"--{last}")


def _missing(key: str, places: Places) -> UsageError:
    choices = next(known.choices for known in KEYS if known.name == key)
    value = choices[0] if choices else "PATH"
    hint = f"{_flag(key)} PATH" if key.endswith(".path") else f"--set {key}={value}"
    return places.refuse(f"`{key}` is missing", hint=hint)


def _job(given: dict[str, Any], places: Places, stem: str, folder: str) -> Job:
    """The records of what was given, with the defaults that depend on task and kind."""
    values = {key.name: given.get(key.name, key.default) for key in KEYS}

    def section(name: str) -> dict[str, Any]:
        start = len(name) + 1
        return {k[start:]: v for k, v in values.items() if k.rpartition(".")[0] == name}

    def based(key: str) -> str:
        if key == "input.path" and is_s3(values[key]):
            return str(values[key])
        base = "" if places.on_command_line(key) else folder
        path = str(Path(base, values[key]))
        # `-` is a stream only where it was typed so.
        if values[key] == "-":
            return "-"
        return "./-" if path == "-" else path

    endpoint, kind = section("endpoint"), KINDS[values["endpoint.kind"]]
    embeds = values["task"] == "feature-extraction"
    endpoint["name"] = endpoint["name"] or endpoint["kind"]
    endpoint["provider"] = endpoint["provider"] or kind.provider
    endpoint["url"] = served_url(endpoint["kind"], endpoint["url"], kind.url, places)
    endpoint["concurrency"] = endpoint["concurrency"] or kind.concurrency
    endpoint["batch_size"] = endpoint["batch_size"] or (kind.embedding_batch if embeds else 1)
    api_key = endpoint["api_key"]
    if api_key and api_key.file and places.on_command_line("endpoint.api_key.file"):
        endpoint["api_key"] = Reference(file=str(Path(api_key.file).expanduser().absolute()))
    priced = any(key.startswith("endpoint.price.") for key in given)
    read, written = section("input"), section("output")
    read["path"], written["path"] = based("input.path"), based("output.path")
    parameters = given["parameters"]
    method: Any = values["aggregate.method"] or ("rows" if embeds else "text")
    return Job(
        name=values["name"] or stem,
        task=values["task"],
        input=InputSpec(**read),
        chunk=ChunkSpec(**section("chunk")),
        parameters={name: value for name, value in parameters.items() if name != "prompt"},
        prompt=parameters.get("prompt"),
        endpoints=(
            EndpointSpec(
                **endpoint,
                price=Price(**section("endpoint.price")) if priced else None,
                deadline=Deadline(**section("endpoint.deadline")),
            ),
        ),
        aggregate=AggregateSpec(method),
        output=OutputSpec(**written),
        budget=BudgetSpec(**section("budget")),
        guard=GuardSpec(**section("guard")),
        run=RunSpec(**section("run")),
        address=places.file,
        folder=folder,
    )
