"""One HTML page that shows the chunks of documents: a pure function from chunks to a string.

The page is self-contained: it loads no script, font or address, and its content policy forbids
that. The text of a document appears once, so that bidirectional text and tables keep their layout.
A chunk is a coloured run of it; an overlap has stripes in both colours. Everything else is in
attributes and drawn by CSS, so that copying from the page gives the text alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from itertools import islice, pairwise

from msgspec import Struct

from pipeline.records import Chunk
from pipeline.text import inflect, many, printable

MAX_DOCUMENTS = 500
MAX_CHARS = 1_050_000
MAX_CHUNKS = 20_000
"""Limits of what a browser opens quickly; the page states what it leaves out."""

BINS = 32

_VISIBLE_FORMATS = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"
"""Arabic and Syriac signs that Unicode counts as format characters though they are drawn."""

_TRADITIONAL, _SIMPLIFIED = frozenset("這們個國說時會來對為"), frozenset("这们个国说时会来对为")
_SAMPLE_CHARS = 20_000


class ChunkSettings(Struct, frozen=True):
    """The source and the chunk settings. Units: tokens."""

    source: str
    method: str
    size: int
    overlap: int
    tokenizer: str
    prefix: str = ""
    """The text that is sent before each chunk, as a template."""

    def facts(self) -> dict[str, str]:
        """What decides where a text is cut."""
        facts = {
            "method": self.method,
            "size": many(self.size, "token"),
            "overlap": many(self.overlap, "token"),
            "tokenizer": printable(self.tokenizer),
        }
        return facts | ({"prefix": printable(self.prefix)} if self.prefix else {})


class ChunkedDocument(Struct, frozen=True):
    """A document with its chunks; `shared` counts the tokens shared with the previous chunk.

    Invariant: `shared` is as long as `chunks`; with an `error` there are no text and no chunks.
    """

    name: str
    text: str = ""
    chunks: Sequence[Chunk] = ()
    shared: Sequence[int] = ()
    error: str | None = None


def page(
    chunking: ChunkSettings, documents: Iterable[ChunkedDocument], total: int | None = None
) -> str:
    """The page as one string; `total` is the number of documents, if it is known.

    Invariant: the text of each shown chunk is complete and in order, apart from markup.
    Cost: reads only the documents that are shown; memory for their texts and the page.
    """
    taken: list[ChunkedDocument] = []
    bodies: list[str] = []
    chars, chunks = MAX_CHARS, MAX_CHUNKS
    for document in islice(documents, min(MAX_DOCUMENTS, total or MAX_DOCUMENTS)):
        taken.append(document)
        shown = _count_shown(document.chunks, chars, chunks)
        end = document.chunks[shown - 1].end_char if shown else 0
        if shown == len(document.chunks):
            end = len(document.text)  # with any text after the last chunk
        elif not shown:
            end = min(chars, document.chunks[0].end_char)
            shown = 1
        bodies.append(_document(len(taken), document, shown, end))
        chars, chunks = chars - end, chunks - shown
        if chars <= 0 or chunks <= 0:
            break
    sizes = [chunk.tokens for document in taken for chunk in document.chunks]
    name = printable(chunking.source)
    parts = [
        _HEAD.format(title=escape(name), style=_style()),
        f"<header><h1>{_isolated(name)}</h1>",
        _facts(chunking, len(taken), sizes),
        histogram(sizes, chunking.size),
        _left_out(len(taken), total),
        _LEGEND,
        "</header>",
        _contents(taken),
        *bodies,
        "</body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}: chunks</title>
<style>
{style}</style></head><body>"""

_LEGEND = """<p class="legend"><span class="c a" data-n="1">a chunk<span class="o e" data-n="2">in
both</span></span><span class="c b">the next chunk</span> A number marks the start of a chunk; point
at it for details. <label><input type="checkbox" id="mono"> Monospaced text</label></p>"""


def _style() -> str:
    return (resources.files("jobs.display") / "page.css").read_text("utf-8")


def _count_shown(chunks: Sequence[Chunk], chars: int, max_chunks: int) -> int:
    """The number of chunks that end within `chars` characters, at most `max_chunks`."""
    for count, chunk in enumerate(islice(chunks, max_chunks)):
        if chunk.end_char > chars:
            return count
    return min(len(chunks), max_chunks)


def _isolated(text: str) -> str:
    return f'<bdi dir="auto">{escape(text)}</bdi>'


def _facts(chunking: ChunkSettings, documents: int, sizes: Sequence[int]) -> str:
    facts = [
        *chunking.facts().items(),
        ("documents", f"{documents:,}"),
        ("chunks", f"{len(sizes):,}"),
    ]
    cells = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f"<dl>{cells}</dl>"


