"""U+0000 is kept, or replaced at every depth by one other character."""

import json

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from pipeline.parts.nul import without_nul

KINDS = {
    "string": (pa.string(), ["a\0b", None, "c"]),
    "large": (pa.large_string(), ["\0\0"]),
    "list": (pa.list_(pa.string()), [["a\0"], None, [], [None, "b"]]),
    "large list": (pa.large_list(pa.string()), [["a\0"], None]),
    "struct": (pa.struct([("k", pa.list_(pa.string()))]), [{"k": ["\0"]}, None, {"k": None}]),
    "map": (pa.map_(pa.string(), pa.string()), [[("a\0", "b\0")], None, []]),
    "integers": (pa.int64(), [1, None]),
    "bytes": (pa.binary(), [b"\0"]),
}


def replaced(value):
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, list | tuple):
        return type(value)(map(replaced, value))
    return {k: replaced(v) for k, v in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("name", KINDS)
def test_nul_is_replaced_at_every_depth(name):
    kind, values = KINDS[name]
    for array in (pa.array(values, kind), pa.array([*values, *values], kind).slice(len(values))):
        found = without_nul(pa.table({"x": array}))["x"]
        found.validate(full=True)
        assert (found.type, found.to_pylist()) == (kind, [replaced(each) for each in values])


@given(st.recursive(st.text("\0\\u0a\"", max_size=8), lambda inner: st.lists(inner) | st.dictionaries(
    st.text("k\\u0", max_size=5), inner), max_leaves=5))  # fmt: skip
def test_nul_in_json_text_is_replaced_and_nothing_else(value):
    texts = pa.ExtensionArray.from_storage(pa.json_(), pa.array([json.dumps(value), None]))
    found = without_nul(pa.table({"x": texts}))["x"].to_pylist()
    assert found[1] is None and json.loads(found[0]) == replaced(value)


def test_a_run_keeps_nul_or_replaces_it(tmp_path, monkeypatch, own_home, textmill):
    monkeypatch.chdir(tmp_path)
    text = "The weir\0 held."
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": 1, "text": text, "o": {"k": "\0"}}) + "\n")
    options = ["-i", "in.jsonl", "-o", "o.parquet", "--id", "id"]
    assert textmill("run", "enrich", *options).code == 0
    assert pq.read_table("o.parquet").select(["text", "o"]).to_pylist() == [{"text": text, "o": {"k": "\0"}}]
    ran = textmill("run", "enrich", *options, "--set", "output.nul=replace", "--json")
    assert (ran.code, ran.last["calls"]) == (0, 0)
    assert pq.read_table("o.parquet").select(["text", "o"]).to_pylist() == [
        {"text": "The weir\ufffd held.", "o": {"k": "\ufffd"}}]  # fmt: skip
