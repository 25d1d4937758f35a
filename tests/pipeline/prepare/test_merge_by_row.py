"""Documents that are to be done and runs that are copied: one stream, in the order of the rows."""

from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import given

from pipeline.parts.reuse import CopiedRows
from pipeline.prepare import requests
from pipeline.prepare.long_documents import LongDocument, PreparedDocument
from pipeline.prepare.requests import finished_documents, merge_by_row, requests_of
from pipeline.records import SOLE, Chunk, Document, Request, RowRef


def document(row, long=None, made=()):
    return PreparedDocument(Document(b"", row, "text", {}, "", 0, RowRef(None, 0), None, row), made, long)


def copied(row, documents=1):
    return CopiedRows(row, 0, documents, None, None)


def row(item):
    return item.document.row if isinstance(item, PreparedDocument) else item.row


@st.composite
def streams(draw):
    """Groups of documents, and the rows between them as runs; some documents are long."""
    kinds = draw(st.lists(st.sampled_from(["do", "do", "long", "copy"]), max_size=40))
    groups, runs = [[]], []
    for number, kind in enumerate(kinds):
        if kind == "copy":
            runs.append(copied(number))
        elif kind == "long":
            groups += [[document(number, long=LongDocument)] for _ in range(draw(st.integers(1, 3)))]
            groups.append([])
        else:
            groups[-1].append(document(number))
            if draw(st.booleans()):
                groups.append([])
    return [group for group in groups if group], runs


@given(streams(), st.integers(1, 5))
def test_nothing_is_lost_and_all_is_in_the_order_of_the_rows(given_streams, most):
    groups, runs = given_streams
    sizes = [len(group) for group in groups]
    before, requests.BATCH_ROWS = requests.BATCH_ROWS, most
    try:
        found = list(merge_by_row(iter(groups), iter(runs)))
    finally:
        requests.BATCH_ROWS = before
    items = [each for group in found for each in group]
    assert sorted(map(id, items)) == sorted(id(e) for g in [*groups, runs] for e in g)
    assert all(row(one) <= row(other) for one, other in pairwise(items))
    for group in found:
        assert group
        assert sum(isinstance(each, PreparedDocument) for each in group) <= max([*sizes, 0])
        assert len(group) == 1 or not any(getattr(each, "long", None) for each in group)


def test_runs_stand_before_between_and_behind_the_documents():
    groups = [[document(1), document(4)], [document(5)]]
    runs = [copied(0), copied(2, 2), copied(6, 3)]
    assert [[row(each) for each in group] for group in merge_by_row(groups, iter(runs))] == [
        [0, 1, 2, 4], [5], [6],
    ]  # fmt: skip
    assert list(merge_by_row([], iter([]))) == []


def test_of_a_group_only_documents_have_requests():
    asked = Request(b"k", "text", 1, Chunk(0, 4, 1), SOLE)
    group = [copied(0), document(1, made=[asked]), document(2), copied(3)]
    assert requests_of(group) == [asked]
    assert finished_documents(group) == group
