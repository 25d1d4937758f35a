"""One HTML page that shows where documents are cut: a pure function from chunks to a string.

The page stands alone: no script, no font, no address is loaded, and its own content policy forbids
it. A document's text flows once, so that bidirectional text and tables read as they were written;
a chunk is a coloured run in it, and what two chunks share is striped with both colours. Everything
that is not text lies in attributes and is drawn by CSS, so that a copy is the text and no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from itertools import islice, pairwise

from msgspec import Struct

from pipeline.records import Chunk
from pipeline.text import agreeing, many, printable

MAX_DOCUMENTS = 500
MAX_CHARS = 1_050_000
MAX_CHUNKS = 20_000
"""What a browser still opens at once; the page says what it leaves out."""

BINS = 32

_VISIBLE_FORMATS = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2"
"""Arabic and Syriac signs that Unicode counts as format characters though they are drawn."""

_TRADITIONAL, _SIMPLIFIED = frozenset("這們個國說時會來對為"), frozenset("这们个国说时会来对为")
_SAMPLE_CHARS = 20_000


class ChunkSettings(Struct, frozen=True):
    """What was cut, and how. Units: tokens."""

    source: str
    method: str
    size: int
    overlap: int
    tokenizer: str


class ChunkedDocument(Struct, frozen=True):
    """A document with its chunks; `shared` counts each chunk's tokens that the last one has, too.

    Invariant: `shared` is as long as `chunks`; with an `error` there is neither text nor chunk.
    """

    name: str
    text: str = ""
    chunks: Sequence[Chunk] = ()
    shared: Sequence[int] = ()
    error: str | None = None


def page(
    cutting: ChunkSettings, documents: Iterable[ChunkedDocument], total: int | None = None
) -> str:
    """The page as one string; `total` is how many documents there are, where that is known.

    Invariant: the text of each chunk that is shown is whole and in order, markup aside.
    Cost: reads no more documents than are shown; memory for their texts and the page.
    """
    taken: list[ChunkedDocument] = []
    bodies: list[str] = []
    chars, chunks = MAX_CHARS, MAX_CHUNKS
    for document in islice(documents, min(MAX_DOCUMENTS, total or MAX_DOCUMENTS)):
        taken.append(document)
        shown = _shown(document.chunks, chars, chunks)
        end = document.chunks[shown - 1].end_char if shown else 0
        if shown == len(document.chunks):
            end = len(document.text)  # with what stands after the last chunk, if anything does
        elif not shown:
            end = min(chars, document.chunks[0].end_char)
            shown = 1
        bodies.append(_document(len(taken), document, shown, end))
        chars, chunks = chars - end, chunks - shown
        if chars <= 0 or chunks <= 0:
            break
    sizes = [chunk.tokens for document in taken for chunk in document.chunks]
    name = printable(cutting.source)
    parts = [
        _HEAD.format(title=escape(name), style=_style()),
        f"<header><h1>{_isolated(name)}</h1>",
        _facts(cutting, len(taken), sizes),
        histogram(sizes, cutting.size),
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
both</span></span><span class="c b">the next one</span> A number stands where a chunk begins; point
at it to read more. <label><input type="checkbox" id="mono"> Letters of one width</label></p>"""


def _style() -> str:
    return (resources.files("jobs.display") / "page.css").read_text("utf-8")


def _shown(chunks: Sequence[Chunk], chars: int, most: int) -> int:
    """How many of the chunks lie within so many characters."""
    for count, chunk in enumerate(islice(chunks, most)):
        if chunk.end_char > chars:
            return count
    return min(len(chunks), most)


def _isolated(text: str) -> str:
    return f'<bdi dir="auto">{escape(text)}</bdi>'


def _facts(cutting: ChunkSettings, documents: int, sizes: Sequence[int]) -> str:
    facts = [
        ("method", cutting.method),
        ("size", many(cutting.size, "token")),
        ("overlap", many(cutting.overlap, "token")),
        ("tokenizer", printable(cutting.tokenizer)),
        ("documents", f"{documents:,}"),
        ("chunks", f"{len(sizes):,}"),
    ]
    cells = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f"<dl>{cells}</dl>"


