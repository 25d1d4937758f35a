"""Checks of a job beyond the bounds of one key: secrets, URLs, contradicting keys.

No error repeats a text that looks like a credential: every error passes through `mask`.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from jobs.secrets import looks_secret
from jobs.spec.check_calls import AUTHORITY, addition_hint
from jobs.spec.keys import KeyLocations, key_name, shown
from pipeline.addresses import literal, problem
from pipeline.endpoints.kinds import KINDS
from pipeline.tasks import TASKS
from pipeline.text import placeholders_of

if TYPE_CHECKING:
    from jobs.spec.job import EndpointSpec, Job


OWN_PER_O200K = 1.5
"""Maximum tokens of a BERT-like model per token of o200k_base: 512 of the latter are 540 to 770
Chinese characters, and a BERT-like model has a token for each."""


def check_secrets(tree: dict[str, Any], locations: KeyLocations) -> None:
    """Refuses a job with a name or a value that looks like a credential."""
    # A stack, not recursion: a file can nest deeper than Python. Below level 30 `check` refuses.
    stack: list[tuple[str, int, object]] = [("", 0, tree)]
    while stack:
        name, depth, value = stack.pop()
        if looks_secret(name) or (isinstance(value, str) and looks_secret(value)):
            raise locations.refuse(
                f"`{key_name(name)}` looks like a secret, which a job must not hold",
                name,
                hint=_place_of_key(name),
            )
        if depth < 30 and isinstance(value, dict):
            stack += [(f"{name}.{k}" if name else k, depth + 1, v) for k, v in value.items()]
        elif depth < 30 and isinstance(value, list):
            stack += [(name, depth + 1, child) for child in value]


def _place_of_key(name: str) -> str:
    """The hint for a credential at this key."""
    sections = name.split(".")
    for section in ("headers", "query"):
        if section in sections[1:-1]:
            return addition_hint(name.partition(f".{section}.")[2])
    last = "proxy" if "proxy" in sections else "api_key"
    return f'name the place of the key: {last} = {{ env = "NAME" }}'


def served_url(
    kind: str,
    url: str | None,
    default: str | None,
    prefix: str,
    locations: KeyLocations,
    *,
    allow_http: bool = False,
    has_proxy: bool = False,
) -> str:
    """The base URL without a slash at its end; empty for an embedded model.

    Keys of this endpoint start with `prefix`. A name is not looked up: the client judges its
    addresses when it connects. Behind a proxy it cannot, so there a name must be `https://`.
    """
    key = f"{prefix}.url"
    if KINDS[kind].is_embedded:
        if url is not None:
            raise locations.wrong(key, f"is not used by kind {kind}")
        return ""
    if url is None:
        if default is None:
            raise locations.refuse(
                f"`{key}` is missing, kind {kind} has no default",
                hint="--url URL" if prefix == "endpoint" else f"--set {key}=URL",
            )
        return default
    # Errors repeat only the checked host of the URL, which may hold a password.
    if "@" in re.split(r"[/?#\\]", url.split("//", 1)[-1], maxsplit=1)[0]:
        raise locations.wrong(key, "must not hold a user or password", f"use {prefix}.api_key")
    if re.search(r"[\s\\]", url) or not url.isascii():
        raise locations.wrong(key, "must be ASCII without blanks or backslashes")
    parts = _split(url)
    if parts is None:
        raise locations.wrong(key, "is not a URL")
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https"):
        raise locations.wrong(key, "must start with https://, or http:// in the own network")
    if "?" in url or "#" in url:
        raise locations.wrong(key, "must not hold a fragment (`#`), or a query with a name twice")
    if parts.port == 0 or not AUTHORITY.fullmatch(parts.netloc):
        raise locations.wrong(key, "has no valid host and port")
    if host.replace(".", "").isdigit() and literal(host) is None:
        raise locations.wrong(key, f"has no whole address, got host `{host}`")
    is_clear = parts.scheme == "http" and not allow_http
    address = literal(host)
    if address and (error := problem(address, is_clear=is_clear)):
        must = "must start with https://: " if error.hint else "must not be used: "
        raise locations.wrong(key, f"{must}{error}", error.hint)
    if is_clear and has_proxy and not address:
        raise locations.wrong(
            key,
            f"must start with https://: a proxy looks up the address of `{host}`",
            f"{prefix}.allow_http = true",
        )
    if re.search(r"/\.\.?(/|$)", parts.path) or "%" in parts.path:
        raise locations.wrong(key, "must be a plain path, without `..` or `%`")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path}".rstrip("/")


def check_relations(job: Job, locations: KeyLocations) -> None:
    """Refuses keys that are valid alone and contradict each other."""
    chunk, task = job.chunk, TASKS[job.task]
    for endpoint in job.endpoints:
        tasks = endpoint.facts.tasks
        if job.task not in tasks:
            kind = job.key(endpoint, "kind")
            raise locations.refuse(
                f'{kind} = "{endpoint.kind}" does not serve task = "{job.task}", only '
                + ", ".join(tasks),
                "task",
                kind,
            )
    if chunk.overlap >= chunk.size:
        raise locations.refuse(
            f"chunk.overlap = {chunk.overlap:,} tokens must be smaller than "
            f"chunk.size = {chunk.size:,} tokens",
            "chunk.overlap",
            "chunk.size",
        )
    for endpoint in job.endpoints:
        _check_size(job, endpoint, locations)
    if chunk.focus is not None and chunk.method != "semantic":
        raise locations.wrong("chunk.focus", f"is not used by method {chunk.method}")
    for endpoint in job.endpoints:
        _check_endpoint(job, endpoint, locations)
    if task.needs_prompt and job.prompt is None:
        raise locations.refuse(
            f"`parameters.prompt` is missing, task {job.task} needs one",
            hint='prompt = "... {chunk} ..."',
        )
    if job.prompt is not None and "{chunk}" not in job.prompt:
        raise locations.refuse(
            "`parameters.prompt` has no {chunk}: every chunk would get the same prompt",
            "parameters.prompt",
        )
    _check_prefixes(job, locations)
    if job.budget.max_cost_usd is not None:
        _check_prices(job, locations)
    unused_by = [] if task.accepts_prompt else [f"task {job.task}"]
    unused_by += [f"kind {e.kind}" for e in job.endpoints if not e.facts.accepts_prompt]
    if job.prompt is not None and unused_by:
        raise locations.wrong("parameters.prompt", f"is not used by {unused_by[0]}")
    for endpoint in job.endpoints:
        if task.one_per_call and endpoint.batch_size != 1:
            raise locations.wrong(
                job.key(endpoint, "batch_size"),
                f"must be 1 for {job.task}, got {endpoint.batch_size:,}",
            )
    if job.aggregate.method not in task.aggregates:
        raise locations.refuse(
            f'aggregate.method = "{job.aggregate.method}" does not fit task = "{job.task}"',
            "aggregate.method",
            "task",
            hint=" or ".join(task.aggregates),
        )


def _check_prefixes(job: Job, locations: KeyLocations) -> None:
    """Refuses prefixes of a task without vectors, and placeholders that cannot be filled in."""
    embed = job.embed
    for key, prefix in (
        ("embed.query_prefix", embed.query_prefix),
        ("embed.passage_prefix", embed.passage_prefix),
    ):
        if prefix is not None and TASKS[job.task].value != "vector":
            raise locations.wrong(key, f"is not used by task {job.task}")
    if names := placeholders_of(embed.query_prefix or ""):
        problem = f"must not have {{{names[0]}}}: a question has no columns and no section"
        raise locations.wrong("embed.query_prefix", problem)
    if "chunk" in placeholders_of(embed.passage_prefix or ""):
        problem = "must not have {chunk}: the chunk follows the prefix"
        raise locations.wrong("embed.passage_prefix", problem)


def _check_size(job: Job, endpoint: EndpointSpec, locations: KeyLocations) -> None:
    """Refuses chunks that are longer than the input limit of the endpoint's model."""
    size, own_tokens = job.chunk.size, max_own_tokens(job)
    key, limit = job.key(endpoint, "max_input_tokens"), endpoint.max_input_tokens
    if limit is None:
        return
    if size > limit:
        raise locations.refuse(
            f"chunk.size = {size:,} tokens must not be more than {key} = {limit:,} tokens",
            "chunk.size",
            key,
        )
    if own_tokens > limit:
        raise locations.refuse(
            f"chunk.size = {size:,} tokens of o200k_base may be {own_tokens:,} of the model, "
            f"more than {key} = {limit:,}",
            "chunk.size",
            key,
            hint=f"--size {int(limit / OWN_PER_O200K)}, or chunk.tokenizer: "
            "the model's tokenizer.json, or its encoding",
        )


