"""A column of integers wider than 64 bits is named where it is used, and does no harm elsewhere."""

import base64
import io
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.source.documents import read
from pipeline.source.files import InputSpec
from pipeline.source.scan import survey
from pipeline.source.types import wide

TABLE = pa.table(
    {
        "id": ["a", "b"],
        "text": ["one", "two"],
        "n": pa.array([b"\1" + bytes(15), None], pa.binary(16)),
        "deep": pa.array([{"k": b"\2" + bytes(15)}, None], pa.struct([("k", pa.binary(16))])),
        "span": pa.array([1, 2], pa.duration("ns")),
        "raw": pa.array([b"x" * 16, b"y" * 16], pa.binary(16)),
    }
)


def written(names):
    """The table as a Parquet file whose Arrow schema calls these columns 128-bit integers, as the
    writers do that have such a type."""
    sink = io.BytesIO()
    pq.write_table(TABLE, sink, compression="none")
    raw = sink.getvalue()
    encoded, at = wide._text(raw, raw.rindex(b"ARROW:schema") + len(b"ARROW:schema"))
    schema = bytearray(base64.b64decode(encoded))
    root = wide._follow(schema, 8)
    left = list(wide._vector(schema, wide._slot(schema, wide._follow(schema, wide._slot(schema, root, 2)), 1)))
    while left:
        field = left.pop()
        name = wide._string(schema, wide._slot(schema, field, wide._NAME))
        if children := wide._slot(schema, field, wide._CHILDREN):
            left += wide._vector(schema, children)
        if name in names:
            schema[wide._slot(schema, field, wide._KIND)] = wide._INT
            kind = wide._follow(schema, wide._slot(schema, field, wide._TYPE))
            struct.pack_into("<i", schema, wide._slot(schema, kind, 0), 128)
    patch = base64.b64encode(schema)
    return raw[:at] + patch + raw[at + len(patch) :]


@pytest.fixture
def path(tmp_path):
    (tmp_path / "wide.parquet").write_bytes(written({"n", "k"}))
    with pytest.raises(pa.ArrowNotImplementedError):
        pq.ParquetFile(tmp_path / "wide.parquet")
    return tmp_path / "wide.parquet"


def test_a_wide_column_that_is_not_used_does_no_harm(path):
    for spec in ({"id": "id"}, {}):
        surveyed = survey(InputSpec(str(path), "text", keep=("span", "raw"), **spec))
        documents = [document for batch in read(surveyed) for document in batch]
        assert [document.text for document in documents] == ["one", "two"]
        found = pa.Table.from_batches([documents[0].row_ref.batch]).select(["span", "raw"])
        assert found.equals(TABLE.select(["span", "raw"]))


@pytest.mark.parametrize(("spec", "name"), [
    ({"id": "id"}, "n"), ({"id": "n", "keep": ()}, "n"), ({"keep": ("deep",)}, "deep"),
    ({"keep": (), "fields": ("n",)}, "n"),
])  # fmt: skip
def test_a_wide_column_that_is_used_is_named_with_its_type(path, spec, name):
    with pytest.raises(InputError) as caught:
        survey(InputSpec(str(path), "text", **spec))
    assert str(caught.value) == f"{path}: column `{name}` is a 128-bit integer, which cannot be read"


def test_only_wide_columns_are_patched(path):
    found = wide.with_wide_columns_as_bytes(path.open("rb"))
    assert found.types == {"n": "128-bit integer", "deep": "128-bit integer"}
    with found.stream as stream:
        assert pq.ParquetFile(stream).read().equals(TABLE)
    assert wide.with_wide_columns_as_bytes(io.BytesIO(written(set()))) is None


@given(st.binary(max_size=300), st.integers(0, 3_000))
def test_any_footer_is_patched_or_not(noise, cut):
    raw = written({"n"})
    for damaged in (noise, raw[:cut], raw[:-cut], raw[:-100] + noise + raw[-100:]):
        wide.with_wide_columns_as_bytes(io.BytesIO(damaged))
