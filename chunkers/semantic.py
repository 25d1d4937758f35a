"""Chunks about one subject: sentences joined by the similarity of their embeddings.

`structure` uses the layout of a text; this chunker uses the content of its sentences, at a cost.
For every run of sentences that fits, a dynamic program scores their similarity, the distance of
their length from the target, and the quality of the end; it finds the best sum and is not greedy.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chunkers.boundaries.levels import BLANK_LINE, HEADING, LINE, PAGE, RUN_ON, SENTENCE
from chunkers.structure import CLOSE_AT, CUT_FROM, Cut, Limits, limits, next_chunk
from chunkers.tokens.encoded import Encoded
from chunkers.tokens.tokenizers import Tokenizer
from chunkers.tokens.tokenizers import tokenizer as tokenizer_by_name
from chunkers.units import Units
from pipeline.errors import UsageError
from pipeline.records import Chunk

Embed = Callable[[Sequence[str]], Any]
"""From texts, none empty, to their vectors. Shape: (len(texts), dimension)."""

FOCUS = 0.75

WINDOW = 64
"""The length, in multiples of `size`, of one dynamic program. The last `TAIL` of them are planned
again together with the following text, so that the end of a window changes no cut."""
TAIL = 6

MAX_PIECES = 32
"""Sentences below `size / MAX_PIECES` are joined first, so that no run has more pieces."""

HEAD_CHARS = 80
"""Characters of a piece that the model reads. On whole texts its tokenizer alone costs 11 to 14
encode passes; on the beginnings of sentences it costs a third."""

# The following weights are in units of cohesion, the mean cosine of two pieces of a chunk. They
# were chosen on the questions of benchmarks/retrieval.py and of sample_data together: half or
# double of LENGTH, PRICE or PRIOR costs at most 2.2 points of recall at 1,000 tokens, of ENDS 4.
LENGTH = 0.1
"""Penalty for a chunk that is e times longer or shorter than its target."""
PRICE = 0.3
"""Price of each chunk at focus 0."""
ENDS = {RUN_ON: -0.5, SENTENCE: -0.4, **dict.fromkeys(range(SENTENCE + 1, LINE), -0.3)}
ENDS |= {BLANK_LINE: 0.1, HEADING: 0.2, PAGE: 0.2}
"""Worth of a chunk's end, by its level."""
NUDGE = 0.02
"""Largest bonus of an end from the characters around it, so that the same one of several equal cuts
is chosen before and after an edit."""
PRIOR = 0.25
"""Weight of the text's mean cohesion, so that a single sentence does not score best."""

_SURROGATES = re.compile("[\ud800-\udfff]")
_WORDS = re.compile(r"[^\W_]{2,}|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")
Floats = NDArray[np.float64]


class Aim(NamedTuple):
    """The targets that follow from `focus`."""

    tokens: float
    price: float
    """Of every chunk, in cohesion of a chunk of `tokens` tokens."""


class Pieces(NamedTuple):
    """Runs of units that no cut splits, as columns with one entry for each piece."""

    unit: list[int]
    """Index of the last unit of each piece."""
    tokens_before_start: list[int]
    tokens_before_end: list[int]


def shared_words(texts: Sequence[str]) -> Floats:
    """Unit vectors of the words, so that texts with the same words are similar; needs no model.

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
    """Chunks of whole sentences that are similar, by the vectors of `embed`.

    `focus` trades recall for precision: at 0 the target is three quarters of `size`, and a chunk
    holds an answer with its context; at 1 the target is a seventh, and it holds little else.

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
    encoder = tokenizer_by_name(tokenizer) if isinstance(tokenizer, str) else tokenizer
    aim = Aim((0.75 - 0.6 * focus) * size, PRICE * (1 - focus))
    return _chunks(text, encoder, figures, embed, aim)


def _chunks(
    text: str, tokenizer: Tokenizer, figures: Limits, embed: Embed, aim: Aim
) -> Iterator[Chunk]:
    if not text or text.isspace():
        return
    with Encoded(text, tokenizer) as encoded:
        units = Units(encoded, figures.size)
        previous = cut = Cut(0, 0, True, tokenizer.additive, 0)
        planned: list[int] = []
        ahead = (WINDOW + 2) * figures.size + 64
        while cut.at < len(text):
            if not planned:
                units.reach(cut.tokens_before_end + ahead, previous.at)
                planned = plan(units, cut, figures, embed, aim)[::-1]
            aimed = planned.pop() if planned else 0
            start, end, tokens = next_chunk(units, previous, cut, figures, aimed)
            if end.at != aimed:
                planned = []
            yield Chunk(start.at, end.at, tokens)
            previous, cut = start, end


def plan(units: Units, cut: Cut, figures: Limits, embed: Embed, aim: Aim) -> list[int]:
    """The ends of the next chunks after `cut`, up to where the following text could change them.

    Empty if even the sentence at `cut` alone does not fit.
    """
    room = figures.size - figures.overlap
    pieces, complete = join(units, cut, room, WINDOW * figures.size, figures.size)
    if not pieces.unit:
        return []
    text, at = units.encoded.text, units.at
    edges = [cut.at, *(at[unit] for unit in pieces.unit)]
    vectors = _embed_pieces(text, edges, embed)
    worth = np.array([ENDS.get(units.level[unit], 0.0) for unit in pieces.unit])
    marks = np.array([units.preference[unit] & 0xFFFFFFFF for unit in pieces.unit])
    worth += NUDGE / 2**32 * marks - aim.price
    before_end = np.array([cut.tokens_before_end, *pieces.tokens_before_end])
    before_start = np.array([cut.tokens_before_end, *pieces.tokens_before_start])
    ends = best_ends(vectors, before_end, before_start, worth, room, aim.tokens)
    if not complete:
        last = int(before_start[-1]) - TAIL * figures.size
        ends = [end for end in ends if before_start[end] <= last] or ends[:1]
    return [edges[end] for end in ends]


