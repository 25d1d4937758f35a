"""Every command where its surroundings are hard: a code of the table, and never a traceback.

Streams that are closed, full or without a reader; no home; a deleted folder; a time zone that is
none; an encoding that is not UTF-8; few open files.
"""

import json
import os
import sys

import pytest

from jobs.mock import serving
from jobs.stdio import CANNOT_BE_WRITTEN, READER_GONE
from pipeline.errors import CLASSES, StorageError
from tests.support.crashing import JobFolder
from tests.support.served import child

CODES = {*CLASSES, READER_GONE}
JOB = """task = "feature-extraction"
input = { path = "in.jsonl", id = "id" }
output = { path = "out.parquet" }
[[endpoint]]
kind = "local"
"""
READING = {
    "plan": ("plan", "job.toml"),
    "plan --json": ("plan", "job.toml", "--json"),
    "chunks": ("chunks", "in.jsonl"),
    "chunks --json": ("chunks", "in.jsonl", "--json"),
    "chunks --html": ("chunks", "in.jsonl", "--html", "-"),
    "explain": ("explain", "job.toml", "--id", "1"),
    "explain --json": ("explain", "job.toml", "--id", "1", "--json"),
    "search": ("search", "out.parquet", "the weir"),
    "status": ("status",),
    "status --json": ("status", "--json"),
    "report": ("report",),
    "report --json": ("report", "--json"),
    "cache stats": ("cache", "stats"),
    "cache verify": ("cache", "verify", "--json"),
    "templates": ("templates",),
    "schedule list": ("schedule", "list"),
    "schedule next": ("schedule", "next"),
    "--help": ("--help",),
    "run --help": ("run", "--help"),
    "--version": ("--version",),
}
"""What prints to stdout and needs to write nothing."""
WRITING = {
    "run": ("run", "job.toml"),
    "run --json": ("run", "job.toml", "--json"),
    "run -o -": ("run", "job.toml", "-o", "-"),
    "cache export": ("cache", "export", "-"),
    "schedule add": ("schedule", "add", "job.toml", "--at", "02:00", "--dry-run"),
    "no such command": ("runn",),
    "no argument": ("run",),
}
QUICK = ("run", "plan --json", "chunks", "status", "--help")
HOMELESS = {"unset": ["TEXTMILL_HOME", "HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"]}


def with_home(home):
    return {"unset": ["TEXTMILL_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"], "env": {"HOME": home}}


SURROUNDINGS = {
    "nothing odd": {},
    "stderr full": {"err": "/dev/full"},
    "stderr without a reader": {"no_reader": [2]},
    "stderr closed": {"closed": [2]},
    "stdout full": {"out": "/dev/full"},
    "stdout without a reader": {"no_reader": [1]},
    "stdout closed": {"closed": [1]},
    "all closed": {"closed": [0, 1, 2]},
    "no HOME": HOMELESS,
    "HOME does not exist": with_home("/nonexistent"),
    "HOME is /": with_home("/"),
    "HOME cannot be written": with_home("/proc"),
    "a home with a name too long": {"env": {"TEXTMILL_HOME": "/tmp/" + "h" * 300}},
    "a home that is a file": {"env": {"TEXTMILL_HOME": "in.jsonl"}},
    "impossible TZ": {"env": {"TZ": "UTC-99:99"}},
    "unknown TZ": {"env": {"TZ": "Foo/Bar"}},
    "a narrow dumb terminal": {"env": {"TERM": "dumb", "COLUMNS": "20", "NO_COLOR": "1"}},
    "deleted folder": {"gone_folder": True},
}


@pytest.fixture(scope="module")
def job(tmp_path_factory, processes):
    """A job that ran, in a home of its own."""
    job = JobFolder(tmp_path_factory.mktemp("job"), rows=0)
    (job.folder / "in.jsonl").write_text(
        '{"id": 1, "text": "The weir at Oxmead. \u4e2d\u6587\u53e5\u5b50\u3002"}\n', "utf-8"
    )
    (job.folder / "job.toml").write_text(JOB, "utf-8")
    ended = processes.run(job, "run", "job.toml")
    assert ended.code == 0, ended.err
    return job


