"""The places where a text may be cut, with their strength, from one vectorised scan."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkers.boundaries.characters import NEWLINE, PAD, classify, is_clean, marks
from chunkers.boundaries.levels import BLANK_LINE, HEADING, LINE, ROW, SENTENCE
from chunkers.boundaries.lines import State, mark_lines
from chunkers.boundaries.sentences import sentence_ends

__all__ = [
    "BLANK_LINE", "HEADING", "LINE", "ROW", "SENTENCE", "Boundaries", "State", "scan", "sentences",
]  # fmt: skip

MARGIN = 2048
"""Code points of context before and after a segment, so that its edges are treated like its
middle."""


START = State()


class Boundaries(NamedTuple):
    """Places to cut, ascending and unique, none at 0.

    Units: code points of the whole text.
    """

    at: NDArray[np.int64]
    level: NDArray[np.uint8]
    clean: NDArray[np.bool_]
    """Whether, if a token ends here, the following text is encoded alone as in place."""
    mark: NDArray[np.uint32]
    """A hash of only the characters around the place."""
    headings: NDArray[np.int64]
    """The start of each heading, also at 0 and directly after another heading."""
    state: State
    """What the next segment must know."""


def scan(text: str, start: int, end: int, state: State = START) -> Boundaries:
    """The boundaries in (start, end], with context on both sides.

    Invariant: a boundary is before the blanks that follow a sentence and after the line breaks
        that end a line, so that no word and no blank is separated from its token.
    Cost: O(end - start), a few nanoseconds a code point.
    """
    low = max(0, start - MARGIN)
    is_cut = False
    if low:
        after_break = text.find("\n", low, low + MARGIN // 2) + 1
        low, is_cut = after_break or low, not after_break
    high = min(len(text), end + MARGIN)
    characters = classify(text[low:high])
    size = high - low
    strength = np.zeros(size + 1, np.uint8)
    strength[sentence_ends(text, low, characters)] = SENTENCE
    headings, state = mark_lines(
        text, low, characters, strength, start - low, end - low, state, is_cut=is_cut
    )
    headings = headings[(headings >= start - low) & (headings < end - low)] + low
    strength[size] = 0
    if high == len(text) and end == high:
        strength[size] = BLANK_LINE
    inside = strength[start - low + 1 : end - low + 1]
    at = np.flatnonzero(inside != 0)
    level = inside.take(at)
    before_blank = characters.classes.take(at[:-1] + (start - low + 1 + PAD)) <= NEWLINE
    last = np.flatnonzero(before_blank & (level[1:] > level[:-1]))
    blank = [index for index in last.tolist()
             if text[at[index] + start + 1 : at[index + 1] + start + 1].isspace()]  # fmt: skip
    if not start and len(at) > 1 and text[: at[0] + 1].isspace():
        blank.append(0)
    if blank:  # no unit is blank
        at, level = np.delete(at, blank), np.delete(level, blank)
    place = at + (start - low + 1 + PAD)
    return Boundaries(
        at + (start + 1),
        level,
        is_clean(characters, place),
        marks(characters.points, place),
        headings,
        state,
    )


def sentences(text: str) -> list[tuple[int, int]]:
    """The spans of the text's sentences, in order, without the blanks around them.

    Invariant: every character that is not white space is in exactly one span.
    """
    spans: list[tuple[int, int]] = []
    last = 0
    found = scan(text, 0, len(text)) if text else None
    for stop in found.at[found.level >= SENTENCE].tolist() if found else ():
        piece = text[last:stop]
        body = piece.strip()
        if body:
            first = last + len(piece) - len(piece.lstrip())
            spans.append((first, first + len(body)))
        last = stop
    return spans
