"""What a file is that is not JSONL is found from its first bytes, without repeating them."""

import gzip
import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pipeline.errors import InputError
from pipeline.source.diagnosis import HEAD_BYTES, diagnose
from pipeline.source.documents import read
from pipeline.source.files import InputSpec
from pipeline.source.scan import survey

ROWS = [{"id": f"k{n}", "text": f"Die Brücke {n} trägt über 水."} for n in range(4)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
WESTERN = '{"id": "k0", "text": "Die Brücke trägt."}\n' * 3
CHINESE = '{"id": "k0", "text": "水坝很稳"}\n' * 3

FILES = {
    "array, pretty": (json.dumps(ROWS, indent=1).encode(), "a JSON array"),
    "array, one line": (json.dumps(ROWS).encode(), "a JSON array"),
    "array, one row a line": (f"[\n{LINES.strip().replace(chr(10), ',' + chr(10))}\n]".encode(), "a JSON array"),
    "array of arrays": (b'[["a", 1],\n["b", 2]]', "a JSON array"),
    "utf-16 with a mark": (LINES.encode("utf-16"), "UTF-16 text"),
    "utf-16 without": (LINES.encode("utf-16-le"), "UTF-16LE text"),
    "utf-16 big": (LINES.encode("utf-16-be"), "UTF-16BE text"),
    "utf-16 Chinese": (CHINESE.encode("utf-16-le"), "UTF-16LE text"),
    "utf-32": (LINES.encode("utf-32"), "UTF-32 text"),
    "utf-32 without": (LINES.encode("utf-32-be"), "UTF-32BE text"),
    "CR": (LINES.replace("\n", "\r").encode(), "text with CR line ends"),
    "commas": (LINES.replace("\n", ",\n").encode(), "JSON objects with `,` after each"),
    "pretty": (json.dumps(ROWS[0], indent=2).encode(), "JSON objects of several lines each"),
    "pretty, wrapped": (json.dumps({"rows": ROWS}, indent=2).encode(), "JSON objects of several lines each"),
    "one line": (LINES.replace("\n", "").encode(), "several JSON objects on one line"),
    "python": ("".join(f"{row}\n" for row in ROWS).encode(), "objects in Python's notation"),
    "arrays": (b'["a", 1]\n["b", 2]\n', "lines of JSON arrays"),
    "csv": (b'id,text\n1,"one, two"\n2,three\n', "CSV"),
    "csv with semicolons": (b"id;text\n1;one\n2;two\n", "CSV (semicolons)"),
    "tsv": (b"id\ttext\n1\tone, two\n2\tthree\n", "TSV (tabs)"),
    "html": (b"<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page"),
    "xml": (b'<?xml version="1.0"?>\n<rows/>', "an XML document"),
    "prose": (b"The weir held.\nThe gate did not.\n", "plain text"),
    "gzip": (gzip.compress(LINES.encode()), "data compressed with gzip"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04\x00", "data compressed with zstd"),
    "parquet": (b"PAR1\x15\x04", "a Parquet file"),
    "arrow": (b"ARROW1\0\0", "an Arrow IPC file"),
    "avro": (b"Obj\x01\x04", "an Avro file"),
    "zip": (b"PK\x03\x04\x14", "a zip archive (or an office document)"),
    "latin-1": (WESTERN.encode("latin-1"), "text in another encoding than UTF-8"),
    "gb18030": (CHINESE.encode("gb18030"), "text in another encoding than UTF-8"),
    "shift_jis": ('{"id": 1, "text": "堰は夜通し"}\n'.encode("shift_jis"), "text in another encoding than UTF-8"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS, not the data"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_jsonl_is_named(tmp_path, name):
    raw, what = FILES[name]
    assert diagnose(raw[:HEAD_BYTES]).what == what
    path = tmp_path / "in.jsonl"
    path.write_bytes(raw)
    surveyed = survey(InputSpec(str(path), "text", "id"))
    documents = [document for batch in read(surveyed) for document in batch]
    is_last_row_whole = name == "array, one row a line"
    assert [d.error is None for d in documents].count(True) == is_last_row_whole
    assert documents[0].error.endswith(f" (the file is {what}, not JSONL)")
    (warning,) = surveyed.warnings
    assert warning.startswith(f"{path}: the file is {what}, not JSONL (")
    assert "Brücke" not in warning and "水" not in warning


@pytest.mark.parametrize("raw", [
    b"", b"\n", LINES.encode(), b"\xef\xbb\xbf" + LINES.encode(), LINES.replace("\n", "\r\n").encode(),
    b'{"id": 1, "te', b'{"id": 1, "text": "\xff"}\n' + LINES.encode(), b"null\n", b'{"x": NaN}\n',
    b'{"text": "a, b", "more": [1, 2]}', b'{"a": {"b": 1}}\n{"a": {"b": 2}}\n',
])  # fmt: skip
def test_jsonl_and_single_bad_rows_are_not_named(raw):
    assert diagnose(raw[:HEAD_BYTES]) is None


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_diagnosed_or_not(raw):
    found = diagnose(raw)
    assert found is None or (found.what and found.hint)


@given(st.lists(st.dictionaries(st.text(max_size=9), st.text(max_size=9)), min_size=1, max_size=4))
def test_no_jsonl_file_is_taken_for_something_else(rows):
    raw = b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    assert diagnose(raw) is None
    assert diagnose((raw * HEAD_BYTES)[:HEAD_BYTES]) is None


def test_a_bad_first_row_does_not_hide_what_is_wrong_with_the_others(tmp_path):
    (tmp_path / "a.jsonl").write_text('# rows of May\n{"id": 1, "text": "one"}\n{"id": 2, "text":}\n')
    surveyed = survey(InputSpec(str(tmp_path / "a.jsonl"), "text", "id"))
    found = [d for batch in read(surveyed) for d in batch]
    assert found[1].error is None
    assert found[2].error == "malformed JSON: invalid character (byte 17)"
    assert surveyed.warnings == ()


@pytest.mark.parametrize(("raw", "what"), [
    (LINES.encode(), "the file is JSONL, not Parquet"), (b"id,text\n1,a\n2,b\n", "the file is CSV, not Parquet"),
    (b"\x1f\x8b\x08", "the file is data compressed with gzip, not Parquet"),
])  # fmt: skip
def test_a_parquet_name_on_another_file_is_named(tmp_path, raw, what):
    (tmp_path / "a.parquet").write_bytes(raw)
    with pytest.raises(InputError, match=what):
        survey(InputSpec(str(tmp_path / "a.parquet"), "text", "id"))
