"""The OpenAI protocol: `/embeddings` with base64 vectors, `/chat/completions` with a prompt.

Spoken by OpenAI, vLLM, Ollama, TEI's compatible route, infinity, the Hugging Face router's `/v1`
and most providers. Base64 costs a fifth of the CPU of a list of floats on both sides.
Source: OpenAI's API description of August 2026; differences of vLLM and Ollama as in
`docs/protocols.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pipeline.endpoints.responses import (
    parsed,
    refusal,
    text_answer,
    token_count,
    vector_answers,
    wrong_count,
)
from pipeline.errors import EndpointError
from pipeline.records import Answer, Call, Endpoint, Failure, Request
from pipeline.tasks import TASKS
from pipeline.text import many

_encode = msgspec.json.Encoder().encode


class _Embedding(msgspec.Struct):
    embedding: bytes | list[float]
    index: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Any = 0
    completion_tokens: Any = 0


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]
    model: str | None = ""
    usage: _Usage | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: str | None = ""
    usage: _Usage | None = None


def encode(endpoint: Endpoint, requests: Sequence[Request]) -> Call:
    """The call for these requests; a chat call carries exactly one, as one user message."""
    if TASKS[endpoint.task].value == "vector":
        body: dict[str, Any] = {
            "model": endpoint.model,
            "input": [request.input for request in requests],
            "encoding_format": "base64",
        }
        return Call(f"{endpoint.url}/embeddings", _encode(body | endpoint.parameters))
    return Call(f"{endpoint.url}/chat/completions", chat_body(endpoint, requests))


def chat_body(endpoint: Endpoint, requests: Sequence[Request]) -> bytes:
    """The body of a chat completion, `model` first, so that a proxy can route on a short prefix."""
    (request,) = requests
    messages = [{"role": "user", "content": request.input}]
    return _encode({"model": endpoint.model, "messages": messages} | endpoint.parameters)


def decode(
    endpoint: Endpoint, count: int, status: int, headers: Mapping[str, str], body: bytes
) -> Sequence[Answer | Failure]:
    """One answer or failure per request, mapped by `index` if the service sends one."""
    if status != 200:
        raise refusal(status, headers, body)
    if TASKS[endpoint.task].value != "vector":
        return [chat_answer(body)]
    reply: _Embeddings = parsed(body, _Embeddings)
    ordered: list[Any] = [None] * count
    if all(entry.index is None for entry in reply.data):
        for position, entry in enumerate(reply.data):
            entry.index = position
    for entry in reply.data:
        if entry.index is None or not 0 <= entry.index < count or ordered[entry.index] is not None:
            raise EndpointError(
                "invalid",
                f"index {entry.index} twice or outside of {many(count, 'input')}",
                status=200,
            )
        ordered[entry.index] = entry.embedding
    if len(reply.data) != count:
        raise EndpointError("invalid", wrong_count(len(reply.data), "vector", count), status=200)
    if len({type(vector) for vector in ordered}) != 1:
        raise EndpointError("invalid", "floats and base64 in one answer", status=200)
    usage = reply.usage or _Usage()
    return vector_answers(
        ordered, count, input_tokens=token_count(usage.prompt_tokens), model=reply.model or ""
    )


def chat_answer(body: bytes) -> Answer | Failure:
    """The text of the first choice; a filtered or refused text is a failure of that request."""
    reply: _Completion = parsed(body, _Completion)
    if not reply.choices:
        return Failure("invalid", "200 without choices")
    choice = reply.choices[0]
    if choice.finish_reason == "content_filter" or choice.message.refusal:
        return Failure("poison", "the model refused to answer")
    usage = reply.usage or _Usage()
    return text_answer(
        choice.message.content,
        input_tokens=token_count(usage.prompt_tokens),
        output_tokens=token_count(usage.completion_tokens),
        truncated=choice.finish_reason == "length",
        model=reply.model or "",
    )
