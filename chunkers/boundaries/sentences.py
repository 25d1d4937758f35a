"""The ends of sentences: at stops, in Latin and other spaced scripts, in Chinese and Japanese."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from chunkers.boundaries.abbreviations import CASED_CHARS, STREET, abbreviations, ends_sentence
from chunkers.boundaries.characters import (
    BLANK,
    CJK,
    CLASSES,
    CLOSER,
    COMMA,
    COMMA_CJK,
    DIGIT,
    ELLIPSIS,
    LOWER,
    MARK,
    NEWLINE,
    PAD,
    POINT,
    STOP_CJK,
    UPPER,
    Array,
    Characters,
    eight_byte_windows,
    repeat_byte,
)

NO, YES, LATIN = range(3)
HIRAGANA = 0x3041, 0x3096
_STREET = np.uint64(int.from_bytes(STREET.upper().encode(), "little"))
_BYTE, _LAST = np.uint64(8), np.uint64(56)


def sentence_ends(text: str, low: int, characters: Characters) -> Array:
    """The places where sentences end, before the following blanks; ascending.

    The window of `characters` begins at `low` of the text.
    """
    classes = characters.classes
    first, verdict = decisions()
    stops = np.flatnonzero((classes - np.uint8(POINT)) <= ELLIPSIS - POINT)
    kind = classes.take(stops) - POINT
    following = classes.take(stops + 1)
    candidates = np.flatnonzero(first.take(kind * np.uint8(CLASSES) + following))
    stops, kind, following = (
        stops.take(candidates),
        kind.take(candidates),
        following.take(candidates),
    )
    # Closing quotes and brackets after the stop are part of the end.
    after = stops + 1
    closed = following == CLOSER
    moving = np.flatnonzero(closed)
    for _ in range(5):
        if not len(moving):
            break
        after[moving] += 1
        following[moving] = kinds = classes.take(after.take(moving))
        moving = moving[kinds == CLOSER]
    code = classes.take(stops - 1) * np.int64(4) + kind
    code *= CLASSES
    code += following
    decided = verdict.take(code)
    latin = np.flatnonzero(decided == LATIN)
    if len(latin):
        decided[latin] = _ends_latin(
            text, low, characters, stops.take(latin), after.take(latin), closed.take(latin),
            kind.take(latin),
        )  # fmt: skip
    if closed.any():
        # A quotation in Japanese goes on with a particle.
        point = characters.points.take(after, mode="clip")
        decided[closed & (point >= HIRAGANA[0]) & (point <= HIRAGANA[1])] = NO
    places = after[decided == YES] - PAD
    ends: Array = places[: places.searchsorted(len(classes) - 2 * PAD, "right")]
    return ends


@lru_cache(maxsize=1)
def decisions() -> tuple[Array, Array]:
    """Two tables of decisions at stops.

    The first, by a stop and the following class: whether it may end a sentence. The second, by the
    class before it, the stop, and the class after its quotes and brackets: whether it does.
    """
    first = np.zeros((4, CLASSES), np.uint8)
    verdict = np.zeros((CLASSES, 4, CLASSES), np.uint8)
    for following in range(CLASSES):
        if POINT <= following <= ELLIPSIS:
            continue  # in a run of stops only the last one counts
        first[:, following] = 1
        first[0, following] = following in (BLANK, NEWLINE, CLOSER)
        joined = following in (COMMA, COMMA_CJK)
        spaced = following in (BLANK, NEWLINE)
        for before in range(CLASSES):
            for kind in range(POINT, ELLIPSIS + 1):
                # Next to Chinese text an ellipsis or mark needs no following blank.
                is_cjk = kind == STOP_CJK or (
                    kind != POINT and (CJK <= before <= MARK or following == CJK)
                )
                # A pause in the middle of a Chinese or Japanese sentence.
                joined_here = joined or (kind == ELLIPSIS and following == CJK)
                decided = (NO if joined_here else YES) if is_cjk else (LATIN if spaced else NO)
                verdict[before, kind - POINT, following] = decided
    return first.ravel(), verdict.ravel()


def _ends_latin(
    text: str, low: int, characters: Characters, stops: Array, after: Array, closed: Array,
    kind: Array,
) -> Array:  # fmt: skip
    """Whether a sentence ends at a stop that is followed by a blank or a line break."""
    classes = characters.classes
    # The first character of the next word; a deeper indent counts as a new line, hence as upper
    # case.
    ahead = after + 1
    following = classes.take(ahead)
    moving = np.flatnonzero(following - np.uint8(BLANK) <= NEWLINE - BLANK)
    for _ in range(3):
        if not len(moving):
            break
        ahead[moving] += 1
        following[moving] = kinds = classes.take(ahead.take(moving), mode="clip")
        moving = moving[kinds - np.uint8(BLANK) <= NEWLINE - BLANK]
    point = kind == 0
    point &= classes.take(stops - 1) != POINT
    lower = following == LOWER
    ends = np.ones(len(stops), np.uint8)
    ends[lower & (closed | (kind == ELLIPSIS - POINT) | ((kind == 0) & ~point))] = NO
    # Where the text has capitals, a sentence goes on with a lower-case letter.
    going_on = np.flatnonzero(lower & point)
    if len(going_on):
        capitals = np.flatnonzero(classes == UPPER)
        place = stops.take(going_on)
        last = np.concatenate(([-CASED_CHARS - 1], capitals))[capitals.searchsorted(place)]
        ends[going_on[place - last <= CASED_CHARS]] = NO
    word = np.flatnonzero(point & (ends == YES))
    if len(word):
        word = word[_doubtful(characters, stops.take(word))]
        shift = low - PAD
        for index in word.tolist():
            if not ends_sentence(text, int(stops[index]) + shift, int(after[index]) + shift):
                ends[index] = NO
    return ends


def _doubtful(characters: Characters, stops: Array) -> Array:
    """Indices of the points that might not end a sentence: after a number, a single letter, a word
    with a point before it or a capital at its end, a word like an abbreviation."""
    _, classes, low = characters
    before = stops - 8
    kinds = eight_byte_windows(classes)[before]
    # Up to six letters before the point; the highest byte is the nearest.
    rows = kinds.view(np.uint8)
    rest = ((rows - np.uint8(LOWER)) > UPPER - LOWER).view(np.uint64)
    rest |= np.uint64(0x0101)
    rest |= rest >> _BYTE
    rest |= rest >> np.uint64(16)
    rest |= rest >> np.uint64(32)
    letters = rest ^ repeat_byte(1)
    length = ((letters * repeat_byte(1)) >> _LAST).astype(np.int64)
    code = eight_byte_windows(low)[before] & repeat_byte(0x5F) & (letters * np.uint64(0xFF))
    words = _codes()
    index = words.searchsorted(code)
    index[index == len(words)] = 0
    last = classes.take(stops - 1)
    doubtful = (words.take(index) == code) | (length == 1) | (last == UPPER) | (last == DIGIT)
    doubtful |= code >> np.uint64(40) == _STREET
    doubtful |= (length <= 3) & (classes.take(stops - 1 - length) == POINT)
    found: Array = np.flatnonzero(doubtful & (last != POINT))
    return found


@lru_cache(maxsize=1)
def _codes() -> Array:
    """The abbreviations as `_doubtful` folds them: their low bytes as one number, ascending."""
    folded = {
        bytes(ord(letter) & 0x5F for letter in form)
        for word in abbreviations()
        for form in (word, word.capitalize(), word.upper())
    }
    return np.array(
        sorted({int.from_bytes(word.rjust(8, b"\0"), "little") for word in folded}), np.uint64
    )