def join(units: Units, cut: Cut, room: int, window: int, size: int) -> tuple[Pieces, bool]:
    """The pieces that follow `cut`, and whether they are final: no later text can change their use.

    Invariant: each piece has at most `room` tokens; they end before a unit that has more.
    """
    min_tokens = max(1, size // MAX_PIECES)
    max_tokens = max(min_tokens, size // 8)
    pieces = Pieces([], [], [])
    start = last_start = cut.tokens_before_end
    place = cut.at
    is_open = False
    for unit in range(bisect_right(units.at, cut.at), len(units.at)):
        end, before_start, before_end = (
            units.at[unit],
            units.tokens_before_start[unit],
            units.tokens_before_end[unit],
        )
        if before_start - cut.tokens_before_end > window:
            return pieces, False
        if before_start - start > room:
            return pieces, True
        strength = units.level[unit]
        if before_start - start >= min_tokens or not pieces.unit:
            last_start = start
            pieces.unit.append(unit)
            pieces.tokens_before_start.append(before_start)
            pieces.tokens_before_end.append(before_end)
            start, place, is_open = before_end, end, False
        elif (
            strength >= LINE and before_start - last_start <= min(max_tokens, room) and not is_open
        ):
            # The short last sentence of a paragraph joins the one before it.
            pieces.unit[-1], pieces.tokens_before_start[-1], pieces.tokens_before_end[-1] = (
                unit,
                before_start,
                before_end,
            )
            start, place = before_end, end
        else:
            is_open = True
    if place < len(units.encoded.text) and units.at and units.at[-1] > place:
        unit = len(units.at) - 1
        pieces.unit.append(unit)
        pieces.tokens_before_start.append(units.tokens_before_start[unit])
        pieces.tokens_before_end.append(units.tokens_before_end[unit])
    return pieces, units.encoded.complete


def _embed_pieces(text: str, edges: list[int], embed: Embed) -> Floats:
    """The vectors of the pieces between these places; zeros for blank pieces."""
    heads = []
    for start, end in pairwise(edges):
        head = text[start : min(end, start + 2 * HEAD_CHARS)].strip()[:HEAD_CHARS]
        heads.append(_SURROGATES.sub("\ufffd", head))
    # Sorted by length, since models pad a batch to its longest text.
    order = sorted((row for row, head in enumerate(heads) if head), key=lambda row: len(heads[row]))
    if not order:
        return np.zeros((len(heads), 1))
    embedded = np.nan_to_num(np.asarray(embed([heads[row] for row in order]), np.float64))
    vectors = np.zeros((len(heads), embedded.shape[1]))
    # Rounded: the last bits depend on the batch, and cuts must not.
    vectors[order] = embedded.round(4)
    return vectors


def best_ends(
    vectors: Floats,
    before_end: NDArray[np.int64],
    before_start: NDArray[np.int64],
    worth_of_end: Floats,
    room: int,
    aim: float,
) -> list[int]:
    """The pieces that end a chunk, by number from 1: those with the highest total worth.

    Cost: O(pieces × pieces in a chunk), in numpy except for one step per piece.
    """
    count = len(vectors)
    weight = np.diff(before_end).astype(np.float64)
    sums = np.zeros((count + 1, vectors.shape[1]))
    np.cumsum(vectors * weight[:, None], axis=0, out=sums[1:])
    squares = np.concatenate(([0.0], np.cumsum(weight**2)))
    mean_cohesion = np.einsum("ij,ij->i", vectors[1:], vectors[:-1]).mean() if count > 1 else 0.0
    at_end = np.concatenate(([0.0], worth_of_end * aim))
    longest = 1
    while (
        longest < count
        and (before_start[longest + 1 :] - before_end[: count - longest] <= room).any()
    ):
        longest += 1
    worth = np.full((count + 1, longest), -np.inf)
    norms = np.einsum("ij,ij->i", sums, sums)
    prior = PRIOR * aim**2
    for run in range(1, longest + 1):
        first, last = slice(0, count + 1 - run), slice(run, count + 1)
        tokens = np.maximum(before_start[last] - before_end[first], 1).astype(np.float64)
        inside = norms[last] + norms[first] - 2 * np.einsum("ij,ij->i", sums[last], sums[first])
        own = squares[last] - squares[first]
        pairs = np.maximum((before_end[last] - before_end[first]) ** 2 - own, 0)
        cohesion = (inside - own + prior * mean_cohesion) / (pairs + prior)
        length = np.log(tokens / aim) ** 2
        value = tokens * (cohesion - LENGTH * length) + at_end[last]
        worth[last, run - 1] = np.where(tokens <= room, value, -np.inf)
    best = np.zeros(count + 1)
    begin = np.zeros(count + 1, np.int64)
    reverse = worth[:, ::-1]
    for end in range(1, count + 1):
        width = min(end, longest)
        values = best[end - width : end] + reverse[end, longest - width :]
        choice = int(values.argmax())
        best[end] = values[choice]
        begin[end] = end - width + choice
    ends = []
    end = count
    while end:
        ends.append(end)
        end = int(begin[end])
    return ends[::-1]
