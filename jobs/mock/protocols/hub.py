"""The protocol of the Hub's router: `/hf-inference/models/{owner}/{name}`, by pipeline tag.

The real service knows the task of a model; here `Settings.tasks` names it, else the body and the
model name decide.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from jobs.mock.protocols import refusals
from jobs.mock.protocols.calls import Call, Refused, Route, Settings, Values, read_call

UNNORMALISED = 4.0
"""The length of vectors that are requested with `normalize: false`."""

# Parts of a model name, and the task; the first match wins.
NAMES = (
    (("sentiment", "sst", "emotion", "classif"), "text-classification"),
    (("mnli", "zero-shot"), "zero-shot-classification"),
    (("opus-mt", "nllb", "translat"), "translation"),
    (("-ner", "ner-", "conll"), "token-classification"),
    (("gpt", "llama", "instruct"), "text-generation"),
)


class FeatureBody(Struct):
    """The body of feature extraction: parameters are at the root."""

    inputs: str | list[str]
    normalize: bool | None = None
    truncate: bool | None = None
    dimensions: int | None = None


class Pair(Struct):
    """One text and the texts to compare it with."""

    source_sentence: str
    sentences: list[str]


class SimilarityBody(Struct):
    """The body of sentence similarity."""

    inputs: Pair


class TaskBody(Struct):
    """The body of the other tasks."""

    inputs: str | list[str]
    parameters: dict[str, Any] | None = None


_feature = msgspec.json.Decoder(FeatureBody)
_similarity = msgspec.json.Decoder(SimilarityBody)
_task = msgspec.json.Decoder(TaskBody)


def task_of(model: str, parameters: dict[str, Any], settings: Settings) -> str:
    """The pipeline tag of the model; summarization by default."""
    if model in settings.tasks:
        return settings.tasks[model]
    if "candidate_labels" in parameters:
        return "zero-shot-classification"
    lower = model.lower()
    return next(
        (task for words, task in NAMES if any(word in lower for word in words)), "summarization"
    )


def read_feature(body: bytes, model: str, settings: Settings) -> Call:
    """A call for feature extraction; TEI runs behind the router and rejects an empty text."""
    try:
        payload = _feature.decode(body)
    except msgspec.DecodeError as error:
        raise refusals.malformed("hf", error) from None
    single = isinstance(payload.inputs, str)
    inputs = [payload.inputs] if isinstance(payload.inputs, str) else payload.inputs
    if not inputs:
        raise refusals.empty_input("hf", None)
    if "" in inputs:
        raise refusals.empty_input("hf", inputs.index(""))
    return read_call(
        "hf",
        "feature-extraction",
        model,
        inputs,
        single=single,
        dimension=payload.dimensions,
        truncate=bool(payload.truncate),
        norm=UNNORMALISED if payload.normalize is False else 1.0,
    )


def write_feature(call: Call, values: Values) -> bytes:
    """One row per input; the bare row for one text, as sentence-transformers gives it."""
    if call.single and len(values) == 1:
        return values[0][1]
    return b"[%b]" % b",".join(value for _, value in values)


def read_similarity(body: bytes, model: str, settings: Settings) -> Call:
    """Sentence similarity; the source is the first input."""
    try:
        payload = _similarity.decode(body)
    except msgspec.DecodeError as error:
        raise refusals.malformed("hf", error) from None
    inputs = [payload.inputs.source_sentence, *payload.inputs.sentences]
    return read_call("hf", "sentence-similarity", model, inputs)


def write_list(call: Call, values: Values) -> bytes:
    """The values as they are."""
    return b"[%b]" % b",".join(value for _, value in values)


def read_task(body: bytes, model: str, settings: Settings) -> Call:
    """A call for any other task of the mock."""
    try:
        payload = _task.decode(body)
    except msgspec.DecodeError as error:
        raise refusals.malformed("hf", error) from None
    parameters = payload.parameters or {}
    task = task_of(model, parameters, settings)
    if task not in WRITE:
        text = "Model not supported by provider hf-inference"
        raise Refused(refusals.json(400, {"error": text}))
    single = isinstance(payload.inputs, str)
    inputs = [payload.inputs] if isinstance(payload.inputs, str) else payload.inputs
    if not inputs:
        raise Refused(refusals.json(400, {"error": "`inputs` must not be an empty list"}))
    if task == "zero-shot-classification" and not _labels(parameters):
        text = "You must include at least one label and at least one sequence."
        raise Refused(refusals.json(400, {"error": text}))
    max_tokens = parameters.get("max_new_tokens", parameters.get("max_length"))
    return read_call(
        "hf",
        task,
        model,
        inputs,
        single=single,
        parameters={**parameters, "candidate_labels": _labels(parameters)},
        max_tokens=max_tokens if isinstance(max_tokens, int) and max_tokens > 0 else None,
    )


def _labels(parameters: dict[str, Any]) -> list[str]:
    labels = parameters.get("candidate_labels") or []
    labels = labels.split(",") if isinstance(labels, str) else labels
    return [str(one).strip() for one in labels] if isinstance(labels, list) else []


def _write_text(name: bytes) -> Any:
    def write(call: Call, values: Values) -> bytes:
        rows = (msgspec.json.decode(value, type=list[msgspec.Raw])[0] for _, value in values)
        return b"[%b]" % b",".join(b'{"%b":%b}' % (name, bytes(text)) for text in rows)

    return write


def _write_classes(call: Call, values: Values) -> bytes:
    """A double list for one text; for many without `top_k`, one list of the best of each."""
    lists = [msgspec.json.decode(value) for _, value in values]
    top_k = call.parameters.get("top_k")
    if isinstance(top_k, int):
        return msgspec.json.encode([one[:top_k] for one in lists])
    if call.single:
        return msgspec.json.encode([one[:5] for one in lists])
    return msgspec.json.encode([[best for one in lists for best in one[:1]]])


def _write_zero_shot(call: Call, values: Values) -> bytes:
    """Label and score pairs for one text; objects with aligned lists for many."""
    lists = [msgspec.json.decode(value) for _, value in values]
    if call.single:
        return msgspec.json.encode(lists[0] if lists else [])
    return msgspec.json.encode(
        [
            {
                "sequence": sequence,
                "labels": [one["label"] for one in scored],
                "scores": [one["score"] for one in scored],
            }
            for sequence, scored in zip(call.inputs, lists, strict=False)
        ]
    )


def _write_entities(call: Call, values: Values) -> bytes:
    if call.single and len(values) == 1:
        return values[0][1]
    return write_list(call, values)


WRITE = {
    "summarization": _write_text(b"summary_text"),
    "translation": _write_text(b"translation_text"),
    "text-generation": _write_text(b"generated_text"),
    "text-classification": _write_classes,
    "zero-shot-classification": _write_zero_shot,
    "token-classification": _write_entities,
}


def write_task(call: Call, values: Values) -> bytes:
    """The answer in the shape of its task."""
    written: bytes = WRITE[call.task](call, values)
    return written


FEATURE = Route("hf", read_feature, write_feature)
SIMILARITY = Route("hf", read_similarity, write_list)
TASK = Route("hf", read_task, write_task)
