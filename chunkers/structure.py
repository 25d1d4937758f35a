"""Chunks that end where the text does: at headings, paragraphs and lines, else at sentences.

The default way of cutting. A document is encoded once; every candidate's size is a subtraction.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from zlib import crc32

from chunkers.encoded import Encoded, check_sizes
from chunkers.graphemes import first_cut, last_cut
from chunkers.tokens import Tokenizer
from chunkers.tokens import tokenizer as tokenizer_named
from chunkers.units import Units
from pipeline.records import Chunk

CLOSE_AT = 0.25
"""Share of `size` from which a chunk closes at the next line or paragraph end."""

CUT_FROM = 0.6
"""Share of `size` from which a chunk may close at a sentence end, where no line ends."""


def chunk_structure(
    text: str,
    *,
    size: int = 512,
    overlap: int = 0,
    tokenizer: str | Tokenizer = "o200k_base",
    close_at: float = CLOSE_AT,
    cut_from: float = CUT_FROM,
) -> Iterator[Chunk]:
    """Chunks of whole sentences that close at a paragraph or line once a quarter full.

    Units: `size` and `overlap` in tokens of `tokenizer`; `size` includes the overlap.
    Invariant: without overlap the chunks rebuild the text; a chunk encoded by itself has at most
        `tokens` tokens, and `tokens` is at most `size`; a chunk begins before the last one ends
        by at most `overlap` tokens.
    Raises: UsageError for a size below 8, an overlap not below the size, an unknown tokenizer.
    Cost: one encode pass, and some tokens per cut that are encoded again; memory for one segment.
    """
    check_sizes(size, overlap)
    named = tokenizer_named(tokenizer) if isinstance(tokenizer, str) else tokenizer
    quarter = max(1, int(size * close_at))
    least = max(1, int(size * cut_from))
    return _chunks(text, named, size, overlap, quarter, least)


def _chunks(
    text: str, tokenizer: Tokenizer, size: int, overlap: int, quarter: int, least: int
) -> Iterator[Chunk]:
    if not text or text.isspace():
        return
    encoded = Encoded(text, tokenizer)
    units = Units(encoded)
    previous = cut = 0
    while cut < len(text):
        units.reach(encoded.ended(cut) + 2 * size + 64)
        start = overlap_start(units, previous, cut, overlap) if cut and overlap else cut
        end, tokens = next_cut(units, start, cut, size, quarter, least)
        if end <= cut:  # the overlap leaves no room for a single character
            start = cut
            end, tokens = next_cut(units, start, cut, size, quarter, least)
        yield Chunk(start, end, tokens)
        previous, cut = cut, end
        units.forget(previous)


def next_cut(
    units: Units, start: int, cut: int, size: int, quarter: int, least: int
) -> tuple[int, int]:
    """Where the chunk that begins at `start`, new from `cut` on, ends; and its tokens."""
    encoded = units.encoded
    room = size
    while True:
        end = _choose(units, start, cut, room, quarter, least)
        if end <= cut:
            return encoded.fill(start, cut, size)
        tokens = encoded.alone(start, end)
        if tokens <= size:
            return end, tokens
        # Encoded by itself it is longer than in place: leave that much more room, at least.
        room -= tokens - size
        if room <= 0:
            return encoded.fill(start, cut, size)


def _choose(units: Units, start: int, cut: int, room: int, quarter: int, least: int) -> int:
    """The best end for a chunk from `start` with at most `room` tokens, by the document's count."""
    encoded = units.encoded
    begun = units.begun
    base = encoded.ended(start)
    core = base if start == cut else encoded.ended(cut)
    first = bisect_right(units.at, cut)
    fits = bisect_right(begun, base + room, first)
    full = min(core + quarter, base + room)
    strong = bisect_left(units.strong, full)
    if strong < len(units.strong) and units.strong[strong] <= base + room:
        return units.at[max(units.strong_index[strong], first)]
    if fits > first:
        low = bisect_left(begun, min(core + least, begun[fits - 1]), first, fits)
        return min(units.at[low:fits], key=lambda place: _mark(encoded.text, place))
    high = min(encoded.place(base + room), len(encoded.text))
    if high <= cut:
        return cut
    return last_cut(encoded.text, cut, high, encoded.ends_within(cut, high).tolist())


def _mark(text: str, place: int) -> int:
    """A number that depends on the characters around a place and on nothing else."""
    return crc32(text[max(0, place - 12) : place + 12].encode("utf-8", "surrogatepass"))


def overlap_start(units: Units, previous: int, cut: int, overlap: int) -> int:
    """Where the overlap before `cut` begins: after `previous`, at a sentence where one fits."""
    encoded = units.encoded
    floor = encoded.ended(cut) - overlap
    at, ended = units.at, units.ended
    last = bisect_left(at, cut)
    low = max(bisect_right(at, previous), bisect_left(ended, floor, 0, last))
    for index in range(low, min(last, low + 4)):
        if encoded.alone(at[index], cut) <= overlap:
            return at[index]
    begin = max(previous + 1, encoded.place(floor))
    while begin < cut:
        place = first_cut(encoded.text, begin, cut)
        if place >= cut:
            break
        tokens = encoded.alone(place, cut)
        if tokens <= overlap:
            return place
        begin = max(place + 1, encoded.place(encoded.ended(place) + tokens - overlap))
    return cut
