"""`output.rows = "answered"`: rows without a result are left out and still counted."""

import json

import pyarrow.parquet as pq
import pytest

from tests.support.nights import Project, small

SHAPES = [
    {"out": "o.parquet"}, {"out": "o.jsonl"}, {"out": "o"},
    {"out": "o.parquet", "aggregate__method": "mean"}, {"out": "o.jsonl", "aggregate__method": "mean"},
    {"out": "o", "aggregate__method": "mean"},
]  # fmt: skip


@pytest.fixture
def new_project(tmp_path, monkeypatch):
    small(monkeypatch)
    monkeypatch.setenv("TEXTMILL_HOME", str(tmp_path / "home"))
    return lambda **given: Project(tmp_path, monkeypatch, input__id="id", output__rows="answered", **given)


def mixed(*numbers):
    """Of ten rows: one blank, one poisoned, one whose text is a number, one with an answer and a
    poisoned chunk."""
    text = {
        0: " ",
        1: "poison",
        2: 7,
        3: "one two three four five six seven eight nine poison ten eleven",
    }
    return [{"id": f"r{n}", "text": text.get(n % 10, f"Row number {n}.")} for n in numbers]


def output(project):
    path = project.folder / project.out
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return pq.read_table(path).to_pylist()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: " ".join(shape.values()))
def test_only_rows_with_a_result_are_written_and_all_are_known(new_project, tmp_path, shape):
    project = new_project(**shape)
    changes = tmp_path / "changes.jsonl"
    project.rows(mixed(*range(60)))
    summary = project.run(changes=changes)
    assert (summary.documents, summary.ok, summary.partial, summary.failed) == (60, 42, 6, 12)
    written = output(project)
    assert all(row["vector"] is not None for row in written)
    assert list(dict.fromkeys(row["id"] for row in written)) == [
        f"r{n}" for n in range(60) if n % 10 > 2
    ]
    assert len(changes.read_text().splitlines()) == len(written)
    content = project.content()
    summary = project.run(changes=changes)
    assert (summary.added, summary.removed) == (0, 0)
    assert summary.unchanged + summary.retried == 60
    assert project.content() == content
    assert changes.read_text() == ""
    project.rows([row for row in mixed(*range(60)) if row["id"] != "r10"])  # a blank one
    summary = project.run(changes=changes)
    assert (summary.added, summary.removed) == (0, 1)
    assert changes.read_text() == ""
    project.rows([{"id": "r11", "text": "an answer now"}, *mixed(*range(20, 60))])
    summary = project.run(changes=changes)
    assert (summary.added, summary.changed, summary.removed) == (0, 1, 18)
    assert project.content() == project.rebuilt()


def test_rows_that_are_left_out_from_now_on_are_deletions(new_project, tmp_path):
    project = new_project(out="o.parquet", aggregate__method="mean")
    changes = tmp_path / "changes.jsonl"
    project.rows(mixed(*range(20)))
    project.run(output__rows="all")
    assert len(output(project)) == 20
    project.run(changes=changes)
    lines = [json.loads(line) for line in changes.read_text().splitlines()]
    assert sorted((line["op"], line["id"]) for line in lines) == [
        ("delete", f"r{n}") for n in (0, 1, 10, 11, 12, 2)
    ]


@pytest.mark.parametrize("out", ["o.parquet", "o.jsonl", "o"])
def test_an_output_without_any_row_left_is_valid_but_replaces_none_with_rows(new_project, out):
    project = new_project(out=out)
    project.rows([{"id": n, "text": " "} for n in range(5)])
    assert project.run().ok == 5
    assert output(project) == []
    project.rows([{"id": n, "text": "words"} for n in range(5)])
    assert project.run().changed == 5
    project.rows([{"id": n, "text": " "} for n in range(5)])
    project.run(code=14)
    assert "no row has a result, and the output so far has rows" in str(project.error)
    assert len(output(project)) == 5
