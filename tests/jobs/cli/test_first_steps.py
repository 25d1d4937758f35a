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


def test_all_unknown_keys_of_a_job_file_are_reported_at_once(tmp_path, textmill):
    (tmp_path / "job.toml").write_text(
        'task = "feature-extraction"\nroutes = "ordered"\n[input]\npaht = "x.jsonl"\n'
        '[[endpoint]]\nname = "a"\nkind = "local"\nprise = {}\n[chunk]\nsise = 1\n'
    )
    ran = textmill("plan", tmp_path / "job.toml")
    assert ran.code == 2
    assert ran.err.splitlines() == [
        f"{tmp_path}/job.toml: unknown key `routes` (did you mean `route`?)",
        "hint: also unknown: `input.paht` (did you mean `path`?), "
        "`chunk.sise` (did you mean `size`?), `endpoint.prise` (did you mean `price`?)",
    ]
