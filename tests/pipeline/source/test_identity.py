"""The hash of the columns used, and identities' exactness."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.source.files import InputSpec
from pipeline.source.json_types import ListOf, ObjectOf, widens
from pipeline.source.scan import survey


def uses(tmp_path, rows, name="in.jsonl", **spec):
    path = tmp_path / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = survey(InputSpec(str(path), "text", id="id", **spec))
    return [used for rows in found.rows_by_part() for used in rows["used"].tolist()]


ROW = {"id": 1, "text": "a", "kept": 1.5, "other": 1}


@pytest.mark.parametrize(
    ("changed", "is_same"),
    [
        ({"text": "b"}, False), ({"kept": 2.5}, False), ({"kept": None}, False),
        ({"other": 2}, True), ({"more": "x"}, True), ({"kept": "1.5"}, False),
    ],
)  # fmt: skip
def test_a_row_is_unchanged_if_the_columns_used_are(tmp_path, changed, is_same):
    before = uses(tmp_path, [ROW], keep=("kept",))
    assert (uses(tmp_path, [ROW | changed], keep=("kept",)) == before) is is_same


def test_without_keep_all_columns_are_used(tmp_path):
    assert uses(tmp_path, [ROW]) != uses(tmp_path, [ROW | {"other": 2}])


def test_columns_that_prompts_read_are_used(tmp_path):
    before = uses(tmp_path, [ROW], keep=(), fields=("other",))
    assert uses(tmp_path, [ROW | {"other": 2}], keep=(), fields=("other",)) != before


def test_both_formats_give_the_same_hashes_and_minus_zero_is_another_value(tmp_path):
    rows = [{"id": n, "text": "a 水", "kept": [1.0, None, 2.5], "flag": True} for n in range(3)]
    assert uses(tmp_path, rows) == uses(tmp_path, rows, "in.parquet")
    zero = [{"id": 1, "text": "a", "kept": 0.0}]
    minus = [{"id": 1, "text": "a", "kept": -0.0}]
    assert uses(tmp_path, zero) != uses(tmp_path, minus)


def test_a_row_that_ceases_to_fit_its_columns_is_another(tmp_path):
    rows = [{"id": 0, "text": "a", "odd": 1}, {"id": 1, "text": "a", "odd": 2}]
    before = uses(tmp_path, rows, keep=())
    rows[0]["odd"] = "now a string"
    now = uses(tmp_path, rows, keep=())
    assert (now[0] == before[0], now[1] == before[1]) == (True, False)


def test_integers_that_become_floats_are_noticed_however_deep():
    assert widens("integer", "float")
    assert not widens("float", "float")
    assert widens(ListOf(ObjectOf({"a": "integer"})), ListOf(ObjectOf({"a": "float", "b": None})))
    assert not widens(None, "float")
