"""Identifies a server before the first call: which model it runs and how much it accepts.

A text-embeddings-inference server serves one model, and requests do not name it, so the key must
get it from the server. `/info` names model and revision. The reply is stored, so `plan` needs no
network and a finished job needs no server.
Source: text-embeddings-inference 1.9.3, `GET /info`, see `docs/protocols.md`.
"""

from __future__ import annotations

import hashlib
import random
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import msgspec
from anyio.to_thread import run_sync
from msgspec.structs import replace

from pipeline.cache.store import AnswerCache
from pipeline.endpoints.kinds import KINDS
from pipeline.endpoints.network.reply import Get
from pipeline.errors import (
    EndpointError,
    GuardError,
    OutageError,
    UsageError,
)
from pipeline.limits import awake
from pipeline.limits.absence import Absence
from pipeline.limits.retries import backoff
from pipeline.records import Endpoint, Stop
from pipeline.text import printable

if TYPE_CHECKING:  # the client loads when the first server is called
    from pipeline.endpoints.http import Confirm


_LIST_SECONDS = 5.0
_LIMIT_NAMES = (
    "max_model_len",
    "max_input_length",
    "max_input_tokens",
    "max_context_length",
    "max_context_tokens",
    "max_seq_len",
    "context_length",
    "context_window",
    "n_ctx",
    "n_ctx_train",
)


class Info(msgspec.Struct):
    """The fields of `/info` that are used."""

    model_id: str
    model_sha: str | None = None
    served_model_name: str | None = None
    max_client_batch_size: int | None = None
    max_input_length: int | None = None
    default_prompt: Any = None
    default_prompt_name: Any = None
    """Newer servers and their relatives may name the text that they put before each input."""


class Identification(NamedTuple):
    """An endpoint with the identity and limits of its server. `confirm` checks them before the
    first call if they come from an earlier run or only from the job."""

    endpoint: Endpoint
    confirm: Confirm | None = None


def identify_offline(
    endpoint: Endpoint, cache: AnswerCache, chunk_tokens: int
) -> Identification | None:
    """The endpoint, if its server need not be called for its identity now; else None.

    A model that the job names is in every key already. Its server only adds limits, and those of an
    earlier run are enough until the first call if they fit the job.
    """
    kind = KINDS[endpoint.kind]
    if kind.lists_models:
        return Identification(endpoint, partial(check_listed_limit, endpoint, chunk_tokens))
    if not kind.names_itself:
        return Identification(endpoint)
    if not endpoint.model or cache.recall(_remembered_as(endpoint)) is None:
        return None
    try:
        found = identity_from_cache(endpoint, cache, chunk_tokens)
    except UsageError:  # it may run another model now
        return None
    return Identification(found, partial(_confirm, cache, endpoint, found, ""))


async def identify(
    endpoint: Endpoint, get: Get, cache: AnswerCache, chunk_tokens: int, patience: Stop
) -> Identification:
    """The endpoint with the identity and limits that its server names.

    If the server is down but known from before, the stored reply is used and checked before the
    first call: a job whose answers are all cached needs no server.
    Raises: UsageError if its model is not the job's or accepts less than a chunk; OutageError if an
    unknown server stays down; RefusedError if its certificate is not valid.
    """
    if not KINDS[endpoint.kind].names_itself:
        return Identification(endpoint)
    absence, attempt = Absence(), 0
    while (error := await _fetch_info(endpoint, get, cache)) is not None:
        found = identity_from_cache(endpoint, cache, chunk_tokens)
        if found is not endpoint or endpoint.model or not endpoint.origin:
            return Identification(found, partial(_confirm, cache, endpoint, found, ""))
        now, loading_seconds = awake.now(), endpoint.deadline.loading_seconds
        absence = absence.failed(now, error)
        wait = backoff(attempt, 0.25, random.random)
        if now >= (ends := absence.ends(patience, loading_seconds)):
            raise OutageError(
                f"endpoint `{endpoint.name}`: {endpoint.url} did not say which model it serves, "
                f"{absence.reason(now, patience, loading_seconds)}; {printable(str(error), 200)}",
                hint=error.hint or "start it, or name the model it serves: endpoint.model",
            )
        await anyio.sleep(min(wait, ends - now))
        attempt += 1
    return Identification(identity_from_cache(endpoint, cache, chunk_tokens))


def identify_later(
    endpoint: Endpoint, like: Endpoint, cache: AnswerCache, name: str = ""
) -> Identification:
    """The endpoint with the identity of one that serves the same model, checked before its first
    call, so that a server that is down now does not delay the run. `name`: of the other endpoint;
    without it the job names the model."""
    model = endpoint.model if endpoint.replica_of else like.model
    found = replace(endpoint, identity=like.identity, model=model)
    if not KINDS[endpoint.kind].names_itself:
        return Identification(found)
    return Identification(found, partial(_confirm, cache, endpoint, found, name))


async def _confirm(
    cache: AnswerCache, endpoint: Endpoint, known: Endpoint, name: str, get: Get
) -> None:
    """Raises: GuardError if the server no longer runs the stored model, or not that of the endpoint
    with this name."""
    if (error := await _fetch_info(endpoint, get, cache)) is not None:
        raise error
    found = identity_from_cache(endpoint, cache, 0)
    # Only a revision that the server named before can have changed; a URL is none.
    is_new = not endpoint.replica_of and "@" in known.origin and found.origin != known.origin
    if found.identity == known.identity and not is_new:
        return
    if name:
        raise GuardError(
            f"endpoint `{endpoint.name}`: its server runs `{printable(found.model, 100)}`, "
            f"not what `{name}` serves",
            hint="equal replicas have one model and revision; answers so far are kept",
        )
    raise GuardError(
        f"endpoint `{endpoint.name}`: its server came back with another model",
        hint="run again: answers are kept under the model that gave them",
    )


