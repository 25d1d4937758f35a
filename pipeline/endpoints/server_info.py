"""Identifies a server before the first call: which model it runs and how much it accepts.

A text-embeddings-inference server serves one model, and requests do not name it, so the key must
get it from the server. `/info` names model and revision. The reply is stored, so `plan` needs no
network and a finished job needs no server.
Source: text-embeddings-inference 1.9.3, `GET /info`, see `docs/protocols.md`.
"""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import anyio
import msgspec
from anyio.to_thread import run_sync
from msgspec.structs import replace

from pipeline.cache.store import AnswerCache
from pipeline.endpoints.kinds import KINDS
from pipeline.errors import (
    EndpointError,
    GuardError,
    OutageError,
    UsageError,
)
from pipeline.limits.retries import backoff
from pipeline.records import Endpoint
from pipeline.text import printable

if TYPE_CHECKING:  # the client loads when the first server is called
    from pipeline.endpoints.http import Confirm, Get


class Info(msgspec.Struct):
    """The fields of `/info` that are used."""

    model_id: str
    model_sha: str | None = None
    served_model_name: str | None = None
    max_client_batch_size: int | None = None
    max_input_length: int | None = None


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
    if not KINDS[endpoint.kind].names_itself:
        return Identification(endpoint)
    if not endpoint.model or cache.recall(endpoint.url) is None:
        return None
    try:
        found = identity_from_cache(endpoint, cache, chunk_tokens)
    except UsageError:  # it may run another model now
        return None
    return Identification(found, partial(_confirm, cache, endpoint, found, ""))


async def identify(
    endpoint: Endpoint, get: Get, cache: AnswerCache, chunk_tokens: int, max_outage_seconds: float
) -> Identification:
    """The endpoint with the identity and limits that its server names.

    If the server is down but known from before, the stored reply is used and checked before the
    first call: a job whose answers are all cached needs no server.
    Raises: UsageError if its model is not the job's or accepts less than a chunk; OutageError if an
    unknown server stays down; RefusedError if its certificate is not valid.
    """
    if not KINDS[endpoint.kind].names_itself:
        return Identification(endpoint)
    ends = anyio.current_time() + max_outage_seconds
    attempt = 0
    while not await _fetch_info(endpoint, get, cache):
        found = identity_from_cache(endpoint, cache, chunk_tokens)
        if found is not endpoint or endpoint.model or not endpoint.origin:
            return Identification(found, partial(_confirm, cache, endpoint, found, ""))
        wait = backoff(attempt, 0.25, random.random)
        if anyio.current_time() + wait > ends:
            raise OutageError(
                f"endpoint `{endpoint.name}`: {endpoint.url} did not say which model it serves "
                f"for {max_outage_seconds:g} s",
                hint="start it, or name the model it serves: endpoint.model",
            )
        await anyio.sleep(wait)
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
    if not await _fetch_info(endpoint, get, cache):
        raise EndpointError("unreachable", "the server does not say which model it serves")
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


async def _fetch_info(endpoint: Endpoint, get: Get, cache: AnswerCache) -> bool:
    """Stores the reply of `/info`; False if the server cannot be reached."""
    try:
        status, _, body = await get(f"{endpoint.url}/info")
    except EndpointError as error:
        if error.facts.is_endpoints_fault:
            return False
        stops_with = error.facts.stops_with or UsageError
        raise stops_with(f"endpoint `{endpoint.name}`: {error}") from None
    if status >= 500 or status == 429:
        return False
    if status == 200 and _parsed(body) is not None:
        await run_sync(cache.remember, endpoint.url, body)
    return True


def identity_from_cache(
    endpoint: Endpoint, cache: AnswerCache | None, chunk_tokens: int
) -> Endpoint:
    """The endpoint with the identity and limits of the stored reply, without the network."""
    names_itself = KINDS[endpoint.kind].names_itself
    body = cache.recall(endpoint.url) if cache and names_itself else None
    info = _parsed(body) if body else None
    if info is None:
        return endpoint
    if endpoint.model and endpoint.model not in (info.model_id, info.served_model_name):
        raise UsageError(
            f"endpoint `{endpoint.name}`: its server runs `{printable(info.model_id, 100)}`, "
            f"not endpoint.model = `{printable(endpoint.model, 100)}`"
        )
    if info.max_input_length and chunk_tokens > info.max_input_length:
        raise UsageError(
            f"a chunk may have {chunk_tokens:,} tokens, more than "
            f"`{printable(info.model_id, 100)}` reads ({info.max_input_length:,})",
            hint="a smaller --size, or chunk.tokenizer: the model's tokenizer.json",
        )
    if not endpoint.model and endpoint.origin:
        identity = (endpoint.kind, "", info.model_id, info.model_sha or "")
        endpoint = replace(endpoint, identity=identity, model=info.model_id)
    if info.model_sha and endpoint.origin:
        endpoint = replace(endpoint, origin=f"{info.model_id}@{info.model_sha}")
    max_batch = info.max_client_batch_size or endpoint.batch_size
    return replace(endpoint, batch_size=min(endpoint.batch_size, max_batch))


def _parsed(body: bytes) -> Info | None:
    try:
        return msgspec.json.decode(body, type=Info)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
