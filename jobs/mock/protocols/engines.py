"""The protocols of self-hosted servers: text-embeddings-inference and text-generation-inference."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from jobs.mock.protocols import refusals, texts
from jobs.mock.protocols.calls import Call, Refused, Route, Settings, Values, read_call
from jobs.mock.protocols.hub import UNNORMALISED, write_list
from jobs.mock.protocols.openai import as_texts

TEI_BATCH_LIMIT = 32


class EmbedBody(Struct):
    """The body of `/embed`."""

    inputs: str | list[str | int | list[int]]
    normalize: bool = True
    truncate: bool | None = None
    dimensions: int | None = None


class GenerateParameters(Struct):
    """The parameters of `/generate` that change the answer of the mock."""

    max_new_tokens: int | None = None
    details: bool = False


class GenerateBody(Struct):
    """The body of `/generate`."""

    inputs: str
    parameters: GenerateParameters | None = None
    stream: bool = False


_embed = msgspec.json.Decoder(EmbedBody)
_generate = msgspec.json.Decoder(GenerateBody)


def read_embed(body: bytes, model: str, settings: Settings) -> Call:
    """A call to `/embed`; the model is the loaded one."""
    try:
        payload = _embed.decode(body)
    except msgspec.DecodeError as error:
        raise refusals.malformed("tei", error) from None
    inputs = as_texts(payload.inputs)
    if not inputs:
        raise refusals.empty_input("tei", None)
    if "" in inputs:
        raise refusals.empty_input("tei", inputs.index(""))
    if payload.dimensions is not None and payload.dimensions < 1:
        text = "`dimensions` should be positive"
        raise Refused(refusals.engine("tei", 422, text, "Validation"))
    if payload.dimensions is not None and payload.dimensions > settings.dimension:
        text = "`dimensions` should be smaller than the maximum embedding dimension."
        raise Refused(refusals.engine("tei", 422, text, "Validation"))
    return read_call(
        "tei",
        "feature-extraction",
        settings.models[0],
        [settings.default_prompt + text for text in inputs],
        dimension=payload.dimensions,
        truncate=bool(payload.truncate),
        norm=1.0 if payload.normalize else UNNORMALISED,
    )


def read_generate(body: bytes, model: str, settings: Settings) -> Call:
    """A call to `/generate`, or to `/` of a server that generates."""
    try:
        payload = _generate.decode(body)
    except msgspec.DecodeError as error:
        raise refusals.malformed("tgi", error) from None
    if not payload.inputs:
        raise refusals.empty_input("tgi", 0)
    parameters = payload.parameters or GenerateParameters()
    text = ""
    if parameters.max_new_tokens is not None and parameters.max_new_tokens < 1:
        text = "Input validation error: `max_new_tokens` must be strictly positive"
    if payload.stream:
        text = "Input validation error: the mock does not stream"
    if text:
        raise Refused(refusals.engine("tgi", 422, text, "Validation"))
    return read_call(
        "tgi",
        "text-generation",
        settings.models[0],
        [payload.inputs],
        single=True,
        max_tokens=parameters.max_new_tokens,
        parameters={"details": parameters.details},
    )


def _generated(call: Call, values: Values) -> list[dict[str, Any]]:
    answers = []
    for _, value in values:
        text, short = msgspec.json.decode(value)
        answer: dict[str, Any] = {"generated_text": text}
        if call.parameters.get("details"):
            answer["details"] = {
                "finish_reason": "length" if short else "eos_token",
                "generated_tokens": texts.count(text),
                "seed": None,
                "prefill": [],
                "tokens": [],
            }
        answers.append(answer)
    return answers


def write_generate(call: Call, values: Values) -> bytes:
    """An object for exactly one answer, else a list."""
    answers = _generated(call, values)
    return msgspec.json.encode(answers[0] if len(answers) == 1 else answers)


def write_generate_root(call: Call, values: Values) -> bytes:
    """A list, as `/` answers."""
    return msgspec.json.encode(_generated(call, values))


EMBED = Route("tei", read_embed, write_list)
GENERATE = Route("tgi", read_generate, write_generate)
GENERATE_ROOT = Route("tgi", read_generate, write_generate_root)


def info(settings: Settings) -> dict[str, Any]:
    """The reply to `GET /info`."""
    max_tokens = settings.max_input_tokens or 512
    revision = settings.revision
    names = {"model_id": settings.models[0], "model_sha": revision, "sha": revision}
    common = names | {"docker_label": None}
    if settings.engine == "tgi":
        return common | {
            "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": settings.max_concurrent_requests or 128,
            "max_best_of": 2,
            "max_stop_sequences": 4,
            "max_input_tokens": max_tokens,
            "max_total_tokens": max_tokens + 1024,
            "validation_workers": 2,
            "max_client_batch_size": 4,
            "router": "text-generation-router",
            "version": "3.3.6-dev0",
        }
    return common | {
        "model_dtype": "float32",
        "served_model_name": settings.models[0],
        "model_type": {"embedding": {"pooling": "cls"}},
        "max_concurrent_requests": settings.max_concurrent_requests or 512,
        "max_input_length": max_tokens,
        "max_batch_tokens": 16384,
        "max_batch_requests": None,
        "max_client_batch_size": settings.batch_limit or TEI_BATCH_LIMIT,
        "auto_truncate": settings.max_input_tokens is None,
        "tokenization_workers": 2,
        "default_prompt": settings.default_prompt or None,
        "version": "1.9.3",
    }
