"""The register: two at once, killed anywhere, damaged: every run is told as it was."""

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from jobs.history.ledger import ledger
from jobs.history.register import (
    RegisterEntry,
    Run,
    RunProgress,
    is_running,
    runs,
    start_record,
    utc,
)
from jobs.spec.flags import command_line
from jobs.spec.job import KEYS
from pipeline.errors import StorageError
from pipeline.events import usage_fields
from pipeline.records import Usage
from tests.support import ROOT
from tests.support.served import process


def made(job="nightly", **changed):
    return replace(start_record(job, file=f"/{job}.toml", output=f"/{job}.parquet", command=f"textmill run /{job}.toml"), **changed)


def done(run, **changed):
    return replace(run, **{"ended_at": utc(1.0), "exit": 0, "class_": "complete"} | changed)


def test_a_run_from_start_to_end(tmp_path):
    entry = RegisterEntry(tmp_path / "home", made())
    (found,), unread = runs(tmp_path / "home")
    assert is_running(found) and found.host and found.pid == os.getpid() and unread == 0
    entry.show(replace(entry.run, usage=Usage(7), live=RunProgress(3.0, utc(5.0), "working")))
    (found,), _ = runs(tmp_path / "home")
    assert (found.usage.calls, found.live.done) == (7, 3.0)
    entry.show(replace(entry.run, usage=Usage(8), live=None))  # shorter than the last one
    assert runs(tmp_path / "home")[0][0].usage.calls == 8
    entry.end(done(entry.run, usage=Usage(9)))
    (found,), _ = runs(tmp_path / "home")
    assert (found.exit, found.usage.calls, is_running(found)) == (0, 9, False)
    assert entry.trouble == ""


def test_what_is_written_is_for_its_owner_alone(tmp_path):
    RegisterEntry(tmp_path / "new" / "home", made())
    for path in (tmp_path / "new").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_killed_run_differs_from_one_that_works_and_keeps_its_figures(tmp_path):
    script = (
        "import sys, os, signal\n"
        "from pathlib import Path\n"
        "from msgspec.structs import replace\n"
        "from jobs.history.register import RegisterEntry, RunProgress, start_record\nfrom pipeline.records import Usage\n"
        "e = RegisterEntry(Path(sys.argv[1]), start_record('nightly', file='', output='/o.parquet', command='again'))\n"
        "e.show(replace(e.run, usage=Usage(41, cost_usd=0.5), live=RunProgress(3.0, '2099-01-01T00:00:00.000Z', 'working')))\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with process([sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE,
                 stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}) as alive:
        assert alive.stdout.readline() == b"ready\n"
        (found,), _ = runs(tmp_path)
        assert is_running(found) and found.pid == alive.pid
    (found,), _ = runs(tmp_path)
    assert (found.exit, found.class_, found.resumable, found.usage.calls, found.usage.cost_usd) == (137, "killed", True, 41, 0.5)
    assert found.ended_at == "2099-01-01T00:00:00.000Z"

    RegisterEntry(tmp_path, made("second"))  # the next run writes the last line of the one that could not
    assert [path.name for path in (tmp_path / "running").iterdir()] == [f"{runs(tmp_path)[0][0].entry}.json"]
    last = [run for run in runs(tmp_path)[0] if run.job == "nightly"]
    assert [(run.exit, run.usage.calls) for run in last] == [(137, 41)]
    assert "killed" in (tmp_path / "runs.jsonl").read_text("utf-8")


def test_a_run_that_was_killed_between_its_two_files_is_listed_once(tmp_path):
    entry = RegisterEntry(tmp_path, made())
    life = tmp_path / "running" / f"{entry.run.entry}.json"
    content = life.read_bytes()
    entry.end(done(entry.run))
    life.write_bytes(content)  # the last line was written, the file was not removed
    RegisterEntry(tmp_path, made("second"))
    assert [(run.job, run.exit) for run in runs(tmp_path)[0]][-1] == ("nightly", 0)
    assert len(runs(tmp_path)[0]) == 2


def test_a_cut_line_costs_itself_and_no_other(tmp_path):
    RegisterEntry(tmp_path, made("first")).end(done(made("first")))
    path = tmp_path / "runs.jsonl"
    before = len(runs(tmp_path)[0])
    with path.open("ab") as file:
        file.write(b'{"entry":"cut","jo')
    entry = RegisterEntry(tmp_path, made("second"))
    entry.end(done(entry.run))
    found, unread = runs(tmp_path)
    assert len(found) == before + 1 and unread == 1
    with path.open("ab") as file:
        file.write(b"\xff\xfe\n\n[]\n")
    assert runs(tmp_path)[1] == 3


