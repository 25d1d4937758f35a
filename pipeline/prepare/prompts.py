"""Prompts: the text around a chunk, filled in from the document.

A placeholder is one name in braces: `{chunk}`, `{section}`, or a column. Every other brace is
ordinary text, so JSON in a prompt needs no escaping; `{{chunk}}` gives a literal `{chunk}`.
Filling in is one pass: a document that contains `{title}` is never filled in itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from pipeline.records import Chunk, Document
from pipeline.text import PLACEHOLDER, placeholders_of

_OWN = ("chunk", "section")

Render = Callable[[Document, Chunk], str]


def columns_of(prompt: str) -> tuple[str, ...]:
    """The columns that a prompt reads, in order, each once."""
    return tuple(name for name in placeholders_of(prompt) if name not in _OWN)


def renderer(prompt: str) -> Render:
    """The function that gives a chunk's rendered input."""
    if prompt == "{chunk}":
        return chunk_input

    def render(document: Document, chunk: Chunk) -> str:
        def fill(match: re.Match[str]) -> str:
            name = match[2]
            if name is None:
                return "{" + match[1] + "}"
            if name == "chunk":
                return chunk_input(document, chunk)
            if name == "section":
                return chunk.section or ""
            value = document.fields.get(name)
            return "" if value is None else str(value)

        return PLACEHOLDER.sub(fill, prompt)

    return render


def chunk_input(document: Document, chunk: Chunk) -> str:
    """The chunk's text, after the header of its table if it has one."""
    text = chunk_text(document, chunk)
    if chunk.header is None:
        return text
    assert document.text is not None
    return document.text[slice(*chunk.header)] + text


def chunk_text(document: Document, chunk: Chunk) -> str:
    """Exactly the document's text in the chunk's span."""
    assert document.text is not None
    return document.text[chunk.start_char : chunk.end_char]
