"""text-embeddings-inference: `/embed`.

`truncate` is always sent: without it the server truncates long inputs silently from version 1.9 on,
and the vector of half a chunk looks like any other (the default parameters of the kind set it to
false).
Source: text-embeddings-inference 1.9.3, `router/src/http`, see `docs/protocols.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pipeline.endpoints.hf import feature_rows
from pipeline.endpoints.refusals import refusal
from pipeline.endpoints.responses import vector_answers
from pipeline.records import Answer, Call, Endpoint, Failure, Request

_encode = msgspec.json.Encoder().encode


def encode(endpoint: Endpoint, requests: Sequence[Request]) -> Call:
    """The call for these requests; parameters are at the root of the body."""
    body = {"inputs": [request.input for request in requests]} | endpoint.parameters
    return Call(f"{endpoint.url}/embed", _encode(body))


def served_models(body: bytes) -> tuple[str, ...] | None:
    """The model of `GET /info`; None for another reply, such as that of a server for text
    generation, which has no type of model."""
    try:
        info = msgspec.json.decode(body, type=_Served)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return (info.model_id,)


class _Served(msgspec.Struct):
    model_id: str
    model_type: Any


def decode(
    endpoint: Endpoint, count: int, status: int, headers: Mapping[str, str], body: bytes
) -> Sequence[Answer | Failure]:
    """One answer or failure per request; a JSON null in a vector is the server's NaN."""
    if status != 200:
        raise refusal(status, headers, body)
    tokens = headers.get("x-compute-tokens", "")
    token_count = int(tokens) if tokens.isascii() and tokens.isdigit() and len(tokens) < 16 else 0
    return vector_answers(
        feature_rows(body, count),
        count,
        input_tokens=token_count,
        parameters=endpoint.parameters,
    )
