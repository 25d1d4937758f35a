"""Chunks that keep sections apart, each with the path of headings above it."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator

from chunkers.boundaries.scan import HEADING
from chunkers.structure import (
    CLOSE_AT,
    CUT_FROM,
    Cut,
    Limits,
    limits,
    next_chunk,
)
from chunkers.tokens.encoded import Encoded
from chunkers.tokens.tokenizers import Tokenizer
from chunkers.tokens.tokenizers import tokenizer as tokenizer_by_name
from chunkers.units import Units
from pipeline.records import Chunk

SMALL = 0.125
"""Share of `size` below which a section may share a chunk with the next one."""

SEPARATOR = " > "

_HEADING = re.compile(
    r"[ \t]*(?:(?P<hashes>#{1,6})[ \t]+(?P<title>[^\r\n]*?)[ \t]*#*[ \t]*(?=[\r\n]|\Z)"
    r"|(?P<equals>=+)(?P<wiki>[^\r\n]*?)=+[ \t]*(?=[\r\n]|\Z)"
    r"|(?P<line>[^\r\n]*))"
)
_UNDERLINE = re.compile(r"(?:\r\n|[\r\n])(?P<kind>[=-])")


def chunk_markdown(
    text: str, *, size: int = 512, overlap: int = 0, tokenizer: str | Tokenizer = "o200k_base"
) -> Iterator[Chunk]:
    """Chunks with `section`, the headings above them, as in `Guide > Install`.

    A section that fits is one chunk. Sections share a chunk only while they fill less than an
    eighth of the size; then `section` is that of the first. Long sections are cut as by
    `structure`.

    Units: `size` and `overlap` in tokens of `tokenizer`; `size` includes the overlap.
    Invariant: as for `chunk_structure`.
    Raises: UsageError for a size below 8, an overlap not below the size, an unknown tokenizer.
    Cost: one encode pass, and a few tokens per cut that are encoded again; memory for one segment.
    """
    figures = limits(size, overlap, CLOSE_AT, CUT_FROM)
    encoder = tokenizer_by_name(tokenizer) if isinstance(tokenizer, str) else tokenizer
    return _chunks(text, encoder, figures)


def _chunks(text: str, tokenizer: Tokenizer, figures: Limits) -> Iterator[Chunk]:
    if not text or text.isspace():
        return
    with Encoded(text, tokenizer) as encoded:
        units = Units(encoded, figures.size)
        small = max(1, int(figures.size * SMALL))
        path: list[tuple[int, str]] = []
        heading = 0
        previous = cut = Cut(0, 0, True, tokenizer.additive, 0)
        while cut.at < len(text):
            units.reach(cut.tokens_before_end + 2 * figures.size + 64, previous.at)
            while heading < len(units.headings) and units.headings[heading] <= cut.at:
                level, title = read_heading(text, units.headings[heading])
                path = [parent for parent in path if parent[0] < level]
                path.append((level, title))
                heading += 1
            planned = _section_end(units, cut, figures, small)
            start, end, tokens = next_chunk(units, previous, cut, figures, planned)
            yield Chunk(
                start.at, end.at, tokens, SEPARATOR.join(title for _, title in path) or None
            )
            previous, cut = start, end


def _section_end(units: Units, cut: Cut, figures: Limits, small: int) -> int:
    """The end of the section that begins at `cut`: 0 if it is small or too long."""
    index = bisect_left(units.tokens_before_start, cut.tokens_before_end + small)
    full = cut.tokens_before_end + figures.size
    while index < len(units.at) and units.tokens_before_start[index] <= full:
        if units.at[index] > cut.at and units.level[index] >= HEADING:
            return units.at[index]
        index += 1
    return 0


def read_heading(text: str, place: int) -> tuple[int, str]:
    """The level, from 1, and the title of the heading that begins at `place`."""
    match = _HEADING.match(text, place)
    if not match:
        return 1, ""
    if match["hashes"]:
        return len(match["hashes"]), match["title"]
    if match["equals"]:
        return len(match["equals"]), match["wiki"].strip()
    under = _UNDERLINE.match(text, match.end())
    line = match["line"].strip()
    if under:
        return (1 if under["kind"] == "=" else 2), line
    return (2 if line.partition("节")[1] and line.startswith("第") else 1), line
