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
"""Other hardware, batches or half precision leave a cosine above 0.9999; another model, or another
version of one, is far below this."""
GOOD_FOR_SECONDS = 43_200
"""So long a run that goes on after a kill does not ask again."""
ROWS_PER_PART = 2

Send = Callable[[Sequence[Request]], Awaitable[Answered]]


class DriftCheck:
    """Asks an endpoint for these texts again, once, ahead of its first call.

    Raises: GuardError where the model has moved.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        known: Sequence[tuple[Request, bytes]],
        passed: Callable[[], None],
    ) -> None:
        self._endpoint, self._known, self._passed = endpoint, list(known), passed
        self._lock = anyio.Lock()
        self._moved: GuardError | None = None

    async def __call__(self, send: Send) -> None:
        """Return when the model is known to be the one that answered these texts before."""
        if not self._known:
            return
        async with self._lock:
            if self._moved is not None:  # found for a call that began with this one
                raise self._moved
            if self._known:
                await self._ask(send)
                self._known.clear()

    async def _ask(self, send: Send) -> None:
        endpoint = self._endpoint
        for start in range(0, len(self._known), endpoint.batch_size):
            known = self._known[start : start + endpoint.batch_size]
            try:
                now = await _vectors(send, [request for request, _ in known])
                for at, (request, vector) in enumerate(known):
                    if (got := now[at]) is not None and len(got) != len(vector):
                        # A server may slip once, as with any row: a model does so again.
                        (now[at],) = await _vectors(send, [request])
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

    def _compare(self, before: bytes, now: bytes) -> None:
        if (near := cosine(before, now)) < MIN_COSINE:
            self._moved = GuardError(
                f"{printable(self._endpoint.name)}: the model answers other vectors than before "
                f"(cosine {near:.3f} for a text of the last commit): nothing was published",
                hint="a new model is named in endpoint.model or endpoint.revision; "
                "--set guard.drift_texts=0 mixes its vectors with the old ones",
            )
            raise self._moved


async def _vectors(send: Send, requests: Sequence[Request]) -> list[bytes | None]:
    """What the endpoint answers now; None where that is no vector."""
    answers = (await send(requests)).settled
    values = [each.value if isinstance(each, Answer) else None for each in answers]
    return [value if isinstance(value, bytes) else None for value in values]


def drift_checks(
    factory: RequestFactory, survey: Survey, reuse: Reuse, cache: AnswerCache, marker: Path
) -> list[DriftCheck]:
    """One check for each endpoint where new vectors are to stand beside those of a commit; else
    none. `marker` remembers that they passed. Blocks: run it in a thread."""
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
    """For each endpoint the texts to ask again: from rows that are unchanged, with the vectors that
    are kept under its own key. Blocks: run it in a thread."""
    wanted = factory.guard.drift_texts
    rows = list(_unchanged(reuse, 4 * wanted))
    asked = first_requests(factory, survey, rows)
    found: list[list[tuple[Request, bytes]]] = []
    for position in range(len(factory.endpoints)):
        named = {
            factory.keys.under(position, request): request
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
    for rows in reuse.reused_rows():
        yield from rows[: min(ROWS_PER_PART, most)].tolist()
        most -= min(ROWS_PER_PART, most, len(rows))
        if not most:
            return


def cosine(one: bytes, other: bytes) -> float:
    """Of two vectors as float32 bytes; -1 where they have not even the same dimension."""
    a, b = (np.frombuffer(raw, "<f4").astype(np.float64) for raw in (one, other))
    if len(a) != len(b):
        return -1.0
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else -1.0
