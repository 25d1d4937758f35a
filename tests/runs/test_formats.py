"""Whole runs over what people pass as rows: other suffixes, files that are no rows."""

import io
import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
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
    assert "in.jsonl: the file is a JSON array, not JSONL (name it .json)" in ran.err
    assert ran.code in (3, 4)
    planned = textmill("plan", "enrich", "-i", "in.jsonl", "--id", "id")
    assert "the file is a JSON array, not JSONL" in planned.err


def test_what_textmill_wrote_it_reads(workdir, textmill):
    """Unsigned ids, maps, times with zones and durations through JSONL and back."""
    at = [1_704_110_400_000_000_000, 1]
    table = pa.table({
        "id": pa.array([2**64 - 1, 1], pa.uint64()),
        "text": ["The weir held.", "The gate did not."],
        "counts": pa.array([[("a", 1), ("b", 2)], []], pa.map_(pa.string(), pa.int64())),
        "pairs": pa.array([[(1, "x")], None], pa.map_(pa.int64(), pa.string())),
        "at": pa.array(at, pa.timestamp("ns", "Asia/Shanghai")),
        "span": pa.array(at, pa.duration("ns")),
        "clock": pa.array([1, 2], pa.time64("ns")),
        "price": pa.array([Decimal("1.10"), None], pa.decimal128(9, 2)),
        "raw": pa.array([b"\xff", None]),
        "half": pa.array([1.5, float("nan")], pa.float16()),
        "nothing": pa.nulls(2),
        "tree": [{"a": 1, "b": None}, {"a": None, "b": "x"}],
    })  # fmt: skip
    pq.write_table(table, "in.parquet")
    ran = textmill("run", "enrich", "-i", "in.parquet", "-o", "a.jsonl", "--id", "id")
    assert ran.code == 0, ran.err
    assert "in.parquet: `half` holds values in 1 row that JSON lacks" in ran.err
    kept = [name for name in table.column_names if name != "id"]
    options = [each for name in kept for each in ("--keep", name)]
    for source, output in (("a.jsonl", "b.jsonl"), ("b.jsonl", "c.parquet"), ("c.parquet", "d.jsonl")):
        ran = textmill("run", "enrich", "-i", source, "-o", output, "--id", "id", *options)
        assert ran.code == 0, ran.err
    first, second, last = (
        [{name: row[name] for name in table.column_names} for row in lines(workdir / name)]
        for name in ("a.jsonl", "b.jsonl", "d.jsonl")
    )
    assert first == second
    assert (first[0]["id"], first[0]["counts"], first[0]["at"]) == (
        2**64 - 1, {"a": 1, "b": 2}, "2024-01-01T12:00:00Z")  # fmt: skip
    assert last == [first[0], first[1] | {"counts": {"a": None, "b": None}}]


def test_a_folder_of_texts_becomes_a_corpus_that_can_be_searched_and_explained(workdir, textmill):
    (workdir / "notes").mkdir()
    for name, text in {"a.md": "# Weirs\n\nThe weir held.", "b.txt": "The harvest was good.", "c.txt": ""}.items():
        (workdir / "notes" / name).write_text(text)
    ran = textmill("run", "embed", "-i", "notes", "-o", "out.parquet", "--json")
    assert (ran.code, ran.last["ok"]) == (0, 3), ran.err
    schema = pq.read_schema("out.parquet")
    assert (schema.names[0], schema.metadata[b"textmill.id"]) == ("path", b"path")
    found = textmill("search", "out.parquet", "the weir", "--json")
    assert json.loads(found.out.splitlines()[0])["path"] == "a.md"
    explained = textmill("explain", "embed", "--id", "b.txt", "-i", "notes", "-o", "out.parquet")
    assert explained.code == 0 and "notes/b.txt" in explained.out
    (workdir / "notes" / "b.txt").write_text("The harvest was bad.")
    again = textmill("run", "embed", "-i", "notes", "-o", "out.parquet", "--json")
    assert [again.last[k] for k in ("changed", "unchanged", "added")] == [1, 2, 0]


def test_a_csv_keeps_what_it_paid_when_it_becomes_parquet(workdir, textmill):
    rows = [{"id": f"k{n}", "text": f"Row {n}, \"the weir\""} for n in range(3)]
    (workdir / "in.csv").write_text("id,text\n" + "".join(f'{r["id"]},"{r["text"].replace(chr(34), chr(34) * 2)}"\n' for r in rows))
    pq.write_table(pa.Table.from_pylist(rows), "in.parquet")
    (workdir / "in.json").write_text(json.dumps(rows))
    outs = []
    for name in ("in.csv", "in.parquet", "in.json"):
        ran = textmill("run", "embed", "-i", name, "-o", "out.jsonl", "--id", "id", "--json")
        assert ran.code == 0, ran.err
        outs.append(((workdir / "out.jsonl").read_bytes(), ran.last["unchanged"]))
    assert [unchanged for _, unchanged in outs] == [0, 3, 3]
    assert len({raw for raw, _ in outs}) == 1


def test_standard_input_may_be_an_array(workdir, textmill, monkeypatch):
    rows = b'[{"id": 1, "text": "a"}, {"id": 2, "text": "b"}]'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(rows)))
    ran = textmill("plan", "embed", "-i", "-", "--id", "id")
    assert ran.code == 0 and ran.out.startswith("2 documents"), ran.err


def test_an_array_that_ends_in_the_middle_costs_nothing(workdir, textmill):
    (workdir / "in.json").write_text('[{"id": 1, "text": "a"}, {"id": 2, "te')
    ran = textmill("run", "embed", "-i", "in.json", "-o", "out.jsonl", "--id", "id")
    assert ran.code == 6 and not (workdir / "out.jsonl").exists()
    assert ran.err.startswith("in.json: the JSON array ends in the middle, in row 1: ")
