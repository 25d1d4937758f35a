"""Aggregates vectors: one row per chunk, or one mean vector per document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from aggregators.account import Account
from pipeline.records import Answer, Column, Document, Outcome, Result, Row

REVISION = 1


class Rows:
    """One row per chunk, with its answer; a document without chunks has one row without an
    answer."""

    per_chunk = True

    def __init__(self, column: Column) -> None:
        self.columns = (column,)

    def step(self, document: Document, outcomes: Iterable[Outcome]) -> Result:
        """Rows in span order, produced while they are read; the status is computed before them."""
        account = Account.of(document, outcomes)
        return account.result(_rows(document, outcomes, account))


def _rows(document: Document, outcomes: Iterable[Outcome], account: Account) -> Iterator[Row]:
    if not account.chunks:
        yield Row((None,), None, document.error)
    for outcome in outcomes:
        settled = outcome.settled
        if isinstance(settled, Answer):
            yield Row((settled.value,), outcome.request.chunk)
        else:
            yield Row((None,), outcome.request.chunk, f"{settled.kind}: {settled.message}")


class Mean:
    """One vector per document: the mean over its chunks, in which each token counts once.

    The number of tokens that a chunk shares with the one before is proportional to the characters.

    Invariant: unit length if every chunk's vector has unit length. Sums run in float64 in span
    order, so that equal answers give equal bytes.
    """

    per_chunk = False

    def __init__(self, column: Column) -> None:
        self.columns = (column,)

    def step(self, document: Document, outcomes: Iterable[Outcome]) -> Result:
        """One row; its vector is None where the document has no chunk or no answer."""
        account = Account.of(document, outcomes)
        total: np.ndarray | None = None
        weight = 0.0
        is_unit = True
        covered = 0
        for outcome in outcomes:
            chunk, settled = outcome.request.chunk, outcome.settled
            # The overlap was counted with the chunk before.
            new = max(0, chunk.end_char - max(covered, chunk.start_char))
            share = chunk.tokens * new / max(1, chunk.end_char - chunk.start_char)
            covered = max(covered, chunk.end_char)
            if not isinstance(settled, Answer) or not isinstance(settled.value, bytes):
                continue
            vector = np.frombuffer(settled.value, dtype="<f4").astype(np.float64)
            is_unit = is_unit and abs(float(vector @ vector) - 1.0) < 1e-3
            total = vector * share if total is None else total + vector * share
            weight += share
        if total is None or not weight:
            return account.result([Row((None,), None, account.error)])
        mean = total / weight
        norm = float(np.linalg.norm(mean))
        if is_unit and norm > 1e-9:
            mean = mean / norm
        return account.result([Row((mean.astype("<f4").tobytes(),), None, account.error)])
