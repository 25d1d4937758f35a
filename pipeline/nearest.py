"""The nearest chunks of an embedded corpus: exact, by one pass over the vectors.

A matrix product reads a gigabyte of vectors in about a second; an index would have to be built and
kept true. Memory is one record batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from pipeline.corpus import vector_batches
from pipeline.errors import UsageError


class Hit(Struct, frozen=True):
    """One row of an output and its cosine similarity to the question."""

    score: float
    row: dict[str, Any]


def nearest(path: str, question: NDArray[np.float32], count: int) -> list[Hit]:
    """The `count` rows whose vectors are nearest to `question`, best first, ties by file order.

    Shape: `question` is (dim,) float32, unit length; rows without a vector are passed over.
    """
    best: list[tuple[float, int, dict[str, Any]]] = []
    position = 0
    for matrix, row_at in vector_batches(path):
        if not len(matrix):
            continue
        if matrix.shape[1] != len(question):
            raise UsageError(
                f"{path}: vectors of {matrix.shape[1]} dimensions, the question has {len(question)}"
            )
        norms = np.linalg.norm(matrix, axis=1)
        # matrix @ question adds equal rows in different orders: ties would go by noise.
        products = np.einsum("ij,j->i", matrix, question)
        scores = np.nan_to_num(products / np.maximum(norms, 1e-12), nan=-np.inf)
        floor = best[-1][0] if len(best) == count else -np.inf
        order = np.argsort(-scores, kind="stable")[:count]
        for index in order.tolist():
            if scores[index] <= floor:
                break
            best.append((float(scores[index]), position + index, row_at(index)))
        best.sort(key=lambda hit: (-hit[0], hit[1]))
        del best[count:]
        position += len(matrix)
    return [Hit(round(score, 4), row) for score, _, row in best]
