"""Checks whether a model changed under its name: sends a few texts of the last commit again.

Vectors of two models can be compared, and every such comparison is wrong. If a service changes its
model silently, the new rows of a night get vectors of another space than the old ones. So before
the first new call after a commit, a few texts with cached answers are sent again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import anyio
import numpy as np

from pipeline.cache.store import AnswerCache
from pipeline.disk.durable import open_private, storage_errors
from pipeline.errors import EndpointError, GuardError
from pipeline.parts.reuse import Reuse
from pipeline.prepare.factory import RequestFactory
from pipeline.prepare.requests import first_requests
from pipeline.records import Answer, Answered, Endpoint, Request
from pipeline.source.survey import Survey
from pipeline.tasks import TASKS
from pipeline.text import printable

MIN_COSINE = 0.999
"""Other hardware, batch sizes or half precision give a cosine above 0.9999; another model, or
another version of it, gives far less than this bound."""
GOOD_FOR_SECONDS = 43_200
"""A resumed run does not repeat the check within this time."""
ROWS_PER_PART = 2
ROWS_PER_UNSURE_PART = 64

Send = Callable[[Sequence[Request]], Awaitable[Answered]]


class DriftCheck:
    """Sends these texts to an endpoint again, once, before its first call.

    Raises: GuardError if the model changed.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        known: Sequence[tuple[Request, bytes]],
        passed: Callable[[], None],
    ) -> None:
        self._endpoint, self._known, self._passed = endpoint, list(known), passed
        self._lock = anyio.Lock()
        self._error: GuardError | None = None

    async def __call__(self, send: Send) -> None:
        """Returns once the model is known to be the one that answered these texts before."""
        if not self._known:
            return
        async with self._lock:
            if self._error is not None:  # found by a call that started at the same time
                raise self._error
            if self._known:
                await self._send_texts(send)
                self._known.clear()

    async def _send_texts(self, send: Send) -> None:
        endpoint = self._endpoint
        for start in range(0, len(self._known), endpoint.batch_size):
            known = self._known[start : start + endpoint.batch_size]
            try:
                now = await _vectors(send, [request for request, _ in known])
                for at, (request, vector) in enumerate(known):
                    if (got := now[at]) is not None and len(got) != len(vector):
                        # A server may fail once, as with any row; a changed model fails again.
                        (now[at],) = await _vectors(send, [request])
            except EndpointError as error:
                if error.facts.is_requests_own:
                    return  # it says nothing about the model
                raise  # the waiting call fails too; both are retried
            for (_, vector), got in zip(known, now, strict=True):
                if got is not None:
                    self._compare(vector, got)
            if endpoint.requests_per_minute:
                await anyio.sleep(60 / endpoint.requests_per_minute)
        self._passed()

    def _compare(self, before: bytes, now: bytes) -> None:
        if (near := cosine(before, now)) < MIN_COSINE:
            self._error = GuardError(
                f"{printable(self._endpoint.name)}: the model answers other vectors than before "
                f"(cosine {near:.3f} for a text of the last commit): nothing was published",
                hint="a new model is named in endpoint.model or endpoint.revision; "
                "--set guard.drift_texts=0 mixes its vectors with the old ones",
            )
            raise self._error


async def _vectors(send: Send, requests: Sequence[Request]) -> list[bytes | None]:
    """The current vectors of these requests; None for an answer without a vector."""
    answers = (await send(requests)).settled
    values = [each.value if isinstance(each, Answer) else None for each in answers]
    return [value if isinstance(value, bytes) else None for value in values]


def drift_checks(
    factory: RequestFactory, survey: Survey, reuse: Reuse, cache: AnswerCache, marker: Path
) -> list[DriftCheck]:
    """One check per endpoint if new vectors will be added to those of a commit; else none. `marker`
    records that they passed. Blocks: run it in a thread."""
    embeds = TASKS[factory.endpoints[0].task].value == "vector" and factory.guard.drift_texts
    commit = reuse.commit
    if commit is None or reuse.keeps_all or not embeds or has_passed(marker, commit):
        return []
    passed = partial(mark_passed, marker, commit)
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
    # Rows of which only the ids are known may have other texts, and then no answers.
    is_unsure = reuse.published is not None
    rows_per_part = ROWS_PER_UNSURE_PART if is_unsure else ROWS_PER_PART
    max_rows = (ROWS_PER_UNSURE_PART if is_unsure else 4) * max_texts
    rows = list(_unchanged(reuse, max_rows, rows_per_part))
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


def _unchanged(reuse: Reuse, max_rows: int, rows_per_part: int) -> Iterator[int]:
    """Numbers of up to `max_rows` rows of the last commit, a few from each part."""
    for rows in reuse.compared_rows():
        yield from rows[: min(rows_per_part, max_rows)].tolist()
        max_rows -= min(rows_per_part, max_rows, len(rows))
        if not max_rows:
            return


def cosine(one: bytes, other: bytes) -> float:
    """The cosine of two vectors as float32 bytes; -1 if their dimensions differ."""
    a, b = (np.frombuffer(raw, "<f4").astype(np.float64) for raw in (one, other))
    if len(a) != len(b):
        return -1.0
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else -1.0
