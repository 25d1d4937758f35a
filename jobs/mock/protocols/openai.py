"""OpenAI's protocol: `/v1/embeddings` and `/v1/chat/completions`, and the hub's chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from jobs.mock.protocols import refusals, texts
from jobs.mock.protocols.calls import Call, Refused, Route, Service, Settings, Values, read_call

CREATED = 1_741_569_952
MAX_TOKENS_PER_CALL = 300_000


class EmbeddingsBody(Struct):
    """The body of `/v1/embeddings`."""

    model: str
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


class Part(Struct):
    """A piece of a message."""

    type: str
    text: str = ""


class Message(Struct):
    """One message of a chat."""

    role: str
    content: str | list[Part] | None = None


class ChatBody(Struct):
    """The body of `/v1/chat/completions`."""

    messages: list[Message]
    model: str = ""
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    response_format: dict[str, Any] | None = None
    stream: bool | None = None


_embeddings = msgspec.json.Decoder(EmbeddingsBody)
_chat = msgspec.json.Decoder(ChatBody)


def as_texts(inputs: str | Sequence[str | int | list[int]]) -> list[str]:
    """The inputs as texts; tokens become their numbers, a flat list of tokens is one input."""
    if isinstance(inputs, str):
        return [inputs]
    if inputs and all(isinstance(token, int) for token in inputs):
        return [" ".join(map(str, inputs))]
    return [one if isinstance(one, str) else str(one) for one in inputs]


def read_embeddings(body: bytes, model: str, settings: Settings) -> Call:
    """The call; the model is the body's."""
    try:
        payload = _embeddings.decode(body)
    except msgspec.DecodeError as error:
        raise refusals.malformed("openai", error) from None
    inputs = as_texts(payload.input)
    if not inputs:
        raise refusals.empty_input("openai", None)
    if "" in inputs:
        raise refusals.empty_input("openai", inputs.index(""))
    if payload.dimensions is not None and not 1 <= payload.dimensions <= settings.dimension:
        text = (
            f"Invalid value for 'dimensions' = {payload.dimensions}. Must be from 1 to"
            f" {settings.dimension}."
        )
        reply = refusals.openai(400, text, "invalid_request_error", None, "dimensions")
        raise Refused(reply)
    call = read_call(
        "openai",
        "feature-extraction",
        payload.model,
        inputs,
        single=isinstance(payload.input, str),
        indexed=True,
        dimension=payload.dimensions,
        base64=payload.encoding_format == "base64",
    )
    if sum(call.tokens) > MAX_TOKENS_PER_CALL:
        raise refusals.too_many_tokens(sum(call.tokens), MAX_TOKENS_PER_CALL)
    return call


def write_embeddings(call: Call, values: Values) -> bytes:
    """The list object, rows in the order of `values`."""
    rows = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, value)
        for index, value in values
    )
    used = sum(call.tokens)
    return (
        b'{"object":"list","data":[%b],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}'
    ) % (rows, msgspec.json.encode(call.model), used, used)


def _prompt(messages: list[Message]) -> str:
    """The text to answer: the last user message; without one, all messages."""
    contents = [
        one.content
        if isinstance(one.content, str)
        else "".join(part.text for part in one.content or ())
        for one in messages
    ]
    users = [text for one, text in zip(messages, contents, strict=True) if one.role == "user"]
    return users[-1] if users else "\n".join(contents)


def _schema(response_format: dict[str, Any] | None) -> Any:
    """The JSON schema of `response_format`, in OpenAI's form or the hub's; {} for any object."""
    if not response_format or response_format.get("type") not in ("json_schema", "json_object"):
        return None
    named = response_format.get("json_schema")
    inner = named.get("schema") if isinstance(named, dict) else response_format.get("value")
    return inner if isinstance(inner, dict) else {"properties": {"answer": {"type": "string"}}}


def read_chat_as(service: Service, body: bytes, model: str) -> Call:
    """The call; errors use the messages of this service."""
    try:
        payload = _chat.decode(body)
    except msgspec.DecodeError as error:
        raise refusals.malformed(service, error) from None
    if not payload.messages:
        reply = refusals.openai(
            400, "Invalid 'messages': empty array.", "invalid_request_error", None, "messages"
        )
        raise Refused(reply if service == "openai" else refusals.refusal(service, 422))
    if payload.stream:
        text = "The mock does not stream."
        raise Refused(refusals.openai(400, text, "invalid_request_error", None, "stream"))
    max_tokens = (
        payload.max_tokens
        if payload.max_completion_tokens is None
        else payload.max_completion_tokens
    )
    if max_tokens is not None and max_tokens < 1:
        text = f"Invalid 'max_tokens': {max_tokens} is less than the minimum of 1."
        raise Refused(refusals.openai(400, text, "invalid_request_error", None, "max_tokens"))
    call = read_call(
        service,
        "chat-completion",
        model or payload.model,
        [_prompt(payload.messages)],
        single=True,
        max_tokens=max_tokens,
        schema=_schema(payload.response_format),
    )
    if len(payload.messages) == 1:
        return call
    whole = sum(
        len((one.content if isinstance(one.content, str) else "").encode("utf-8", "replace"))
        for one in payload.messages
    )
    return msgspec.structs.replace(call, tokens=(max(call.tokens[0], texts.tokens(whole)),))


def read_chat(body: bytes, model: str, settings: Settings) -> Call:
    """A call to OpenAI's chat; the model is the body's."""
    return read_chat_as("openai", body, "")


def read_hub_chat(body: bytes, model: str, settings: Settings) -> Call:
    """A call to the hub's chat; the model is the path's."""
    return read_chat_as("hf", body, model)


def write_chat(call: Call, values: Values) -> bytes:
    """The completion object; a value is `[text, whether it was cut]`."""
    choices, completion = [], 0
    for index, value in values:
        content, short = msgspec.json.decode(value)
        completion += texts.count(content)
        choices.append(
            {
                "index": index,
                "message": {"role": "assistant", "content": content, "refusal": None},
                "logprobs": None,
                "finish_reason": "length" if short else "stop",
            }
        )
    prompt = sum(call.tokens)
    hub = call.service != "openai"
    return msgspec.json.encode(
        {
            "id": "" if hub else "chatcmpl-" + call.digests[0][:6].hex(),
            "object": "chat.completion",
            "created": CREATED,
            "model": call.model,
            "choices": choices,
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            },
            "system_fingerprint": "3.2.1-native" if hub else "fp_mock",
        }
    )


EMBEDDINGS = Route("openai", read_embeddings, write_embeddings, indexed=True)
CHAT = Route("openai", read_chat, write_chat)
HUB_CHAT = Route("hf", read_hub_chat, write_chat)


def models(settings: Settings) -> dict[str, Any]:
    """The reply to `GET /v1/models`."""
    return {
        "object": "list",
        "data": [
            {"id": one, "object": "model", "created": CREATED, "owned_by": "mock"}
            for one in settings.models
        ],
    }