def _check_endpoint(job: Job, endpoint: EndpointSpec, locations: KeyLocations) -> None:
    """Refuses missing keys that the endpoint's kind needs, and keys that it does not use."""
    kind, facts, model = endpoint.kind, endpoint.facts, job.key(endpoint, "model")
    if endpoint.model is None and facts.needs_model:
        hint = "--model NAME" if len(job.endpoints) == 1 else f"--set {model}=NAME"
        raise locations.refuse(f"`{model}` is missing", hint=hint)
    if facts.check_model and (problem := facts.check_model(endpoint.model or "")):
        raise locations.wrong(model, f"{problem}, got {shown(endpoint.model)}")
    if endpoint.provider is not None and endpoint.provider not in facts.providers:
        raise locations.wrong(job.key(endpoint, "provider"), f"is not used by kind {kind}")
    if endpoint.model is not None and facts.models:
        others = [name for name, other in KINDS.items() if not other.models]
        hint = f"--kind {' or '.join(others)}"
        raise locations.wrong(model, f"is not used by kind {kind}", hint=hint)
    for last in ("api_key", "headers", "query", "proxy", "allow_http"):
        if facts.is_embedded and getattr(endpoint, last):
            raise locations.wrong(job.key(endpoint, last), f"is not used by kind {kind}")


def _check_prices(job: Job, locations: KeyLocations) -> None:
    """Refuses a budget with an endpoint whose costs are unknown."""
    for endpoint in job.endpoints:
        if endpoint.price is None and not endpoint.facts.is_embedded:
            of = "" if len(job.endpoints) == 1 else f" of endpoint `{endpoint.name}`"
            raise locations.refuse(
                f"budget.max_cost_usd has no effect without a price{of}",
                "budget.max_cost_usd",
                hint="price = { input = 0.02 } in [[endpoint]], USD per million tokens",
            )


def max_own_tokens(job: Job) -> int:
    """The maximum tokens of a chunk as its model counts.

    A tokenizer that the job names is assumed to be that of the model.
    """
    if job.chunk.tokenizer is not None or job.own_tokenizer is not None:
        return job.chunk.size
    return math.ceil(job.chunk.size * OWN_PER_O200K)


def _split(url: str) -> SplitResult | None:
    """The parts of a URL; None instead of an exception, whose text would quote the URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts
