"""The OpenAI protocol: `/embeddings` with base64 vectors, `/chat/completions` with a prompt.

Spoken by OpenAI, vLLM, Ollama, TEI's compatible route, infinity, the Hugging Face router's `/v1`
and most providers. Base64 costs a fifth of the CPU of a list of floats on both sides.
Source: OpenAI's API description of August 2026; differences of vLLM and Ollama as in
`docs/protocols.md`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pipeline.endpoints.error_bodies import first_said
from pipeline.endpoints.refusals import embedded_error, refusal
from pipeline.endpoints.responses import (
    Envelope,
    NoVectors,
    as_failure,
    ends_as,
    out_of_budget,
    parsed,
    text_answer,
    token_count,
    vector_answers,
    wrong_count,
)
from pipeline.errors import EndpointError, UsageError
from pipeline.records import Answer, Call, Endpoint, Failure, Request
from pipeline.tasks import TASKS
from pipeline.text import many

_encode = msgspec.json.Encoder().encode


_ENCODINGS: tuple[str | None, ...] = ("base64", "float", None)
"""Ways to ask for vectors, best first; None: the field is left out."""
_NAMES_ENCODING = re.compile(rb"base64|encoding[_ ]?format", re.IGNORECASE)


class _Embedding(msgspec.Struct):
    embedding: bytes | list[float] | None = None
    index: int | None = None
    error: Any = None


class _Usage(msgspec.Struct):
    prompt_tokens: Any = 0
    completion_tokens: Any = 0
    reasoning_tokens: Any = 0
    completion_tokens_details: Any = None

    @property
    def thought_tokens(self) -> int:
        """Output tokens that went to reasoning; 0 if the service does not say."""
        details = self.completion_tokens_details
        inner = details.get("reasoning_tokens") if isinstance(details, dict) else None
        return token_count(inner or self.reasoning_tokens)


class _Embeddings(Envelope, kw_only=True):
    data: list[_Embedding]
    model: str | None = ""
    usage: _Usage | None = None


class _Message(msgspec.Struct):
    content: str | list[Any] | None = None
    refusal: str | None = None
    reasoning: Any = None
    reasoning_content: Any = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    native_finish_reason: str | None = None
    error: Any = None


class _Completion(Envelope, kw_only=True):
    choices: list[_Choice]
    model: str | None = ""
    usage: _Usage | None = None


def encode(endpoint: Endpoint, requests: Sequence[Request]) -> Call:
    """The call for these requests; a chat call carries exactly one, as one user message."""
    if TASKS[endpoint.task].value == "vector":
        body: dict[str, Any] = {
            "model": endpoint.model,
            "input": [request.input for request in requests],
            "encoding_format": _ENCODINGS[0],
        } | endpoint.parameters
        if body["encoding_format"] is None:
            del body["encoding_format"]
        return Call(f"{endpoint.url}/embeddings", _encode(body))
    return Call(f"{endpoint.url}/chat/completions", chat_body(endpoint, requests))


def served_models(body: bytes) -> tuple[str, ...] | None:
    """The models of `GET /models`; None for another reply."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    listed = value.get("data") if isinstance(value, dict) else value
    if not isinstance(listed, list):
        return None
    names = [each.get("id") for each in listed if isinstance(each, dict)]
    return tuple(name for name in names if isinstance(name, str))


def chat_body(endpoint: Endpoint, requests: Sequence[Request]) -> bytes:
    """The body of a chat completion, `model` first, so that a proxy can route on a short prefix."""
    (request,) = requests
    messages = [{"role": "user", "content": request.input}]
    body = {"model": endpoint.model, "messages": messages, "stream": False}
    return _encode(body | endpoint.parameters)


def decode(
    endpoint: Endpoint, count: int, status: int, headers: Mapping[str, str], body: bytes
) -> Sequence[Answer | Failure]:
    """One answer or failure per request, mapped by `index` if the service sends one."""
    if TASKS[endpoint.task].value != "vector":
        if status != 200:
            raise refusal(status, headers, body)
        return [chat_answer(body, endpoint.parameters)]
    if status != 200:
        raise _about_encoding(endpoint, refusal(status, headers, body), body)
    try:
        return _vectors(endpoint, count, body)
    except EndpointError as error:
        raise _about_encoding(endpoint, error, body) from None


def _about_encoding(endpoint: Endpoint, error: EndpointError, body: bytes) -> EndpointError:
    """The error, with the encoding to ask for instead if the server cannot give this one.

    It says so, or answers a 200 whose vectors are missing or cannot be read.
    """
    encoding = endpoint.parameters.get("encoding_format", _ENCODINGS[0])
    later = _ENCODINGS[_ENCODINGS.index(encoding) + 1 :] if encoding in _ENCODINGS else ()
    is_named = _NAMES_ENCODING.search(body) is not None
    is_refused = error.facts.is_requests_own or error.facts.stops_with is UsageError
    is_named = is_named and (is_refused or error.status == 500)
    is_useless = encoding == _ENCODINGS[0] and isinstance(error, NoVectors)
    if later and (is_useless or is_named):
        error.ask_with = {"encoding_format": later[0]}
    return error


def _vectors(endpoint: Endpoint, count: int, body: bytes) -> Sequence[Answer | Failure]:
    reply: _Embeddings = parsed(body, _Embeddings)
    reply.check()
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
        ordered[entry.index] = entry
    if len(reply.data) != count:
        problem = EndpointError if reply.data else NoVectors
        raise problem("invalid", wrong_count(len(reply.data), "vector", count), status=200)
    failed = {
        at: embedded_error(stated if stated is not None else {"message": "a vector is missing"})
        for at, entry in enumerate(ordered)
        if (stated := first_said([entry.error])) is not None or entry.embedding is None
    }
    if len(failed) == count:
        raise failed[0]
    vectors = [entry.embedding for at, entry in enumerate(ordered) if at not in failed]
    if len({type(vector) for vector in vectors}) != 1:
        raise EndpointError("invalid", "floats and base64 in one answer", status=200)
    usage = reply.usage or _Usage()
    answers = iter(
        vector_answers(
            vectors,
            len(vectors),
            input_tokens=token_count(usage.prompt_tokens),
            model=reply.model or "",
            parameters=endpoint.parameters,
        )
    )
    return [as_failure(failed[at]) if at in failed else next(answers) for at in range(count)]


def chat_answer(body: bytes, parameters: Mapping[str, Any]) -> Answer | Failure:
    """The text of the first choice; a filtered or refused text is a failure of that request."""
    reply: _Completion = parsed(body, _Completion)
    reply.check()
    if not reply.choices:
        return Failure("invalid", "200 without choices")
    choice = reply.choices[0]
    message, reasons = choice.message, (choice.finish_reason, choice.native_finish_reason)
    ends = {ends_as(reason) for reason in reasons}
    if (stated := first_said([choice.error])) is not None:
        raise embedded_error(stated)
    if "refused" in ends or message.refusal:
        return Failure("poison", "the model refused to answer")
    if "failed" in ends:
        reason = next(reason for reason in reasons if ends_as(reason) == "failed")
        raise embedded_error({"message": f"finish_reason: {reason}"})
    text, usage = _text(message.content), reply.usage or _Usage()
    if not _after_thoughts(text).strip():
        if "truncated" in ends:
            return out_of_budget(parameters, choice.finish_reason, _spent(usage, message))
        if text.strip():
            return Failure("invalid", "200 with reasoning and no answer")
    return text_answer(
        text,
        input_tokens=token_count(usage.prompt_tokens),
        output_tokens=token_count(usage.completion_tokens),
        truncated="truncated" in ends,
        model=reply.model or "",
    )


def _text(content: str | list[Any] | None) -> str:
    """The text of a message: a text, or the text parts of a list."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        kinds = (None, "text", "output_text")
        texts = [part.get("text") for part in parts if part.get("type") in kinds]
        return "".join(text for text in texts if isinstance(text, str))
    return content or ""


def _after_thoughts(text: str) -> str:
    """The answer without the reasoning that some models write before it into the same text."""
    if not text.lstrip().startswith("<think>"):
        return text
    return text.rpartition("</think>")[2] if "</think>" in text else ""


def _spent(usage: _Usage, message: _Message) -> str:
    """What the budget went to, as far as the service says."""
    written, thought = token_count(usage.completion_tokens), usage.thought_tokens
    if thought:
        return f"; {thought:,} of {max(written, thought):,} tokens were reasoning"
    return "; it went to reasoning" if message.reasoning or message.reasoning_content else ""
