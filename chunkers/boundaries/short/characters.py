"""The characters of a short text in plain Python."""

from __future__ import annotations

from functools import lru_cache

from chunkers.boundaries.characters import (
    BLANK,
    CJK,
    CLOSER,
    LOWER,
    MARK_OFFSETS,
    NEWLINE,
    UPPER,
    class_table,
)


@lru_cache(maxsize=1)
def class_bytes() -> bytes:
    """The same as `characters.class_table`: indexing bytes is faster."""
    return class_table().tobytes()


def clean_at(text: str, place: int) -> bool:
    """The same as `characters.is_clean`, for one place."""
    kinds = class_bytes()
    point, next_point = ord(text[place - 1]), ord(text[place]) if place < len(text) else 0
    before, following = kinds[point], kinds[next_point] if place < len(text) else NEWLINE
    if before != CLOSER and (
        (LOWER <= following <= UPPER and next_point < 0x250)
        or (following == CJK and 0x3041 <= next_point < 0xA000)
    ):
        return True
    if point in (10, 13) and following != NEWLINE and next_point != ord("/"):
        return True
    return following == BLANK and before != BLANK and before != NEWLINE


def mark_at(text: str, place: int) -> int:
    """The same as `characters.marks`, for one place."""
    mark = 0
    for offset in MARK_OFFSETS:
        if 0 <= place + offset < len(text):
            mark += ord(text[place + offset])
        mark = mark * 0x9E3779B1 & 0xFFFFFFFF
        mark ^= mark >> 15
    return mark
