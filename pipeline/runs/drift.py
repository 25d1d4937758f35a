"""Has the model changed under its name? A few texts of the last commit, sent again.

Vectors of two models can be compared, and every such comparison is wrong. A service may change its
model without a word, and then the new rows of a night would lie in another space than the old ones.
So ahead of the first new call after a commit a few texts whose answers are kept are asked again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import anyio
import numpy as np
from anyio.to_thread import run_sync

from pipeline.cache.keys import Keys
from pipeline.cache.store import AnswerCache
from pipeline.disk.durable import open_private, storage_errors
from pipeline.endpoints.connect import Connection
from pipeline.errors import EndpointError, GuardError
from pipeline.parts.reuse import Reuse
from pipeline.prepare.pipeline import Pipeline
from pipeline.prepare.requests import first_requests
from pipeline.records import Answer, Endpoint, Failure, Request
from pipeline.source.survey import Survey
from pipeline.tasks import TASKS
from pipeline.text import printable

MIN_COSINE = 0.999
"""Other hardware, batches or half precision leave a cosine above 0.9999; another model, or another
version of one, is far below this."""
GOOD_FOR_SECONDS = 43_200
"""So long a run that goes on after a kill does not ask again."""
ROWS_PER_PART = 2

Send = Callable[[Sequence[Request]], Awaitable[Sequence[Answer | Failure]]]
OnPaid = Callable[[Endpoint, int, float, Sequence[Answer]], None]
"""Endpoint, requests, seconds, answers of a call that is paid for, too."""


class DriftCheck:
    """Stands before an endpoint, and asks these texts again ahead of its first call.

    Raises: GuardError where the model has moved.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        send: Send,
        known: Sequence[tuple[Request, bytes]],
        passed: Callable[[], None],
        told: OnPaid,
    ) -> None:
        self._endpoint, self._send, self._known = endpoint, send, list(known)
        self._passed, self._told = passed, told
        self._lock = anyio.Lock()
        self._moved: GuardError | None = None

    async def answer(self, requests: Sequence[Request]) -> Sequence[Answer | Failure]:
        """The endpoint's answer to these."""
        if self._known:
            async with self._lock:
                if self._moved is not None:  # found for a call that began with this one
                    raise self._moved
                if self._known:
                    await self._ask()
                    self._known.clear()
        return await self._send(requests)

    async def _ask(self) -> None:
        endpoint = self._endpoint
        for start in range(0, len(self._known), endpoint.batch_size):
            known = self._known[start : start + endpoint.batch_size]
            try:
                now = await self._vectors([request for request, _ in known])
                for at, (request, vector) in enumerate(known):
                    if (got := now[at]) is not None and len(got) != len(vector):
                        # A server may slip once, as with any row: a model does so again.
                        (now[at],) = await self._vectors([request])
            except EndpointError as error:
                if error.facts.is_requests_own:
                    return  # nothing can be said of the model
                raise  # it ends the call that waits as well: both are made again
            for (_, vector), got in zip(known, now, strict=True):
                if got is not None:
                    self._compare(vector, got)
            if endpoint.requests_per_minute:
                await anyio.sleep(60 / endpoint.requests_per_minute)
        self._passed()

    async def _vectors(self, requests: Sequence[Request]) -> list[bytes | None]:
        """What the endpoint answers now; None where that is no vector."""
        began = time.monotonic()
        answers = await self._send(requests)
        good = [each for each in answers if isinstance(each, Answer)]
        self._told(self._endpoint, len(requests), time.monotonic() - began, good)
        values = [each.value if isinstance(each, Answer) else None for each in answers]
        return [value if isinstance(value, bytes) else None for value in values]

    def _compare(self, before: bytes, now: bytes) -> None:
        if (near := cosine(before, now)) < MIN_COSINE:
            self._moved = GuardError(
                f"{printable(self._endpoint.name)}: the model answers other vectors than before "
                f"(cosine {near:.3f} for a text of the last commit): nothing was published",
                hint="a new model is named in endpoint.model or endpoint.revision; "
                "--set guard.drift_texts=0 mixes its vectors with the old ones",
            )
            raise self._moved


async def with_drift_check(
    pipeline: Pipeline,
    survey: Survey,
    reuse: Reuse,
    cache: AnswerCache,
    connections: Sequence[Connection],
    marker: Path,
    told: OnPaid,
) -> list[tuple[Endpoint, Send]]:
    """The endpoints, each behind a canary where new vectors are to stand beside those of a commit.

    `marker` remembers that they passed.
    """
    asked: list[tuple[Endpoint, Send]] = [(each.endpoint, each.answer) for each in connections]
    embeds = TASKS[pipeline.endpoints[0].task].value == "vector" and pipeline.drift_texts
    snapshot = reuse.snapshot
    if snapshot is None or reuse.keeps_all or not embeds or has_passed(marker, snapshot.run):
        return asked
    known = await run_sync(reference_vectors, pipeline, survey, reuse, cache)
    passed = partial(mark_passed, marker, snapshot.run)
    return [
        (endpoint, DriftCheck(endpoint, send, texts, passed, told).answer)
        for (endpoint, send), texts in zip(asked, known, strict=True)
    ]


def reference_vectors(
    pipeline: Pipeline, survey: Survey, reuse: Reuse, cache: AnswerCache
) -> list[list[tuple[Request, bytes]]]:
    """For each endpoint the texts to ask again: from rows that are unchanged, with the vectors that
    are kept under its own key. Blocks: run it in a thread."""
    wanted = pipeline.drift_texts
    rows = list(_unchanged(reuse, 4 * wanted))
    asked = first_requests(pipeline, survey, rows)
    keys = Keys(pipeline.endpoints)
    found: list[list[tuple[Request, bytes]]] = []
    for position in range(len(pipeline.endpoints)):
        named = {
            keys.under(position, request): request
            for request in asked
            if position in request.route.positions
        }
        kept = cache.get_many(named)
        vectors = [
            (named[key], answer.value)
            for key, answer in kept.items()
            if isinstance(answer, Answer) and isinstance(answer.value, bytes)
        ]
        found.append(vectors[:wanted])
    return found


def has_passed(marker: Path, run: str) -> bool:
    """Whether the texts of this commit were asked again a short while ago, by a run that ended."""
    try:
        is_new = time.time() - marker.stat().st_mtime < GOOD_FOR_SECONDS
        return is_new and marker.read_text("utf-8") == run
    except (OSError, UnicodeDecodeError):
        return False


def mark_passed(marker: Path, run: str) -> None:
    with storage_errors(marker), open_private(marker) as file:
        file.write(run.encode())


def _unchanged(reuse: Reuse, most: int) -> Iterator[int]:
    """Numbers of some rows that are not to be done, from as many parts as it takes."""
    start = 0
    for count, origins in zip(reuse.part_rows, reuse.origins(), strict=True):
        rows = np.arange(count) if origins is None else np.flatnonzero(origins[:, 0] >= 0)
        for row in rows[: min(ROWS_PER_PART, most)].tolist():
            yield start + row
            most -= 1
        start += count
        if not most:
            return


def cosine(one: bytes, other: bytes) -> float:
    """Of two vectors as float32 bytes; -1 where they have not even the same dimension."""
    a, b = (np.frombuffer(raw, "<f4").astype(np.float64) for raw in (one, other))
    if len(a) != len(b):
        return -1.0
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else -1.0
