"""What a server says of itself before the first call: which model it runs, how much it takes.

A text-embeddings-inference server serves one model and is asked for none, so a key would not know
whose answer it stands for. Its `/info` names model and revision; what it said is remembered, so
that `plan` needs no network and a finished job needs no server.
Source: text-embeddings-inference 1.9.3, `GET /info`, see `docs/protocols.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from pipeline.cache import AnswerCache
from pipeline.errors import EndpointError, UsageError
from pipeline.records import Endpoint
from pipeline.retries import PAUSING

if TYPE_CHECKING:
    from pipeline.endpoints.http import HttpEndpoint


class Info(msgspec.Struct):
    """The part of `/info` that matters here."""

    model_id: str
    model_sha: str | None = None
    max_client_batch_size: int | None = None
    max_input_length: int | None = None


async def introduced(http: HttpEndpoint, cache: AnswerCache, chunk_tokens: int) -> Endpoint:
    """The endpoint with the identity and limits that its server names.

    A server that cannot be reached now is taken as it was when it was last seen.
    Raises: UsageError where its model reads less than a chunk.
    """
    endpoint = http.endpoint
    if endpoint.kind != "tei":
        return endpoint
    try:
        status, _, body = await http.get(f"{endpoint.url}/info")
        if status == 200 and _parsed(body) is not None:
            cache.remember(endpoint.url, body)
    except EndpointError as error:
        if error.kind not in PAUSING and error.kind != "ambiguous":
            raise UsageError(f"endpoint `{endpoint.name}`: {error}") from None
    return recalled(endpoint, cache, chunk_tokens)


def recalled(endpoint: Endpoint, cache: AnswerCache | None, chunk_tokens: int) -> Endpoint:
    """The same from what is remembered, without the network."""
    body = cache.remembered(endpoint.url) if cache and endpoint.kind == "tei" else None
    info = _parsed(body) if body else None
    if info is None:
        return endpoint
    if info.max_input_length and chunk_tokens > info.max_input_length:
        raise UsageError(
            f"chunk.size = {chunk_tokens} tokens is more than `{info.model_id}` reads "
            f"({info.max_input_length} tokens)"
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
