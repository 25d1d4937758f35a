"""Chunks that keep to one subject: the best way of joining sentences, by an embedded model.

`structure` reads the marks that a writer left; this one reads what the sentences say, and pays for
it. A dynamic program weighs, for every run of sentences that fits, how alike they are, how near its
length is to what is aimed at, and how good a place its end is; no run is taken greedily.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkers.boundaries.scan import BLANK_LINE, HEADING, LINE, ROW, SENTENCE
from chunkers.structure import (
    CLOSE_AT,
    CUT_FROM,
    Cut,
    Limits,
    cut_at,
    limits,
    next_cut,
    overlap_start,
)
from chunkers.tokens.encoded import Encoded
from chunkers.tokens.tokenizers import Tokenizer
from chunkers.tokens.tokenizers import tokenizer as tokenizer_named
from chunkers.units import Units
from pipeline.errors import UsageError
from pipeline.records import Chunk

Embed = Callable[[Sequence[str]], Any]
"""Texts, none of them empty -> their vectors. Shape: (len(texts), dimension)."""

FOCUS = 0.75

WINDOW = 64
"""Sizes that are weighed at once; those in the last `TAIL` sizes are weighed again with what
follows them, so that where a window ends changes no cut."""
TAIL = 6

MOST_PIECES = 32
"""Sentences of less than that share of `size` are joined first: no run has more pieces."""

HEAD_CHARS = 80
"""The model reads so much of a piece. Its tokenizer alone costs 11 to 14 encode passes on whole
texts; the beginnings of sentences cost a third."""

# What follows is in units of cohesion, the mean cosine of two pieces of a chunk. Chosen on the
# questions of benchmarks/retrieval.py and of sample_data together: half or double of LENGTH, PRICE
# or PRIOR costs at most 2.2 points of recall at 1,000 tokens, of ENDS 4.
LENGTH = 0.1
"""Lost by a chunk e times longer or shorter than aimed at."""
PRICE = 0.3
"""Of each chunk, where the knob stands at 0."""
ENDS = {SENTENCE: -0.4, ROW: -0.3, LINE: 0.0, BLANK_LINE: 0.1, HEADING: 0.2}
"""What a chunk's end is worth."""
NUDGE = 0.02
"""At most added to it by the characters around it: of equal ways of cutting, the same one is found
before and after an edit."""
PRIOR = 0.25
"""How much of the text's usual cohesion is mixed in, so that one sentence alone is no ideal."""

_SURROGATES = re.compile("[\ud800-\udfff]")
_WORDS = re.compile(r"[^\W_]{2,}|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")
Floats = NDArray[np.float64]


class Aim(NamedTuple):
    """What the knob says."""

    tokens: float
    price: float
    """Of every chunk, in cohesion of a chunk of that many tokens."""


class Pieces(NamedTuple):
    """Runs of units that no cut tears, as columns with one entry for each piece's end."""

    unit: list[int]
    """Index of the unit that each ends with."""
    tokens_before_start: list[int]
    tokens_before_end: list[int]


def shared_words(texts: Sequence[str]) -> Floats:
    """Unit vectors of the words, so that texts with the same words are alike; needs no model.

    Shape: (len(texts), 128) float64.
    """
    vectors = np.zeros((len(texts), 128))
    for row, text in enumerate(texts):
        for word in _WORDS.findall(text.lower()):
            code = 0
            for letter in word[:6]:
                code = (code * 31 + ord(letter)) & 0xFFFFFFFF
            vectors[row, (code * 0x9E3779B1 >> 15) & 127] += 1.0 if len(word) > 3 else 0.2
    lengths: Floats = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-9)