async def _fetch_info(endpoint: Endpoint, get: Get, cache: AnswerCache) -> EndpointError | None:
    """Stores the reply of `/info`; the error of a server that is away or does not reply yet."""
    try:
        status, headers, body = await get(f"{endpoint.url}/info")
    except EndpointError as error:
        if error.facts.is_endpoints_fault:
            return error
        stops_with = error.facts.stops_with or UsageError
        raise stops_with(f"endpoint `{endpoint.name}`: {error}", hint=error.hint) from None
    from pipeline.endpoints.refusals import refusal

    if status != 200 and (refused := refusal(status, headers, body)).facts.is_endpoints_fault:
        return refused  # else its answer is definite: it has no such route, or does not show it
    if status == 200 and _parsed(body) is not None:
        await run_sync(cache.remember, _remembered_as(endpoint), body)
    return None


def _remembered_as(endpoint: Endpoint) -> str:
    """The name under which the reply of `/info` is kept: the URL and, because they may choose a
    model behind it, a hash of headers and query; values that are secret are no part of it."""
    chosen = [
        (each.name, each.value)
        for each in (*endpoint.headers, *endpoint.query)
        if isinstance(each.value, str)
    ]
    if not chosen:
        return endpoint.url
    return f"{endpoint.url}#{hashlib.sha256(msgspec.json.encode(chosen)).hexdigest()[:32]}"


def identity_from_cache(
    endpoint: Endpoint, cache: AnswerCache | None, chunk_tokens: int
) -> Endpoint:
    """The endpoint with the identity and limits of the stored reply, without the network."""
    names_itself = KINDS[endpoint.kind].names_itself
    body = cache.recall(_remembered_as(endpoint)) if cache and names_itself else None
    info = _parsed(body) if body else None
    if info is None:
        return endpoint
    if endpoint.model and endpoint.model not in (info.model_id, info.served_model_name):
        raise UsageError(
            f"endpoint `{endpoint.name}`: its server runs `{printable(info.model_id, 100)}`, "
            f"not endpoint.model = `{printable(endpoint.model, 100)}`"
        )
    _check_limit(info.model_id, info.max_input_length, chunk_tokens)
    if not endpoint.model and endpoint.origin:
        identity = (endpoint.kind, "", info.model_id, info.model_sha or "")
        endpoint = replace(endpoint, identity=identity, model=info.model_id)
    if info.model_sha and endpoint.origin:
        endpoint = replace(endpoint, origin=f"{info.model_id}@{info.model_sha}")
    max_batch = info.max_client_batch_size or endpoint.batch_size
    return replace(
        endpoint,
        batch_size=min(endpoint.batch_size, max_batch),
        adds_prompt=bool(info.default_prompt or info.default_prompt_name),
    )


def _check_limit(model: str, limit: int | None, chunk_tokens: int) -> None:
    if limit and chunk_tokens > limit:
        raise UsageError(
            f"a chunk may have {chunk_tokens:,} tokens, more than "
            f"`{printable(model, 100)}` reads ({limit:,})",
            hint="a smaller --size, or chunk.tokenizer: the model's tokenizer.json",
        )


async def check_listed_limit(endpoint: Endpoint, chunk_tokens: int, get: Get) -> None:
    """Compares a chunk with the input limit in the server's list of models, before it is paid.

    The list is optional: a server that has none, or does not answer soon, names no limit.
    Raises: UsageError if a chunk may be longer.
    """
    _check_limit(endpoint.model, await _fetch_limit(endpoint, get), chunk_tokens)


async def named_limit(endpoint: Endpoint, get: Get, cache: AnswerCache) -> int | None:
    """The longest input that the server of an identified endpoint names, in tokens."""
    kind = KINDS[endpoint.kind]
    if kind.lists_models:
        return await _fetch_limit(endpoint, get)
    body = cache.recall(endpoint.url) if kind.names_itself else None
    info = _parsed(body) if body else None
    return info.max_input_length if info else None


async def _fetch_limit(endpoint: Endpoint, get: Get) -> int | None:
    with anyio.move_on_after(_LIST_SECONDS):
        try:
            status, _, body = await get(f"{endpoint.url}/models")
        except EndpointError:
            return None
        return listed_limit(body, endpoint.model) if status == 200 else None
    return None


def listed_limit(body: bytes, model: str) -> int | None:
    """The most tokens that this model reads, from a list of models; None if it does not say.

    vLLM: `max_model_len`; llama.cpp: `meta.n_ctx_train`; others: `context_length` and the like.
    """
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    listed = value.get("data") if isinstance(value, dict) else value
    entries = (
        [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    )
    named = [each for each in entries if model in (each.get("id"), each.get("root"))]
    if not named and len(entries) == 1:  # a server with one model may not check its name
        named = entries
    limits = [
        number
        for entry in named[:1]
        for fields in (entry, *(inner for inner in entry.values() if isinstance(inner, dict)))
        for name in _LIMIT_NAMES
        if isinstance(number := fields.get(name), int) and not isinstance(number, bool)
    ]
    return min((number for number in limits if number > 0), default=None)


def _parsed(body: bytes) -> Info | None:
    try:
        return msgspec.json.decode(body, type=Info)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
