"""The boundaries of a short text in plain Python, equal to those of `boundaries.scan`.

Each numpy call costs a microsecond, and the scan for boundaries has hundreds of them: for a text of
a few hundred characters that is ten times the cost of encoding. Here a line costs a microsecond and
a sentence two. Hard-wrapped and packed text is left to numpy. Each file of this folder has the name
of the file whose work it does. A property test holds the two equal.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

from chunkers.boundaries.levels import BLANK_LINE, SENTENCE
from chunkers.boundaries.short.lines import Line, levels_of, may_run_on, short_lines
from chunkers.boundaries.short.sentences import sentence_ends

SHORT_CHARS = 4096
"""Above it numpy is faster."""

ShortBoundaries = tuple[list[int], bytes, list[int]]


def scan_short(text: str, *, with_sentences: bool) -> ShortBoundaries | None:
    """The places, their strengths, and the starts of headings, as from `scan` of the whole text.

    Without sentences it omits the places inside paragraphs. None for a text that needs `scan`.
    """
    lines = short_lines(text)
    if lines is None:
        return None
    strength = levels_of(text, lines)
    ends = sentence_ends(text) if with_sentences or len(lines) > 1 else []
    if ends and may_run_on(text, lines):
        return None
    if with_sentences:
        if any(line.fence for line in lines):
            ends = [end for end in ends if not lines[_owner(lines, end)].fence]
        strength |= dict.fromkeys(ends, SENTENCE)
    strength[len(text)] = BLANK_LINE
    places = sorted(strength)
    for one, two in pairwise(places):
        if strength[one] < strength[two] and text[one:two].isspace():
            del strength[one]  # no unit is blank
    if places[0] < len(text) and text[: places[0]].isspace():
        strength.pop(places[0], None)
    places = sorted(strength)
    headings = [line.at for line in lines if line.heading and not line.fence]
    return places, bytes(map(strength.__getitem__, places)), headings


def _owner(lines: list[Line], place: int) -> int:
    """The line that ends at this place or after it."""
    return bisect_left(lines, place, key=lambda line: line.stop)
