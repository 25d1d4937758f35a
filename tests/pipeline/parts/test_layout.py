"""The output's name holds only what was published, complete."""

import os
import stat
from pathlib import Path

import pytest

from pipeline.errors import StorageError, UsageError
from pipeline.parts.layout import OutputLayout


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").touch()
    return tmp_path


def prepare_layout(output, run_id="run-1"):
    layout = OutputLayout(output, run_id)
    layout.prepare("in.jsonl", ["in.jsonl"])
    return layout


def publish_parts(layout, *texts):
    """A directory output with these parts, published."""
    layout.version.mkdir()
    for number, text in enumerate(texts):
        part = layout.part_path(number)
        part.write_text(text)
        layout.link_part(part, layout.version / layout.part_name(number))
    layout.switch()
    return layout


@pytest.mark.parametrize(("output", "suffix", "part"), [
    ("o.parquet", ".parquet", "00003.parquet"), ("o.jsonl", ".jsonl", "00003.jsonl"),
    ("o", "", "00003.parquet"), ("o.d", "", "00003.parquet"), ("my.data/", "", "00003.parquet"),
])  # fmt: skip
def test_the_names_come_from_the_outputs(output, suffix, part):
    layout = OutputLayout(output, "run-1")
    name = output.rstrip("/")
    assert (layout.suffix, str(layout.path), str(layout.run_folder)) == (suffix, name, f"{name}.run")
    assert layout.part_path(3) == Path(f"{name}.run/parts/{part}")
    assert layout.part_name(3) == "part-00003.parquet"
    assert layout.temporary == Path(f".{name}.textmill.tmp")


@pytest.mark.parametrize("output", ["new/deep/o.parquet", "new/o"])
def test_a_prepared_place_has_its_folders_and_no_output(output):
    layout = prepare_layout(output)
    assert layout.parts.is_dir() and not layout.exists() and layout.published() == []
    assert sorted(path.name for path in layout.path.parent.iterdir()) == [layout.run_folder.name]


def test_the_state_of_a_file_is_private_and_that_of_a_directory_leads_to_its_parts():
    before = os.umask(0o022)
    try:
        modes = [stat.S_IMODE(prepare_layout(o).run_folder.stat().st_mode) for o in ("o.jsonl", "o")]
    finally:
        os.umask(before)
    assert modes == [0o700, 0o755]


def test_what_a_kill_left_half_is_cleaned_and_what_is_finished_stays():
    layout = prepare_layout("o.parquet")
    for name in ("00000.parquet", ".00001.parquet.textmill.tmp", "00002.parquet.tmp"):
        (layout.parts / name).touch()
    layout.temporary.touch()
    prepare_layout("o.parquet")
    assert [each.name for each in layout.parts.iterdir()] == ["00000.parquet"]
    assert not layout.temporary.exists()


@pytest.mark.parametrize(("output", "problem"), [
    ("in.jsonl", "in.jsonl: output.path is the input, in.jsonl"),
    ("plain", "plain: output.path exists and is no directory"),
    ("d.parquet", "d.parquet: output.path exists and is no file"),
    ("mine", "mine: the folder was not created by textmill"),
    ("link.jsonl", "link.jsonl: output.path is a symbolic link"),
    ("o.jsonl.run/o.jsonl", "o.jsonl.run/o.jsonl: output.path is in a run folder"),
])  # fmt: skip
def test_a_foreign_file_or_folder_is_rejected_and_left_unchanged(here, output, problem):
    Path("plain").touch()
    Path("link.jsonl").symlink_to("plain")
    Path("mine").mkdir()
    Path("mine/file").touch()
    Path("d.parquet").mkdir()
    before = sorted(here.rglob("*"))
    with pytest.raises(UsageError) as refused:
        prepare_layout(output)
    assert str(refused.value) == problem
    assert sorted(here.rglob("*")) == before


def test_an_empty_folder_is_accepted():
    Path("empty").mkdir()
    layout = publish_parts(prepare_layout("empty"), "a")
    assert layout.path.is_symlink() and [p.read_text() for p in layout.published()] == ["a"]


def test_a_path_below_a_file_cannot_be_written():
    with pytest.raises(StorageError, match=r"in\.jsonl: cannot be written"):
        prepare_layout("in.jsonl/o.parquet")


def test_a_switch_shows_the_new_version_whole_and_keeps_the_one_before():
    for number in range(1, 4):
        layout = publish_parts(prepare_layout("o", f"run-{number}"), f"a{number}", f"b{number}")
        assert layout.linked_version() == f"run-{number}"
        assert [each.read_text() for each in layout.published()] == [f"a{number}", f"b{number}"]
        assert not layout.temporary.exists()
    # A reader that opened the folder before the last switch still reads it.
    assert sorted(each.name for each in Path("o.run/versions").iterdir()) == ["run-2", "run-3"]


def test_the_published_file_is_the_output_itself():
    layout = prepare_layout("o.jsonl")
    assert layout.published() == [] and layout.linked_version() is None
    layout.path.touch()
    assert layout.published() == [Path("o.jsonl")] and layout.exists()


def test_a_file_system_without_hard_links_has_copies(monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    layout = publish_parts(prepare_layout("o"), "a")
    (part,) = layout.published()
    assert part.read_text() == "a" and part.stat().st_nlink == 1


def test_a_sweep_keeps_the_named_parts_with_their_indexes():
    layout = prepare_layout("o.parquet")
    for name in ("aa.parquet", "aa.index", "bb.parquet", "bb.index", "00001.parquet"):
        (layout.parts / name).touch()
    layout.sweep({"aa"})
    assert sorted(path.name for path in layout.parts.iterdir()) == ["aa.index", "aa.parquet"]
