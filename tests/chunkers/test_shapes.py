"""The laws of cutting over texts of many shapes: what belongs together stays whole where it fits."""

from __future__ import annotations

from itertools import pairwise

import pytest

from chunkers import CHUNKERS
from chunkers.boundaries.graphemes import in_word
from chunkers.boundaries.scan import sentences
from chunkers.tokens.tokenizers import tokenizer
from tests.support.chunk_laws import check_laws
from tests.support.chunk_shapes import SENTENCES, UNSPACED, Shape, shapes

SHAPES = shapes()
SIZES = (32, 64, 128, 256)
WHOLE = ("structure", "markdown")
count = tokenizer("o200k_base").count


def overlaps(size: int) -> tuple[int, ...]:
    return 0, 8, size // 4


def torn(shape: Shape, size: int, overlap: int, method: str) -> list[str]:
    """The units that fit into a chunk and are in none. The line break after a unit counts."""
    chunks = check_laws(shape.text, size, overlap, "o200k_base", method=method)
    spans = [(chunk.start_char, chunk.end_char) for chunk in chunks]
    return [
        shape.text[start:end]
        for start, end in shape.units
        if count(shape.text[start:end]) + 2 <= size
        and not any(low <= start and end <= high for low, high in spans)
    ]


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("method", WHOLE)
def test_no_unit_that_fits_is_torn(name: str, method: str) -> None:
    for size in SIZES:
        for overlap in overlaps(size):
            assert torn(SHAPES[name], size, overlap, method) == [], (size, overlap)


@pytest.mark.parametrize("method", sorted(CHUNKERS))
@pytest.mark.parametrize("name", sorted(SHAPES))
def test_no_overlap_begins_inside_a_word_and_no_chunk_is_blank(name: str, method: str) -> None:
    text = SHAPES[name].text
    for size in SIZES:
        for overlap in overlaps(size):
            chunks = check_laws(text, size, overlap, "o200k_base", method=method)
            assert all(text[c.start_char : c.end_char].strip() for c in chunks)
            for one, two in pairwise(chunks):
                if two.start_char < one.end_char:
                    assert not in_word(text, two.start_char), text[two.start_char - 9 :][:18]


@pytest.mark.parametrize("name", sorted(SENTENCES) + [f"{name}, wrapped" for name in SENTENCES])
def test_an_overlap_begins_at_a_sentence_where_one_fits(name: str) -> None:
    text, units = SHAPES[name]
    starts = [start for start, _ in units]
    for size in SIZES:
        chunks = check_laws(text, size, size // 4, "o200k_base", method="structure")
        for one, two in pairwise(chunks):
            fitting = [
                start
                for start in starts
                if one.start_char + 1 < start < one.end_char
                and count(text[start - 1 : one.end_char]) <= size // 4
                and count(text[start : one.end_char]) + two.tokens + 2 <= size
            ]
            if fitting and two.start_char < one.end_char:
                first = (
                    two.start_char
                    + len(text[two.start_char :])
                    - len(text[two.start_char :].lstrip())
                )
                assert first in starts, text[two.start_char : one.end_char]


@pytest.mark.parametrize("language", sorted({**SENTENCES, **UNSPACED}))
def test_sentences_end_only_at_their_ends(language: str) -> None:
    expected = {**SENTENCES, **UNSPACED}[language]
    gap = "" if language in UNSPACED else " "
    text = gap.join(expected)
    assert [text[start:end] for start, end in sentences(text)] == expected


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_what_follows_changes_only_the_last_chunks(name: str) -> None:
    text, units = SHAPES[name]
    cut = units[len(units) // 2][1] if units else len(text) // 2
    whole = check_laws(text, 64, 0, "o200k_base", method="structure")
    part = check_laws(text[:cut], 64, 0, "o200k_base", method="structure")
    same = sum(one == two for one, two in zip(whole, part, strict=False))
    assert same >= len(part) - 4
