"""Windows of equal token count: the plain baseline, exact in offsets and overlap."""

from __future__ import annotations

from collections.abc import Iterator

from chunkers.boundaries.graphemes import begins_word
from chunkers.tokens.encoded import Encoded, check_sizes
from chunkers.tokens.tokenizers import Tokenizer
from chunkers.tokens.tokenizers import tokenizer as tokenizer_by_name
from pipeline.records import Chunk


def chunk_fixed(
    text: str, *, size: int = 512, overlap: int = 0, tokenizer: str | Tokenizer = "o200k_base"
) -> Iterator[Chunk]:
    """Chunks of `size` tokens, a few fewer where the cut would split a grapheme cluster.

    Units: `size` and `overlap` in tokens of `tokenizer`; `size` includes the overlap.
    Invariant: as for `chunk_structure`.
    Raises: UsageError for a size below 8, an overlap not below the size, an unknown tokenizer.
    Cost: one encode pass; memory for one segment.
    """
    check_sizes(size, overlap)
    encoder = tokenizer_by_name(tokenizer) if isinstance(tokenizer, str) else tokenizer
    return _windows(text, encoder, size, overlap)


def _windows(text: str, tokenizer: Tokenizer, size: int, overlap: int) -> Iterator[Chunk]:
    if not text or text.isspace():
        return
    with Encoded(text, tokenizer) as encoded:
        start = cut = 0
        while cut < len(text):
            while not encoded.complete and encoded.total() < encoded.locate(cut)[0] + size + 64:
                encoded.read()
            end, tokens = encoded.fill(start, cut, size)
            if end <= cut:
                start = cut
                end, tokens = encoded.fill(start, cut, size)
            end, tokens = encoded.before_last_word(start, cut, end, tokens, size)
            yield Chunk(start, end, tokens)
            previous, cut = cut, end
            start = _overlap_start(encoded, previous, cut, overlap) if overlap else cut
            encoded.forget(previous)


def _overlap_start(encoded: Encoded, previous: int, cut: int, overlap: int) -> int:
    """The first place after `previous` with at most `overlap` tokens from there to `cut`."""
    place = max(previous + 1, encoded.place(encoded.locate(cut)[0] - overlap))
    while place < cut:
        if begins_word(encoded.text, place) and encoded.count_alone(place, cut) <= overlap:
            return place
        place += 1
    return cut
