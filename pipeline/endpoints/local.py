"""The embedded model: vectors and extractive summaries without key, network or torch.

wordllama averages token embeddings (256 dimensions, 16 MB of weights, derived from Llama 2's): it
knows words, not word order, and reads inputs of any length. The summary is extractive: sentences of
the text itself, ranked over these vectors; its model name says so.
Source: wordllama 0.4.0; maximal marginal relevance after Carbonell and Goldstein, SIGIR 1998.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.endpoints.kinds import KINDS
from pipeline.errors import UsageError
from pipeline.records import Answer, Endpoint, Failure, Request
from pipeline.tasks import TASKS

_loading = threading.Lock()


@functools.cache
def _load() -> Any:
    if find_spec("wordllama") is None:
        raise UsageError(
            "endpoint kind `local` needs the extra `local`",
            hint="pip install 'textmill[local]'",
        )
    import wordllama

    # load() looks for its own files in the wrong folder of the wheel and then downloads them.
    return wordllama.WordLlama.load(
        cache_dir=Path(wordllama.__file__).parent, disable_download=True
    )


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors of these texts. Shape: (len(texts), 256) float32; no text may be empty."""
    with _loading:
        model = _load()
    vectors: NDArray[np.float32] = model.embed(list(texts), norm=True)
    return vectors


def answerer(
    endpoint: Endpoint, sentences: Callable[[str], Sequence[tuple[int, int]]]
) -> Callable[[Sequence[Request]], Sequence[Answer | Failure]]:
    """The function that answers requests in a worker thread; loads the model."""
    embed(["ready"])
    model = KINDS[endpoint.kind].models[endpoint.task]
    if TASKS[endpoint.task].value == "vector":
        return functools.partial(_vectors, model=model)
    count = endpoint.parameters.get("sentences", 3)
    if not isinstance(count, int) or count < 1:
        raise UsageError(f"`parameters.sentences` = {count!r} must be a whole number from 1")

    def summaries(requests: Sequence[Request]) -> Sequence[Answer | Failure]:
        return [
            Answer(
                summary(request.input, sentences(request.input), count),
                request.tokens,
                model=model,
            )
            for request in requests
        ]

    return summaries


def _vectors(requests: Sequence[Request], *, model: str) -> Sequence[Answer | Failure]:
    matrix = embed([request.input for request in requests])
    return [
        Answer(row.tobytes(), request.tokens, model=model)
        if np.isfinite(row).all()
        else Failure("poison", "the embedded model has no vector for this text")
        for request, row in zip(requests, matrix, strict=True)
    ]


def summary(text: str, spans: Sequence[tuple[int, int]], count: int) -> str:
    """At most `count` sentences of `text`, in their order, joined by a blank.

    They are chosen one by one: near the centroid of the text, far from the chosen sentences.
    """
    all_sentences = [text[start:end].strip() for start, end in spans]
    # Headings, table rows and signatures are short; a sentence with content is longer.
    long = [sentence for sentence in all_sentences if len(sentence) >= 20]
    sentences = long or [sentence for sentence in all_sentences if sentence]
    sentences = list(dict.fromkeys(" ".join(sentence.split()) for sentence in sentences))
    if len(sentences) <= count:
        return " ".join(sentences)
    vectors = embed(sentences)
    weights = np.minimum([len(sentence) for sentence in sentences], 200).astype(np.float32)
    centroid = weights @ vectors
    near = vectors @ (centroid / max(float(np.linalg.norm(centroid)), 1e-9))
    chosen: list[int] = []
    nearest = np.zeros(len(sentences), dtype=np.float32)
    for _ in range(count):
        score = 0.7 * near - 0.3 * nearest
        score[chosen] = -np.inf
        best = int(np.argmax(score))
        chosen.append(best)
        nearest = np.maximum(nearest, vectors @ vectors[best])
    return " ".join(sentences[index] for index in sorted(chosen))