def chunk_semantic(
    text: str,
    *,
    size: int = 512,
    overlap: int = 0,
    tokenizer: str | Tokenizer = "o200k_base",
    embed: Embed = shared_words,
    focus: float = FOCUS,
) -> Iterator[Chunk]:
    """Chunks of whole sentences that are alike, by the vectors of `embed`.

    `focus` is the knob between recall and precision: at 0 a chunk aims at three quarters of `size`
    and holds an answer with what surrounds it, at 1 at a seventh and holds little else.

    Units: `size` and `overlap` in tokens of `tokenizer`; `size` includes the overlap.
    Invariant: as for `chunk_structure`.
    Raises: UsageError for a size below 8, an overlap not below the size, a focus outside [0, 1], an
        unknown tokenizer.
    Cost: one encode pass and one `embed` of the beginning of every sentence; memory for one
        segment and for the vectors of 64 sizes.
    """
    figures = limits(size, overlap, CLOSE_AT, CUT_FROM)
    if not 0 <= focus <= 1:
        raise UsageError(f"chunk.focus = {focus} must be between 0 and 1")
    named = tokenizer_named(tokenizer) if isinstance(tokenizer, str) else tokenizer
    aim = Aim((0.75 - 0.6 * focus) * size, PRICE * (1 - focus))
    return _chunks(text, named, figures, embed, aim)


def _chunks(
    text: str, tokenizer: Tokenizer, figures: Limits, embed: Embed, aim: Aim
) -> Iterator[Chunk]:
    if not text or text.isspace():
        return
    with Encoded(text, tokenizer) as encoded:
        units = Units(encoded)
        previous = cut = Cut(0, 0, True, tokenizer.additive, 0)
        planned: list[int] = []
        ahead = (WINDOW + 2) * figures.size + 64
        overlap = figures.overlap
        while cut.at < len(text):
            if not planned:
                units.reach(cut.tokens_before_end + ahead, previous.at)
                planned = plan(units, cut, figures, embed, aim)[::-1]
            start = overlap_start(units, previous, cut, overlap) if overlap and cut.at else cut
            end, tokens = cut, 0
            if planned:
                end = cut_at(units, planned.pop())
                tokens = encoded.alone(start.at, end.at, start.clean)
            if not 0 < tokens <= figures.size:
                # A sentence that is too long, or a chunk that has more tokens alone than in place.
                planned = []
                units.reach(cut.tokens_before_end + 2 * figures.size + 64, previous.at)
                end, tokens = next_cut(units, start, cut, figures)
            if end.at <= cut.at:
                start = cut
                end, tokens = next_cut(units, start, cut, figures)
            yield Chunk(start.at, end.at, tokens)
            previous, cut = cut, end


def plan(units: Units, cut: Cut, figures: Limits, embed: Embed, aim: Aim) -> list[int]:
    """The ends of the next chunks after `cut`, as far as what follows cannot change them.

    Empty if the sentence at `cut` alone does not fit.
    """
    room = figures.size - (figures.overlap if cut.at else 0)
    pieces, complete = join(units, cut, room, WINDOW * figures.size, figures.size)
    if not pieces.unit:
        return []
    text, at = units.encoded.text, units.at
    edges = [cut.at, *(at[unit] for unit in pieces.unit)]
    vectors = _vectors(text, edges, embed)
    worth = np.array([ENDS.get(units.level[unit], 0.0) for unit in pieces.unit])
    marks = np.array([units.choice[unit] & 0xFFFFFFFF for unit in pieces.unit])
    worth += NUDGE / 2**32 * marks - aim.price
    ended = np.array([cut.tokens_before_end, *pieces.tokens_before_end])
    begun = np.array([cut.tokens_before_end, *pieces.tokens_before_start])
    ends = best_ends(vectors, ended, begun, worth, room, aim.tokens)
    if not complete:
        last = int(begun[-1]) - TAIL * figures.size
        ends = [end for end in ends if begun[end] <= last] or ends[:1]
    return [edges[end] for end in ends]


