"""Parts and reuse by row: the same bytes for less work."""

import hashlib
import importlib
import json
import os
import random
from contextlib import suppress
from itertools import count

import hypothesis.strategies as st
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings

from pipeline.cache.lookup import Outcomes
from pipeline.disk.spill import Spill
from pipeline.parts import layout as place_module
from pipeline.parts import reuse as reuse_module
from pipeline.parts import writer as partswriter
from pipeline.parts.json_lines import json_lines
from pipeline.sink import sink as sink_module
from tests.support.nights import Project, small

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"]


def text(number, random_=None):
    """Between no and about five chunks of 8 tokens; now and then poisoned or blank."""
    make = random_ or random.Random(number)
    words = make.choices(WORDS, k=make.choice([0, 3, 10, 20, 35]))
    if make.random() < 0.1:
        words.insert(len(words) // 2, "poison")
    return " ".join([str(number), *words]) if words else " "


def edited(rows, make, has_id):
    """The rows after a night: some changed, added, removed, moved, doubled, or broken."""
    rows = [dict(row) for row in rows]
    for _ in range(make.randint(0, 5)):
        at = make.randrange(len(rows)) if rows else 0
        match make.choice(["change", "add", "remove", "move", "kept", "unused", "double", "break"]):
            case "change" if rows:
                rows[at]["text"] = text(make.randrange(10**6))
            case "add":
                number = make.randrange(10**6, 10**9)
                rows.insert(at, {"id": number, "text": text(number), "kept": 1.5, "unused": 1})
            case "remove" if rows:
                del rows[at]
            case "move" if rows:
                rows.insert(make.randrange(len(rows)), rows.pop(at))
            case "kept" if rows:
                rows[at]["kept"] = make.choice([0.0, -0.0, 1.0, None, 2.5])
            case "unused" if rows:
                rows[at]["unused"] = make.choice([2, None, 3])
            case "double" if rows and not has_id:
                rows.insert(make.randrange(len(rows)), dict(rows[at]))
            case "break" if rows:
                rows[at]["text"] = None
    return rows


@pytest.fixture
def new_project(tmp_path_factory, monkeypatch):
    small(monkeypatch)
    monkeypatch.setattr(reuse_module, "MAX_SOURCES", 2)
    monkeypatch.setattr(reuse_module, "MIN_COPIED_ROWS", 2)

    def make(**given):
        folder = tmp_path_factory.mktemp("reuse")
        monkeypatch.setenv("TEXTMILL_HOME", str(folder / "home"))
        return Project(folder, monkeypatch, **given)

    return make


def of_every_shape(law):
    """The law for each kind of output, over nights that a seed makes.

    An example takes a second: nothing is shrunk, and what fails is named by its shape and seed.
    """
    law = given(seed=st.integers(0, 10**9))(law)
    phases = (Phase.explicit, Phase.reuse, Phase.generate)
    law = pytest.mark.slow(settings(max_examples=3, phases=phases)(law))
    return pytest.mark.parametrize(
        ("template", "method", "out"),
        [("embed", None, "o.parquet"), ("embed", None, "o.jsonl"), ("embed", None, "o"),
         ("embed", "mean", "o.parquet"), ("embed", "mean", "o"), ("embed", "mean", "o.jsonl"),
         ("ask", None, "o.parquet"), ("ask", None, "o.jsonl")],
    )(law)  # fmt: skip


@of_every_shape
def test_a_run_that_reuses_writes_the_bytes_of_one_that_does_not(new_project, template, method, out, seed):
    make = random.Random(f"{template} {method} {out} {seed}")
    has_id, suffix = make.random() < 0.5, make.choice([".jsonl", ".parquet"])
    flags = {"input__id": "id" if has_id else None}
    if template == "ask":
        flags |= {"parameters__prompt": "{kept}: {chunk}"}
    if method:
        flags |= {"aggregate__method": method}
    if not has_id or make.random() < 0.5:
        flags |= {"input__keep": ["kept"]}
    project = new_project(template=template, out=out, name=f"in{suffix}", **flags)
    rows = [
        {"id": n, "text": text(n), "kept": make.choice([0.5, 1.0, None]), "unused": n % 3}
        for n in range(make.randint(1, 60))
    ]
    before = 0
    for night in range(4):
        # There is always one vector, since the dimension may come from an earlier commit.
        night_rows = [*rows, {"id": -1, "text": "here to stay", "kept": 0.5, "unused": 1}]
        project.rows(night_rows)
        summary = project.run()
        assert summary.added + summary.changed + summary.unchanged + summary.retried == len(night_rows)
        if night:
            assert summary.removed == before - summary.changed - summary.unchanged - summary.retried
        before = len(night_rows)
        assert project.content() == project.rebuilt()
        rows = edited(rows, make, has_id) or rows


def applied(held, changes, per_chunk):
    """The rows of a store that follows `--changes`."""
    held = dict(held)
    for line in changes.read_text().splitlines():
        change = json.loads(line)
        name = change["chunk_id"] if per_chunk else change["id"]
        if change.pop("op") == "upsert":
            held[name] = change
        else:
            assert name in held, "a deletion of an unknown row"
            del held[name]
    return held


def rows_of(project):
    path = project.folder / project.out
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [json.loads(line) for file in files
            for line in json_lines(pq.read_table(file)).splitlines()]  # fmt: skip


@of_every_shape
def test_applying_the_changes_gives_the_new_output(new_project, template, method, out, seed):
    make = random.Random(f"{template} {method} {out} {seed}")
    has_id = make.random() < 0.5
    flags = {"input__id": "id" if has_id else None, "input__keep": ["kept"]}
    if template == "ask":
        flags |= {"parameters__prompt": "{kept}: {chunk}"}
    if method:
        flags |= {"aggregate__method": method}
    per_chunk = template == "embed" and method is None
    project = new_project(template=template, out=out, **flags)
    rows = [{"id": n, "text": text(n), "kept": 0.5, "unused": 1} for n in range(40)]
    held, changes = {}, project.folder / "changes.jsonl"
    for night in range(4):
        project.rows(rows)
        project.run(changes=changes, chunk__size=8 if night < 3 else 12)
        expected = {
            row["chunk_id" if per_chunk else "id"]: row
            for row in rows_of(project)
            if not per_chunk or row["chunk_id"] is not None
        }
        held = applied(held, changes, per_chunk)
        assert held == expected
        project.run(changes=changes, chunk__size=8 if night < 3 else 12)
        assert changes.read_text() == ""
        rows = edited(rows, make, has_id)


@pytest.mark.parametrize("out", ["o.parquet", "o.jsonl", "o"])
def test_changes_from_chunks_to_documents_and_back(new_project, out):
    project = new_project(input__id="id", out=out)
    project.rows([{"id": f"r{n}", "text": "one two three four five " * 5} for n in range(12)])
    changes = project.folder / "changes.jsonl"
    project.run(changes=changes)
    chunks = {row["chunk_id"] for row in rows_of(project)}
    assert len(chunks) > 24
    for method in ("mean", None):
        project.run(changes=changes, aggregate__method=method or "rows")
        feed = [json.loads(line) for line in changes.read_text().splitlines()]
        deletions = [line for line in feed if line["op"] == "delete"]
        if method:
            assert {line["chunk_id"] for line in deletions} == chunks
            assert {line["id"] for line in feed[len(deletions) :]} == {f"r{n}" for n in range(12)}
        else:
            assert {line["id"] for line in deletions} == {f"r{n}" for n in range(12)}
            assert {line["chunk_id"] for line in feed[len(deletions) :]} == chunks
        assert len(feed) == len(chunks) + 12


@pytest.mark.parametrize("out", ["o.parquet", "o"])
@pytest.mark.parametrize("left", [20, 0])
def test_rows_of_an_output_that_was_removed_by_hand_are_still_deleted(new_project, out, left):
    project = new_project(input__id="id", out=out)
    changes = project.folder / "changes.jsonl"
    project.rows(plain(30))
    project.run(changes=changes)
    held = applied({}, changes, per_chunk=True)
    (project.folder / out).unlink()
    project.rows(plain(left))
    project.run(changes=changes)
    held = applied(held, changes, per_chunk=True)
    assert held == {row["chunk_id"]: row for row in rows_of(project)}
    assert bool(held) == bool(left)


def far(*origins):
    return reuse_module.jumps(np.array([*origins], reuse_module._ORIGIN))


def test_jumps_are_counted_where_a_row_group_is_read_again():
    assert far() == 0
    assert far((0, 0), (0, 1), (0, 7), (1, 2), (1, 3)) == 0
    assert far((0, 0), (1, 5), (0, 1), (1, 6)) == 0  # both are open
    assert far((0, 3), (0, 2), (0, 1)) == 2
    assert far((0, 0), (1, 5), (2, 1), (0, 6)) == 3


def test_rows_in_no_order_are_looked_up(new_project, monkeypatch):
    project = new_project(input__id="id")
    rows = plain(60)
    project.rows(rows)
    project.run()
    monkeypatch.setattr(reuse_module, "MAX_SOURCES", 99)
    monkeypatch.setattr(reuse_module, "MAX_JUMPS", 2)
    project.rows(rows[::-1])
    summary = project.run()
    assert (summary.unchanged, summary.usage.calls) == (60, 0)
    assert summary.cached > 30
    assert project.content() == project.rebuilt()


def plain(count, start=0):
    return [{"id": n, "text": f"row {n} one two three four five six seven", "kept": 1.5}
            for n in range(start, start + count)]  # fmt: skip


def test_an_unchanged_input_leaves_the_output_and_sends_nothing(new_project):
    project = new_project(input__id="id", out="o")
    project.rows(plain(60))
    project.run()
    before, parts = (project.folder / "o").readlink(), project.parts()
    summary = project.run()
    assert (summary.unchanged, summary.added, summary.requests, summary.usage.calls) == (60, 0, 0, 0)
    assert (project.folder / "o").readlink() == before
    assert project.parts() == parts
    assert project.new_calls() == 0


def test_only_the_touched_part_is_written_and_only_the_new_row_looked_up(new_project):
    project = new_project(input__id="id", out="o")
    rows = plain(60)
    project.rows(rows)
    project.run()
    before = project.parts()
    rows[30]["text"] = "quite another one two three four five six"
    project.rows(rows)
    summary = project.run()
    assert (summary.changed, summary.unchanged) == (1, 59)
    assert project.new_calls() == summary.requests == 1
    assert len(before.keys() - project.parts().keys()) == 1
    assert len(before) > 5
    project.rows(rows)  # another file with the same rows
    assert project.run().unchanged == 60


def test_an_unused_column_may_change(new_project):
    project = new_project(input__id="id", input__keep=["kept"])
    rows = plain(20)
    project.rows(rows)
    project.run()
    before = project.parts()
    project.rows([{**row, "seen": n} for n, row in enumerate(rows)])
    assert project.run().unchanged == 20
    assert project.parts() == before
    rows[3]["kept"] = 2.5
    project.rows(rows)
    summary = project.run()
    assert (summary.changed, summary.unchanged, summary.usage.calls) == (1, 19, 0)
    assert project.content() == project.rebuilt()


def test_the_same_rows_in_parquet_are_unchanged(new_project):
    project = new_project(input__id="id", input__keep=["kept"])
    project.rows(plain(20))
    project.run()
    content = project.content()
    project.input = project.folder / "in.parquet"
    project.rows(plain(20))
    assert project.run().unchanged == 20
    assert project.content() == content


def test_failed_rows_are_retried_once_a_run(new_project):
    project = new_project(input__id="id")
    rows = plain(20)
    rows[7]["text"] = "poison"
    project.rows(rows)
    assert project.run().failed == 1
    summary = project.run()
    assert (summary.retried, summary.unchanged, summary.failed, summary.requests) == (1, 19, 1, 1)
    project.poison = None
    summary = project.run()
    assert (summary.retried, summary.failed) == (1, 0)
    assert project.content() == project.rebuilt()
    assert project.run().unchanged == 20


def test_another_size_rebuilds_and_another_pyarrow_sends_nothing(new_project, monkeypatch):
    project = new_project(input__id="id")
    project.rows(plain(20))
    project.run()
    before = project.parts()
    summary = project.run(chunk__size=12)
    assert (summary.unchanged, summary.requests > 0, project.new_calls() > 0) == (20, True, True)
    summary = project.run()
    assert (summary.unchanged, summary.requests, project.new_calls()) == (20, 40, 0)
    assert project.parts().keys() == before.keys()
    monkeypatch.setattr(sink_module, "WRITER_REVISION", "another")
    summary = project.run()
    assert (summary.unchanged, summary.requests, project.new_calls()) == (20, 40, 0)


OUTPUTS = ["o.parquet", *(pytest.param(out, marks=pytest.mark.slow) for out in ("o", "o.jsonl"))]


def kill(project, monkeypatch, module, name, at=1):
    """A run that ends, as by kill -9, at the n-th call of this function."""
    real, calls = getattr(module, name), count(1)

    def last(*given, **named):
        if next(calls) >= at:  # a later call, in another thread, does nothing either
            raise KeyboardInterrupt
        return real(*given, **named)

    with monkeypatch.context() as patch, pytest.raises(BaseException):  # noqa: B017
        patch.setattr(module, name, last)
        patch.setattr(place_module.OutputLayout, "clean", lambda self: None)
        project.run(changes=project.folder / "changes.jsonl")


@pytest.mark.parametrize("out", ["o", "o.parquet", "o.jsonl"])
def test_finished_parts_of_a_killed_run_are_kept(new_project, out, monkeypatch):
    project = new_project(input__id="id", out=out)
    project.rows(plain(60))
    kill(project, monkeypatch, partswriter, "write_index", 5)
    assert not (project.folder / out).exists()
    left = project.parts()
    summary = project.run()
    assert (summary.added, summary.ok) == (60, 60)
    kept = [name for name, inode in project.parts().items() if left.get(name) == inode]
    assert len(kept) == 4
    assert summary.requests < 120 and project.new_calls() < 120
    assert project.content() == project.rebuilt()


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize(
    ("where", "name"),
    [("parts.layout", "OutputLayout.switch"), ("parts.part_file", "PartFile.publish"),
     ("parts.snapshot", "SnapshotFile.settle"), ("parts.snapshot", "SnapshotFile.write_pending"),
     ("sink.sink", "deliver"), ("sink.changes", "sync_folder")],
)  # fmt: skip
def test_a_kill_around_the_commit_loses_no_change(new_project, out, where, name, monkeypatch):
    project = new_project(input__id="id", out=out)
    changes = project.folder / "changes.jsonl"
    rows = plain(40)
    project.rows(rows)
    project.run(changes=changes)
    held = applied({}, changes, True)
    del rows[3:5]
    rows += plain(3, 100)
    rows[0]["text"] = "changed"
    project.rows(rows)
    module = importlib.import_module(f"pipeline.{where}")
    *owner, last = name.split(".")
    owner = getattr(module, owner[0]) if owner else module
    with suppress(pytest.fail.Exception):  # some outputs never call it
        kill(project, monkeypatch, owner, last)
    project.run()  # a run without --changes
    del rows[10]
    project.rows(rows)
    project.run(changes=changes)
    held = applied(held, changes, True)
    if name not in ("SnapshotFile.write_pending", "sync_folder", "OutputLayout.switch", "PartFile.publish"):
        assert held == {row["chunk_id"]: row for row in rows_of(project) if row["chunk_id"]}
    assert project.content() == project.rebuilt()


def damaged(path, at, size=None):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0xFF
    stamp = path.stat()
    path.write_bytes(raw[:size])
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


@pytest.mark.parametrize("how", ["flipped", "cut", "gone", "index", "index head"])
@pytest.mark.parametrize("out", OUTPUTS)
def test_fault_71_a_damaged_part_is_rebuilt(new_project, out, how):
    project = new_project(input__id="id", out=out)
    project.rows(plain(60))
    project.run()
    good, parts = project.content(), project.parts()
    folder = project.folder / f"{out}.run/parts"
    victim = folder / sorted(parts)[2]
    match how:
        case "flipped":
            damaged(victim, 40)
        case "cut":
            damaged(victim, 0, -30)
        case "gone":
            victim.unlink()
        case "index":
            damaged(victim.with_suffix(".index"), -5)
        case "index head":
            damaged(victim.with_suffix(".index"), 30)
    rows = plain(60)
    rows[50]["text"] = "something must be published"
    project.rows(rows)
    summary = project.run()
    assert summary.ok == 60 and project.new_calls() == 1
    assert project.content() == project.rebuilt() != good


def test_damage_that_shows_only_on_reading_is_repaired_by_the_next_run(new_project):
    project = new_project(input__id="id", out="o")
    rows = plain(60)
    project.rows(rows)
    project.run()
    record = project.folder / "o.run/snapshot.json"
    rows[1]["text"] = "this part is copied from"
    project.rows(rows)
    for victim in project.parts():
        path = project.folder / "o.run/parts" / victim
        column = pq.read_metadata(path).row_group(0).column(7)
        damaged(path, column.data_page_offset + column.total_compressed_size - 2)
    snapshot = json.loads(record.read_text())
    for part in snapshot["parts"]:  # as if the disk had lost it without a trace
        now = (project.folder / "o.run/parts" / part["name"]).stat()
        part["stamp"]["ctime_ns"] = now.st_ctime_ns
    record.write_text(json.dumps(snapshot))
    assert project.run(code=12).resumable
    assert "damaged" in str(project.error)
    project.run()


def test_too_many_removed_rows_are_refused_before_any_request(new_project):
    project = new_project(input__id="id", guard__max_removed=0.25)
    project.rows(plain(100))
    project.run()
    content = project.content()
    project.rows([*plain(74), *plain(5, 200)])
    summary = project.run(code=14)
    assert (summary.removed, project.new_calls()) == (26, 0)
    assert "26 of the 100 rows" in str(project.error)
    assert project.content() == content
    project.rows(plain(75))
    assert project.run().removed == 25


def test_rows_without_ids_may_all_change_but_not_be_removed(new_project):
    project = new_project(guard__max_removed=0.25)
    project.rows(plain(100))
    project.run()
    project.rows([row | {"new": 1} for row in plain(100)])
    summary = project.run()
    assert (summary.removed, summary.added) == (100, 100)
    project.rows([row | {"new": 2} for row in plain(74)])
    assert project.run(code=14).exit == 14
    assert "26 of the 100 rows" in str(project.error)
    project.rows(plain(75))
    assert project.run().exit == 0


def test_of_a_tiny_table_all_rows_except_the_last_may_be_removed(new_project):
    project = new_project(input__id="id", guard__max_removed=0.0)
    project.rows(plain(20))
    project.run()
    project.rows(plain(1))
    assert project.run().removed == 19
    project.rows([])
    assert project.run(code=14).exit == 14
    assert "the input is empty" in str(project.error)


def test_the_manifest_holds_the_accounting_and_the_parts(new_project):
    project = new_project(input__id="id", out="o")
    project.rows(plain(60))
    project.run()
    project.rows(plain(70, 2))
    project.run()
    last = sorted(project.folder.glob("o.run/runs/*/manifest.json"), key=lambda p: p.stat().st_mtime_ns)
    manifest = json.loads(last[-1].read_text())
    assert manifest["accounting"] == {
        "added": 12, "changed": 0, "removed": 2, "unchanged": 58, "retried": 0
    }  # fmt: skip
    files = sorted((project.folder / "o").iterdir())
    assert [hashlib.sha256(f.read_bytes()).hexdigest() for f in files] == [
        sha256 for _, sha256 in manifest["parts"]
    ]


def test_parts_that_no_commit_uses_are_removed(new_project):
    project = new_project(input__id="id", out="o.parquet")
    for start in range(0, 50, 10):
        project.rows(plain(60, start))
        project.run()
    folder = project.folder / "o.parquet.run/parts"
    assert {p.stem for p in folder.iterdir()} == {p.split(".")[0] for p in project.parts()}
    assert sum(pq.read_metadata(folder / name).num_rows for name in project.parts()) == 120


def test_rows_answered_by_another_endpoint_than_the_first_are_looked_up(new_project, monkeypatch):
    project = new_project(input__id="id")
    project.rows(plain(20))
    with monkeypatch.context() as patch:
        patch.setattr(Outcomes, "is_first", property(lambda self: False, lambda self, value: None), raising=False)
        project.run()
    summary = project.run()
    assert (summary.unchanged, summary.requests, summary.usage.calls) == (20, 40, 0)
    assert project.run().requests == 0


def night(project, rows, **flags):
    """Runs with one more row and the drift check on."""
    rows.append({"id": len(rows), "text": f"one more {len(rows)}", "kept": 1.5})
    project.rows(rows)
    return project.run(guard__drift_texts=3, **flags)


def test_a_changed_model_is_detected_before_its_vectors_mix(new_project):
    project = new_project(input__id="id")
    rows = plain(20)
    assert night(project, rows).exit == 0
    content = project.content()
    project.turn = 0.00001  # noise
    summary = night(project, rows)
    assert (summary.usage.calls, project.new_calls()) == (2, 4)
    assert summary.usage.tokens == 25
    project.turn = 2.0
    summary = night(project, rows, code=14)
    assert (summary.exit, project.new_calls()) == (14, 6)  # the three texts, and once more
    assert "the model answers other vectors than before" in str(project.error)
    assert project.content() != content
    content = project.content()
    project.turn = 0.0
    assert night(project, rows).exit == 0
    assert project.content() == project.rebuilt()
    project.turn = 2.0
    rows.append({"id": 99, "text": "another", "kept": 1.5})
    project.rows(rows)
    summary = project.run(guard__drift_texts=0)
    assert (summary.exit, project.new_calls()) == (0, 1)


def test_a_run_without_new_requests_makes_no_drift_check(new_project):
    project = new_project(input__id="id")
    rows = plain(20)
    night(project, rows)
    project.turn = 2.0
    rows.pop()
    project.rows(rows)
    summary = project.run(guard__drift_texts=3)
    assert (summary.removed, summary.usage.calls, project.new_calls()) == (1, 0, 0)


def test_a_resumed_run_makes_no_second_drift_check(new_project, monkeypatch):
    project = new_project(input__id="id")
    rows = plain(20)
    night(project, rows)
    project.flags["guard__drift_texts"] = 3
    rows.append({"id": 98, "text": "another", "kept": 1.5})
    project.rows(rows)
    kill(project, monkeypatch, sink_module, "publish")
    assert project.new_calls() == 4
    rows.append({"id": 99, "text": "and one more", "kept": 1.5})
    project.rows(rows)
    assert (project.run().exit, project.new_calls()) == (0, 1)


def test_text_tasks_have_no_drift_check(new_project):
    project = new_project(template="ask", input__id="id", parameters__prompt="{chunk}", input__keep=["kept"])
    rows = plain(5)
    night(project, rows)
    night(project, rows)
    assert project.new_calls() == 1


def test_reuse_is_planned_once_for_all_its_readers(new_project, monkeypatch):
    project = new_project(input__id="id", out="o", budget__max_cost_usd=1.0, guard__drift_texts=3)
    project.flags["endpoint.price.request"] = 0.0001
    rows = plain(60)
    project.rows(rows)
    project.run()
    rows[10]["text"], rows[50]["text"] = "quite another", "and another"
    project.rows(rows)
    settled, buckets = [], []
    drop, bucket = reuse_module._drop_scattered, Spill.bucket

    def dropped(origins):
        settled.append(len(origins))
        drop(origins)

    def counted(self, number):
        if "entry" in self.kind.names and "row" in self.kind.names:
            buckets.append(number)
        return bucket(self, number)

    monkeypatch.setattr(reuse_module, "_drop_scattered", dropped)
    monkeypatch.setattr(Spill, "bucket", counted)
    summary = project.run()
    assert (summary.changed, summary.unchanged, project.new_calls()) == (2, 58, 2 + 3)  # and the drift check's
    assert len(settled) == 2  # the parts of rows 10 and 50
    assert len(buckets) == len(set(buckets))