def test_many_at_once_lose_no_line(tmp_path):
    def one(number):
        entry = RegisterEntry(tmp_path, made(f"job-{number}"))
        entry.end(done(entry.run, usage=Usage(number)))
        return entry.trouble

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(40))) == {""}
    found, unread = runs(tmp_path)
    assert (len(found), unread, sum(run.usage.calls for run in found)) == (40, 0, 780)
    assert not list((tmp_path / "running").iterdir())


def test_a_newer_textmill_may_say_more(tmp_path):
    run_record = {"entry": "e", "job": "j", "started_at": utc(0), "ended_at": utc(1), "exit": 0, "colour": "red"}
    (tmp_path / "runs.jsonl").write_text(json.dumps(run_record) + "\n")
    assert runs(tmp_path)[0][0].job == "j"


def test_no_register_is_no_runs_and_one_that_cannot_be_read_is_an_error(tmp_path):
    assert runs(tmp_path / "none") == ([], 0)
    (tmp_path / "runs.jsonl").mkdir()
    with pytest.raises(StorageError, match="cannot be read"):
        runs(tmp_path)


def test_names_that_are_not_utf_8_do_not_stop_a_run(tmp_path):
    run_record = start_record("j", file="/a\udcff", output="/b\udcff.jsonl", command="textmill run '/a\udcff'")
    assert RegisterEntry(tmp_path, run_record).trouble == ""
    assert runs(tmp_path)[0][0].output == "/b\ufffd.jsonl"


def test_the_ledger_by_day_and_job():
    hub = Usage(2, 20, 1, 100, 10, 0.125, 1.0, 0.75)
    base = Run(entry="1", job="a", started_at="2026-11-20T12:00:00.000Z", requests=20,
               usage=hub + Usage(cost_usd=0.025), endpoints={"hub": hub})
    run_record = [
        replace(base, entry="3", started_at="2026-11-21T12:00:00.000Z"),
        replace(base, entry="2", endpoints={"hub": hub, "local": Usage(1)}),
        base,
        replace(base, entry="4", job="b", cached=20, endpoints={}),
    ]
    days = ledger(run_record)
    assert [(day["day"], day["job"], day["runs"], day["cost_usd"]) for day in days] == [
        ("2026-11-21", "a", 1, 0.15), ("2026-11-20", "b", 1, 0.15), ("2026-11-20", "a", 2, 0.3)]
    assert days[2]["endpoints"] == {
        "hub": usage_fields(Usage(4, 40, 2, 200, 20, 0.25, 2.0, 0.75)),
        "local": usage_fields(Usage(1)),
    }


def test_an_unknown_cost_is_null_in_the_ledger_and_not_zero():
    unknown = Usage(3, 3, unpriced_calls=3)
    free = Run(entry="1", job="a", started_at="2026-11-20T12:00:00.000Z", usage=unknown, endpoints={"hub": unknown})
    (day,) = ledger([free])
    assert (day["cost_usd"], day["unpriced_calls"], day["endpoints"]["hub"]["cost_usd"]) == (None, 3, None)
    (day,) = ledger([free, replace(free, entry="2", usage=Usage(1, cost_usd=0.5), endpoints={})])
    assert (day["cost_usd"], day["unpriced_calls"]) == (0.5, 3)


def test_the_command_of_a_run_is_one_that_does_it_again():
    flags = {"input.path": "a b.jsonl", "output.path": "o.parquet", "input.keep": ["x", "y"], "chunk.size": 99,
             "budget.stop_at_cap": True, "run.max_outage_seconds": 5.0, "parameters.prompt": "a {chunk}"}
    assert command_line("embed", ["chunk.overlap=3"], flags) == [
        "textmill", "run", "embed", "-i", "a b.jsonl", "-o", "o.parquet", "--keep", "x", "--keep", "y", "--size", "99",
        "--stop-at-cap", "--max-outage", "5", "--prompt", "a {chunk}", "--set", "chunk.overlap=3"]


def test_every_flag_is_named_as_the_command_line_names_it():
    named = {key.name: key.short or key.flag for key in KEYS if key.flag}
    assert {named["output.path"], named["aggregate.method"], named["run.grace_seconds"]} == {"-o", "--aggregate", "--grace"}
    for key, flag in named.items():
        assert command_line("j", [], {key: "v"})[3:] == [flag, "v"]
