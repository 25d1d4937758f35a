"""Statistics, verification and pruning of the cache; nothing is removed automatically.

Only the commands that use this module remove answers. They read row by row, so that memory stays
small and a run that writes meanwhile waits at most a few milliseconds.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator

from msgspec import Struct

from pipeline.cache.entry import MARK, Entry
from pipeline.cache.keys import parts_of
from pipeline.cache.origins import KnownOrigins, is_readable
from pipeline.cache.store import AnswerCache
from pipeline.records import Split


class Kind(Struct, frozen=True):
    """Answers of one model with one dimension; None is for texts."""

    model: str
    dimension: int | None
    answers: int
    bytes: int


class CacheStats(Struct, frozen=True, rename={"request_settings": "asked"}):
    """Statistics of the cache. Units: bytes; seconds since 1970, None for an empty cache."""

    answers: int = 0
    splits: int = 0
    bytes: int = 0
    damaged: int = 0
    oldest: float | None = None
    newest: float | None = None
    file_bytes: int = 0
    free_bytes: int = 0
    kinds: list[Kind] = []
    """Sorted by the number of answers, largest first."""
    request_settings: list[dict[str, object]] = []
    """Task, model and parameters of every kind of request ever sent, the oldest first, with the
    URLs of the servers whose answers serve for it (`origins`)."""


class Damage(Struct, frozen=True):
    """A damaged entry, which counts as absent."""

    key: str
    stored: float
    why: str


def cache_stats(cache: AnswerCache) -> CacheStats:
    """Statistics of the cache. Cost: reads every answer; memory for a few hundred of them."""
    counts: dict[tuple[str, int | None], list[int]] = defaultdict(lambda: [0, 0])
    splits = size = damaged = 0
    times: list[float] = []
    for entries in cache.entries():
        for entry in entries:
            if _damage(entry) is not None:
                damaged += 1
            if not entry.is_answer or entry.encoded is None or (answer := entry.answer) is None:
                continue
            size += len(entry.encoded)
            times = [min([entry.stored, *times]), max([entry.stored, *times])]
            if isinstance(answer, Split):
                splits += 1
                continue
            vector = answer.value if isinstance(answer.value, bytes) else None
            count = counts[answer.model, None if vector is None else len(vector) // 4]
            count[0] += 1
            count[1] += len(entry.encoded)
    kinds = [Kind(*name, *count) for name, count in counts.items()]
    return CacheStats(
        answers=sum(kind.answers for kind in kinds),
        splits=splits,
        bytes=size,
        damaged=damaged,
        oldest=times[0] if times else None,
        newest=times[1] if times else None,
        file_bytes=cache.file_bytes,
        free_bytes=shutil.disk_usage(cache.folder).free,
        kinds=sorted(kinds, key=lambda kind: (-kind.answers, kind.model, kind.dimension or 0)),
        request_settings=[
            parts | {"origins": [str(each) for each in KnownOrigins(cache, prefix).origins]}
            for prefix in cache.prefixes()
            if (parts := parts_of(prefix))
        ],
    )


def find_damage(
    cache: AnswerCache, *, repair: bool, report: Callable[[Damage], None]
) -> tuple[int, int, int]:
    """The numbers of good, damaged and removed entries.

    Calls `report` for each damaged entry. The next run requests the removed ones again.
    """
    good = bad = removed = 0
    for entries in cache.entries():
        damaged = [(entry, why) for entry in entries if (why := _damage(entry)) is not None]
        for entry, why in damaged:
            report(Damage(entry.name, entry.stored, why))
        good += sum(entry.is_answer for entry in entries)
        good -= sum(entry.is_answer for entry, _ in damaged)
        bad += len(damaged)
        if repair and damaged:
            removed += cache.remove([entry for entry, _ in damaged])
    return good, bad, removed


def find_older(cache: AnswerCache, before: float) -> Iterator[list[Entry]]:
    """The answers that were stored before that time, in batches."""
    for entries in cache.entries():
        if old := [entry for entry in entries if entry.is_answer and entry.stored < before]:
            yield old


def _damage(entry: Entry) -> str | None:
    if entry.encoded is None:
        return "not raw bytes"
    if entry.key == MARK:
        return None
    if entry.is_name:
        return None if is_readable(entry) else "not readable"
    if not entry.is_answer:
        return "not a key of textmill"
    return None if entry.answer is not None else "its checksum does not match"