def cases():
    for surrounding in SURROUNDINGS:
        for name in (READING | WRITING):
            marks = () if name in QUICK else (pytest.mark.slow,)  # of 500 processes
            yield pytest.param(surrounding, name, marks=marks, id=f"{surrounding}: {name}")


@pytest.mark.parametrize(("surrounding", "name"), [*cases()])
def test_every_command_ends_with_a_code_of_the_table(processes, job, surrounding, name):
    ended = processes.run(job, *(READING | WRITING)[name], **SURROUNDINGS[surrounding])
    assert ended.code in CODES - {1}, ended.err
    assert "Traceback" not in ended.err
    if surrounding.startswith("stderr"):
        calm = processes.run(job, *(READING | WRITING)[name])
        assert ended.code == calm.code
    if name in READING and "stdout" not in surrounding and surrounding != "all closed":
        is_relative = surrounding == "deleted folder" and any("." in word for word in READING[name])
        is_refused = surrounding.endswith("too long") and name.split()[0] in ("status", "report")
        assert ended.code == (2 if is_relative or is_refused else 0), ended.err
    if name == "run" and surrounding in ("no HOME", "HOME does not exist", "HOME is /"):
        assert ended.code == 2
        assert ended.err.startswith("HOME ") and len(ended.err.splitlines()) == 2
    if name in READING and surrounding.startswith("stdout"):
        assert ended.code == (141 if "reader" in surrounding else 13), ended.err
        assert ("standard output: cannot be written" in ended.err) == (ended.code == 13)


def test_the_codes_of_a_stream_are_those_of_the_table():
    assert (StorageError.exit_code, 141) == (CANNOT_BE_WRITTEN, READER_GONE)


@pytest.mark.parametrize("where", ["full", "no_reader"])
def test_a_run_does_not_end_with_the_display(processes, tmp_path, where):
    job = JobFolder(tmp_path / "job")
    stream = {"err": "/dev/full"} if where == "full" else {"no_reader": [2]}
    with serving() as mock:
        ended = processes.run(job, *job.argv(mock.url), **stream)
    assert ended.code == 3  # one line of the input is no JSON
    assert ended.last["ok"] == 12 and job.published()


LONG = "n" * 300
TOO_LONG = {
    "job": ("run", f"{LONG}.toml"),
    "input": ("plan", "job.toml", "-i", f"{LONG}.jsonl"),
    "output": ("run", "job.toml", "-o", f"{LONG}.parquet"),
    "a file beside the output": ("run", "job.toml", "-o", f"{'n' * 236}.parquet"),
    "changes": ("run", "job.toml", "--changes", f"{LONG}.jsonl"),
    "page": ("chunks", "in.jsonl", "--html", f"{LONG}.html"),
    "text": ("chunks", f"{LONG}.md"),
    "export": ("cache", "export", LONG),
    "import": ("cache", "import", LONG),
    "search": ("search", LONG, "the weir"),
    "schedule": ("schedule", "add", LONG, "--at", "02:00"),
    "report": ("report", LONG),
}


@pytest.mark.parametrize("name", TOO_LONG)
def test_a_name_that_is_too_long_is_a_mistake_of_the_user(processes, job, name):
    ended = processes.run(job, *TOO_LONG[name])
    assert ended.code == 2, ended.err
    assert len(ended.err.splitlines()) <= 2


def test_reading_writes_nothing_at_all(processes, job):
    home = job.folder / "fresh"
    for words in READING.values():
        processes.run(job, *words, env={"TEXTMILL_HOME": str(home)})
    assert not home.exists()


