"""Packed chunks are the chunks, and segments of them are all of them."""

import hypothesis.strategies as st
from hypothesis import given

from pipeline.prepare.long_documents import Requests, Spans
from pipeline.records import Chunk, Request

CHUNKS = st.lists(
    st.builds(
        lambda start, length, tokens, section: Chunk(start, start + length, tokens, section),
        st.integers(0, 2**31), st.integers(0, 5_000), st.integers(0, 9), st.none() | st.text(max_size=3),
    ),
    max_size=40,
)  # fmt: skip


def packed(chunks, chars=10):
    spans = Spans(chars)
    spans.extend(chunks)
    return spans


@given(chunks=CHUNKS, chars=st.sampled_from([10, 2**33]))
def test_what_is_packed_comes_out_again(chunks, chars):
    spans = packed(chunks, chars)
    assert (len(spans), list(spans), spans[:]) == (len(chunks), chunks, chunks)
    assert spans[3:7] == chunks[3:7]


@given(chunks=CHUNKS.filter(len), most=st.integers(1, 9), chars=st.integers(1, 9_000))
def test_segments_join_to_all_chunks_and_keep_to_their_bounds(chunks, most, chars):
    segments = list(packed(chunks).segments(most, chars))
    assert [chunk for segment in segments for chunk in segment] == chunks
    for segment in segments:
        assert 1 <= len(segment) <= most
        size = sum(chunk.end_char - chunk.start_char for chunk in segment)
        assert size <= chars or len(segment) == 1


def test_requests_are_made_when_they_are_asked_for():
    made = []

    def make(chunk):
        made.append(chunk)
        return Request(b"k", "text", 1, chunk)

    chunks = [Chunk(n, n + 1, 1) for n in range(100)]
    requests = Requests(packed(chunks), make)
    assert (len(requests), made) == (100, [])
    assert [each.chunk for each in requests[10:12]] == chunks[10:12] == made
    assert requests[99].chunk == chunks[99]