def histogram(sizes: Sequence[int], size: int) -> str:
    """Bars of chunk sizes, from 0 to `size`, or to the largest chunk if that is far smaller.

    Empty without chunks.
    """
    if not sizes:
        return ""
    largest = max(sizes)
    top = max(1, largest, size if size <= 4 * largest else 0)
    bins = min(BINS, top)
    counts = [0] * bins
    for tokens in sizes:
        counts[max(0, tokens - 1) * bins // top] += 1
    bars = []
    for at, count in enumerate(counts):
        first, last = -(-at * top // bins) + 1, -(-(at + 1) * top // bins)
        height = max(2, round(60 * count / max(counts))) if count else 0
        label = many(first, "token") if first == last else f"{first:,} to {last:,} tokens"
        bars.append(
            f'<rect x="{at * 10}" y="{60 - height}" width="9" height="{height}">'
            f"<title>{label}: {many(count, 'chunk')}</title></rect>"
        )
    middle = sorted(sizes)[len(sizes) // 2]
    caption = f"smallest {min(sizes):,}, median {middle:,}, largest {many(largest, 'token')}"
    return (
        f'<figure><svg role="img" aria-label="Chunk sizes: {caption}" viewBox="0 0 {bins * 10} 60" '
        f'preserveAspectRatio="none">{"".join(bars)}</svg>'
        f'<p class="axis"><span>0</span><span>{many(top, "token")}</span></p>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _left_out(taken: int, total: int | None) -> str:
    if total is None or taken >= total:
        return ""
    return (
        f'<p class="note">The first {taken:,} of {total:,} documents; the others are not on this '
        "page and not in its statistics.</p>"
    )


def _contents(documents: Sequence[ChunkedDocument]) -> str:
    """Links to the documents, if there are several."""
    if len(documents) < 2:
        return ""
    links = "".join(
        f'<li><a href="#d{number}">{_isolated(printable(document.name, 80))}</a> '
        f"{len(document.chunks):,}</li>"
        for number, document in enumerate(documents, 1)
    )
    return f"<details><summary>{len(documents):,} documents</summary><ol>{links}</ol></details>"


def _document(number: int, document: ChunkedDocument, shown: int, end: int) -> str:
    heading = f'<section id="d{number}"><h2>{_isolated(printable(document.name))}</h2>'
    if document.error is not None:
        return f'{heading}<p class="note">{escape(printable(document.error, 2_000))}</p></section>'
    tokens = sum(chunk.tokens for chunk in document.chunks)
    counts = f"{many(len(document.chunks), 'chunk')}, {many(tokens, 'token')}"
    note = ""
    if end < len(document.text):
        note = (
            f'<p class="note">The page shows this document up to character {end:,} of '
            f"{len(document.text):,}: {shown:,} of {many(len(document.chunks), 'chunk')} "
            f"{inflect(shown, 'is', 'are')} shown.</p>"
        )
    # Chunks are not isolated: a boundary inside a line must not reorder a right-to-left line.
    # Each line has its own direction (`unicode-bidi: plaintext`); marks that could act beyond it
    # are shown as escapes.
    return (
        f'{heading}<p class="counts">{counts}</p><div class="text" dir="auto"'
        f"{_lang(document.text)}>{''.join(_runs(document, shown, end))}</div>{note}</section>"
    )


def _runs(document: ChunkedDocument, shown: int, end: int) -> Iterable[str]:
    """The text up to `end` as runs: one per chunk, each with its overlap with the next chunk.

    Invariant: every character appears once, in order.
    """
    text, table = document.text, _table(document.text[:end])
    chunks = document.chunks[:shown]
    starts = [max(after.start_char, before.start_char) for before, after in pairwise(chunks)]
    covered, is_started = 0, False
    for at, chunk in enumerate(chunks):
        if chunk.start_char > covered:
            yield _gap(text[covered : chunk.start_char], table)
            covered = chunk.start_char
        stop = min(end, max(covered, chunk.end_char))
        next_start = min(stop, max(covered, starts[at])) if at < len(starts) else stop
        label = "" if is_started else f' data-n="{at}"'
        own_text = text[covered:next_start].translate(table)
        yield (
            f'<span class="c {"ab"[at % 2]}" tabindex="0"{label} '
            f'data-tip="{_tooltip(document, at)}">{own_text}'
        )
        is_started = next_start < stop
        if is_started:  # the next chunk starts here, with its number
            overlap = text[next_start:stop]
            ends = "" if overlap.endswith("\n") else " e"  # the end of a line needs no mark
            yield f'<span class="o{ends}" data-n="{at + 1}">{overlap.translate(table)}</span>'
        yield "</span>"
        covered = stop
    if covered < end:
        yield _gap(text[covered:end], table)


def _gap(text: str, table: dict[int, str]) -> str:
    """Text that is in no chunk, marked unless it is blank."""
    markup = text.translate(table)
    return markup if text.isspace() else f'<s class="gap" title="in no chunk">{markup}</s>'


def _tooltip(document: ChunkedDocument, at: int) -> str:
    """The text that appears when the pointer is over a chunk."""
    chunk = document.chunks[at]
    parts = [
        f"chunk {at}",
        f"characters {chunk.start_char:,}..{chunk.end_char:,}",
        many(chunk.tokens, "token"),
    ]
    if document.shared[at]:
        parts.append(f"{document.shared[at]:,} of them shared with chunk {at - 1}")
    if at + 1 < len(document.chunks) and document.shared[at + 1]:
        parts.append(f"{document.shared[at + 1]:,} with chunk {at + 1}")
    if chunk.section:
        parts.append(f"\u2068{printable(chunk.section)}\u2069")
    return escape(" · ".join(parts))


def _table(text: str) -> dict[int, str]:
    """The markup of characters: entities, and escapes for invisible control characters."""
    table = {}
    for character in set(text) - set("\n\t" + _VISIBLE_FORMATS):
        escaped = printable(character)
        if escaped != character:
            table[ord(character)] = f'<b class="x">{escaped}</b>'
        elif (entity := escape(character)) != character:
            table[ord(character)] = entity
    return table


def _lang(text: str) -> str:
    """The `lang` attribute for East Asian text: Han characters have different glyphs by country."""
    characters = set(text[:_SAMPLE_CHARS])
    if any("\u3041" <= character <= "\u30fa" for character in characters):
        return ' lang="ja"'
    if any("\uac00" <= character <= "\ud7a3" for character in characters):
        return ' lang="ko"'
    if any("\u4e00" <= character <= "\u9fff" for character in characters):
        traditional = len(characters & _TRADITIONAL) > len(characters & _SIMPLIFIED)
        return ' lang="zh-Hant"' if traditional else ' lang="zh-Hans"'
    return ""
