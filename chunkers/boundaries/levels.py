"""The kinds of boundaries, by strength.

A chunk ends at the strongest boundary in its range, and a weaker one is used only where the unit
around it, up to the next stronger boundaries, is larger than a chunk.
"""

from __future__ import annotations

DEEPEST = 8
"""Deeper lines and brackets count as this deep."""


RUN_ON = 1
"""A line break inside a sentence."""
SENTENCE = 2
"""The end of a sentence."""


def nested(depth: int, *, blank: bool = False) -> int:
    """The strength of a line break, or of a place between brackets, at this depth.

    Every place of a shallower depth is stronger, so that a function or an object stays whole.
    """
    return SENTENCE + 1 + 2 * (DEEPEST - min(depth, DEEPEST)) + blank


JOINED = nested(DEEPEST)
"""Before a line that belongs to the one above it: a closing bracket, an answer, a definition."""
ROW = nested(0)
"""Between two lines of a table or a code fence, or after a bracket of the outermost depth."""
LINE = ROW + 2
"""Between two lines."""
ITEM = LINE + 1
"""Before a list item or the turn of a speaker."""
PARAGRAPH = ITEM + 1
"""After a line of at least `PARAGRAPH_CHARS`, which is a paragraph of its own."""
BLANK_LINE = PARAGRAPH + 1
"""Between paragraphs, and the end of the text."""
HEADING = BLANK_LINE + 1
"""Before a heading."""
PAGE = HEADING + 1
"""After a form feed."""

PARAGRAPH_CHARS = 160

FREE = PARAGRAPH
"""From this strength on only a page is kept whole: paragraphs and sections are cut apart although
they would fit together, since a chunk of a quarter of `size` is more precise."""
