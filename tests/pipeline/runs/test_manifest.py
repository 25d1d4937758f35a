"""Which run it is that goes on."""

import re

import hypothesis.strategies as st
import pytest
from hypothesis import given
from msgspec.structs import replace

from pipeline.runs.manifest import KEPT_RUNS, Manifest, end_manifest, runs_to_remove, this_run
from pipeline.runs.run_id import new_run_id


def run(number=1, name=None, **told):
    told = {"fingerprint": "job", "input": "in"} | told
    return Manifest(
        run=name or f"run-{number}", number=number, started="2026-11-20T10:00:00Z", job="j",
        rows=3, output="out", models=[["openai", "", "m"]], columns={}, **told,
    )


PLANNED = run(1, "new")


def test_the_first_run_is_number_one():
    assert this_run(PLANNED, []) == PLANNED


def test_an_open_run_of_the_same_job_and_input_goes_on():
    before = run(7, exit=143)
    assert this_run(PLANNED, [run(6, state="committed"), before]) == replace(before, exit=None)


@pytest.mark.parametrize("told", [
    {"state": "committed"}, {"state": "closed"}, {"fingerprint": "another"}, {"input": "another"},
])
def test_after_a_commit_or_a_change_it_is_a_new_run(told):
    assert this_run(PLANNED, [run(7, **told)]) == replace(PLANNED, number=8)


def test_only_the_last_run_can_be_gone_on_with():
    assert this_run(PLANNED, [run(3), run(4, state="committed")]).number == 5


def test_runs_are_told_apart_by_number_when_the_clock_jumps_back():
    early, late = run(2, "20261120T000000Z-ffffff"), run(1, "20271120T000000Z-000000")
    assert this_run(PLANNED, [late, early]).run == early.run


@pytest.mark.parametrize("code", [2, 4, 6, 14])
def test_an_end_that_another_try_cannot_better_closes_the_run(code):
    assert end_manifest(run(), code) == run(state="closed", exit=code)


@pytest.mark.parametrize("code", [1, 5, 7, 8, 10, 12, 13, 130, 143])
def test_any_other_end_leaves_it_open(code):
    assert end_manifest(run(), code) == run(state="open", exit=code)


def test_a_commit_says_its_rows():
    assert end_manifest(run(), 3, 0) == run(state="committed", exit=3, rows_out=0)


@given(st.lists(st.integers(1, 100), unique=True), st.sets(st.integers(0, 20)))
def test_the_newest_folders_stay_and_never_more(numbers, damaged):
    found = {f"run-{n}": run(n) for n in numbers} | {f"damaged-{n}": None for n in damaged}
    gone = runs_to_remove(found, "this")
    kept = found.keys() - set(gone)
    assert "this" not in gone
    assert len(kept) == min(len(found), KEPT_RUNS - 1)
    if gone and any(found[name] for name in gone):
        newest_gone = max(found[name].number for name in gone if found[name])
        assert all(found[name] and found[name].number > newest_gone for name in kept)


def test_run_ids_differ_and_begin_with_the_time():
    found = {new_run_id() for _ in range(50)}
    assert len(found) == 50
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{6}", each) for each in found)


def test_a_run_that_goes_on_says_what_it_does_now():
    """An endpoint that affects no answer may be another: `explain` reads the models of this run."""
    before = replace(run(3), models=[["tei", "", "m", "sha"]], started="then")
    now = replace(run(1, "new"), models=[["tei", "", "m", "sha"], ["openai", "", "m", "main"]], started="now")
    this = this_run(now, [before])
    assert (this.run, this.number, this.started) == (before.run, 3, "then")
    assert this.models == now.models
