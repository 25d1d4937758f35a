"""What a job may not say beyond the bounds of one key: secrets, URLs, keys that contradict.

No text that looks like a credential leaves this file: every error passes through `mask`.
"""

from __future__ import annotations

import ipaddress
import math
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from jobs.secrets import looks_secret
from jobs.spec.keys import KeyLocations, key_name, shown
from jobs.spec.kinds import KINDS

if TYPE_CHECKING:
    from jobs.spec.job import EndpointSpec, Job


OWN_PER_O200K = 1.5
"""Tokens of a BERT-like model per token of o200k_base, at most: 512 of these are 540 to 770
characters of Chinese, each of them a token there."""

_MODEL_IN_PATH = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def check_secrets(tree: dict[str, Any], locations: KeyLocations) -> None:
    """Refuses a job in which a name or a value looks like a credential."""
    # A stack, not recursion: a file can nest deeper than Python does. Below 30 `check` refuses.
    stack: list[tuple[str, int, object]] = [("", 0, tree)]
    while stack:
        name, depth, value = stack.pop()
        if looks_secret(name) or (isinstance(value, str) and looks_secret(value)):
            raise locations.refuse(
                f"`{key_name(name)}` looks like a secret, which a job must not hold",
                name,
                hint='name where it lies: api_key = { env = "NAME" }',
            )
        if depth < 30 and isinstance(value, dict):
            stack += [(f"{name}.{k}" if name else k, depth + 1, v) for k, v in value.items()]
        elif depth < 30 and isinstance(value, list):
            stack += [(name, depth + 1, child) for child in value]


def served_url(
    kind: str, url: str | None, default: str | None, prefix: str, locations: KeyLocations
) -> str:
    """The base URL without a slash at its end; empty for kind local.

    `prefix` is how keys of this endpoint begin.
    """
    key = f"{prefix}.url"
    if kind == "local":
        if url is not None:
            raise locations.wrong(key, "is not used by kind local")
        return ""
    if url is None:
        if default is None:
            raise locations.refuse(
                f"`{key}` is missing, kind {kind} has no usual one",
                hint="--url URL" if prefix == "endpoint" else f"--set {key}=URL",
            )
        return default
    # Nothing of the URL but its checked host is repeated: it may hold a password.
    if "@" in re.split(r"[/?#\\]", url.split("//", 1)[-1], maxsplit=1)[0]:
        raise locations.wrong(key, "must not hold a user or password", f"use {prefix}.api_key")
    if re.search(r"[\s\\]", url) or not url.isascii():
        raise locations.wrong(key, "must be ASCII without blanks or backslashes")
    parts = _split(url)
    if parts is None:
        raise locations.wrong(key, "is not a URL")
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https"):
        raise locations.wrong(key, "must begin with https://, or http:// for this machine")
    if "?" in url or "#" in url:
        raise locations.wrong(key, "must not hold a query or fragment (`?`, `#`)")
    if parts.port == 0 or not _AUTHORITY.fullmatch(parts.netloc):
        raise locations.wrong(key, "has no valid host and port")
    if parts.scheme == "http" and not _is_loopback(host):
        raise locations.wrong(
            key, f"must begin with https://, http:// is for this machine only, got host `{host}`"
        )
    if re.search(r"/\.\.?(/|$)", parts.path) or "%" in parts.path:
        raise locations.wrong(key, "must be a plain path, without `..` or `%`")
    return f"{parts.scheme}://{parts.netloc.lower()}{parts.path}".rstrip("/")