@pytest.mark.slow  # six processes, each of which imports all of the engine
def test_names_and_texts_survive_an_encoding_that_is_not_utf_8(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ascii_only = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = ascii_only | {"TEXTMILL_HOME": str(tmp_path / "h\u00e9")}
    text = "The weir. \u4e2d\u6587 \U0001f600 \u00e9"
    (tmp_path / "entr\u00e9e.jsonl").write_text(
        json.dumps({"id": "\u4e2d", "text": text}) + '\n{"id": "\u00e9", "text": 7}\n', "utf-8"
    )
    job = JOB.replace("in.jsonl", "entr\u00e9e.jsonl").replace("out.", "sorti\u00e9.")
    (tmp_path / "job.toml").write_text(f"{job}[guard]\nmax_failed = 0.9\n", "utf-8")
    code, _, err = child("run", "job.toml", **environment)
    assert code == 3, err
    assert (tmp_path / "sorti\u00e9.parquet").is_file()
    code, out, err = child("report", "--json", **environment)
    assert code == 0 and out.isascii(), err
    assert json.loads(out)["run"]["output"] == str(tmp_path / "sorti\u00e9.parquet")
    code, out, err = child("report", **environment)
    assert code == 0 and "sorti\\u00e9.parquet" in out, err
    code, out, err = child("chunks", "job.toml", "--json", **environment)
    assert code == 0 and out.isascii(), err
    (chunk,) = map(json.loads, out.splitlines())
    assert (chunk["id"], chunk["text"]) == ("\u4e2d", text)
    code, out, err = child("chunks", "job.toml", "--html", "page.html", **environment)
    assert code == 0, err
    assert "\u4e2d\u6587" in (tmp_path / "page.html").read_text("utf-8")
    code, out, err = child("chunks", "job.toml", **environment)
    assert code == 0 and "\\u4e2d" in out, err


@pytest.mark.parametrize("words", [
    ("run", "job.toml", "-i", os.fsdecode(b"x\xff.jsonl")),
    ("run", "job.toml", "-o", os.fsdecode(b"x\xff.parquet")),
    ("chunks", os.fsdecode(b"x\xff.jsonl")),
])  # fmt: skip
def test_a_name_that_is_not_utf_8_is_refused_in_one_line(processes, job, words):
    ended = processes.run(job, *words)
    assert ended.code == 2
    assert "must be UTF-8" in ended.err and len(ended.err.splitlines()) == 1


@pytest.mark.skipif(sys.platform == "darwin", reason="refuses such names itself")
def test_a_folder_with_a_name_that_is_not_utf_8_is_read(processes, job):
    folder = job.folder / "rows"
    folder.mkdir(exist_ok=True)
    odd = folder / os.fsdecode(b"x\xff.jsonl")
    odd.write_text('{"id": 3, "text": "Odd."}\n{"id": 4, "text": 4}\n')
    ended = processes.run(job, "run", "job.toml", "-i", "rows", "-o", "rows.parquet", "--json",
                          "--set", "guard.max_failed=0.9")  # fmt: skip
    assert ended.code == 3, ended.err
    assert ended.last["ok"] == 1
    for words in (("report", "rows.parquet"), ("report", "--json"), ("status", "--json")):
        assert processes.run(job, *words).code == 0


FEW = {16: 2, 40: 2, 64: 3, 256: 3}
"""The exit code at each hard limit of open files; 3 because a row of the input is no JSON."""


@pytest.mark.parametrize("limit", FEW)
def test_few_open_files_bound_the_calls_or_are_refused(processes, tmp_path, limit):
    job = JobFolder(tmp_path / "job", rows=120)
    with serving() as mock:
        words = [*job.argv(mock.url), "--concurrency", "400"]
        ended = processes.run(job, *words, open_files=(limit, limit))
        most = mock.bill.totals().calls
    assert ended.code == FEW[limit], ended.err
    if ended.code == 2:
        assert most == 0
        assert "open files is too low" in ended.err and "`ulimit -n 1024`" in ended.err
    else:
        assert f"the limit of {limit} open files allows" in ended.err
        assert "at a time of the 400 of the job" in ended.err


def test_the_soft_limit_is_raised_within_the_hard_one(processes, tmp_path):
    job = JobFolder(tmp_path / "job", rows=60)
    with serving() as mock:
        words = [*job.argv(mock.url), "--concurrency", "400"]
        ended = processes.run(job, *words, open_files=(64, 1024))
    assert ended.code == 3, ended.err
    assert "open files" not in ended.err
