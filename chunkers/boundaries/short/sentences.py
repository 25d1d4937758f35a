"""The sentence ends of a short text in plain Python."""

from __future__ import annotations

import re
from functools import lru_cache

from chunkers.boundaries.abbreviations import CASED_CHARS, ends_sentence
from chunkers.boundaries.characters import (
    BLANK,
    CLASSES,
    CLOSER,
    ELLIPSIS,
    LOWER,
    NAMED,
    NEWLINE,
    PAD,
    POINT,
    STOP,
    STOP_CJK,
    UPPER,
)
from chunkers.boundaries.sentences import HIRAGANA, LATIN, NO, decisions
from chunkers.boundaries.short.characters import class_bytes

_STOPS = re.compile(f"[{NAMED[POINT]}{NAMED[STOP]}{NAMED[STOP_CJK]}{NAMED[ELLIPSIS]}]+")


def sentence_ends(text: str) -> list[int]:
    """The same as `sentences.sentence_ends`, without those before a line break, which are line
    ends."""
    kinds, (first, verdict) = class_bytes(), _decisions()
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


@lru_cache(maxsize=1)
def _decisions() -> tuple[bytes, bytes]:
    first, verdict = decisions()
    return first.tobytes(), verdict.tobytes()
