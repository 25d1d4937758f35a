"""The output's columns, vectors, and values of columns."""

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from pipeline.errors import UsageError
from pipeline.parts.json_lines import shortest
from pipeline.parts.schema import output_schema, vector_array, vector_type
from pipeline.records import Column
from pipeline.source.identity import Moment, of_content, of_id
from pipeline.source.types.values import identity_values, python_values

KEPT = pa.schema([("id", pa.int32()), ("text", pa.string()), ("year", pa.int16())])
VECTOR = (Column("vector", "vector"),)
LABELS = (Column("label", "string"),)


def test_the_columns_of_one_row_per_chunk():
    schema = output_schema(KEPT, VECTOR, per_chunk=True, id="id", text="text", dimension=3)
    assert schema == pa.schema(
        [
            ("id", pa.int32()),
            ("chunk_id", pa.string()),
            ("chunk", pa.int64()),
            ("start_char", pa.int64()),
            ("end_char", pa.int64()),
            ("tokens", pa.int64()),
            ("section", pa.string()),
            ("text", pa.string()),
            ("year", pa.int16()),
            ("vector", pa.list_(pa.field("element", pa.float32()), 3)),
            ("_status", pa.string()),
            ("_error", pa.string()),
        ]
    )
    assert all(field.nullable for field in schema)


def test_the_columns_of_one_row_per_document():
    schema = output_schema(
        KEPT, LABELS, per_chunk=False, id="id", text="text", metadata={"textmill.task": "t"}
    )
    assert schema.names == [
        "id",
        "text",
        "year",
        "label",
        "_status",
        "_error",
        "_truncated",
        "_chunks",
        "_tokens",
        "_model",
    ]
    assert schema.metadata == {b"textmill.task": b"t"}
    assert schema.field("_truncated").type == pa.bool_()


def test_without_an_id_column_there_is_one_of_text():
    kept = pa.schema([("text", pa.string())])
    for per_chunk in (True, False):
        schema = output_schema(kept, LABELS, per_chunk=per_chunk, id=None, text="text")
        assert schema.names[0] == "id" and schema.field("id").type == pa.string()


def test_a_kept_column_with_a_name_of_the_output_is_refused():
    for name, per_chunk in (("label", False), ("chunk", True), ("_status", False)):
        kept = pa.schema([("key", pa.string()), (name, pa.string())])
        with pytest.raises(UsageError, match=rf"input.keep: `{name}` is a name"):
            output_schema(kept, LABELS, per_chunk=per_chunk, id="key", text="body")
    with pytest.raises(UsageError) as caught:
        output_schema(KEPT, LABELS, per_chunk=False, id=None, text="text")
    assert caught.value.hint == '--id id, or `input.id = "id"` in the job file'


def test_vectors_are_fixed_size_lists_with_nulls():
    raw = np.array([1, 2], "<f4").tobytes()
    assert vector_array([raw, None], vector_type(2)).to_pylist() == [[1.0, 2.0], None]
    assert vector_array([None], vector_type(None)).to_pylist() == [None]
    with pytest.raises(ValueError, match="a vector of 2 numbers in an output of 3"):
        vector_array([raw], vector_type(3))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_shortest_decimals_are_those_of_numpy(numbers):
    single = np.array(numbers, np.float32)
    assert [float(str(each)) for each in single] == shortest(single).tolist()


def test_values_that_pythons_clocks_cannot_hold_come_as_text():
    assert python_values(pa.array([1, None], pa.timestamp("ns"))) == [
        "1970-01-01T00:00:00.000000001",
        None,
    ]
    nested = pa.array([{"a": 1}], pa.struct([("a", pa.timestamp("ns"))]))
    assert python_values(nested) == [{"a": "1970-01-01T00:00:00.000000001"}]
    assert python_values(pa.array([1], pa.date32())) == ["1970-01-02"]


def test_values_for_identity_know_no_units():
    micro = identity_values(pa.array([1], pa.timestamp("us", "UTC")))
    assert micro == identity_values(pa.array([1000], pa.timestamp("ns", "Asia/Shanghai")))
    assert micro == [Moment("timestamp with zone", 1000)]
    assert identity_values(pa.array([1], pa.date32())) == identity_values(pa.array([86_400_000], pa.date64()))


def test_identity_compares_type_and_value():
    assert of_id(1) == of_id(1.0) != of_id("1")
    assert of_id(True) != of_id(1)
    assert of_content({"a": 1, "b": None}) == of_content({"a": 1})
    assert of_content({"a": ["b", "c"]}) != of_content({"a": ["bc"]})
    assert of_id("r-17").hex() == of_id("r-17").hex() and len(of_id("r-17")) == 16
