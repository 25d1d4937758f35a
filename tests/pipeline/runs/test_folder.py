"""What a run leaves beside its output."""

import json
import os
import stat

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pipeline.disk.output_path import run_folder
from pipeline.errors import StorageError
from pipeline.records import Chunk, Document, Failure, Outcome, Request, RowRef
from pipeline.runs import folder
from pipeline.runs.folder import RunRecord, manifests, runs_of
from pipeline.runs.manifest import KEPT_RUNS, Manifest


def manifest(run="run-1", number=1, **told):
    return Manifest(
        run=run, number=number, started="2026-11-20T10:00:00Z", job="j", fingerprint="f",
        input="i", rows=3, output="out", models=[["openai", "", "m"]], columns={"id": "int64"}, **told,
    )


def document(address="in.jsonl:17", id="r-17", error=None):
    text = None if error else "text"
    return Document(b"\x01" * 16, id, text, {}, address, 0, RowRef(None, 0), error)


def outcome(reason="the server refuses", kind="poison", attempts=2):
    return Outcome(Request(b"k", "text", 1, Chunk(3, 9, 2)), Failure(kind, reason, attempts))


def lines(record):
    record.close()
    return [json.loads(line) for line in record.failures_path.read_bytes().splitlines()]


def test_a_failed_request_is_a_line_with_its_place_and_its_reason(tmp_path):
    record = RunRecord(str(tmp_path / "out.parquet"), manifest())
    record.failed(document(), 4, outcome())
    assert lines(record) == [{
        "id": "r-17", "identity": "01" * 16, "file": "in.jsonl", "line": 17, "chunk": 4,
        "start_char": 3, "end_char": 9, "kind": "poison", "reason": "the server refuses",
        "attempts": 2,
    }]


def test_an_isolated_row_is_a_line_without_a_chunk(tmp_path):
    record = RunRecord(str(tmp_path / "out.parquet"), manifest())
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
    record = RunRecord(str(tmp_path / "out"), manifest())
    record.failed(document(f"{name}:5"), 0, outcome())
    assert [(line["file"], line["line"]) for line in lines(record)] == [(name, 5)]


def test_reasons_are_one_short_line_without_control_characters(tmp_path):
    record = RunRecord(str(tmp_path / "out"), manifest())
    record.failed(document(), 0, outcome("a\x1b[2J\nb\u202e" + "x" * 10_000))
    (told,) = lines(record)
    assert told["reason"].startswith("a\\x1b[2J\\nb\\u202exxx")
    assert len(told["reason"]) < 520


def test_without_failures_there_is_no_file(tmp_path):
    record = RunRecord(str(tmp_path / "out"), manifest())
    record.close()
    assert list(record.folder.iterdir()) == []


def test_the_manifest_is_replaced_whole_and_leaves_no_other_file(tmp_path):
    record = RunRecord(str(tmp_path / "out"), manifest())
    record.begin()
    assert runs_of(str(tmp_path / "out")) == {"run-1": manifest()}
    record.end(3, 7)
    assert [file.name for file in record.folder.iterdir()] == ["manifest.json"]
    told = manifest(state="committed", exit=3, rows_out=7)
    assert runs_of(str(tmp_path / "out")) == {"run-1": told}


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path):
    record = RunRecord(str(tmp_path / "out"), manifest())
    record.begin()
    (record.folder / ".manifest.json.textmill.tmp").mkdir()
    with pytest.raises(StorageError, match=r"manifest\.json: cannot be written \(Is a directory"):
        record.end(0, 3)
    assert runs_of(str(tmp_path / "out")) == {"run-1": manifest()}


@pytest.mark.parametrize(("code", "stays"), [(4, False), (5, True), (143, True)])
def test_an_end_that_closes_the_run_drops_its_journal(tmp_path, code, stays):
    record = RunRecord(str(tmp_path / "out"), manifest())
    record.begin()
    record.journal.put_many([(b"k", Failure("poison", "no"))])
    record.end(code)
    assert record.journal.path.exists() is stays


def test_a_run_that_goes_on_forgets_the_failures_told_before(tmp_path):
    record = RunRecord(str(tmp_path / "out"), manifest())
    record.begin()
    record.failed(document(), 4, outcome())
    record.close()
    RunRecord(str(tmp_path / "out"), manifest()).begin()
    assert not record.failures_path.exists()


def test_old_folders_go_and_what_a_kill_left_goes(tmp_path):
    output = str(tmp_path / "out")
    for number in range(1, KEPT_RUNS + 6):
        RunRecord(output, manifest(f"run-{number:03d}", number)).begin()
    half = run_folder(output) / "runs" / "half"  # made, and killed before its manifest
    half.mkdir()
    damaged = run_folder(output) / "runs" / f"run-{KEPT_RUNS:03d}" / "manifest.json"
    damaged.write_bytes(b"{")
    record = RunRecord(output, manifest("run-new", KEPT_RUNS + 6))
    record.begin()
    left = sorted(each.name for each in (run_folder(output) / "runs").iterdir())
    assert len(left) == KEPT_RUNS
    assert "run-new" in left
    assert half.name not in left
    assert damaged.parent.name not in left  # the oldest, as nobody can tell
    assert f"run-{KEPT_RUNS + 5:03d}" in left


def test_what_a_kill_left_half_written_goes_once_it_is_old(tmp_path):
    output = str(tmp_path / "out")
    before = RunRecord(output, manifest("run-1", 1))
    before.begin()
    for name in (".report.html.textmill.tmp", "young.tmp"):
        (before.folder / name).touch()
    os.utime(before.folder / ".report.html.textmill.tmp", (1, 1))
    RunRecord(output, manifest("run-2", 2)).begin()
    left = sorted(each.name for each in before.folder.iterdir())
    assert left == ["manifest.json", "young.tmp"]


@pytest.mark.parametrize("raw", [b"", b"{}", b"[1]", b"\xff", b'{"run": "other", "number": 1}'])
def test_a_manifest_that_cannot_be_read_is_no_run_to_go_on_with(tmp_path, raw):
    record = RunRecord(str(tmp_path / "out"), manifest())
    record.begin()
    (record.folder / "manifest.json").write_bytes(raw)
    assert runs_of(str(tmp_path / "out")) == {"run-1": None}


def test_the_folder_is_private_and_beside_the_output(tmp_path):
    record = RunRecord(str(tmp_path / "out.parquet"), manifest())
    assert record.folder == tmp_path / "out.parquet.run" / "runs" / "run-1"
    assert stat.S_IMODE(record.folder.stat().st_mode) == 0o700
    assert run_folder("a/vectors/").as_posix() == "a/vectors.run"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "out.run").write_text("")
    with pytest.raises(StorageError, match=r"run-1: cannot be written \((Not a|File)"):
        RunRecord(str(tmp_path / "out"), manifest())


def test_failures_that_cannot_be_written_are_one_line(tmp_path):
    record = RunRecord(str(tmp_path / "out"), manifest())
    record.failures_path.mkdir()
    with pytest.raises(StorageError, match=r"failures\.jsonl: cannot be written \(Is a directory"):
        record.failed(document(), 0, outcome())


def test_manifests_are_told_from_the_last_run_on_whatever_the_clock_said(tmp_path):
    output = str(tmp_path / "out")
    for number, name in enumerate(("b", "c", "a"), 1):
        RunRecord(output, manifest(name, number)).begin()
    (run_folder(output) / "runs" / "b" / "manifest.json").write_text('{"number": "x"}')
    (run_folder(output) / "runs" / "c" / "manifest.json").write_bytes(b"\xff")
    assert [each["run"] for each in manifests(output)] == ["a", "b"]
