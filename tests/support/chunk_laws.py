"""The laws that every chunker keeps, for any text, size and overlap."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from chunkers import CHUNKERS
from chunkers.tokens.tokenizers import tokenizer
from pipeline.records import Chunk


def check_laws(text: str, size: int, overlap: int, name: str, **options: Any) -> list[Chunk]:
    count = tokenizer(name).count
    method = options.pop("method")
    chunks = list(CHUNKERS[method](text, size=size, overlap=overlap, tokenizer=name, **options))
    if not text.strip():
        assert chunks == []
        return chunks
    assert chunks[0].start_char == 0
    assert chunks[-1].end_char == len(text)
    for chunk in chunks:
        alone = count(text[chunk.start_char : chunk.end_char])
        assert alone <= chunk.tokens <= size, chunk
    for one, two in pairwise(chunks):
        assert one.start_char < two.start_char <= one.end_char < two.end_char
        if not overlap:
            assert two.start_char == one.end_char
        assert count(text[two.start_char : one.end_char]) <= overlap
    return chunks
