"""Rows: one per chunk. Mean: every token weighs once."""

import itertools

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from aggregators.vectors import Mean, Rows
from pipeline.records import Answer, Chunk, Column, Document, Failure, Outcome, Request, RowRef

COLUMN = Column("vector", "vector")
NO = Failure("poison", "no")
COORDINATES = st.lists(st.integers(-8, 8), min_size=3, max_size=3)


def document(error=None):
    text = None if error else "text"
    return Document(b"\0" * 16, "d", text, {}, "in.jsonl:1", 0, RowRef(None, 0), error)


def outcome(start, end, tokens, vector):
    settled = NO if vector is None else Answer(np.array(vector, "<f4").tobytes())
    return Outcome(Request(b"", "", 0, Chunk(start, end, tokens)), settled)


def unit(vector):
    return (np.array(vector, "f8") / np.linalg.norm(vector)).astype("<f4").tolist()


def mean(*outcomes, error=None):
    result = Mean(COLUMN).step(document(error), list(outcomes))
    (row,) = result.rows
    assert (row.chunk, row.error) == (None, result.error)
    (value,) = row.values
    return value if value is None else np.frombuffer(value, "<f4")


@st.composite
def runs(draw):
    """Chunks side by side, a token a character, each with a unit vector or none."""
    found, at = [], 0
    for _ in range(draw(st.integers(1, 6))):
        size = draw(st.integers(1, 9))
        vector = draw(st.none() | COORDINATES.filter(any).map(unit))
        found.append(outcome(at, at + size, size, vector))
        at += size
    return found


@given(runs())
def test_mean_is_that_of_numpy_over_the_tokens(found):
    tokens = [np.frombuffer(each.settled.value, "<f4").astype("f8")
              for each in found if isinstance(each.settled, Answer)
              for _ in range(each.request.chunk.tokens)]
    value = mean(*found)
    if not tokens:
        assert value is None
        return
    expected = np.mean(tokens, axis=0)
    length = np.linalg.norm(expected)
    if length > 1e-6:
        expected = expected / length
        assert np.linalg.norm(value) == pytest.approx(1, abs=1e-6)
    assert value == pytest.approx(expected, abs=1e-5)


@given(st.lists(COORDINATES.filter(any).map(unit), min_size=2, max_size=6), st.data())
def test_overlap_is_not_weighed_twice(vectors, data):
    """With overlap, the mean is that of the same chunks cut where the last one ended."""
    shared, apart, end = [], [], 0
    for vector in vectors:
        new = data.draw(st.integers(1, 6))
        back = data.draw(st.integers(0, end))
        shared.append(outcome(end - back, end + new, back + new, vector))
        apart.append(outcome(end, end + new, new, vector))
        end += new
    assert mean(*shared) == pytest.approx(mean(*apart), abs=1e-6)


@given(runs())
def test_equal_outcomes_give_equal_bytes(found):
    first, second = mean(*found), mean(*(found[:]))
    assert (first is None and second is None) or first.tobytes() == second.tobytes()


def test_sums_run_in_span_order_in_any_order_of_arrival():
    random = np.random.default_rng(3)
    vectors = [unit(random.normal(size=3)) for _ in range(40)]
    found = [outcome(n * 5, n * 5 + 5, 5, vector) for n, vector in enumerate(vectors)]
    total = np.zeros(3)
    for vector in vectors:
        total = total + np.array(vector, "<f4").astype("f8") * 5.0
    expected = total / 200.0
    expected = (expected / np.linalg.norm(expected)).astype("<f4")
    assert mean(*found).tobytes() == expected.tobytes()


def test_one_chunk_keeps_its_vector():
    assert mean(outcome(0, 9, 4, [0.6, 0.8])) == pytest.approx([0.6, 0.8])


def test_a_long_chunk_weighs_more():
    value = mean(outcome(0, 30, 3, [1, 0]), outcome(30, 40, 4, [0, 1]))
    assert value == pytest.approx([0.6, 0.8])


def test_vectors_that_are_not_of_unit_length_keep_their_scale():
    assert mean(outcome(0, 1, 1, [2, 0]), outcome(1, 4, 3, [0, 4])) == pytest.approx([0.5, 3])


def test_opposite_vectors_give_zeros_and_no_number_that_is_none():
    assert mean(outcome(0, 1, 1, [1, 0]), outcome(1, 2, 1, [-1, 0])).tolist() == [0, 0]


def test_a_failed_chunk_is_left_out():
    value = mean(outcome(0, 5, 5, [1, 0]), outcome(5, 10, 5, None))
    assert value.tolist() == [1, 0]


@pytest.mark.parametrize(("outcomes", "error", "status"), [
    ([], None, "ok"),
    ([], "malformed JSON", "failed"),
    ([outcome(0, 1, 1, None)], None, "failed"),
])
def test_without_an_answer_the_mean_is_null(outcomes, error, status):
    assert mean(*outcomes, error=error) is None
    assert Mean(COLUMN).step(document(error), outcomes).status == status


@given(runs())
def test_rows_are_one_per_chunk_in_span_order(found):
    result = Rows(COLUMN).step(document(), found)
    rows = list(result.rows)
    assert [row.chunk for row in rows] == [each.request.chunk for each in found]
    for row, each in zip(rows, found, strict=True):
        is_failed = isinstance(each.settled, Failure)
        assert row.values == (None if is_failed else each.settled.value,)
        assert row.error == ("poison: no" if is_failed else None)


@pytest.mark.parametrize(("error", "status"), [(None, "ok"), ("malformed JSON", "failed")])
def test_a_document_without_chunks_has_one_row(error, status):
    result = Rows(COLUMN).step(document(error), [])
    assert result.status == status
    assert [(row.values, row.chunk, row.error) for row in result.rows] == [((None,), None, error)]


def test_rows_are_made_while_they_are_read():
    made = []

    class Lazily:
        def __iter__(self):
            for n in range(1_000):
                made.append(n)
                yield outcome(n, n + 1, 1, [1, 0])

    result = Rows(COLUMN).step(document(), Lazily())
    assert (result.status, result.chunks, result.tokens) == ("ok", 1_000, 1_000)
    made.clear()
    assert len(list(itertools.islice(result.rows, 3))) == 3
    assert made == [0, 1, 2]


@pytest.mark.parametrize("make", [Rows, Mean])
def test_outcomes_are_read_at_most_twice(make):
    times = []

    class Counted:
        def __iter__(self):
            times.append(1)
            return iter([outcome(0, 1, 1, [1, 0]), outcome(1, 2, 1, None)])

    result = make(COLUMN).step(document(), Counted())
    list(result.rows)
    assert result.status == "partial"
    assert len(times) <= 2
