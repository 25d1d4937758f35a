"""Another package's way of cutting is used by its name, through entry points."""

import json
from importlib import metadata
from importlib.metadata import EntryPoint, EntryPoints

import pytest

import chunkers
from pipeline.errors import UsageError
from pipeline.records import Chunk


def halves(text, *, size, overlap, tokenizer):
    middle = len(text) // 2
    yield Chunk(0, middle, 1)
    yield Chunk(middle, len(text), 1)


@pytest.fixture
def plugged(monkeypatch):
    points = EntryPoints([
        EntryPoint("halves", f"{__name__}:halves", chunkers.GROUP),
        EntryPoint("broken", "no_such_package:f", chunkers.GROUP),
    ])
    monkeypatch.setattr(metadata, "entry_points", points.select)


def test_a_plugged_chunker_cuts_a_job(plugged, textmill, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"id": 1, "text": "left|right"}) + "\n")
    ran = textmill("run", "embed", "-i", path, "--id", "id", "-o", tmp_path / "o.jsonl", "--method",
                   "halves")
    assert ran.code == 0, ran.err
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["left|", "right"]


def test_an_unloadable_or_unknown_chunker_is_a_one_line_error(plugged, textmill, tmp_path):
    with pytest.raises(UsageError, match="chunker `broken` cannot be loaded"):
        chunkers.chunker("broken")
    with pytest.raises(UsageError, match="no chunker `thirds`"):
        chunkers.chunker("thirds")
    ran = textmill("chunks", "README.md", "--method", "thirds")
    assert ran.code == 2
    assert "must be one of structure, fixed, markdown, semantic" in ran.err


@pytest.mark.parametrize("chunk", [Chunk(-5, 2, 1), Chunk(0, 99, 1), Chunk(3, 3, 1),
                                   Chunk(0, 2, -100), (0, 2), None])
def test_a_wrong_span_of_another_package_is_refused(monkeypatch, textmill, tmp_path, chunk):
    def wrong(text, **options):
        yield chunk

    monkeypatch.setattr(metadata, "entry_points", lambda **_: [
        type("Point", (), {"load": staticmethod(lambda: wrong), "dist": None})])
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"id": 1, "text": "left|right"}) + "\n")
    ran = textmill("run", "embed", "-i", path, "--id", "id", "-o", tmp_path / "o.jsonl", "--method",
                   "wrong")
    assert ran.code == 2
    assert "chunker `wrong`: " in ran.err
    assert not (tmp_path / "o.jsonl").exists()
