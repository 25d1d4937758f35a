"""What is never published: an output without results, or one that loses rows or mixes models."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import events
from tests.support.nights import Project, small


@pytest.fixture
def new_project(tmp_path, monkeypatch):
    small(monkeypatch)
    monkeypatch.setenv("TEXTMILL_HOME", str(tmp_path / "home"))
    return lambda **given: Project(tmp_path, monkeypatch, **given)


def rows(*numbers):
    return [{"id": f"r{number}", "text": f"Row number {number}."} for number in numbers]


@pytest.mark.parametrize("out", ["o.parquet", "o.jsonl", "o"])
def test_an_output_in_which_no_row_is_ok_is_not_published(new_project, out):
    project = new_project(input__id="id", out=out)
    project.rows([{"id": "a", "text": 1}, {"id": "b", "text": 2}, {"id": "c", "text": 3}])
    project.run(code=4)
    assert not (project.folder / out).exists()
    message = str(project.error)
    assert "no row is ok, 3 of 3 rows failed: nothing was published; most often: " in message
    assert message.endswith("in.jsonl:1: `text` must be a string, got integer")
    project.rows(rows(1, 2))
    project.run()
    content = project.content()
    project.poison = "Row"
    project.rows(rows(3, 4))
    project.run(code=4)
    assert str(project.error).endswith("in.jsonl:1: poisoned")
    assert project.content() == content


def test_blank_rows_are_ok_and_partial_rows_have_results(new_project):
    project = new_project(input__id="id", out="o.jsonl")
    project.rows([{"id": "a", "text": " "}, {"id": "b", "text": ""}])
    assert project.run(code=0).ok == 2
    words = " ".join(f"word{number}" for number in range(20))
    project.rows([{"id": "a", "text": f"{words} poison"}])
    summary = project.run(code=3)
    assert (summary.ok, summary.partial) == (0, 1)


def test_the_floor_of_max_failed_is_in_its_message(new_project):
    project = new_project(input__id="id", guard__max_failed=0.1)
    project.rows([*rows(*range(25)), *({"id": number, "text": None} for number in range(21))])
    project.run(code=4)
    assert "allows (20 rows, which may always fail)" in str(project.error)


def edit(path, change):
    path.write_bytes(change(path.read_bytes()))


FAULTS = {
    "snapshot missing": lambda run: (run / "snapshot.json").unlink(),
    "snapshot of another revision": lambda run: edit(
        run / "snapshot.json", lambda raw: raw.replace(b'"revision":1', b'"revision":99')
    ),
    "snapshot damaged": lambda run: edit(run / "snapshot.json", lambda raw: raw[:40]),
    "snapshot empty": lambda run: edit(run / "snapshot.json", lambda raw: b""),
    "one index damaged": lambda run: edit(sorted(run.glob("parts/*.index"))[1], lambda raw: raw[:-9] + b"damaged!!"),
    "one index gone": lambda run: sorted(run.glob("parts/*.index"))[0].unlink(),
    "all indexes gone": lambda run: [path.unlink() for path in run.glob("parts/*.index")],
    "parts gone": lambda run: shutil.rmtree(run / "parts"),
    "run folder gone": shutil.rmtree,
}  # fmt: skip
SHAPES = {
    "parquet, by chunk": {"out": "o.parquet", "input__id": "id"},
    "jsonl, by chunk": {"out": "o.jsonl", "input__id": "id"},
    "directory": {"out": "o", "input__id": "id", "aggregate__method": "mean"},
    "parquet, by row": {"out": "o.parquet", "input__id": "id", "aggregate__method": "mean"},
    "jsonl, without ids": {"out": "o.jsonl", "aggregate__method": "mean", "input__keep": ["text"]},
    "parquet, without ids": {"out": "o.parquet"},
}


def copy(source, target):
    """Copies a file, a link or a folder, with times."""
    if source.is_symlink():
        target.symlink_to(source.readlink())
    elif source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target)


class Moment:
    """A project as it is now, to go back to."""

    def __init__(self, project):
        self.project, self.kept = project, project.folder / "kept"
        self.kept.mkdir()
        self.names = [path.name for path in project.folder.iterdir() if path != self.kept]
        for name in self.names:
            copy(project.folder / name, self.kept / name)

    def again(self):
        for name in self.names:
            path = self.project.folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            copy(self.kept / name, path)
        self.project.turn, self.project.dimension = 0.0, 4


TABLE = [
    pytest.param(fault, shape, marks=() if (row - column) % len(SHAPES) == 0 else pytest.mark.slow)
    for row, fault in enumerate(FAULTS)
    for column, shape in enumerate(SHAPES)
]
"""Each fault with one shape in the short form, with every shape in the slow one: 100 whole runs."""


@pytest.mark.parametrize(("fault", "shape"), TABLE)
def test_the_guards_never_go_silent(new_project, tmp_path, fault, shape):
    project = new_project(**SHAPES[shape], guard__max_removed=0.25, guard__drift_texts=3)
    project.rows(rows(*range(60)))
    project.run()
    content = project.content()
    FAULTS[fault](tmp_path / f"{project.out}.run")
    moment = Moment(project)
    is_lost = (shape, fault) == ("directory", "run folder gone")  # the output itself was in there

    project.rows(rows(*range(12)))
    project.run(code=14)
    assert is_lost or "48 of the 60 rows" in str(project.error)
    for changed in ("turn", "dimension"):
        moment.again()
        project.rows(rows(*range(61)))
        setattr(project, changed, 5)
        project.run(code=14)
        assert is_lost or "other vectors than before" in str(project.error)
        assert is_lost or project.content() == content
    moment.again()
    if is_lost:
        project.run(code=14)
        assert "--accept-unknown" in project.error.hint
    assert project.run(accept_unknown=is_lost).ok == 60
    assert project.content() == content


@pytest.mark.parametrize(("fault", "shape"), TABLE)
def test_the_changes_hold_every_deletion(new_project, tmp_path, fault, shape):
    project = new_project(**SHAPES[shape])
    changes = tmp_path / "changes.jsonl"
    project.rows(rows(*range(60)))
    project.run(changes=changes)
    table = applied({}, changes)
    FAULTS[fault](tmp_path / f"{project.out}.run")
    project.rows([*rows(*range(5, 40)), *rows(*range(70, 75)), {"id": "r3", "text": "Another text."}])
    if (shape, fault) == ("directory", "run folder gone"):
        project.run(changes=changes, code=14)
        return
    project.run(changes=changes)
    project.run(out=f"new/{project.out}", changes=tmp_path / "whole.jsonl")
    assert applied(table, changes) == applied({}, tmp_path / "whole.jsonl")


def applied(table, changes):
    """A table after these changes, by chunk or by row."""
    table = dict(table)
    for line in changes.read_text().splitlines():
        change = json.loads(line)
        key = change.get("chunk_id") or change["id"]
        if change.pop("op") == "delete":
            del table[key]
        else:
            table[key] = change
    return table


@pytest.mark.parametrize("lost", ["snapshot.json", "parts"])
def test_deletions_from_an_output_that_is_gone_with_its_record_are_refused(new_project, tmp_path, lost):
    project = new_project(input__id="id", out="o.jsonl")
    changes = tmp_path / "changes.jsonl"
    project.rows(rows(*range(30)))
    project.run(changes=changes)
    (tmp_path / "o.jsonl").unlink()
    if lost == "parts":
        shutil.rmtree(tmp_path / "o.jsonl.run/parts")
    else:
        FAULTS["snapshot damaged"](tmp_path / "o.jsonl.run")
    project.run(changes=changes, code=14)
    assert "deletions would be missing from the changes" in str(project.error)
    project.run()  # without changes a removed output is no loss
    project.run(changes=changes, accept_unknown=True)


@pytest.mark.parametrize("out", ["o.parquet", "o.jsonl"])
@pytest.mark.parametrize("what", ["foreign", "damaged", "cut to nothing"])
def test_a_file_that_shows_no_rows_of_ours_is_not_replaced(new_project, tmp_path, out, what):
    project = new_project(input__id="id", out=out)
    path = tmp_path / out
    project.rows(rows(1, 2))
    if what != "foreign":
        project.run()
        edit(path, lambda raw: raw[: len(raw) // 2] if what == "damaged" else b"")
    elif out == "o.jsonl":
        path.write_text('{"id":"r1","text":"mine"}\n')
    else:
        pq.write_table(pa.table({"id": ["r1"], "text": ["mine"]}), path)
    before = path.read_bytes()
    project.run(code=14)
    assert "the rows of the last commit are unknown, and nothing was published" in str(project.error)
    assert path.read_bytes() == before
    project.run(accept_unknown=True)
    (note,) = [event.message for event in project.events if isinstance(event, events.Warned)]
    assert note.endswith("nothing was compared (--accept-unknown)")
    assert project.content() == project.rebuilt()


def test_an_empty_file_before_the_first_run_is_no_output(new_project, tmp_path):
    project = new_project(input__id="id", out="o.jsonl")
    (tmp_path / "o.jsonl").touch()
    project.rows(rows(1, 2))
    assert project.run().added == 2


def test_the_note_says_what_the_guards_read(new_project, tmp_path):
    project = new_project(input__id="id", out="o.jsonl")
    project.rows(rows(*range(30)))
    project.run()
    FAULTS["snapshot of another revision"](tmp_path / "o.jsonl.run")
    summary = project.run()
    (note,) = [event.message for event in project.events if isinstance(event, events.Warned)]
    assert note.endswith(
        "snapshot.json has revision 99, not 1; the guards read the output itself: they know its 30 "
        "rows, but not which texts changed"
    )
    assert (summary.unchanged, summary.added, summary.changed) == (30, 0, 0)
    project.run()
    assert not [event for event in project.events if isinstance(event, events.Warned)]


def test_an_output_that_moved_with_its_times_is_still_the_last_commit(new_project, tmp_path):
    project = new_project(input__id="id", out="o.parquet")
    project.rows(rows(*range(30)))
    project.run()
    moment = Moment(project)
    moment.again()
    assert project.run().unchanged == 30
    assert not [event for event in project.events if isinstance(event, events.Warned)]


def test_an_older_output_put_back_is_compared_too(new_project, tmp_path):
    project = new_project(input__id="id", out="o.parquet", guard__max_removed=0.25)
    project.rows(rows(*range(100)))
    project.run()
    before = (tmp_path / "o.parquet").read_bytes()
    project.rows(rows(*range(78)))
    project.run()
    (tmp_path / "o.parquet").write_bytes(before)
    project.rows(rows(*range(70)))
    project.run(code=14)
    assert "30 of the 100 rows" in str(project.error)


def test_other_vectors_of_lines_without_a_named_model_are_refused(new_project, tmp_path):
    project = new_project(input__id="id", out="o.jsonl")
    project.rows(rows(*range(30)))
    project.run()
    shutil.rmtree(tmp_path / "o.jsonl.run")
    project.dimension = 5
    project.run(code=14, endpoint__model="other")
    assert "vectors of 5 numbers, those of the last commit have 4" in str(project.error)
    project.run(endpoint__model="other", accept_unknown=True)


def test_ids_of_any_type_are_found_in_lines(new_project, tmp_path):
    ids = [
        pa.array(range(30), pa.timestamp("us", "UTC")),
        pa.array([f"{n}.50" for n in range(30)]).cast(pa.decimal128(9, 2)),
        pa.array([bytes([n]) for n in range(30)]),
        pa.array(range(30), pa.date32()),
        pa.array([f"r{n}" for n in range(30)]).dictionary_encode(),
        pa.array(range(30), pa.uint32()),
        pa.array([n + 0.5 for n in range(30)]),
    ]
    for at, column in enumerate(ids):
        project = new_project(input__id="id", out=f"o{at}.jsonl", name="in.parquet", guard__max_removed=0.1)
        table = pa.table({"id": column, "text": [f"Row {n}." for n in range(30)]})
        pq.write_table(table, project.input)
        project.run()
        shutil.rmtree(tmp_path / f"o{at}.jsonl.run")
        summary = project.run()
        assert (summary.added, summary.removed) == (0, 0), column.type
        pq.write_table(table.slice(0, 5), project.input)
        shutil.rmtree(tmp_path / f"o{at}.jsonl.run")
        project.run(code=14)


def test_the_command_line_accepts_unknown_rows(tmp_path, monkeypatch, textmill, own_home):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text('{"id":"a","text":"A text."}\n')
    (tmp_path / "o.jsonl").write_text("of somebody else\n")
    words = ("run", "enrich", "-i", "in.jsonl", "-o", "o.jsonl", "--id", "id")
    ran = textmill(*words)
    assert ran.code == 14
    assert "o.jsonl: snapshot.json is missing, and o.jsonl is unreadable" in ran.err
    assert "--accept-unknown replaces it" in ran.err
    assert (tmp_path / "o.jsonl").read_text() == "of somebody else\n"
    assert textmill(*words, "--accept-unknown").code == 0
    assert textmill(*words, "--set", "guard.accept_unknown=true").code == 2


def test_a_table_that_becomes_blank_keeps_its_columns_and_says_so(new_project, tmp_path):
    project = new_project(input__id="id", out="o.parquet", aggregate__method="mean")
    project.rows([*rows(*range(20)), *({"id": f"b{n}", "text": ""} for n in range(20))])
    project.run()
    schema = pq.read_schema(tmp_path / "o.parquet")
    assert not notes(project)
    project.rows([{"id": row["id"], "text": " "} for row in rows(*range(20))])
    project.run()
    assert pq.read_schema(tmp_path / "o.parquet").equals(schema, check_metadata=True)
    (note,) = notes(project)
    assert note.endswith("no row has a vector any more; the table keeps the columns of the last commit")
    project.run()
    assert not notes(project)


def notes(project):
    return [event.message for event in project.events if isinstance(event, events.Warned)]


def test_a_row_that_is_at_fault_itself_is_not_tried_again(new_project):
    project = new_project(input__id="id")
    project.rows([*rows(1, 2), {"id": "number", "text": 5}, {"id": "p", "text": "poison"}])
    project.run()
    summary = project.run()
    assert (summary.unchanged, summary.retried, summary.failed) == (3, 1, 2)


@pytest.mark.parametrize("out", ["o.parquet", "o.jsonl", "o"])
def test_parts_of_runs_that_never_commit_are_bounded(new_project, tmp_path, out):
    project = new_project(input__id="id", out=out, guard__max_failed=0.0)
    good = rows(*range(60))
    sizes = []
    for night in range(8):
        good[night]["text"] = f"Another text of night {night}."
        project.rows([*good, *({"id": f"p{n}", "text": f"poison {n}"} for n in range(25))])
        project.run(code=4)
        sizes.append(len(list((tmp_path / f"{out}.run/parts").glob("*.index"))))
    assert max(sizes) <= 2 * sizes[0]
    project.rows(good)
    project.run()
    assert project.new_calls() == 0
    assert project.content() == project.rebuilt()


def test_versions_that_kills_left_are_removed(new_project, tmp_path):
    project = new_project(input__id="id", out="o")
    project.rows(rows(1, 2))
    project.run()
    versions = tmp_path / "o.run/versions"
    for number in range(3):
        (versions / f"left{number}").mkdir()
    project.run()
    assert len(list(versions.iterdir())) == 2
    assert len(project.content()) == 1


def test_a_plan_over_the_budget_is_not_to_be_resumed(new_project):
    project = new_project(input__id="id", budget__max_cost_usd=0.001)
    project.flags["endpoint.price.request"] = 1.0
    project.rows(rows(1, 2))
    assert project.run(code=8).resumable is False


def test_a_plan_refuses_the_columns_that_a_run_refuses(tmp_path, monkeypatch, textmill, own_home):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text('{"id":"a","text":"A text."}\n')
    words = ("enrich", "-i", "in.jsonl", "-o", "o.jsonl", "--aggregate", "mean")
    for command in ("plan", "run"):
        ran = textmill(command, *words)
        assert (ran.code, "`id` is a name that the output uses itself" in ran.err) == (2, True)


def test_spooled_input_of_a_killed_run_is_swept_by_any_run(tmp_path, monkeypatch, textmill, own_home):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folders = [tmp_path / "textmill-killed", own_home / "streams/textmill-killed"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "lock").touch()
        (folder / "stdin.jsonl").write_text("private")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text('{"id":"a","text":"A text."}\n')
    assert textmill("run", "enrich", "-i", "in.jsonl", "-o", "o.jsonl", "--id", "id").code == 0
    assert not any(folder.exists() for folder in folders)
