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
    """What `/v1/embeddings` takes."""

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
    """What `/v1/chat/completions` takes."""

    messages: list[Message]
    model: str = ""
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    response_format: dict[str, Any] | None = None
    stream: bool | None = None


_embeddings = msgspec.json.Decoder(EmbeddingsBody)
_chat = msgspec.json.Decoder(ChatBody)


def as_texts(found: str | Sequence[str | int | list[int]]) -> list[str]:
    """The inputs as texts; tokens stand as their numbers, a flat list of them is one input."""
    if isinstance(found, str):
        return [found]
    if found and all(isinstance(one, int) for one in found):
        return [" ".join(map(str, found))]
    return [one if isinstance(one, str) else str(one) for one in found]


def read_embeddings(body: bytes, model: str, settings: Settings) -> Call:
    """The call; the model is the body's."""
    try:
        found = _embeddings.decode(body)
    except msgspec.DecodeError as error:
        raise refusals.malformed("openai", error) from None
    inputs = as_texts(found.input)
    if not inputs:
        raise refusals.empty_input("openai", None)
    if "" in inputs:
        raise refusals.empty_input("openai", inputs.index(""))
    if found.dimensions is not None and not 1 <= found.dimensions <= settings.dimension:
        text = (
            f"Invalid value for 'dimensions' = {found.dimensions}. Must be from 1 to"
            f" {settings.dimension}."
        )
        reply = refusals.openai(400, text, "invalid_request_error", None, "dimensions")
        raise Refused(reply)
    call = read_call(
        "openai",
        "feature-extraction",
        found.model,
        inputs,
        single=isinstance(found.input, str),
        indexed=True,
        dimension=found.dimensions,
        base64=found.encoding_format == "base64",
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
    """What is answered: the last user message; without one, everything."""
    said = [
        one.content
        if isinstance(one.content, str)
        else "".join(part.text for part in one.content or ())
        for one in messages
    ]
    users = [text for one, text in zip(messages, said, strict=True) if one.role == "user"]
    return users[-1] if users else "\n".join(said)


def _schema(wanted: dict[str, Any] | None) -> Any:
    """The JSON schema of `response_format`, in OpenAI's form or the hub's; {} for any object."""
    if not wanted or wanted.get("type") not in ("json_schema", "json_object"):
        return None
    named = wanted.get("json_schema")
    inner = named.get("schema") if isinstance(named, dict) else wanted.get("value")
    return inner if isinstance(inner, dict) else {"properties": {"answer": {"type": "string"}}}


def read_chat_as(service: Service, body: bytes, model: str) -> Call:
    """The call, in the words of the service that answers it."""
    try:
        found = _chat.decode(body)
    except msgspec.DecodeError as error:
        raise refusals.malformed(service, error) from None
    if not found.messages:
        reply = refusals.openai(
            400, "Invalid 'messages': empty array.", "invalid_request_error", None, "messages"
        )
        raise Refused(reply if service == "openai" else refusals.refusal(service, 422))
    if found.stream:
        text = "The mock does not stream."
        raise Refused(refusals.openai(400, text, "invalid_request_error", None, "stream"))
    most = found.max_tokens if found.max_completion_tokens is None else found.max_completion_tokens
    if most is not None and most < 1:
        text = f"Invalid 'max_tokens': {most} is less than the minimum of 1."
        raise Refused(refusals.openai(400, text, "invalid_request_error", None, "max_tokens"))
    call = read_call(
        service,
        "chat-completion",
        model or found.model,
        [_prompt(found.messages)],
        single=True,
        max_tokens=most,
        schema=_schema(found.response_format),
    )
    if len(found.messages) == 1:
        return call
    whole = sum(
        len((one.content if isinstance(one.content, str) else "").encode("utf-8", "replace"))
        for one in found.messages
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
    """What `GET /v1/models` lists."""
    return {
        "object": "list",
        "data": [
            {"id": one, "object": "model", "created": CREATED, "owned_by": "mock"}
            for one in settings.models
        ],
    }
