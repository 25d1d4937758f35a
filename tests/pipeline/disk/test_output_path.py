"""An output never overwrites its input, and never becomes a part of it."""

from pathlib import Path

import pytest

from pipeline.disk.output_path import (
    Fault,
    is_in_run_folder,
    is_within,
    output_fault,
    output_suffix,
    run_folder,
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fault(output, source="in.jsonl", *files, got=""):
    return output_fault(Path(output), source, files, shown=f"`{source}`", got=got)


@pytest.mark.parametrize(("path", "suffix"), [
    ("o.parquet", ".parquet"), ("o.jsonl", ".jsonl"), ("o.ndjson", ".jsonl"), ("o.jsonlines", ".jsonl"), ("o", ""), ("o.csv", ""), ("v1.2/", ""),
    ("a.parquet/b", ""), ("o.PARQUET", ""), (".jsonl", ""), ("o.jsonl.gz", ""),
])  # fmt: skip
def test_the_suffix_decides_the_format(path, suffix):
    assert output_suffix(path) == suffix


@pytest.mark.parametrize("output", ["out", "out/", "./out", Path("out")])
def test_the_run_folder_is_beside_the_output(output):
    assert run_folder(output) == Path("out.run")


def test_a_path_that_takes_nothing_from_the_input_is_free():
    Path("in.jsonl").touch()
    for output in ("o.parquet", "deep/o.jsonl", "folder"):
        assert fault(output) is None
    assert output_fault(Path("in.jsonl"), None, shown="-") is None


def test_the_input_and_what_is_it_under_another_name_are_refused():
    Path("in.jsonl").touch()
    Path("hard.jsonl").hardlink_to("in.jsonl")
    expected = Fault("is the input, `in.jsonl`", concerns_input=True)
    assert fault("in.jsonl") == fault("./in.jsonl", got="got x") == fault("hard.jsonl") == expected


def test_files_that_the_pattern_of_the_input_does_not_name_count_as_well():
    """A link among the inputs leads to a part of the output."""
    Path("out.run/versions/1").mkdir(parents=True)
    Path("out").symlink_to("out.run/versions/1")
    Path("out/part-00000.parquet").touch()
    Path("links").mkdir()
    Path("links/a.parquet").symlink_to(Path("out/part-00000.parquet").absolute())
    holds = Fault("is a directory that holds the input, `links`", concerns_input=True)
    assert fault("out", "links") is None
    assert fault("out", "links", "links/a.parquet") == holds
    one = "out/part-00000.parquet"
    assert fault("out", one) == Fault(f"is a directory that holds the input, `{one}`", True)


def test_an_existing_output_must_be_of_the_same_kind():
    Path("o.jsonl").mkdir()
    Path("plain").touch()
    Path("link.jsonl").symlink_to("plain")
    assert fault("o.jsonl", got="got o") == Fault("exists and is no file, got o")
    assert fault("plain") == Fault("exists and is no directory")
    assert fault("link.jsonl") == Fault("is a symbolic link")


def test_what_the_next_run_would_read_is_refused():
    Path("data").mkdir()
    for source in ("data", "data/*.jsonl", "**/*.jsonl"):
        problem = f"is where input.path = `{source}` would read it the next time, got x"
        assert fault("data/o.jsonl", source, got="got x") == Fault(problem, concerns_input=True)
    assert fault("data/.hidden.jsonl", "data/*.jsonl") is None
    assert fault("data/o.parquet", "data/*.jsonl") is None


@pytest.mark.parametrize(("output", "source"), [
    ("elsewhere/o.jsonl", "in/**/*.jsonl"), ("elsewhere/o.jsonl", "in/*/*.jsonl"),
    ("elsewhere/o.jsonl", "./in/../in/**/*.jsonl"), ("in/o.jsonl", "in/*/*.jsonl"),
    ("in/a/deep/o.jsonl", "in/*/*.jsonl"), ("in/a/o.jsonl", "in/*"), ("o.jsonl", "in/**/*.jsonl"),
    ("in/vectors", "in/*.parquet"), ("in/a/vectors", "in/*/*.parquet"), ("in-2/o.jsonl", "in/**/*.jsonl"),
    ("../elsewhere/o.jsonl", "in/**/*.jsonl"), ("in/.hidden/o.jsonl", "in/**/*.jsonl"),
])  # fmt: skip
def test_an_output_that_the_glob_does_not_read_is_free(output, source):
    Path("in/a").mkdir(parents=True)
    Path("elsewhere").mkdir()
    assert fault(output, source) is None
    assert fault(str(Path(output).absolute()), str(Path(source).absolute())) is None


@pytest.mark.parametrize(("output", "source"), [
    ("in/a/o.jsonl", "in/**/*.jsonl"), ("in/new/o.jsonl", "in/*/*.jsonl"), ("in/o.jsonl", "in/**/*.jsonl"),
    ("in/a/../o.jsonl", "in/*.jsonl"), ("link/o.jsonl", "in/**/*.jsonl"), ("in/a/o.jsonl", "link/*.jsonl"),
    ("elsewhere/o.jsonl", "in/outside/*.jsonl"), ("elsewhere/o.jsonl", "in/*/*.jsonl"),
    ("in/vectors", "in/*/*.parquet"), ("in/vectors", "in/**/*.parquet"), ("in/vectors", "in/v*/part-*"),
    ("o.jsonl", "in/*/../../*.jsonl"),
])  # fmt: skip
def test_an_output_that_the_glob_reads_is_refused(output, source):
    Path("in/a").mkdir(parents=True)
    Path("elsewhere").mkdir()
    Path("link").symlink_to("in/a")
    Path("in/outside").symlink_to(Path("elsewhere").absolute())
    assert "would read it the next time" in fault(output, source).problem


@pytest.mark.parametrize("mark", ["runs", "lock"])
def test_a_run_folder_is_recognised_by_its_name_or_its_contents(mark):
    assert is_in_run_folder(Path("/x/o.parquet.run/parts/x.parquet"))
    inside = Path("mine.run/x.jsonl")
    assert not is_in_run_folder(inside)
    Path("mine.run").mkdir()
    Path("mine.run", mark).touch()
    assert is_in_run_folder(inside)
    assert fault(inside) == Fault("is in a run folder")


def test_a_folder_holds_itself_and_what_is_below_it():
    assert is_within("/a", "/a") and is_within("/a/b", "/a") and is_within("/a", "/")
    assert not is_within("/ab", "/a") and not is_within("/", "/a")
