"""A column has the same values in its plain layout, which every later stage can use."""

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from pipeline.source.documents import read
from pipeline.source.files import InputSpec
from pipeline.source.scan import survey
from pipeline.source.types.plain import plain, plain_type

VIEW = pa.string_view()
LONG = "longer than the twelve bytes that a view holds itself"
LISTS = [["a", LONG], None, [], [None], ["b"]]

LAYOUTS = [
    (pa.array(["a", None, LONG], VIEW), pa.string()),
    (pa.array([b"a", None, b"\xff"], pa.binary_view()), pa.binary()),
    (pa.array(LISTS, pa.list_(VIEW)), pa.list_(pa.string())),
    (pa.array(LISTS, pa.large_list(VIEW)), pa.large_list(pa.string())),
    (pa.array(LISTS, pa.list_view(VIEW)), pa.list_(pa.string())),
    (pa.array(LISTS, pa.large_list_view(VIEW)), pa.large_list(pa.string())),
    (pa.array([["a"], None, [None]], pa.list_(VIEW, 1)), pa.list_(pa.string(), 1)),
    (pa.array([{"k": "a"}, None, {"k": None}], pa.struct([("k", VIEW)])),
     pa.struct([("k", pa.string())])),
    (pa.array([[("k", "v")], None, [], [("a", None), ("b", LONG)]], pa.map_(VIEW, VIEW)),
     pa.map_(pa.string(), pa.string())),
    (pa.array([[{"k": ["x"]}], None], pa.list_view(pa.struct([("k", pa.list_view(VIEW))]))),
     pa.list_(pa.struct([("k", pa.list_(pa.string()))]))),
    (pa.DictionaryArray.from_arrays(pa.array([0, None, 1, 0], pa.int8()), pa.array(["a", LONG], VIEW)),
     pa.dictionary(pa.int32(), pa.string())),
    (pa.StructArray.from_arrays([pa.array(["x", "y"]).dictionary_encode()], ["k"]),
     pa.struct([("k", pa.string())])),
    (pa.RunEndEncodedArray.from_arrays(pa.array([2, 3, 5], pa.int32()), pa.array(["a", None, LONG], VIEW)),
     pa.string()),
    (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0, None], pa.int8())), pa.int8()),
]  # fmt: skip


@pytest.mark.parametrize(("column", "kind"), LAYOUTS, ids=lambda each: str(getattr(each, "type", "")))
def test_a_column_in_any_layout_becomes_plain_and_keeps_its_values(column, kind):
    for part in (column, column.slice(1), column.slice(1, 1), column.slice(0, 0)):
        found = plain(part)
        found.validate(full=True)
        stored = part.storage if isinstance(part, pa.ExtensionArray) else part
        assert (found.type, found.to_pylist()) == (kind, stored.to_pylist())
        assert plain(found) is found
        pa.concat_arrays([found, found.take(pa.array([0] if len(found) else [], pa.int64()))])


@given(st.lists(st.none() | st.lists(st.none() | st.text(max_size=20), max_size=3), max_size=8),
       st.integers(0, 8), st.sampled_from([pa.list_view, pa.large_list_view, pa.large_list]))  # fmt: skip
def test_a_list_of_any_layout_keeps_its_values(values, start, make):
    column = pa.array(values, make(VIEW)).slice(start)
    assert plain(column).to_pylist() == values[start:]


def test_json_and_uuid_keep_their_meaning():
    assert plain_type(pa.uuid()) == pa.uuid()
    assert plain_type(pa.json_(VIEW)) == pa.json_(pa.string())


@pytest.mark.parametrize("role", ["text", "id", "keep", "fields"])
@pytest.mark.parametrize("kind", [
    VIEW, pa.large_string(), pa.dictionary(pa.int32(), pa.string()),
], ids=str)  # fmt: skip
def test_text_in_any_layout_is_read_like_a_string_in_every_role(tmp_path, kind, role):
    columns = {"key": ["a", "b", "c"], "body": ["one", None, LONG], "note": ["x", None, "z"]}
    changed = {"text": "body", "id": "key"}.get(role, "note")
    found = []
    for name, new in (("plain", pa.string()), ("other", kind)):
        table = pa.table({each: pa.array(values, new if each == changed else pa.string())
                          for each, values in columns.items()})  # fmt: skip
        pq.write_table(table, tmp_path / f"{name}.parquet")
        spec = InputSpec(str(tmp_path / f"{name}.parquet"), "body", "key", ("note",), ("note",))
        batches = read(survey(spec))
        found.append([
            (d.identity, d.id, d.text, d.fields, d.error, d.part,
             d.row_ref.batch.column("note").take(pa.array([d.row_ref.row])).to_pylist())
            for batch in batches for d in batch
        ])  # fmt: skip
    assert found[0] == found[1]
