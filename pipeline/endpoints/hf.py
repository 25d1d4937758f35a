"""The protocol of Hugging Face's own inference (`hf-inference`), reached through the router.

Feature extraction has its parameters at the root of the body and its task in the path; every other
task has them under `parameters`. The backends behind one URL answer in several shapes,
distinguished by nesting depth; a list is always sent, so that depth two means one row per input.
Source: huggingface_hub 1.28+ and the recorded traffic described in `docs/protocols.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pipeline.endpoints import openai
from pipeline.endpoints.refusals import embedded_error, refusal
from pipeline.endpoints.responses import (
    ends_as,
    out_of_budget,
    parsed,
    text_answer,
    vector_answers,
    wrong_count,
)
from pipeline.errors import EndpointError
from pipeline.records import Answer, Call, Endpoint, Failure, Request
from pipeline.tasks import TASKS

_encode = msgspec.json.Encoder().encode
_TEXT_FIELDS = {"summarization": "summary_text"}
"""The field of tasks that a pipeline answers with a text; other texts come from the chat route."""


def encode(endpoint: Endpoint, requests: Sequence[Request]) -> Call:
    """The call for these requests; a single text task is sent bare, as the official client does."""
    base = f"{endpoint.url}/hf-inference/models/{endpoint.model}"
    texts = [request.input for request in requests]
    if TASKS[endpoint.task].value == "vector":
        url = f"{base}/pipeline/{endpoint.task}"
        return Call(url, _encode({"inputs": texts} | endpoint.parameters))
    if endpoint.task not in _TEXT_FIELDS:
        return Call(f"{base}/v1/chat/completions", openai.chat_body(endpoint, requests))
    body: dict[str, Any] = {"inputs": texts[0] if len(texts) == 1 else texts}
    if endpoint.parameters:
        body["parameters"] = endpoint.parameters
    return Call(base, _encode(body))


def decode(
    endpoint: Endpoint, count: int, status: int, headers: Mapping[str, str], body: bytes
) -> Sequence[Answer | Failure]:
    """One answer or failure per request, in their order."""
    if status != 200:
        raise refusal(status, headers, body)
    if TASKS[endpoint.task].value == "vector":
        return vector_answers(feature_rows(body, count), count, parameters=endpoint.parameters)
    field = _TEXT_FIELDS.get(endpoint.task)
    if field is None:
        return [openai.chat_answer(body, endpoint.parameters)]
    reply: list[dict[str, Any]] = parsed(body, list[dict[str, Any]])
    if len(reply) == 1 and "error" in reply[0]:
        raise embedded_error(reply)
    if len(reply) != count:
        raise EndpointError("invalid", wrong_count(len(reply), "text", count), status=200)
    return [_summary(endpoint, entry, entry.get(field)) for entry in reply]


def _summary(endpoint: Endpoint, entry: Mapping[str, Any], text: Any) -> Answer | Failure:
    details = entry.get("details")
    reason = details.get("finish_reason") if isinstance(details, dict) else None
    is_truncated = ends_as(reason) == "truncated"
    if is_truncated and not str(text or "").strip():
        return out_of_budget(endpoint.parameters, reason)
    return text_answer(text, truncated=is_truncated, model=endpoint.model)


def feature_rows(body: bytes, count: int) -> Sequence[list[float]]:
    """One list of floats per input, from any backend.

    Shape: `[n, d]`; `[d]` for one input; `{"embeddings": ...}` of a dedicated endpoint.
    Raises: EndpointError `config` for vectors per token (a model without pooling), else `invalid`.
    """
    try:
        rows: list[list[float]] = msgspec.json.decode(body, type=list[list[float]])
        return rows
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        reply = parsed(body)
    if isinstance(reply, dict) and isinstance(reply.get("embeddings"), list):
        reply = reply["embeddings"]
    if isinstance(reply, dict) or (
        isinstance(reply, list) and isinstance(next(iter(reply), 0), dict)
    ):
        raise embedded_error(reply)
    if not isinstance(reply, list):
        raise EndpointError("invalid", "200 but no list of vectors", status=200)
    if reply and isinstance(reply[0], int | float):
        reply = [reply]
    if reply and isinstance(reply[0], list) and reply[0] and isinstance(reply[0][0], list):
        raise EndpointError(
            "config",
            "the server answers one vector per token: the model has no pooling layer",
            status=200,
        )
    return reply
