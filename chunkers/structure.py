"""Chunks that end at headings, paragraphs and lines, else at sentences.

This is the default chunker. It encodes and scans a document once; whether a chunk fits is then a
subtraction. Among equally good ends the characters around them decide, not their distance from the
last cut, so that after an edit the cuts realign within a few chunks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct

from chunkers.boundaries.graphemes import TOKENS_BACK, first_cut, last_cut
from chunkers.boundaries.levels import FREE, RUN_ON, SENTENCE
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


TRIED = 4
"""Sentences with which an overlap is tried to begin; more are needed only for a text that has
more tokens alone."""


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
        units = Units(encoded, figures.size, whole_to=0 if figures.overlap else figures.size)
        previous = cut = Cut(0, 0, True, tokenizer.additive, 0)
        ahead = 2 * figures.size + 64
        while cut.at < len(text):
            if units.tokens_read < cut.tokens_before_end + ahead:
                units.reach(cut.tokens_before_end + ahead, previous.at)
            start, end, tokens = next_chunk(units, previous, cut, figures)
            yield Chunk(start.at, end.at, tokens)
            previous, cut = start, end


def _is_one_line(text: str, size: int) -> bool:
    """Whether the text is one line of roughly at most `size` tokens. For such a short row the scan
    for boundaries would cost ten times the encoding."""
    return len(text) <= (3 * size if text.isascii() else size) and len(text.splitlines()) == 1


def next_chunk(
    units: Units, previous: Cut, cut: Cut, figures: Limits, planned: int = 0
) -> tuple[Cut, Cut, int]:
    """The start and the end of the chunk whose new text begins at `cut`, and its tokens.

    `previous`: the start of the chunk before it, after which its overlap begins.
    `planned`: the place where it should end, or 0. The overlap gives way to it, and to a sentence
    or line that fits only without it.
    """
    if planned:
        end = cut_at(units, planned)
        for overlap in _overlaps(end.tokens_before_end - cut.tokens_before_end, cut, figures):
            start = overlap_start(units, previous, cut, overlap)
            tokens = units.encoded.count_alone(start.at, end.at, start.clean)
            if tokens <= figures.size:
                return start, end, tokens
    first = bisect_left(units.ends, cut.unit - units.dropped)
    needed = figures.size + 1
    if first < len(units.ends):
        needed = units.ends_before_start[first] - cut.tokens_before_end
    for overlap in _overlaps(needed, cut, figures):
        start = overlap_start(units, previous, cut, overlap)
        found = _unit_cut(units, start, cut, figures)
        if found:
            return start, *found
    if needed <= figures.size and (found := _unit_cut(units, cut, cut, figures, any_unit=True)):
        return cut, *found
    start = overlap_start(units, previous, cut, figures.overlap)
    place, tokens = _inner_cut(units, start, cut, figures.size)
    if place <= cut.at:  # the overlap leaves no room for a single character
        start = cut
        place, tokens = _inner_cut(units, start, cut, figures.size)
    place, tokens = units.encoded.before_last_word(start.at, cut.at, place, tokens, figures.size)
    return start, cut_at(units, place), tokens


def _overlaps(needed: int, cut: Cut, figures: Limits) -> Iterator[int]:
    """The overlap, then what is left of it by a unit of `needed` tokens, then none."""
    if cut.at and figures.overlap:
        yield figures.overlap
        left = figures.size - needed
        if 0 < left < figures.overlap:
            yield left
    yield 0


def _unit_cut(
    units: Units, start: Cut, cut: Cut, figures: Limits, *, any_unit: bool = False
) -> tuple[Cut, int] | None:
    """The end of a chunk from `start` at one of the units after `cut`, and its tokens.

    `any_unit`: also one that splits a larger unit. That one fits by its tokens in place, but it
    has more of them alone.
    """
    encoded = units.encoded
    room = figures.size
    while room > 0:
        index = choose(units, start.tokens_before_end, cut, room, figures)
        if index < 0 and any_unit:
            index = _last_fitting(units, start.tokens_before_end + room, cut)
        if index < 0:
            return None
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
    return None


def _inner_cut(units: Units, start: Cut, cut: Cut, size: int) -> tuple[int, int]:
    """The end inside a unit that is too long, and the tokens; the place of `cut` if not one
    character fits after the overlap."""
    encoded = units.encoded
    high = encoded.reach_of(start.tokens_before_end + size)
    if high > cut.at:
        ends = encoded.last_ends(high, TOKENS_BACK)
        end = last_cut(encoded.text, cut.at, high, ends, encoded.is_clean_end)
        tokens = encoded.count_alone(start.at, end)
        if tokens <= size:
            return end, tokens
    return encoded.fill(start.at, cut.at, size)


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
    first = cut.unit - units.dropped
    strong = units.strong_before_start
    near, far = cut.tokens_before_end + figures.close_from, cut.tokens_before_end + figures.close_to
    low = bisect_left(strong, near if near < full else full)
    high = bisect_right(strong, far if far < full else full, low)
    if low < high and units.strong[low] < first:
        low += 1
    if low < high:
        return _preferred(units, units.strong[low:high])
    if high < len(strong) and strong[high] <= full and units.strong[high] >= first:
        return units.strong[high]
    ends = units.ends_before_start
    begin = bisect_left(units.ends, first)
    stop = bisect_right(ends, full, begin)
    if begin < stop:
        low = bisect_left(
            ends, min(cut.tokens_before_end + figures.cut_from, ends[stop - 1]), begin, stop
        )
        return _preferred(units, units.ends[low:stop])
    return -1


def _last_fitting(units: Units, full: int, cut: Cut) -> int:
    """The last of the strongest units that end within `full` tokens; or -1."""
    first = cut.unit - units.dropped
    last = bisect_right(units.tokens_before_start, full, first)
    strength = max(units.level[first:last], default=0)
    return units.level.rindex(strength, first, last) if first < last else -1


def _preferred(units: Units, indices: Sequence[int]) -> int:
    return indices[0] if len(indices) == 1 else min(indices, key=units.preference.__getitem__)


def overlap_start(units: Units, previous: Cut, cut: Cut, overlap: int) -> Cut:
    """The start of the overlap before `cut`: after `previous`, at a sentence if one fits."""
    if not overlap or not cut.at:
        return cut
    encoded = units.encoded
    floor = cut.tokens_before_end - overlap
    at, before_end = units.at, units.tokens_before_end
    last = cut.unit - units.dropped
    if last and at[last - 1] == cut.at:
        last -= 1
    first = bisect_left(before_end, floor, previous.unit - units.dropped, last)
    for index in _starts(units, range(first, min(last, first + TRIED))):
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


def _starts(units: Units, indices: Sequence[int]) -> Iterator[int]:
    """The units after which an overlap may begin: first those after which a sentence begins.

    A line that is not full may end inside a sentence.
    """
    text = units.encoded.text
    later = []
    for index in indices:
        level = units.level[index]
        before = text[max(0, units.at[index] - 8) : units.at[index]].rstrip()[-1:]
        goes_on = before.isalnum() or before in "-–—,，、"
        if level == RUN_ON or (SENTENCE < level < FREE and goes_on):
            later.append(index)
        else:
            yield index
    yield from later
