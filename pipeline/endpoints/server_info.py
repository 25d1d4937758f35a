"""What a server says of itself before the first call: which model it runs, how much it takes.

A text-embeddings-inference server serves one model and is asked for none, so a key would not know
whose answer it stands for. Its `/info` names model and revision; what it said is remembered, so
that `plan` needs no network and a finished job needs no server.
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

if TYPE_CHECKING:  # the client is not loaded before a server is asked
    from pipeline.endpoints.http import Confirm, Get


class Info(msgspec.Struct):
    """The part of `/info` that matters here."""

    model_id: str
    model_sha: str | None = None
    served_model_name: str | None = None
    max_client_batch_size: int | None = None
    max_input_length: int | None = None


class Identification(NamedTuple):
    """An endpoint with the identity and limits of its server; `confirm` asks the server for them
    before the first call, where they are from an earlier run or from the job alone."""

    endpoint: Endpoint
    confirm: Confirm | None = None


def identify_offline(
    endpoint: Endpoint, cache: AnswerCache, chunk_tokens: int
) -> Identification | None:
    """The endpoint, where no server need be asked for its identity now; None where it must be.

    A model that the job names is in every key already. Of its server only the limits are of
    interest, and those of an earlier run will do until the first call, if they fit the job.
    """
    if not KINDS[endpoint.kind].names_itself:
        return Identification(endpoint)
    if not endpoint.model or cache.recall(endpoint.url) is None:
        return None
    try:
        found = identity_from_cache(endpoint, cache, chunk_tokens)
    except UsageError:  # it may run another model by now
        return None
    return Identification(found, partial(_confirm, cache, endpoint, found.identity))


async def identify(
    endpoint: Endpoint, get: Get, cache: AnswerCache, chunk_tokens: int, max_outage_seconds: float
) -> Identification:
    """The endpoint with the identity and limits that its server names.

    A server that is away now, but was seen before, is taken as it was and asked again before the
    first call: a job whose answers are all there needs no server.
    Raises: UsageError where its model is not the job's or reads less than a chunk; OutageError
    where a server that was never seen stays away; RefusedError where its certificate is not valid.
    """
    if not KINDS[endpoint.kind].names_itself:
        return Identification(endpoint)
    ends = anyio.current_time() + max_outage_seconds
    attempt = 0
    while not await _asked(endpoint, get, cache):
        found = identity_from_cache(endpoint, cache, chunk_tokens)
        if found is not endpoint or endpoint.model:
            return Identification(found, partial(_confirm, cache, endpoint, found.identity))
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


def identify_later(endpoint: Endpoint, cache: AnswerCache) -> Identification:
    """The endpoint as it stands, a replica: who it is, is asked before its first call, so that one
    that is away now keeps nobody waiting."""
    if not KINDS[endpoint.kind].names_itself:
        return Identification(endpoint)
    return Identification(endpoint, partial(_confirm, cache, endpoint, endpoint.identity))


async def _confirm(
    cache: AnswerCache, endpoint: Endpoint, identity: tuple[str, ...], get: Get
) -> None:
    """Raises: GuardError where the server that came back is not the one that was remembered."""
    if not await _asked(endpoint, get, cache):
        raise EndpointError("unreachable", "the server does not say which model it serves")
    found = identity_from_cache(endpoint, cache, 0)
    if found.identity == identity:
        return
    if endpoint.replica_of:
        raise GuardError(
            f"endpoint `{endpoint.name}`: its server runs `{printable(found.model, 100)}`, "
            f"not what `{endpoint.replica_of}` serves",
            hint="equal replicas have one model and revision; answers so far are kept",
        )
    raise GuardError(
        f"endpoint `{endpoint.name}`: its server came back with another model",
        hint="run again: answers are kept under the model that gave them",
    )


async def _asked(endpoint: Endpoint, get: Get, cache: AnswerCache) -> bool:
    """Whether the server could be asked; what it said is remembered."""
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
    """The same from what is remembered, without the network."""
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
    if not endpoint.model:
        identity = (endpoint.kind, "", info.model_id, info.model_sha or "")
        endpoint = replace(endpoint, identity=identity, model=info.model_id)
    most = info.max_client_batch_size or endpoint.batch_size
    return replace(endpoint, batch_size=min(endpoint.batch_size, most))


def _parsed(body: bytes) -> Info | None:
    try:
        return msgspec.json.decode(body, type=Info)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
