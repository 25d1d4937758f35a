"""Texts are joined in the order of their chunks."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from aggregators import AGGREGATORS, REVISIONS
from aggregators.text import Text
from pipeline.records import Answer, Chunk, Column, Document, Failure, Outcome, Request, RowRef

TEXT = Text(Column("summary", "string"))
NO = Failure("poison", "no")


def step(*settled, error=None):
    document = Document(b"\0" * 16, "d", None if error else "text", {}, "in.jsonl:1", 0,
                        RowRef(None, 0), error)
    outcomes = [Outcome(Request(b"", "", 0, Chunk(n, n + 1, 1)), one)
                for n, one in enumerate(settled)]
    result = TEXT.step(document, outcomes)
    (row,) = result.rows
    assert row.chunk is None
    assert row.error == result.error
    return result.status, row.values, row.error


@given(st.lists(st.text(max_size=4) | st.none(), min_size=1, max_size=8))
def test_answers_are_joined_in_span_order_and_failures_left_out(texts):
    settled = [NO if text is None else Answer(text) for text in texts]
    answered = [text for text in texts if text is not None]
    _, (joined,), _ = step(*settled)
    assert joined == ("\n".join(answered) if answered else None)


@pytest.mark.parametrize(("settled", "error", "expected"), [
    ([Answer("a"), Answer("水位")], None, ("ok", ("a\n水位",), None)),
    ([Answer("")], None, ("ok", ("",), None)),
    ([], None, ("ok", (None,), None)),
    ([NO], None, ("failed", (None,), "poison: no")),
    ([Answer("a"), NO], None, ("partial", ("a",), "1 of 2 chunks failed: poison: no")),
    ([], "malformed JSON", ("failed", (None,), "malformed JSON")),
    ([Answer(b"\0\0\0\0")], None, ("ok", (None,), None)),
])
def test_one_row_per_document(settled, error, expected):
    assert step(*settled, error=error) == expected


def test_every_aggregator_has_a_revision_and_names_its_column():
    column = Column("x", "string")
    assert set(AGGREGATORS) == set(REVISIONS) == {"rows", "mean", "text"}
    assert all(make(column).columns == (column,) for make in AGGREGATORS.values())
    assert {name: make(column).per_chunk for name, make in AGGREGATORS.items()} == {
        "rows": True, "mean": False, "text": False,
    }
