"""Headers of Markdown tables: which rows a later chunk of the same table is read with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from pipeline.records import Chunk

_MARK = re.compile(
    r"^[ \t>]*(?:(?P<fence>`{3,}|~{3,})"
    r"|(?P<rule>\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?)[ \t]*\r?$)",
    re.MULTILINE,
)
"""A mark of a code fence, or the rule below the header of a table."""


class Table(NamedTuple):
    """The places of a table in a text. Units: code points, half-open."""

    start: int
    """Of its header."""
    body: int
    """The start of the first row after the rule."""
    end: int


def tables(text: str) -> Iterator[Table]:
    """The Markdown tables of a text, in order: a row with `|`, a rule with as many cells, and the
    rows up to the first line without `|`. Lines in a code fence are none.

    Cost: one search for rules, and one look at each row of a table.
    """
    fence, end = "", 0
    for mark in _MARK.finditer(text):
        if mark["fence"]:
            if not fence:
                fence = mark["fence"]
            elif mark["fence"].startswith(fence):
                fence = ""
            continue
        if fence or "|" not in mark["rule"] or mark.start() <= end:
            continue
        start = text.rfind("\n", 0, mark.start() - 1) + 1
        header = text[start : mark.start()]
        if start < end or "|" not in header or _cells(header) != _cells(mark[0]):
            continue
        body = _line_end(text, mark.start())
        end = body
        while end < len(text) and "|" in text[end : (following := _line_end(text, end))]:
            end = following
        yield Table(start, body, end)


def with_headers(text: str, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The chunks, each that begins after the header of a table and inside it with the span of that
    header."""
    found = tables(text)
    table = next(found, None)
    for chunk in chunks:
        while table is not None and table.end <= chunk.start_char:
            table = next(found, None)
        if table is not None and table.start < chunk.start_char:
            header = (table.start, min(table.body, chunk.start_char))
            chunk = replace(chunk, header=header)
        yield chunk


def _cells(row: str) -> int:
    """The number of cells of a row; an escaped `|` is part of one."""
    inner = row.strip(" \t>\r\n").replace("\\|", "")
    return inner.removeprefix("|").removesuffix("|").count("|") + 1


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end + 1
