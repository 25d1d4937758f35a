"""Checks whether a model changed under its name: sends a few texts of the last commit again.

Vectors of two models can be compared, and every such comparison is wrong. If a service changes its
model silently, the new rows of a night get vectors of another space than the old ones. So before
the first new call after a commit, a few texts with cached answers are sent again, as calls like all
others (`pipeline.dispatch.check`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.cache.store import AnswerCache
from pipeline.disk.durable import open_private, storage_errors
from pipeline.dispatch.origins import Comparison, KeptAnswer, KnownAnswers, Origins
from pipeline.errors import GuardError
from pipeline.parts.reuse import Reuse
from pipeline.prepare.factory import RequestFactory
from pipeline.prepare.requests import first_requests
from pipeline.records import Answer, Endpoint, Request
from pipeline.source.survey import Survey
from pipeline.tasks import TASKS
from pipeline.text import canonical_url, many, printable

MIN_COSINE = 0.999
"""Other hardware, batch sizes or half precision give a cosine above 0.9999; another model, or
another version of it, gives far less than this bound."""
GOOD_FOR_SECONDS = 43_200
"""A resumed run does not repeat the check within this time."""
ROWS_PER_PART = 2
ROWS_PER_UNSURE_PART = 64


class DriftCheck:
    """Texts of the last commit with their vectors: a `pipeline.dispatch.check.Check` of the
    endpoint that answered them."""

    def __init__(
        self,
        endpoint: Endpoint,
        known: KnownAnswers,
        passed: Callable[[], None],
    ) -> None:
        self.requests = [request for request, _ in known]
        self._name = printable(endpoint.name)
        self._vectors = {request.dedup_key: answer.value for request, answer in known}
        self._passed = passed

    def compare(self, request: Request, answer: Answer) -> GuardError | None:
        """The error for another vector than before."""
        near = nearness(self._vectors[request.dedup_key], answer.value)
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


def comparison(max_texts: int, task: str) -> Comparison | None:
    """How the answers of a new server are compared with kept ones; None where they cannot be."""
    if TASKS[task].value != "vector" or not max_texts:
        return None
    return Comparison(max_texts, OriginCheck)


class OriginCheck:
    """Known texts with the vectors of another server under the same model name: a
    `pipeline.dispatch.check.Check` of an endpoint that was never compared with it."""

    def __init__(self, endpoint: Endpoint, known: KnownAnswers, answered_by: str) -> None:
        self.requests = [request for request, _ in known]
        self._vectors = {request.dedup_key: answer.value for request, answer in known}
        self._endpoint, self._answered_by = endpoint, answered_by

    def compare(self, request: Request, answer: Answer) -> GuardError | None:
        """The error for another vector than that of the other server."""
        near = nearness(self._vectors[request.dedup_key], answer.value)
        return None if near >= MIN_COSINE else self._error(f"other vectors (cosine {near:.3f})")

    def end(self, compared: int) -> GuardError | None:
        """The error, if no text had a vector to compare."""
        return None if compared else self._error("no vector that could be compared")

    def _error(self, what: str) -> GuardError:
        endpoint = self._endpoint
        return GuardError(
            f"{printable(endpoint.name)}: for texts with kept answers of "
            f"{printable(self._answered_by)}, {printable(canonical_url(endpoint.url))} gives "
            f"{what}, and both call their model `{printable(endpoint.model, 100)}`: nothing was "
            "published",
            hint='endpoint.identity = "NAME" keeps the answers of this URL apart',
        )


class References(NamedTuple):
    """What is known of reused rows before the first call: checks of the endpoints that answered
    them, by position, and their answers by servers that this run does not know."""

    checks: dict[int, DriftCheck]
    foreign: list[KeptAnswer]


def references(
    factory: RequestFactory,
    survey: Survey,
    reuse: Reuse,
    cache: AnswerCache,
    marker: Path,
    origins: Origins,
) -> References:
    """The checks, if new vectors will be added to those of a commit, and the foreign answers in
    reused rows. `marker` records that the checks passed. Blocks: run it in a thread."""
    embeds = TASKS[factory.endpoints[0].task].value == "vector" and factory.guard.drift_texts
    commit = reuse.commit
    if commit is None:
        return References({}, [])
    has_checks = embeds and not reuse.keeps_all and not has_passed(marker, commit)
    if not has_checks and not origins.has_others:
        return References({}, [])
    passed = partial(mark_passed, marker, commit)
    checks: dict[int, DriftCheck] = {}
    foreign: list[KeptAnswer] = []
    known = reference_answers(factory, survey, reuse, cache)
    for position, (endpoint, answers) in enumerate(zip(factory.endpoints, known, strict=True)):
        others = [
            KeptAnswer(request, position, answer)
            for request, answer in answers
            if origins.is_foreign(position, answer)
        ]
        # No endpoint before this one has the key: a fallback is compared only when it answers.
        foreign += [one for one in others if position == _first_with_key(factory, one)]
        if has_checks and not others:  # a comparison of origins is a drift check, too
            checks[position] = DriftCheck(endpoint, answers, passed)
    return References(checks, foreign)


def _first_with_key(factory: RequestFactory, kept: KeptAnswer) -> int:
    return factory.keys.position(kept.request, factory.keys.under(kept.position, kept.request))


def reference_answers(
    factory: RequestFactory, survey: Survey, reuse: Reuse, cache: AnswerCache
) -> list[list[tuple[Request, Answer]]]:
    """For each endpoint, requests of unchanged rows with their cached answers. Blocks: run it in a
    thread."""
    max_texts = factory.guard.drift_texts or 1
    # Rows of which only the ids are known may have other texts, and then no answers.
    is_unsure = reuse.published is not None
    rows_per_part = ROWS_PER_UNSURE_PART if is_unsure else ROWS_PER_PART
    max_rows = (ROWS_PER_UNSURE_PART if is_unsure else 4) * max_texts
    rows = list(_unchanged(reuse, max_rows, rows_per_part))
    requests = first_requests(factory, survey, rows)
    found: list[list[tuple[Request, Answer]]] = []
    for position in range(len(factory.endpoints)):
        by_key = {
            factory.keys.under(position, request): request
            for request in requests
            if position in request.route.positions
        }
        cached = cache.get_many(by_key)
        answers = [(by_key[k], each) for k, each in cached.items() if isinstance(each, Answer)]
        found.append(answers[:max_texts])
    return found


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


def nearness(one: bytes | str, other: bytes | str) -> float:
    """The cosine of two answers; -1 for one that is no vector."""
    if isinstance(one, bytes) and isinstance(other, bytes):
        return cosine(one, other)
    return -1.0


def cosine(one: bytes, other: bytes) -> float:
    """The cosine of two vectors as float32 bytes; -1 if their dimensions differ."""
    a, b = (np.frombuffer(raw, "<f4").astype(np.float64) for raw in (one, other))
    if len(a) != len(b):
        return -1.0
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else -1.0