def check_relations(job: Job, locations: KeyLocations) -> None:
    """Refuses keys that are right alone and contradict each other."""
    chunk, embeds = job.chunk, job.task == "feature-extraction"
    for endpoint in job.endpoints:
        tasks = KINDS[endpoint.kind].tasks
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
    if job.task == "chat-completion" and job.prompt is None:
        raise locations.refuse(
            "`parameters.prompt` is missing, task chat-completion needs one",
            hint='prompt = "... {chunk} ..."',
        )
    if job.prompt is not None and "{chunk}" not in job.prompt:
        raise locations.refuse(
            "`parameters.prompt` has no {chunk}: every chunk would be asked the same",
            "parameters.prompt",
        )
    if job.budget.max_cost_usd is not None:
        _check_prices(job, locations)
    if job.prompt is not None and (embeds or any(e.kind == "local" for e in job.endpoints)):
        whom = f"task {job.task}" if embeds else "kind local"
        raise locations.wrong("parameters.prompt", f"is not used by {whom}")
    for endpoint in job.endpoints:
        if job.task == "chat-completion" and endpoint.batch_size != 1:
            raise locations.wrong(
                job.key(endpoint, "batch_size"),
                f"must be 1 for chat-completion, got {endpoint.batch_size:,}",
            )
    if job.aggregate.method == ("text" if embeds else "mean"):
        raise locations.refuse(
            f'aggregate.method = "{job.aggregate.method}" does not fit task = "{job.task}"',
            "aggregate.method",
            "task",
            hint="rows or mean" if embeds else "rows or text",
        )


def _check_size(job: Job, endpoint: EndpointSpec, locations: KeyLocations) -> None:
    """Refuses chunks that are more than the endpoint's model reads."""
    size, most, key = job.chunk.size, max_own_tokens(job), job.key(endpoint, "max_input_tokens")
    reads = endpoint.max_input_tokens
    if reads is None:
        return
    if size > reads:
        raise locations.refuse(
            f"chunk.size = {size:,} tokens must not be more than {key} = {reads:,} tokens",
            "chunk.size",
            key,
        )
    if most > reads:
        raise locations.refuse(
            f"chunk.size = {size:,} tokens of o200k_base may be {most:,} of the model's own, "
            f"more than {key} = {reads:,}",
            "chunk.size",
            key,
            hint=f"--size {int(reads / OWN_PER_O200K)}, or chunk.tokenizer: "
            "the model's tokenizer.json, or its encoding",
        )


def _check_endpoint(job: Job, endpoint: EndpointSpec, locations: KeyLocations) -> None:
    """Refuses keys that the endpoint's kind needs or does not use."""
    kind, model = endpoint.kind, job.key(endpoint, "model")
    if endpoint.model is None and kind not in ("local", "tei"):
        hint = "--model NAME" if len(job.endpoints) == 1 else f"--set {model}=NAME"
        raise locations.refuse(f"`{model}` is missing", hint=hint)
    if kind == "hf" and not _MODEL_IN_PATH.fullmatch(endpoint.model or ""):
        raise locations.wrong(
            model, f"must be a name like owner/model, got {shown(endpoint.model)}"
        )
    if endpoint.provider is not None and kind != "hf":
        raise locations.wrong(job.key(endpoint, "provider"), f"is not used by kind {kind}")
    if endpoint.model is not None and kind == "local":
        raise locations.wrong(model, "is not used by kind local", hint="--kind openai, hf or tei")
    if endpoint.api_key is not None and kind == "local":
        raise locations.wrong(job.key(endpoint, "api_key"), "is not used by kind local")


def _check_prices(job: Job, locations: KeyLocations) -> None:
    """Refuses a budget that an endpoint could spend unseen."""
    for endpoint in job.endpoints:
        if endpoint.price is None and endpoint.kind != "local":
            of = "" if len(job.endpoints) == 1 else f" of endpoint `{endpoint.name}`"
            raise locations.refuse(
                f"budget.max_cost_usd bounds nothing without a price{of}",
                "budget.max_cost_usd",
                hint="price = { input = 0.02 } in [[endpoint]], USD per million tokens",
            )


def max_own_tokens(job: Job) -> int:
    """The most tokens that a chunk may have as its model counts.

    A tokenizer that the job names is taken for the models' own; the local model's is known.
    """
    if job.chunk.tokenizer is not None or job.is_local:
        return job.chunk.size
    return math.ceil(job.chunk.size * OWN_PER_O200K)


def _split(url: str) -> SplitResult | None:
    """The parts of a URL; None instead of an exception, whose text would quote it."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_loopback(host: str) -> bool:
    """True for this machine only; short forms (`127.1`) that parsers read differently are not."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
