"""Checks whether a model changed under its name: sends a few texts of the last commit again.

Vectors of two models can be compared, and every such comparison is wrong. If a service changes its
model silently, the new rows of a night get vectors of another space than the old ones. So before
the first new call after a commit, a few texts with cached answers are sent again, as calls like all
others (`pipeline.dispatch.check`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.cache.store import AnswerCache
from pipeline.disk.durable import open_private, storage_errors
from pipeline.errors import GuardError
from pipeline.parts.reuse import Reuse
from pipeline.prepare.factory import RequestFactory
from pipeline.prepare.requests import first_requests
from pipeline.records import Answer, Endpoint, Request
from pipeline.source.survey import Survey
from pipeline.tasks import TASKS
from pipeline.text import many, printable

MIN_COSINE = 0.999
"""Other hardware, batch sizes or half precision give a cosine above 0.9999; another model, or
another version of it, gives far less than this bound."""
GOOD_FOR_SECONDS = 43_200
"""A resumed run does not repeat the check within this time."""
ROWS_PER_PART = 2


class DriftCheck:
    """Texts of the last commit with their vectors: a `pipeline.dispatch.check.Check` of the
    endpoint that answered them."""

    def __init__(
        self,
        endpoint: Endpoint,
        known: Sequence[tuple[Request, bytes]],
        passed: Callable[[], None],
    ) -> None:
        self.requests = [request for request, _ in known]
        self._name = printable(endpoint.name)
        self._vectors = {request.dedup_key: vector for request, vector in known}
        self._passed = passed

    def compare(self, request: Request, answer: Answer) -> GuardError | None:
        """The error for another vector than before."""
        before, now = self._vectors[request.dedup_key], answer.value
        near = cosine(before, now) if isinstance(now, bytes) else -1.0
        if near >= MIN_COSINE:
            return None
        return GuardError(
            f"{self._name}: the model answers other vectors than before "
            f"(cosine {near:.3f} for a text of the last commit): nothing was published",
            hint="a new model is named in endpoint.model or endpoint.revision; "
            "--set guard.drift_texts=0 mixes its vectors with the old ones",
        )

    def end(self, compared: int) -> GuardError | None:
        """Record that the check passed. The error, if no text had a vector to compare."""
        if compared:
            self._passed()
            return None
        return GuardError(
            f"{self._name}: {many(len(self.requests), 'text')} of the last commit got no vector "
            "when sent again, so a change of the model would not be seen: nothing was published",
            hint="--set guard.drift_texts=0 adds vectors without this check",
        )


def drift_checks(
    factory: RequestFactory, survey: Survey, reuse: Reuse, cache: AnswerCache, marker: Path
) -> list[DriftCheck]:
    """One check per endpoint if new vectors will be added to those of a commit; else none. `marker`
    records that they passed. Blocks: run it in a thread."""
    embeds = TASKS[factory.endpoints[0].task].value == "vector" and factory.guard.drift_texts
    snapshot = reuse.snapshot
    if snapshot is None or reuse.keeps_all or not embeds or has_passed(marker, snapshot.run):
        return []
    passed = partial(mark_passed, marker, snapshot.run)
    known = reference_vectors(factory, survey, reuse, cache)
    return [
        DriftCheck(endpoint, texts, passed)
        for endpoint, texts in zip(factory.endpoints, known, strict=True)
    ]


def reference_vectors(
    factory: RequestFactory, survey: Survey, reuse: Reuse, cache: AnswerCache
) -> list[list[tuple[Request, bytes]]]:
    """For each endpoint, requests of unchanged rows with their cached vectors. Blocks: run it in a
    thread."""
    max_texts = factory.guard.drift_texts
    rows = list(_unchanged(reuse, 4 * max_texts))
    requests = first_requests(factory, survey, rows)
    references: list[list[tuple[Request, bytes]]] = []
    for position in range(len(factory.endpoints)):
        by_key = {
            factory.keys.under(position, request): request
            for request in requests
            if position in request.route.positions
        }
        cached = cache.get_many(by_key)
        vectors = [
            (by_key[key], answer.value)
            for key, answer in cached.items()
            if isinstance(answer, Answer) and isinstance(answer.value, bytes)
        ]
        references.append(vectors[:max_texts])
    return references


def has_passed(marker: Path, run: str) -> bool:
    """True if a recent run already checked the texts of this commit."""
    try:
        is_new = time.time() - marker.stat().st_mtime < GOOD_FOR_SECONDS
        return is_new and marker.read_text("utf-8") == run
    except (OSError, UnicodeDecodeError):
        return False


def mark_passed(marker: Path, run: str) -> None:
    with storage_errors(marker), open_private(marker) as file:
        file.write(run.encode())


def _unchanged(reuse: Reuse, max_rows: int) -> Iterator[int]:
    """Numbers of up to `max_rows` reused rows, a few from each part."""
    for rows in reuse.reused_rows():
        yield from rows[: min(ROWS_PER_PART, max_rows)].tolist()
        max_rows -= min(ROWS_PER_PART, max_rows, len(rows))
        if not max_rows:
            return


def cosine(one: bytes, other: bytes) -> float:
    """The cosine of two vectors as float32 bytes; -1 if their dimensions differ."""
    a, b = (np.frombuffer(raw, "<f4").astype(np.float64) for raw in (one, other))
    if len(a) != len(b):
        return -1.0
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else -1.0
