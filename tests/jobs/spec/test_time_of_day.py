"""`run.until`: a time of day in TOML, as text, and on the command line; and what is none."""

import pytest

from jobs.spec.load import load
from pipeline.errors import UsageError

JOB = {"input.path": "in.jsonl", "output.path": "out.parquet"}


@pytest.mark.parametrize(("typed", "until"), [
    ("06:00", "06:00"), ("23:59:30", "23:59:30"), ('"06:00"', "06:00"), ("06:00:00", "06:00"),
    ("00:00", "00:00"), ('""', None), ("", None),
])
def test_a_time_of_day_is_taken_however_it_is_written(typed, until):
    assert load("embed", [("run.until", typed)], JOB).run.until == until
    if '"' not in typed:
        assert load("embed", (), JOB | {"run.until": typed}).run.until == until


@pytest.mark.parametrize("said", ["06:00:00", '"06:00"'])
def test_a_job_file_says_it_as_text_or_as_a_time(tmp_path, said):
    file = tmp_path / "job.toml"
    file.write_text(f"""
        task = "feature-extraction"
        input.path = "in.jsonl"
        output.path = "out.parquet"
        run.until = {said}
        [[endpoint]]
        kind = "local"
    """)
    assert load(file).run.until == "06:00"


def test_without_it_a_run_has_no_end():
    assert load("embed", (), JOB).run.until is None


@pytest.mark.parametrize("typed", ["24:00", "6:00", "6", "06:60", "noon", "true", "[]", "06:00Z",
                                   "2026-01-01T06:00:00", "-06:00", "06:00\n"])
def test_what_is_no_time_of_day_is_refused_with_an_example(typed):
    with pytest.raises(UsageError, match='must be a time of day such as "06:00", got '):
        load("embed", [("run.until", typed)], JOB)
