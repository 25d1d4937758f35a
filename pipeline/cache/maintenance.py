"""What can be told of the answers that are kept, and what may be removed: nothing by itself.

Nothing else in textmill removes an answer. All of it reads row by row, so that memory stays small
and a run that writes meanwhile waits for nothing longer than some milliseconds.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator

import msgspec
from msgspec import Struct

from pipeline.cache.entry import MARK, PREFIX, Entry
from pipeline.cache.keys import parts_of
from pipeline.cache.store import AnswerCache
from pipeline.records import Split


class Kind(Struct, frozen=True):
    """Answers of one sort: vectors of so many dimensions (None: texts), and who said to be it."""

    model: str
    dimension: int | None
    answers: int
    bytes: int


class CacheStats(Struct, frozen=True):
    """What is kept. Units: bytes; seconds since 1970, None where nothing is kept."""

    answers: int = 0
    splits: int = 0
    bytes: int = 0
    damaged: int = 0
    oldest: float | None = None
    newest: float | None = None
    file_bytes: int = 0
    free_bytes: int = 0
    kinds: list[Kind] = []
    """The most answers first."""
    asked: list[dict[str, object]] = []
    """Task, model and parameters of everything that was ever asked for, the oldest first."""


class Damage(Struct, frozen=True):
    """An entry that counts as absent."""

    key: str
    stored: float
    why: str


def cache_stats(cache: AnswerCache) -> CacheStats:
    """What is kept. Cost: reads every answer; memory for some hundred of them."""
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
        asked=[parts for each in cache.prefixes() if (parts := parts_of(each))],
    )


def find_damage(
    cache: AnswerCache, *, repair: bool, tell: Callable[[Damage], None]
) -> tuple[int, int, int]:
    """How many entries are good, how many are not, and how many of these were removed.

    Every damaged one is told as it is found. Removed, it is asked for again by the next run.
    """
    good = bad = removed = 0
    for entries in cache.entries():
        damaged = [(entry, why) for entry in entries if (why := _damage(entry)) is not None]
        for entry, why in damaged:
            tell(Damage(entry.name, entry.stored, why))
        good += len([each for each in entries if each.is_answer]) - len(
            [each for each, _ in damaged if each.is_answer]
        )
        bad += len(damaged)
        if repair and damaged:
            removed += cache.remove([entry for entry, _ in damaged])
    return good, bad, removed


def find_older(cache: AnswerCache, before: float) -> Iterator[list[Entry]]:
    """The answers that were stored before that time, in runs."""
    for entries in cache.entries():
        if old := [entry for entry in entries if entry.is_answer and entry.stored < before]:
            yield old


def _damage(entry: Entry) -> str | None:
    if entry.encoded is None:
        return "not raw bytes"
    if entry.key == MARK:
        return None
    if entry.is_name:
        is_prefix = entry.key.startswith(PREFIX)
        return None if (parts_of if is_prefix else _is_json)(entry.encoded) else "not readable"
    if not entry.is_answer:
        return "not a key of textmill"
    return None if entry.answer is not None else "its checksum does not fit"


def _is_json(value: bytes) -> bool:
    try:
        msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True
