"""What somebody types who has not read the manual is answered with the way on."""

import errno

import pytest

from jobs.spec.flags import command_line
from pipeline.disk.durable import storage_errors
from pipeline.errors import StorageError


def test_rows_are_not_taken_for_a_job_file(textmill):
    for name in ("docs.jsonl", "docs.parquet", "docs.jsonl.gz"):
        ran = textmill("run", name)
        assert (ran.code, ran.err) == (
            2,
            f"{name}: is not a job file\n"
            "hint: pass rows with -i: textmill run embed -i ROWS -o OUTPUT\n",
        )


def test_a_word_too_many_is_answered_with_the_option_that_takes_it(textmill):
    ran = textmill("run", "embed", "docs.jsonl", "-o", "x.parquet")
    assert (ran.code, ran.err.splitlines()[-1]) == (
        2, "hint: pass the input with -i and the output with -o",
    )  # fmt: skip
    ran = textmill("run", "nightly.toml", "--retry-failed", "nonsense")
    assert (ran.code, ran.err.splitlines()[-1]) == (
        2,
        "hint: after --retry-failed: all, ambiguous, invalid, poison, too_long, transient, truncated, or nothing",
    )


@pytest.mark.parametrize(("code", "hint"), [
    (errno.ENOSPC, "free space and run again; every answer so far is kept"),
    (errno.EDQUOT, "free space and run again; every answer so far is kept"),
    (errno.EACCES, None),
])  # fmt: skip
def test_a_full_disk_says_what_is_to_be_done(tmp_path, code, hint):
    with pytest.raises(StorageError) as caught, storage_errors(tmp_path):
        raise OSError(code, "as the system says it")
    assert caught.value.hint == hint


def test_the_command_that_goes_on_is_what_somebody_would_type():
    flags = {"run.max_outage_seconds": 2.0, "guard.max_failed": 0.25, "input.salvage": True}
    assert " ".join(command_line("x.toml", [], flags)) == (
        "textmill run x.toml --max-outage 2 --max-failed 0.25 --salvage"
    )


WRONG = """\
task = "feature-extractoin"
name = "x"
[input]
path = 3
keep = "title"
[chunk]
size = 0
sise = 2
[parameters]
model = "x"
[[endpoint]]
kind = "openia"
concurrency = 0
[[endpoint]]
kind = "openai"
url = "ftp://gpu-box"
api_key = "word"
[run]
until = "25:00"
[output]
path = "out.parquet"
"""


def test_every_wrong_value_of_a_job_file_is_reported_at_once_in_its_order(tmp_path, textmill):
    (tmp_path / "job.toml").write_text(WRONG)
    tasks = "feature-extraction, summarization, chat-completion"
    file = f"{tmp_path}/job.toml:"
    ran = textmill("plan", tmp_path / "job.toml", "--set", "guard.max_failed=7", "--overlap", "-1")
    assert ran.code == 2
    assert ran.err.splitlines() == [
        f'{file} task must be one of {tasks}, got "feature-extractoin" (did you mean `feature-extraction`?)',
        f"{file} input.path must be a string, got 3",
        f'{file} input.keep must be a list of strings, got "title"',
        f"{file} chunk.size must be at least 1, got 0",
        f"{file} unknown key `chunk.sise` (did you mean `size`?)",
        "--overlap: must be at least 0, got -1",
        f"{file} `parameters.model` is set by textmill itself",
        f'{file} endpoint.1.kind must be one of local, hf, tei, openai, got "openia" (did you mean `openai`?)',
        f"{file} endpoint.1.concurrency must be between 1 and 10,000, got 0",
        f"{file} endpoint.openai.url must start with https://, or http:// in the own network",
        f"{file} endpoint.openai.api_key must be a reference, never the key itself",
        f'{file} run.until must be a time of day such as "06:00", got "25:00"',
        "--set guard.max_failed: must be between 0 and 1, got 7",
        'hint: api_key = { env = "NAME" } or { file = "path" }',
    ]


def test_all_missing_keys_are_reported_at_once_and_many_errors_are_cut(tmp_path, textmill):
    (tmp_path / "job.toml").write_text("")
    ran = textmill("run", tmp_path / "job.toml")
    assert [line.partition(": ")[2] for line in ran.err.splitlines()] == [
        "`task` is missing", "`endpoint.kind` is missing", "`input.path` is missing",
        "`output.path` is missing", "--set task=feature-extraction"]  # fmt: skip
    (tmp_path / "job.toml").write_text("\n".join(f"key_{n} = 1" for n in range(50)))
    lines = textmill("run", tmp_path / "job.toml").err.splitlines()
    assert len(lines) == 21 and lines[-1] == "30 more errors"


def test_all_missing_columns_are_reported_at_once_with_the_nearest_names(tmp_path, textmill):
    (tmp_path / "in.jsonl").write_text('{"doc_id": 1, "Text": "a", "headline": "b"}\n')
    ran = textmill("plan", "embed", "-i", tmp_path / "in.jsonl", "--id", "id", "--keep", "head_line")
    file = f"{tmp_path}/in.jsonl:"
    assert (ran.code, ran.err.splitlines()) == (2, [
        f"{file} column `id` (input.id) not found (did you mean `doc_id`?); "
        "columns: `Text`, `doc_id`, `headline`",
        f"{file} column `text` (input.text) not found (did you mean `Text`?)",
        f"{file} column `head_line` (input.keep) not found (did you mean `headline`?)",
        "hint: --id COLUMN",
    ])  # fmt: skip


def test_all_unknown_keys_of_a_job_file_are_reported_at_once(tmp_path, textmill):
    (tmp_path / "job.toml").write_text(
        'task = "feature-extraction"\nroutes = "ordered"\n[input]\npaht = "x.jsonl"\n'
        '[[endpoint]]\nname = "a"\nkind = "local"\nprise = {}\n[chunk]\nsise = 1\n'
    )
    ran = textmill("plan", tmp_path / "job.toml")
    assert ran.code == 2
    assert ran.err.splitlines() == [
        f"{tmp_path}/job.toml: unknown key `routes` (did you mean `route`?)",
        f"{tmp_path}/job.toml: unknown key `input.paht` (did you mean `path`?)",
        f"{tmp_path}/job.toml: unknown key `endpoint.prise` (did you mean `price`?)",
        f"{tmp_path}/job.toml: unknown key `chunk.sise` (did you mean `size`?)",
    ]