def join(units: Units, cut: Cut, room: int, window: int, size: int) -> tuple[Pieces, bool]:
    """The pieces that follow `cut`, and whether nothing that could change their use follows them.

    Invariant: each piece has at most `room` tokens; they end before a unit that has more.
    """
    least = max(1, size // MOST_PIECES)
    most = max(least, size // 8)
    pieces = Pieces([], [], [])
    start = last_start = cut.tokens_before_end
    place = cut.at
    is_open = False
    for unit in range(bisect_right(units.at, cut.at), len(units.at)):
        end, begun, ended = (
            units.at[unit],
            units.tokens_before_start[unit],
            units.tokens_before_end[unit],
        )
        if begun - cut.tokens_before_end > window:
            return pieces, False
        if begun - start > room:
            return pieces, True
        strength = units.level[unit]
        if begun - start >= least or not pieces.unit:
            last_start = start
            pieces.unit.append(unit)
            pieces.tokens_before_start.append(begun)
            pieces.tokens_before_end.append(ended)
            start, place, is_open = ended, end, False
        elif strength >= LINE and begun - last_start <= min(most, room) and not is_open:
            # The short last sentence of a paragraph goes with the one before it.
            pieces.unit[-1], pieces.tokens_before_start[-1], pieces.tokens_before_end[-1] = (
                unit,
                begun,
                ended,
            )
            start, place = ended, end
        else:
            is_open = True
    if place < len(units.encoded.text) and units.at and units.at[-1] > place:
        unit = len(units.at) - 1
        pieces.unit.append(unit)
        pieces.tokens_before_start.append(units.tokens_before_start[unit])
        pieces.tokens_before_end.append(units.tokens_before_end[unit])
    return pieces, units.encoded.complete


def _vectors(text: str, edges: list[int], embed: Embed) -> Floats:
    """What the pieces between these places say; zeros for what says nothing."""
    heads = []
    for start, end in pairwise(edges):
        head = text[start : min(end, start + 2 * HEAD_CHARS)].strip()[:HEAD_CHARS]
        heads.append(_SURROGATES.sub("\ufffd", head))
    # In the order of their lengths: models pad a batch to its longest text.
    order = sorted((row for row, head in enumerate(heads) if head), key=lambda row: len(heads[row]))
    if not order:
        return np.zeros((len(heads), 1))
    found = np.nan_to_num(np.asarray(embed([heads[row] for row in order]), np.float64))
    vectors = np.zeros((len(heads), found.shape[1]))
    # Rounded, since the last bits depend on the batch, and cuts must not.
    vectors[order] = found.round(4)
    return vectors


def best_ends(
    vectors: Floats,
    ended: NDArray[np.int64],
    begun: NDArray[np.int64],
    worth_of_end: Floats,
    room: int,
    aim: float,
) -> list[int]:
    """Which pieces end a chunk, by number from 1: those with the highest sum of worth.

    Cost: O(pieces × pieces in a chunk), in numpy but for one step per piece.
    """
    count = len(vectors)
    weight = np.diff(ended).astype(np.float64)
    sums = np.zeros((count + 1, vectors.shape[1]))
    np.cumsum(vectors * weight[:, None], axis=0, out=sums[1:])
    squares = np.concatenate(([0.0], np.cumsum(weight**2)))
    alike = np.einsum("ij,ij->i", vectors[1:], vectors[:-1]).mean() if count > 1 else 0.0
    at_end = np.concatenate(([0.0], worth_of_end * aim))
    longest = 1
    while longest < count and (begun[longest + 1 :] - ended[: count - longest] <= room).any():
        longest += 1
    worth = np.full((count + 1, longest), -np.inf)
    norms = np.einsum("ij,ij->i", sums, sums)
    prior = PRIOR * aim**2
    for run in range(1, longest + 1):
        first, last = slice(0, count + 1 - run), slice(run, count + 1)
        tokens = np.maximum(begun[last] - ended[first], 1).astype(np.float64)
        inside = norms[last] + norms[first] - 2 * np.einsum("ij,ij->i", sums[last], sums[first])
        own = squares[last] - squares[first]
        pairs = np.maximum((ended[last] - ended[first]) ** 2 - own, 0)
        cohesion = (inside - own + prior * alike) / (pairs + prior)
        length = np.log(tokens / aim) ** 2
        value = tokens * (cohesion - LENGTH * length) + at_end[last]
        worth[last, run - 1] = np.where(tokens <= room, value, -np.inf)
    best = np.zeros(count + 1)
    begin = np.zeros(count + 1, np.int64)
    reverse = worth[:, ::-1]
    for end in range(1, count + 1):
        width = min(end, longest)
        values = best[end - width : end] + reverse[end, longest - width :]
        found = int(values.argmax())
        best[end] = values[found]
        begin[end] = end - width + found
    ends = []
    end = count
    while end:
        ends.append(end)
        end = int(begin[end])
    return ends[::-1]
