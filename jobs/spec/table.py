"""The table of the job file's keys.

`KEYS` is the only place that knows names, types, defaults and bounds: the check of the file, flags
and `--set`, "did you mean" and docs/job-file.md all read it.
"""

from __future__ import annotations

from jobs.spec.keys import Key
from pipeline.endpoints.kinds import KINDS
from pipeline.tasks import TASKS

_DAYS_30 = 2_592_000


# fmt: off
KEYS = (
    Key("name", "slug", None, "names the job in logs; default: the file's name"),
    Key("task", "string", None, "what the endpoint does with each chunk", choices=TASKS),
    Key("route", "string", "ordered", "who of several endpoints is asked first: the first of the "
        "file with a free slot, or by price, speed or weight",
        choices=("ordered", "cheapest", "fastest", "weighted")),
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
        "(all are local), else o200k_base"),
    Key("parameters.prompt", "string", None, "for text tasks, with {chunk}; every other parameter "
        "goes to the service as it stands"),
    Key("endpoint.name", "slug", None, "names the endpoint in logs, rules and --set; default: its "
        "kind"),
    Key("endpoint.kind", "string", None, "the protocol", choices=KINDS,
        later=("tgi", "replicate")),
    Key("endpoint.provider", "string", None, "behind the router of kind hf; default: hf-inference",
        choices=tuple(provider for kind in KINDS.values() for provider in kind.providers)),
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
    Key("endpoint.weight", "number", None, 'share of the load under route = "weighted"; '
        "default: 1", above=0),
    Key("endpoint.fallback", "boolean", False, "true: gets a request only after the others failed "
        "it or while they rest"),
    Key("endpoint.replica_of", "string", None, "name of an endpoint that serves the same model: "
        "they share answers and load"),
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
    Key("rule.column", "string", None, "a column that says who may read a row; where it is missing "
        "or null, all rules on it hold"),
    Key("rule.is", "scalar", None, "its value"),
    Key("rule.endpoints", "strings", None, "names of the only endpoints that may get such a row, "
        "also as fallback"),
    Key("aggregate.method", "string", None, "rows: one row per chunk; mean, text: one per "
        "document; default: rows for embeddings, else text", choices=("rows", "mean", "text"),
        later=("map_reduce", "refine", "vote", "merge", "labels", "entities", "spans",
               "structured")),
    Key("output.path", "string", None, ".parquet, .jsonl, a directory, or - (-o)"),
    Key("budget.max_cost_usd", "number", None, "refuses a run that would cost more", above=0),
    Key("budget.partial", "boolean", False, "true: work up to the cap, exit 8, go on next time"),
    Key("guard.max_failed", "number", 0.1, "share of rows; more and nothing is published", most=1),
    Key("guard.max_removed", "number", 0.25, "share of the last commit's rows, never below 20 of "
        "them; more are gone and nothing is published", most=1),
    Key("guard.canary", "integer", 3, "texts sent again before new ones: has the model changed? "
        "0 = off"),
    Key("guard.max_chunks", "integer", 1_000_000, "per document; above, it is isolated", least=1),
    Key("guard.max_row_bytes", "integer", 1_000_000_000, "per row; above, it is isolated", least=1),
    Key("run.max_outage_seconds", "number", 1800.0, "without any answer", above=0, most=_DAYS_30),
    Key("run.grace_seconds", "number", 30.0, "to finish calls in flight after ctrl-C",
        most=_DAYS_30),
    Key("run.until", "time", None, "local time such as 06:00: when it comes the run drains and "
        "exits 10; the next one goes on"),
    Key("run.salvage", "boolean", False, "true: rows of a damaged part of a Parquet file are "
        "isolated; false: the file is refused"),
)
# fmt: on

LATER = frozenset(
    ["notify", "quota", "policy"]
)  # fmt: skip
"""Keys of the design that this version does not use; they are refused by name."""
