"""Chunks that end at headings, paragraphs and lines, else at sentences.

This is the default chunker. It encodes and scans a document once; whether a chunk fits is then a
subtraction. Among equally good ends the characters around them decide, not their distance from the
last cut, so that after an edit the cuts realign within a few chunks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from msgspec import Struct

from chunkers.boundaries.graphemes import TOKENS_BACK, first_cut, last_cut
from chunkers.boundaries.scan import ROW
from chunkers.tokens.encoded import Encoded, check_sizes
from chunkers.tokens.tokenizers import Tokenizer
from chunkers.tokens.tokenizers import tokenizer as tokenizer_by_name
from chunkers.units import Units
from pipeline.records import Chunk

CLOSE_AT = 0.25
"""Share of `size` at which a chunk closes at the end of a line or paragraph, plus or minus half of
it. The minimum chunk is small against this range, so cuts realign soon after an edit (measured: 95
% of edits change at most 3 chunks; up to 13 if the first end after a quarter is used)."""

CUT_FROM = 0.5
"""Share of `size` from which a chunk may close at the end of a sentence, if no line ends there."""


class Limits(NamedTuple):
    """The limits of one job, in tokens."""

    size: int
    overlap: int
    close_from: int
    close_to: int
    cut_from: int


class Cut(Struct, frozen=True, gc=False):
    """A place between two chunks, with its token counts."""

    at: int
    tokens_before_end: int
    """Tokens that end here or before."""
    whole: bool
    """Whether a token ends here."""
    clean: bool
    """Whether a chunk that begins here has the same tokens alone as in place."""
    unit: int
    """The first unit that ends after it, counted from the beginning of the text."""


def limits(size: int, overlap: int, close_at: float, cut_from: float) -> Limits:
    """The limits in tokens.

    Raises: UsageError for a value out of bounds.
    """
    check_sizes(size, overlap, close_at=close_at, cut_from=cut_from)
    return Limits(
        size,
        overlap,
        max(1, int(size * close_at / 2)),
        max(1, int(size * close_at * 3 / 2)),
        max(1, int(size * cut_from)),
    )


def chunk_structure(
    text: str,
    *,
    size: int = 512,
    overlap: int = 0,
    tokenizer: str | Tokenizer = "o200k_base",
    close_at: float = CLOSE_AT,
    cut_from: float = CUT_FROM,
) -> Iterator[Chunk]:
    """Chunks of whole sentences that close at a line or paragraph once about a quarter full.

    Units: `size` and `overlap` in tokens of `tokenizer`; `size` includes the overlap. `close_at`
        and `cut_from` are shares of `size`.
    Invariant: without overlap the chunks rebuild the text; a chunk encoded by itself has at most
        `tokens` tokens, and `tokens` is at most `size`; a chunk begins before the last one ends
        by at most `overlap` tokens.
    Raises: UsageError for a size below 8, an overlap not below the size, an unknown tokenizer.
    Cost: one encode pass, and a few tokens per cut that are encoded again; memory for one segment.
    """
    figures = limits(size, overlap, close_at, cut_from)
    encoder = tokenizer_by_name(tokenizer) if isinstance(tokenizer, str) else tokenizer
    return _chunks(text, encoder, figures)


def _chunks(text: str, tokenizer: Tokenizer, figures: Limits) -> Iterator[Chunk]:
    if not text or text.isspace():
        return
    if _is_one_line(text, figures.size):
        tokens = tokenizer.count(text)
        if tokens <= figures.size:
            yield Chunk(0, len(text), tokens)
            return
    with Encoded(text, tokenizer) as encoded:
        units = Units(encoded, whole_to=0 if figures.overlap else figures.size)
        previous = cut = Cut(0, 0, True, tokenizer.additive, 0)
        ahead = 2 * figures.size + 64
        overlap = figures.overlap
        while cut.at < len(text):
            if units.tokens_read < cut.tokens_before_end + ahead:
                units.reach(cut.tokens_before_end + ahead, previous.at)
            start = overlap_start(units, previous, cut, overlap) if overlap and cut.at else cut
            end, tokens = next_cut(units, start, cut, figures)
            if end.at <= cut.at:  # the overlap leaves no room for a single character
                start = cut
                end, tokens = next_cut(units, start, cut, figures)
            yield Chunk(start.at, end.at, tokens)
            previous, cut = cut, end


def _is_one_line(text: str, size: int) -> bool:
    """Whether the text is one line of roughly at most `size` tokens. For such a short row the scan
    for boundaries would cost ten times the encoding."""
    return len(text) <= (3 * size if text.isascii() else size) and len(text.splitlines()) == 1


def next_cut(units: Units, start: Cut, cut: Cut, figures: Limits) -> tuple[Cut, int]:
    """The end of the chunk that begins at `start` and has new text from `cut` on, and its tokens.

    Invariant: the end is `cut` only if `start` is before it and not one character fits.
    """
    encoded = units.encoded
    room = figures.size
    while room > 0:
        index = choose(units, start.tokens_before_end, cut, room, figures)
        if index < 0:
            break
        end, before_end = units.at[index], units.tokens_before_end[index]
        whole = before_end == units.tokens_before_start[index]
        if start.clean and whole and not encoded.non_seams:
            tokens = before_end - start.tokens_before_end
        else:
            tokens = encoded.count_alone(start.at, end, start.clean)
        if tokens <= figures.size:
            unit = units.dropped + index + 1
            return Cut(end, before_end, whole, units.clean[index] == 1, unit), tokens
        # It has more tokens alone than in place: reduce the room by at least the difference.
        room -= tokens - figures.size
    return _inner_cut(units, start, cut, figures.size)


def _inner_cut(units: Units, start: Cut, cut: Cut, size: int) -> tuple[Cut, int]:
    """The same as `next_cut`, inside a unit that is too long."""
    encoded = units.encoded
    high = encoded.reach_of(start.tokens_before_end + size)
    if high > cut.at:
        ends = encoded.last_ends(high, TOKENS_BACK)
        end = last_cut(encoded.text, cut.at, high, ends, encoded.is_clean_end)
        tokens = encoded.count_alone(start.at, end)
        if tokens <= size:
            return cut_at(units, end), tokens
    end, tokens = encoded.fill(start.at, cut.at, size)
    return cut_at(units, end), tokens


def cut_at(units: Units, place: int) -> Cut:
    """The cut at any place, with its token counts."""
    encoded = units.encoded
    before_end, whole = encoded.locate(place)
    unit = units.dropped + bisect_right(units.at, place)
    return Cut(place, before_end, whole, encoded.is_clean(place, whole), unit)


def choose(units: Units, base: int, cut: Cut, room: int, figures: Limits) -> int:
    """The last unit of a chunk of at most `room` tokens after the first `base`; or -1."""
    full = base + room
    before_start = units.tokens_before_start
    if not before_start:
        return -1
    if (
        before_start[-1] <= full
        and before_start[-1] - base <= figures.close_from
        and units.encoded.complete
    ):
        return len(before_start) - 1
    strong = units.strong_tokens_before_start
    near, far = cut.tokens_before_end + figures.close_from, cut.tokens_before_end + figures.close_to
    low = bisect_left(strong, near if near < full else full)
    high = bisect_right(strong, far if far < full else full, low)
    if low < high and units.at[units.strong[low]] <= cut.at:
        low += 1
    if high - low == 1:
        return units.strong[low]
    if low < high:
        return min(units.strong[low:high], key=units.preference.__getitem__)
    if high < len(strong) and strong[high] <= full and units.at[units.strong[high]] > cut.at:
        return units.strong[high]
    first = cut.unit - units.dropped
    last = bisect_right(before_start, full, first)
    if last == first:
        return -1
    if before_start[-1] <= full and units.encoded.complete and not strong[high:]:
        return len(before_start) - 1  # the rest fits, so that no sentence is left over
    before = _before_block(units, high, first, figures.size)
    if before >= 0:
        return before
    low = bisect_left(
        before_start,
        min(cut.tokens_before_end + figures.cut_from, before_start[last - 1]),
        first,
        last,
    )
    return units.best(low, last)


def _before_block(units: Units, high: int, first: int, size: int) -> int:
    """The unit before a table or code fence that fits into a chunk of its own; or -1."""
    if not 0 < high < len(units.strong) or units.strong[high - 1] < first:
        return -1
    before, after = units.strong[high - 1], units.strong[high]
    whole = units.tokens_before_start[after] - units.tokens_before_end[before] <= size
    if whole and ROW in units.level[before + 1 : after]:
        return before
    return -1


def overlap_start(units: Units, previous: Cut, cut: Cut, overlap: int) -> Cut:
    """The start of the overlap before `cut`: after `previous`, at a sentence if one fits."""
    encoded = units.encoded
    floor = cut.tokens_before_end - overlap
    at, before_end = units.at, units.tokens_before_end
    last = cut.unit - units.dropped
    if last and at[last - 1] == cut.at:
        last -= 1
    first = bisect_left(before_end, floor, previous.unit - units.dropped, last)
    for index in range(first, min(last, first + 4)):
        clean = units.clean[index] == 1
        if (clean and cut.whole and not encoded.non_seams) or (
            encoded.count_alone(at[index], cut.at, clean) <= overlap
        ):
            whole = before_end[index] == units.tokens_before_start[index]
            return Cut(at[index], before_end[index], whole, clean, units.dropped + index + 1)
    begin = max(previous.at + 1, encoded.place(floor))
    while begin < cut.at:
        place = first_cut(encoded.text, begin, cut.at, encoded.is_clean_at)
        if place >= cut.at:
            break
        tokens = encoded.count_alone(place, cut.at)
        if tokens <= overlap:
            return cut_at(units, place)
        begin = max(place + 1, encoded.place(encoded.locate(place)[0] + tokens - overlap))
    return cut
