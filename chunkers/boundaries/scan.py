"""Places where a text may be cut, with their strength, found in one vectorised scan."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkers.boundaries.characters import PAD, classify, is_clean, marks
from chunkers.boundaries.lines import BLANK_LINE, HEADING, LINE, ROW, SENTENCE, mark_lines
from chunkers.boundaries.sentences import sentence_ends

__all__ = [
    "BLANK_LINE", "HEADING", "LINE", "ROW", "SENTENCE", "Boundaries", "scan", "sentences",
]  # fmt: skip

MARGIN = 2048
"""Code points read before and after a segment, so that its edges are judged like its middle."""


class Boundaries(NamedTuple):
    """Places to cut, ascending and unique, none at 0.

    Units: code points of the whole text.
    """

    at: NDArray[np.int64]
    level: NDArray[np.uint8]
    clean: NDArray[np.bool_]
    """If a token ends here, then what follows is encoded alone as it is in place."""
    mark: NDArray[np.uint32]
    """A number made of the characters around the place and of nothing else."""
    headings: NDArray[np.int64]
    """Where each heading begins, also those at 0 and those that follow another heading."""
    in_fence: bool
    """The segment ends inside a code fence."""


def scan(text: str, start: int, end: int, *, in_fence: bool = False) -> Boundaries:
    """The boundaries in (start, end], judged with some context on either side.

    Invariant: a boundary stands before the blanks that follow a sentence and after the line
        breaks that end a line, so that no word and no blank is torn from its token.
    Cost: O(end - start), a few nanoseconds a code point.
    """
    low = max(0, start - MARGIN)
    if low:
        low = max(text.rfind("\n", low, start) + 1, low)
    high = min(len(text), end + MARGIN)
    characters = classify(text[low:high])
    size = high - low
    strength = np.zeros(size + 1, np.uint8)
    strength[sentence_ends(characters)] = SENTENCE
    headings, in_fence = mark_lines(
        text, low, characters, strength, start - low, end - low, in_fence
    )
    headings = headings[(headings >= start - low) & (headings < end - low)] + low
    strength[size] = 0
    if high == len(text) and end == high:
        strength[size] = BLANK_LINE
    inside = strength[start - low + 1 : end - low + 1]
    at = np.flatnonzero(inside != 0)
    place = at + (start - low + 1 + PAD)
    return Boundaries(
        at + (start + 1),
        inside.take(at),
        is_clean(characters, place),
        marks(characters.points, place),
        headings,
        in_fence,
    )


def sentences(text: str) -> list[tuple[int, int]]:
    """The spans of the text's sentences, in order, without the blanks around them.

    Invariant: every character that is not white space lies in exactly one span.
    """
    spans: list[tuple[int, int]] = []
    last = 0
    for stop in scan(text, 0, len(text)).at.tolist() if text else ():
        piece = text[last:stop]
        body = piece.strip()
        if body:
            first = last + len(piece) - len(piece.lstrip())
            spans.append((first, first + len(body)))
        last = stop
    return spans
