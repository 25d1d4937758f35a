"""Metadata of the input's schema is carried along as far as it is true of the output."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.parts.foreign import carried_metadata
from pipeline.parts.schema import output_schema
from pipeline.records import Column
from pipeline.source.files import InputSpec
from pipeline.source.scan import survey

PANDAS = {
    "index_columns": [{"kind": "range", "name": None, "start": 0, "stop": 9, "step": 1}, "key", "gone"],
    "columns": [{"name": "key", "field_name": "key", "pandas_type": "int64"},
                {"name": "gone", "field_name": "gone", "pandas_type": "object"},
                {"name": "when", "field_name": "when", "metadata": {"timezone": "UTC"}}],
    "pandas_version": "2.2.0",
}  # fmt: skip
FEATURES = {"key": {"dtype": "int64", "_type": "Value"}, "gone": {"dtype": "string", "_type": "Value"}}


def test_pandas_keeps_what_it_says_of_the_columns_that_are_left():
    found = carried_metadata({b"pandas": json.dumps(PANDAS).encode()}, ["key", "when", "vector"], ["key"])
    assert json.loads(found[b"pandas"]) == {
        "index_columns": ["key"],
        "columns": [PANDAS["columns"][0], PANDAS["columns"][2]],
        "pandas_version": "2.2.0",
    }


def test_datasets_keep_the_features_that_are_left():
    raw = json.dumps({"info": {"features": FEATURES, "splits": {"train": 9}}, "fingerprint": "f"}).encode()
    found = carried_metadata({b"huggingface": raw}, ["key"], ["key"])
    assert json.loads(found[b"huggingface"]) == {"info": {"features": {"key": FEATURES["key"]}}}


def test_other_values_are_carried_unless_they_describe_the_rows_of_the_input():
    spark = json.dumps({"type": "struct", "fields": [{"name": "key", "type": "long"}]}).encode()
    kept = {b"licence": b"CC-BY-4.0", b"source": b'{"url": "https://example.org"}', b"raw": b"\xff\x00", b"n": b"3"}
    own = {b"textmill.model": b"of another run", b"ARROW:schema": b"x", b"spark.row": spark, b"pandas": b"{}"}
    assert carried_metadata(kept | own, ["key"], ["key", "text"]) == kept


def test_an_output_has_the_metadata_of_its_input_and_its_own(tmp_path):
    table = pa.table({"key": [1], "text": ["a"], "gone": ["x"]})
    for name in ("a", "b"):
        metadata = {"licence": "CC-BY-4.0", "pandas": json.dumps(PANDAS), "file": name}
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / f"{name}.parquet")
    surveyed = survey(InputSpec(str(tmp_path / "a.parquet"), "text", "key", ("key",)))
    schema = output_schema(
        surveyed.schema, (Column("label", "string"),), per_chunk=False, id="key", text="text",
        metadata={"textmill.task": "t"},
    )  # fmt: skip
    assert list(schema.metadata) == [b"licence", b"pandas", b"file", b"textmill.task"]
    assert [each["name"] for each in json.loads(schema.metadata[b"pandas"])["columns"]] == ["key"]
    both = survey(InputSpec(str(tmp_path / "*.parquet"), "text", keep=("key",)))
    assert list(both.schema.metadata) == [b"licence", b"pandas"]  # what all files say
    lines = survey(InputSpec(str(tmp_path / "a.parquet"), "text", for_json=True))
    assert lines.schema.metadata is None