def histogram(sizes: Sequence[int], size: int) -> str:
    """Bars for the chunks' tokens, from nothing to `size`, or to the largest if that is far less.

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
        said = many(first, "token") if first == last else f"{first:,} to {last:,} tokens"
        bars.append(
            f'<rect x="{at * 10}" y="{60 - height}" width="9" height="{height}">'
            f"<title>{said}: {many(count, 'chunk')}</title></rect>"
        )
    middle = sorted(sizes)[len(sizes) // 2]
    told = f"smallest {min(sizes):,}, median {middle:,}, largest {many(largest, 'token')}"
    return (
        f'<figure><svg role="img" aria-label="Chunk sizes: {told}" viewBox="0 0 {bins * 10} 60" '
        f'preserveAspectRatio="none">{"".join(bars)}</svg>'
        f'<p class="axis"><span>0</span><span>{many(top, "token")}</span></p>'
        f"<figcaption>{told}</figcaption></figure>"
    )


def _left_out(taken: int, total: int | None) -> str:
    if total is None or taken >= total:
        return ""
    return (
        f'<p class="note">The first {taken:,} of {total:,} documents; the others are not on this '
        "page and not in its figures.</p>"
    )


def _contents(documents: Sequence[ChunkedDocument]) -> str:
    """Links to the documents, where there are several."""
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
    told = f"{many(len(document.chunks), 'chunk')}, {many(tokens, 'token')}"
    note = ""
    if end < len(document.text):
        note = (
            f'<p class="note">Here the page ends this document, at character {end:,} of '
            f"{len(document.text):,}: {shown:,} of {many(len(document.chunks), 'chunk')} "
            f"{agreeing(shown, 'is', 'are')} shown.</p>"
        )
    # No isolation chunk by chunk: a cut in mid-line must not reorder a right-to-left line. Each
    # line finds its own direction (`unicode-bidi: plaintext`), and marks that could act beyond it
    # are shown as escapes.
    return (
        f'{heading}<p class="told">{told}</p><div class="text" dir="auto"'
        f"{_lang(document.text)}>{''.join(_runs(document, shown, end))}</div>{note}</section>"
    )


def _runs(document: ChunkedDocument, shown: int, end: int) -> Iterable[str]:
    """The text up to `end` as runs: each chunk's own text, and within it what the next one shares.

    Invariant: every character stands once, in order.
    """
    text, table = document.text, _table(document.text[:end])
    chunks = document.chunks[:shown]
    starts = [max(after.start_char, before.start_char) for before, after in pairwise(chunks)]
    covered, is_begun = 0, False
    for at, chunk in enumerate(chunks):
        if chunk.start_char > covered:
            yield _gap(text[covered : chunk.start_char], table)
            covered = chunk.start_char
        stop = min(end, max(covered, chunk.end_char))
        next_start = min(stop, max(covered, starts[at])) if at < len(starts) else stop
        label = "" if is_begun else f' data-n="{at}"'
        own = text[covered:next_start].translate(table)
        yield (
            f'<span class="c {"ab"[at % 2]}" tabindex="0"{label} '
            f'data-tip="{_tip(document, at)}">{own}'
        )
        is_begun = next_start < stop
        if is_begun:  # here the next chunk begins, so its number stands here
            both = text[next_start:stop]
            ends = "" if both.endswith("\n") else " e"  # a line's end needs no mark
            yield f'<span class="o{ends}" data-n="{at + 1}">{both.translate(table)}</span>'
        yield "</span>"
        covered = stop
    if covered < end:
        yield _gap(text[covered:end], table)


def _gap(text: str, table: dict[int, str]) -> str:
    """Text that is in no chunk; where it is blank there is nothing to see."""
    told = text.translate(table)
    return told if text.isspace() else f'<s class="gap" title="in no chunk">{told}</s>'


def _tip(document: ChunkedDocument, at: int) -> str:
    """What is said about a chunk while it is pointed at."""
    chunk = document.chunks[at]
    told = [
        f"chunk {at}",
        f"characters {chunk.start_char:,}..{chunk.end_char:,}",
        many(chunk.tokens, "token"),
    ]
    if document.shared[at]:
        told.append(f"{document.shared[at]:,} of them shared with chunk {at - 1}")
    if at + 1 < len(document.chunks) and document.shared[at + 1]:
        told.append(f"{document.shared[at + 1]:,} with chunk {at + 1}")
    if chunk.section:
        told.append(f"\u2068{printable(chunk.section)}\u2069")
    return escape(" · ".join(told))


def _table(text: str) -> dict[int, str]:
    """What stands in the page for a character: entities, and escapes for what acts unseen."""
    table = {}
    for character in set(text) - set("\n\t" + _VISIBLE_FORMATS):
        said = printable(character)
        if said != character:
            table[ord(character)] = f'<b class="x">{said}</b>'
        elif (entity := escape(character)) != character:
            table[ord(character)] = entity
    return table


def _lang(text: str) -> str:
    """A language where the glyphs depend on it: the same Han characters differ by country."""
    found = set(text[:_SAMPLE_CHARS])
    if any("\u3041" <= character <= "\u30fa" for character in found):
        return ' lang="ja"'
    if any("\uac00" <= character <= "\ud7a3" for character in found):
        return ' lang="ko"'
    if any("\u4e00" <= character <= "\u9fff" for character in found):
        traditional = len(found & _TRADITIONAL) > len(found & _SIMPLIFIED)
        return ' lang="zh-Hant"' if traditional else ' lang="zh-Hans"'
    return ""
