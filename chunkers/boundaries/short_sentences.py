"""Sentence ends and characters of a short text in plain Python, for `boundaries.scan_short`."""

from __future__ import annotations

import re
from functools import lru_cache

from chunkers.boundaries.abbreviations import CASED_CHARS, ends_sentence
from chunkers.boundaries.characters import (
    BLANK,
    CJK,
    CLASSES,
    CLOSER,
    ELLIPSIS,
    LOWER,
    MARK_OFFSETS,
    NAMED,
    NEWLINE,
    PAD,
    POINT,
    STOP,
    STOP_CJK,
    UPPER,
    class_table,
)
from chunkers.boundaries.sentences import HIRAGANA, LATIN, NO, decisions
from chunkers.boundaries.wrapping import pairs, pairs_inside

_STOPS = re.compile(f"[{NAMED[POINT]}{NAMED[STOP]}{NAMED[STOP_CJK]}{NAMED[ELLIPSIS]}]+")


def sentence_ends(text: str) -> list[int]:
    """The same as `sentences.sentence_ends`, without those before a line break, which are line
    ends."""
    kinds, first, verdict, *_ = tables()
    padding = "\x0b" * PAD
    padded = f"{padding}{text}{padding}"
    ends = []
    for match in _STOPS.finditer(padded):
        after = match.end()
        stop = after - 1
        kind = kinds[ord(padded[stop])] - POINT
        following = kinds[ord(padded[after])]
        if not first[kind * CLASSES + following]:
            continue
        closed = following == CLOSER
        while following == CLOSER and after < stop + 6:
            after += 1
            following = kinds[ord(padded[after])]
        before = kinds[ord(padded[stop - 1])]
        decided = verdict[(before * 4 + kind) * CLASSES + following]
        if decided == NO or after > PAD + len(text):
            continue
        if closed and HIRAGANA[0] <= ord(padded[after]) <= HIRAGANA[1]:
            continue
        if decided == LATIN and not _ends_latin(padded, stop, after, closed, kinds):
            continue
        # Before a line break?
        place = after
        while place < after + 8 and place < PAD + len(text):
            following = kinds[ord(padded[place])]
            if following == NEWLINE and padded[place : place + 2] != "\r\n":
                break
            if following not in (BLANK, NEWLINE):
                ends.append(after - PAD)
                break
            place += 1
        else:
            ends.append(after - PAD)
    return ends


def _ends_latin(padded: str, stop: int, after: int, closed: bool, kinds: bytes) -> bool:
    """The same as `sentences._ends_latin`, for one stop."""
    for ahead in range(after + 1, min(after + 5, len(padded))):
        following = kinds[ord(padded[ahead])]
        if following not in (BLANK, NEWLINE):
            break
    mark = kinds[ord(padded[stop])]
    before = kinds[ord(padded[stop - 1])]
    point = mark == POINT and before != POINT
    if following == LOWER and (closed or mark == ELLIPSIS or (mark == POINT and not point)):
        return False
    if not point:
        return True
    if following == LOWER and any(
        kinds[ord(letter)] == UPPER for letter in padded[max(0, stop - CASED_CHARS) : stop]
    ):
        return False
    return ends_sentence(padded, stop, after)


def clean_at(text: str, place: int) -> bool:
    """The same as `characters.is_clean`, for one place."""
    kinds = tables()[0]
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


@lru_cache(maxsize=1)
def tables() -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """The classes of characters, both decisions at stops, and pairs, as bytes: indexing is
    faster."""
    arrays = class_table(), *decisions(), pairs(), pairs_inside()
    classes, first, verdict, over, inside = (array.tobytes() for array in arrays)
    return classes, first, verdict, over, inside
