"""The laws of cutting, over random Unicode, sizes and overlaps."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkers import CHUNKERS
from chunkers.boundaries.graphemes import is_break
from chunkers.tokens.tokenizers import tokenizer
from tests.support import require_module
from tests.support.chunk_laws import check_laws
from tests.support.chunk_texts import TEXTS, cuts


@pytest.mark.parametrize("method", sorted(CHUNKERS))
@given(cut=cuts())
@settings(max_examples=150, deadline=None)
def test_chunks_rebuild_the_text_and_never_exceed_the_size(
    method: str, cut: tuple[str, int, int]
) -> None:
    check_laws(*cut, "o200k_base", method=method)


@pytest.mark.parametrize("method", sorted(CHUNKERS))
@given(cut=cuts())
@settings(max_examples=100, deadline=None)
def test_the_laws_hold_for_cl100k_base(method: str, cut: tuple[str, int, int]) -> None:
    check_laws(*cut, "cl100k_base", method=method)


@pytest.mark.parametrize("method", sorted(CHUNKERS))
@given(cut=cuts())
@settings(max_examples=60, deadline=None)
def test_the_laws_hold_for_a_tokenizer_without_pre_tokenizer(
    method: str, cut: tuple[str, int, int]
) -> None:
    require_module("wordllama")
    check_laws(*cut, "wordllama", method=method)


@pytest.mark.parametrize("method", sorted(CHUNKERS))
@given(text=TEXTS, size=st.integers(40, 120))
@settings(max_examples=150, deadline=None)
def test_no_grapheme_cluster_is_cut_where_it_would_fit(method: str, text: str, size: int) -> None:
    longest = 0
    start = 0
    count = tokenizer("o200k_base").count
    for place in range(1, len(text) + 1):
        if is_break(text, place):
            longest = max(longest, count(text[start:place]))
            start = place
    chunks = check_laws(text, size, 0, "o200k_base", method=method)
    if longest * 2 <= size:
        for chunk in chunks:
            assert is_break(text, chunk.end_char)


@given(text=TEXTS, size=st.integers(30, 120))
@settings(max_examples=200, deadline=None)
def test_an_overlap_is_never_empty_where_there_is_room(text: str, size: int) -> None:
    overlap = size // 2
    chunks = check_laws(text, size, overlap, "o200k_base", method="structure")
    count = tokenizer("o200k_base").count
    for one, two in pairwise(chunks):
        if two.start_char == one.end_char:
            place = one.end_char - 1
            while place > one.start_char and not is_break(text, place):
                place -= 1
            last = text[place : one.end_char]
            first = place == one.start_char
            assert first or count(last) + two.tokens > min(overlap, size) or last.isspace()
