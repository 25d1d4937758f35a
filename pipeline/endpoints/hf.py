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
from pipeline.endpoints.responses import parsed, refusal, text_answer, vector_answers, wrong_count
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
        return vector_answers(feature_rows(body, count), count)
    field = _TEXT_FIELDS.get(endpoint.task)
    if field is None:
        return [openai.chat_answer(body)]
    reply: list[dict[str, Any]] = parsed(body, list[dict[str, Any]])
    if len(reply) != count:
        raise EndpointError("invalid", wrong_count(len(reply), "text", count), status=200)
    return [text_answer(entry.get(field), model=endpoint.model) for entry in reply]


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
    if isinstance(reply, dict) and "estimated_time" in reply:
        seconds = reply["estimated_time"]
        raise EndpointError(
            "loading",
            "the model is loading",
            status=200,
            retry_after=float(seconds) if isinstance(seconds, int | float) else None,
        )
    if isinstance(reply, dict) and isinstance(reply.get("embeddings"), list):
        reply = reply["embeddings"]
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
