"""Whole runs over what people pass as rows: other suffixes, files that are no rows."""

import json

import pytest


@pytest.fixture
def workdir(tmp_path, monkeypatch, own_home):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("suffix", ["ndjson", "jsonlines"])
def test_rows_in_and_out_under_another_name_for_jsonl(workdir, textmill, suffix):
    (workdir / f"in.{suffix}").write_text('{"id": 1, "text": "The weir held."}\n')
    ran = textmill("run", "enrich", "-i", f"in.{suffix}", "-o", f"out.{suffix}", "--id", "id")
    assert ran.code == 0, ran.err
    assert [row["_status"] for row in lines(workdir / f"out.{suffix}")] == ["ok"]
    again = textmill("run", "enrich", "-i", f"in.{suffix}", "-o", f"out.{suffix}", "--id", "id", "--json")
    assert (again.code, again.last["unchanged"]) == (0, 1)


def test_a_file_that_is_no_jsonl_is_named_before_anything_is_paid_and_in_the_rows(workdir, textmill):
    (workdir / "in.jsonl").write_text(json.dumps([{"id": 1, "text": "The weir held."}], indent=1))
    ran = textmill("run", "enrich", "-i", "in.jsonl", "-o", "out.jsonl", "--id", "id")
    assert "in.jsonl: the file is a JSON array, not JSONL (jq -c '.[]' FILE > FILE.jsonl)" in ran.err
    assert ran.code in (3, 4)
    planned = textmill("plan", "enrich", "-i", "in.jsonl", "--id", "id")
    assert "the file is a JSON array, not JSONL" in planned.err
