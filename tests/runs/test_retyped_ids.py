"""Ids that only change their type are refused like removed rows, and the message says so."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def workdir(tmp_path, monkeypatch, own_home):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(ids):
    rows = (json.dumps({"id": n, "text": "The weir held."}) + "\n" for n in ids)
    Path("in.jsonl").write_text("".join(rows))


RETYPED = "only their type changed: the ids were {}s and are {}s now"


@pytest.mark.parametrize("output", ["o.parquet", "o.jsonl", "o"])
@pytest.mark.parametrize(("before", "after", "expected"), [
    (range(30), [str(n) for n in range(30)], RETYPED.format("number", "string")),
    ([str(n) for n in range(30)], range(30), RETYPED.format("string", "number")),
    ([n + 0.5 for n in range(30)], [str(n + 0.5) for n in range(30)], RETYPED.format("number", "string")),
    (range(30), [str(n) for n in range(100, 130)], None),
    (range(30), range(100, 130), None),
    ([f"a{n}" for n in range(30)], range(30), None),
])  # fmt: skip
def test_ids_of_another_type(workdir, textmill, output, before, after, expected):
    write(list(before))
    options = ["run", "enrich", "-i", "in.jsonl", "-o", output, "--id", "id"]
    assert textmill(*options).code == 0
    write(list(after))
    ran = textmill(*options)
    assert ran.code == 14
    assert "30 of the 30 rows of the last commit are no longer in the input" in ran.err
    assert (expected in ran.err) if expected else ("type changed" not in ran.err)
