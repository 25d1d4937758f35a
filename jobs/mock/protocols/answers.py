"""Builds the correct answer to every input of a call, and corrupts it for a fault.

Both work on one JSON text per input, before a protocol gives them its own shape: a new protocol
supports every fault without extra code.
"""

from __future__ import annotations

import random

import msgspec
import numpy as np

from jobs.mock.faults import Fault
from jobs.mock.protocols import texts, vectors
from jobs.mock.protocols.calls import Call, Settings, Values

TEXT_TASKS = frozenset({"chat-completion", "text-generation", "summarization", "translation"})
SENTIMENT = ["POSITIVE", "NEGATIVE"]


def answer(call: Call, settings: Settings) -> Values:
    """One value per input, in order: a vector, `[text, whether it was cut]`, or labels."""
    if call.task == "feature-extraction":
        dimension, model = call.dimension or settings.dimension, call.model + settings.weights
        return [
            (n, vectors.written(one, model, dimension, base64=call.base64, norm=call.norm))
            for n, one in enumerate(call.digests)
        ]
    if call.task == "sentence-similarity":
        rows = [vectors.vector(one, call.model, settings.dimension) for one in call.digests]
        return [(n, b"%.6f" % float(rows[0] @ row)) for n, row in enumerate(rows[1:])]
    return [
        (n, msgspec.json.encode(_text_answer(call, text, one)))
        for n, (text, one) in enumerate(zip(call.inputs, call.digests, strict=True))
    ]


def _text_answer(call: Call, text: str, digest: bytes) -> object:
    if call.task == "text-classification":
        return texts.scores(digest, SENTIMENT)
    if call.task == "zero-shot-classification":
        return texts.scores(digest, call.parameters["candidate_labels"])
    if call.task == "token-classification":
        return texts.entities(text, digest)
    if call.schema is not None:
        text_out = msgspec.json.encode(texts.instance(call.schema, text, digest)).decode()
    elif call.task in ("chat-completion", "text-generation"):
        text_out = texts.reply(text)
    else:
        text_out = texts.extract(text)
    return texts.cut(text_out, call.max_tokens)


def output_tokens(call: Call, values: Values) -> int:
    """The charged tokens of the answers: those of texts; vectors and labels cost nothing."""
    if call.task not in TEXT_TASKS:
        return 0
    generated = (msgspec.json.decode(value)[0] for _, value in values)
    return sum(texts.count(one) for one in generated)


def corrupt(fault: Fault, call: Call, values: Values, settings: Settings) -> tuple[Call, Values]:
    """The call and its values after this fault."""
    values = list(values)
    match fault.kind:
        case "wrong_count" if fault.count < 0:
            values = values[: fault.count]
        case "wrong_count" if values:
            more = range(len(values), len(values) + fault.count)
            values = values + [(n, values[n % len(values)][1]) for n in more]
        case "shuffled_index":
            before = list(values)
            random.Random(call.digests[0]).shuffle(values)
            if values == before:
                values = values[1:] + values[:1]
        case "wrong_index" if values:
            values[-1] = (0 if len(values) > 1 else 1, values[-1][1])
        case "empty":
            values = []
        case "empty_text":
            values = [
                (n, b'["",false]') if n in _affected_rows(fault, call) else (n, value)
                for n, value in values
            ]
        case "other_model":
            call = msgspec.structs.replace(call, model=str(fault.body or call.model + "-0002"))
        case "wrong_dimension" | "null" | "nan" | "inf" | "zero":
            touched = _affected_rows(fault, call)
            values = [
                (n, _corrupted_vector(fault, call, n, settings)) if n in touched else (n, value)
                for n, value in values
            ]
    return call, values


def _affected_rows(fault: Fault, call: Call) -> set[int]:
    """The rows that contain the text of the fault; without a text, a single row, or all."""
    if fault.match is not None:
        return {n for n, one in enumerate(call.inputs) if fault.match in one}
    if fault.whole:
        return set(range(len(call.inputs)))
    return {call.digests[0][0] % len(call.inputs)}


def _corrupted_vector(fault: Fault, call: Call, n: int, settings: Settings) -> bytes:
    """One corrupted vector: a single wrong number in its middle."""
    dimension = call.dimension or settings.dimension
    if fault.kind == "wrong_dimension":
        dimension = max(1, dimension + fault.count)
        return vectors.written(
            call.digests[n], call.model, dimension, base64=call.base64, norm=call.norm
        )
    numbers = vectors.vector(call.digests[n], call.model, dimension, call.norm).copy()
    middle = dimension // 2
    if fault.kind == "zero":
        return vectors.write_numbers(np.zeros(dimension), base64=call.base64)
    if call.base64:
        if fault.kind == "null":
            return b"null"
        numbers[middle] = np.nan if fault.kind == "nan" else np.inf
        return vectors.write_numbers(numbers, base64=True)
    written = [msgspec.json.encode(one) for one in numbers.tolist()]
    written[middle] = {"null": b"null", "nan": b"NaN", "inf": b"1e999"}[fault.kind]
    return b"[%b]" % b",".join(written)
