"""What a run leaves beside its output."""

import json
import re
import stat

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pipeline import folder
from pipeline.errors import StorageError
from pipeline.folder import RunRecord, new_run_id, run_folder
from pipeline.records import Chunk, Document, Failure, Kept, Outcome, Request


def document(address="in.jsonl:17", id="r-17", error=None):
    text = None if error else "text"
    return Document(b"\x01" * 16, id, text, {}, address, 0, Kept(None, 0), error)


def outcome(reason="the server refuses", kind="poison", attempts=2):
    return Outcome(Request(b"k", "text", 1, Chunk(3, 9, 2)), Failure(kind, reason, attempts))


def lines(record):
    record.close()
    return [json.loads(line) for line in record.failures_path.read_bytes().splitlines()]


def test_a_failed_request_is_a_line_with_its_place_and_its_reason(tmp_path):
    record = RunRecord(str(tmp_path / "out.parquet"), "run-1")
    record.failed(document(), 4, outcome())
    assert lines(record) == [{
        "id": "r-17", "identity": "01" * 16, "file": "in.jsonl", "line": 17, "chunk": 4,
        "start_char": 3, "end_char": 9, "kind": "poison", "reason": "the server refuses",
        "attempts": 2,
    }]


def test_an_isolated_row_is_a_line_without_a_chunk(tmp_path):
    record = RunRecord(str(tmp_path / "out.parquet"), "run-1")
    record.isolated(document("a b.parquet: row 3", None, "`text` must be a string, got integer"))
    assert lines(record) == [{
        "id": None, "identity": "01" * 16, "file": "a b.parquet", "row": 3,
        "reason": "`text` must be a string, got integer",
    }]


@given(st.text(min_size=1), st.integers(0, 10**9), st.booleans())
def test_an_address_is_taken_apart_whatever_the_file_is_called(name, number, is_line):
    address = f"{name}:{number}" if is_line else f"{name}: row {number}"
    where = folder._ADDRESS.fullmatch(address)
    assert where["file"] == name
    assert int(where["line"] if is_line else where["row"]) == number


@pytest.mark.parametrize("name", ["in:12.jsonl", "日.jsonl", "a: row 3.jsonl", "a:1:2"])
def test_the_place_of_a_failure_is_told_for_odd_file_names(tmp_path, name):
    record = RunRecord(str(tmp_path / "out"), "run-1")
    record.failed(document(f"{name}:5"), 0, outcome())
    assert [(line["file"], line["line"]) for line in lines(record)] == [(name, 5)]


def test_reasons_are_one_short_line_without_control_characters(tmp_path):
    record = RunRecord(str(tmp_path / "out"), "run-1")
    record.failed(document(), 0, outcome("a\x1b[2J\nb\u202e" + "x" * 10_000))
    (told,) = lines(record)
    assert told["reason"].startswith("a\\x1b[2J\\nb\\u202exxx")
    assert len(told["reason"]) < 520


def test_without_failures_there_is_no_file(tmp_path):
    record = RunRecord(str(tmp_path / "out"), "run-1")
    record.close()
    assert list(record.folder.iterdir()) == []


def test_the_manifest_is_replaced_whole_and_leaves_no_other_file(tmp_path):
    record = RunRecord(str(tmp_path / "out"), "run-1")
    record.write_manifest({"rows": 3, "committed": False})
    record.write_manifest({"rows": 3, "committed": True})
    assert [file.name for file in record.folder.iterdir()] == ["manifest.json"]
    assert json.loads((record.folder / "manifest.json").read_bytes()) == {
        "rows": 3, "committed": True,
    }


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path):
    record = RunRecord(str(tmp_path / "out"), "run-1")
    record.write_manifest({"rows": 1})
    (record.folder / "manifest.tmp").mkdir()
    with pytest.raises(StorageError, match=r"manifest\.json: cannot be written \(Is a directory"):
        record.write_manifest({"rows": 2})
    assert json.loads((record.folder / "manifest.json").read_bytes()) == {"rows": 1}


def test_the_folder_is_private_and_beside_the_output(tmp_path):
    record = RunRecord(str(tmp_path / "out.parquet"), "run-1")
    assert record.folder == tmp_path / "out.parquet.run" / "runs" / "run-1"
    assert stat.S_IMODE(record.folder.stat().st_mode) == 0o700
    assert run_folder("a/vectors/").as_posix() == "a/vectors.run"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "out.run").write_text("")
    with pytest.raises(StorageError, match=r"run-1: cannot be written \((Not a|File)"):
        RunRecord(str(tmp_path / "out"), "run-1")


def test_failures_that_cannot_be_written_are_one_line(tmp_path):
    record = RunRecord(str(tmp_path / "out"), "run-1")
    record.failures_path.mkdir()
    with pytest.raises(StorageError, match=r"failures\.jsonl: cannot be written \(Is a directory"):
        record.failed(document(), 0, outcome())


def test_run_ids_differ_and_begin_with_the_time():
    found = {new_run_id() for _ in range(50)}
    assert len(found) == 50
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{6}", each) for each in found)
