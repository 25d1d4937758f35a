"""`textmill cache`, as a person and as a script meet it."""

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.mock import serving
from pipeline.cache.store import AnswerCache
from tests.support import ROOT
from tests.support.crashing import JobFolder
from tests.support.served import Gate, eventually

ROWS = [{"id": f"r{n}", "text": f"The gauge at weir {n} read {n * 7} mm."} for n in range(12)]


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def run_embed(textmill, *more):
    return textmill("run", "embed", "-i", "in.jsonl", "--id", "id", "-o", "v.parquet", "--json", *more)


def run_anew(textmill, *more):
    """Without the output that stands: every answer is looked up."""
    shutil.rmtree("v.parquet.run", ignore_errors=True)
    return run_embed(textmill, *more)


def database(home):
    return sqlite3.connect(home / "answers" / "cache.db", isolation_level=None)


def spoil(home, count):
    file = database(home)
    file.execute(
        "UPDATE Cache SET value = x'00112233445566' WHERE rowid IN"
        f" (SELECT rowid FROM Cache WHERE length(key) = 32 ORDER BY rowid LIMIT {count})"
    )
    file.close()


def test_before_anything_is_kept_every_command_says_so_and_makes_nothing(workdir, own_home, textmill):
    ran = textmill("cache", "stats")
    assert (ran.code, ran.out.splitlines()) == (
        0, ["0 answers, 0 bytes", f"{own_home}/answers: the cache is empty"]
    )
    assert textmill("cache", "stats", "--json").last["answers"] == 0
    assert textmill("cache", "verify").out == "0 answers are intact, 0 entries are damaged\n"
    assert textmill("cache", "prune", "--older-than", "1d", "--json").last["answers"] == 0
    ran = textmill("cache", "export", "x")
    assert (ran.code, ran.err) == (2, f"{own_home}/answers: the cache is empty\n")
    assert not (own_home / "answers").exists()
    assert not Path("x").exists()


def test_stats_tell_what_is_kept(workdir, own_home, textmill):
    assert run_embed(textmill).code == 0
    ran = textmill("cache", "stats")
    first, where, stored, kind, asked, what = ran.out.splitlines()
    assert first.startswith("12 answers, ")
    assert where.startswith(f"{own_home}/answers: ")
    assert " free" in where
    assert stored.startswith("stored from 20")
    assert kind.split()[:4] == ["12", "vectors", "of", "256"]
    assert (asked, what) == (
        "requested so far:", "  feature-extraction  local/wordllama-256"
    )
    answer_stats = textmill("cache", "stats", "--json").last
    assert (answer_stats["answers"], answer_stats["damaged"]) == (12, 0)
    assert answer_stats["kinds"][0]["dimension"] == 256
    assert answer_stats["asked"][0]["endpoint.kind"] == "local"


def test_verify_finds_damage_and_repair_has_it_requested_again(workdir, own_home, textmill):
    run_embed(textmill)
    spoil(own_home, 2)
    ran = textmill("cache", "verify")
    assert (ran.code, ran.out) == (
        12, "10 answers are intact, 2 entries are damaged; --repair removes them\n"
    )
    lines = ran.err.splitlines()
    assert len(lines) == 2
    assert all(": its checksum does not match, stored 20" in line for line in lines)
    ran = textmill("cache", "verify", "--json")
    assert (ran.code, ran.last["damaged"], ran.last["removed"], ran.last["exit"]) == (12, 2, 0, 12)
    assert [line[:64] for line in lines] == ran.last["keys"]
    assert "2 entries are damaged; check with: textmill cache verify" in textmill("cache", "stats").out
    ran = textmill("cache", "verify", "--delete")
    assert (ran.code, ran.out) == (
        0,
        "10 answers are intact, 2 entries are damaged, 2 of them removed; "
        "the next run requests them again\n",
    )
    assert textmill("cache", "verify").code == 0
    assert run_anew(textmill).last["cached"] == 10
    assert textmill("cache", "verify", "--json").last["good"] == 12


def test_of_much_damage_only_some_is_reported_one_by_one(workdir, own_home, textmill):
    Path("in.jsonl").write_text(
        "".join(json.dumps({"id": n, "text": f"row number {n}"}) + "\n" for n in range(30))
    )
    run_embed(textmill)
    spoil(own_home, 25)
    lines = textmill("cache", "verify").err.splitlines()
    assert (len(lines), lines[-1]) == (21, "and 5 more")


def test_a_file_that_sqlite_cannot_read_is_12_and_repair_keeps_the_rest(workdir, own_home, textmill):
    Path("in.jsonl").write_text(
        "".join(json.dumps({"id": n, "text": f"row number {n}"}) + "\n" for n in range(200))
    )
    run_embed(textmill)
    path = own_home / "answers" / "cache.db"
    whole = path.read_bytes()
    middle = len(whole) // 8192 * 4096
    path.write_bytes(whole[:middle] + b"\xa5" * 4096 + whole[middle + 4096 :])
    ran = textmill("cache", "verify", "--json")
    assert (ran.code, ran.last["exit"]) == (12, 12)
    assert ran.last["file_faults"]
    assert textmill("cache", "verify").out == (
        "the cache file is damaged; --repair keeps the readable answers\n"
    )
    ran = run_embed(textmill)
    assert ran.code == 12
    assert "textmill cache verify --repair" in ran.err
    assert "Traceback" not in ran.err
    ran = textmill("cache", "verify", "--repair", "--json")
    assert ran.code == 0
    assert ran.last["good"] >= 190
    assert Path(ran.last["moved_to"], "cache.db").exists()
    ran = run_anew(textmill)
    assert ran.code == 0
    assert 190 <= ran.last["cached"] <= 200


def test_prune_removes_what_is_old_shows_it_first_and_asks_nothing(workdir, own_home, textmill):
    run_embed(textmill)
    file = database(own_home)
    file.execute("UPDATE Cache SET store_time = store_time - 91 * 86400 WHERE rowid % 2 = 0")
    file.close()
    ran = textmill("cache", "prune", "--older-than", "90d", "--dry-run", "--json")
    assert (ran.code, ran.last["answers"], ran.last["dry_run"]) == (0, 6, True)
    assert textmill("cache", "prune", "--older-than", "90d", "--dry-run").out.endswith(
        "are older than 90d and would be removed\n"
    )
    assert textmill("cache", "stats", "--json").last["answers"] == 12
    ran = textmill("cache", "prune", "--older-than", "90d", "--json")
    assert (ran.code, ran.last["answers"], ran.last["dry_run"]) == (0, 6, False)
    assert textmill("cache", "prune", "--older-than", "13w", "--json").last["answers"] == 0
    assert run_anew(textmill).last["cached"] == 6


@pytest.mark.parametrize("age", ["5m", "90", "", "d", "-1d", "1e3d", "nan", "90 days", "٣d", "1d\n2"])
def test_an_age_that_could_mean_something_else_is_refused(workdir, textmill, age):
    ran = textmill("cache", "prune", "--older-than", age)
    assert (ran.code, ran.out) == (2, "")
    assert "must be a number and h, d, w or y" in ran.err
    assert ran.err.splitlines()[-1] == "hint: such as --older-than 90d"


def test_while_a_run_has_the_answers_open_all_but_prune_work(workdir, own_home, textmill):
    run_embed(textmill)
    running = AnswerCache(own_home / "answers")
    ran = textmill("cache", "prune", "--older-than", "0h")
    assert (ran.code, ran.out) == (11, "")
    assert "the answers are in use by a run or another command" in ran.err
    assert textmill("cache", "export", "x").code == 0
    assert textmill("cache", "verify").code == 0
    assert textmill("cache", "stats").code == 0
    assert textmill("cache", "prune", "--older-than", "0h", "--dry-run").code == 0
    assert textmill("cache", "import", "x").code == 0
    running.close()
    assert textmill("cache", "prune", "--older-than", "0h").code == 0


def test_commands_beside_a_run_change_nothing_of_it(workdir, own_home, textmill, processes):
    job = JobFolder(workdir, rows=0, home=own_home)
    rows = [{"id": n, "text": f"Row {n}: the gauge read {n} mm."} for n in range(400)]
    Path("in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(models=["m"]) as server:
        gate = Gate(server, after=90)  # of 100: at least one round of commands is beside the run
        embed = ["run", "embed", "-i", "in.jsonl", "--id", "id", "-o", "v.parquet", "--kind", "openai"]
        embed += ["--url", f"{server.url}/v1", "--model", "m", "--batch-size", "4", "--concurrency", "2"]
        pid = processes.start(job, *embed, "--json")
        eventually(lambda: server.bill.calls)
        codes = set()
        is_held = False
        while not is_held:
            is_held = server.bill.calls > 90
            for command in (["stats"], ["verify"], ["export", "x"], ["import", "x"]):
                ran = textmill("cache", *command, "--json")
                codes.add((command[0], ran.code, ran.err))
        gate.open()
        ended = processes.wait(job, pid)
    assert ended.code == 0, ended.err
    assert ended.last["ok"] == 400
    assert {code for _, code, _ in codes} == {0}, codes
    assert textmill("cache", "verify", "--json").last["good"] == 400


def test_answers_travel_to_another_home(workdir, own_home, textmill, monkeypatch):
    run_embed(textmill)
    before = Path("v.parquet").read_bytes()
    ran = textmill("cache", "export", "x.answers", "--json")
    assert (ran.code, ran.last["answers"], ran.last["exit"]) == (0, 12, 0)
    assert Path("x.answers").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("TEXTMILL_HOME", str(workdir / "other"))
    ran = textmill("cache", "import", "x.answers")
    assert (ran.code, ran.out) == (0, "12 answers read, 12 were new\n")
    again = run_anew(textmill)
    assert (again.last["cached"], again.last["calls"]) == (12, 0)
    assert Path("v.parquet").read_bytes() == before
    assert textmill("cache", "import", "x.answers", "--json").last == {
        "answers": 12, "added": 0, "other": 0, "damaged": 0, "exit": 0
    }


def test_an_answer_that_differs_here_is_reported(workdir, own_home, textmill):
    run_embed(textmill)
    textmill("cache", "export", "x")
    from pipeline.records import Answer

    cache = AnswerCache(own_home / "answers")
    (entry, *_) = [e for run in cache.entries() for e in run if e.is_answer]
    name = entry.key
    cache.remove([entry])
    cache.put_many([(name, Answer(b"\x00\x00\x80?" * 256))])
    ran = textmill("cache", "import", "x")
    assert (ran.code, ran.out.splitlines()) == (
        0, ["12 answers read, 0 were new", "1 differs from the answer in this cache, which is kept"]
    )
    assert cache.get_many([name]) == {name: Answer(b"\x00\x00\x80?" * 256)}
    cache.close()


def test_a_damaged_entry_does_not_stop_an_export(workdir, own_home, textmill):
    run_embed(textmill)
    spoil(own_home, 1)
    ran = textmill("cache", "export", "x", "--json")
    assert (ran.code, ran.last["answers"], ran.last["damaged"]) == (3, 11, 1)
    assert "1 damaged entry was skipped" in ran.err


def test_standard_streams_carry_answers(workdir, own_home, textmill, monkeypatch):
    run_embed(textmill)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-m", "jobs", "cache"]
    out = subprocess.run([*command, "export", "-"], capture_output=True, check=True)
    assert out.stdout.startswith(b"textmill answers 2\n")
    monkeypatch.setenv("TEXTMILL_HOME", str(workdir / "other"))
    ran = subprocess.run([*command, "import", "-"], input=out.stdout, capture_output=True)
    assert (ran.returncode, ran.stdout) == (0, b"12 answers read, 12 were new\n")
    ran = subprocess.run([*command, "import", "-"], input=out.stdout[:300], capture_output=True)
    assert ran.returncode == 6
    assert b"truncated after" in ran.stderr


def test_an_export_does_not_replace_what_is_something_else(workdir, own_home, textmill):
    run_embed(textmill)
    for name, why in (
        ("in.jsonl", "exists and was not written by `textmill cache export`"),
        (".", "exists and was not written by `textmill cache export`"),
        (f"{own_home}/answers/x", "must not be in the cache folder"),
        ("gone/x", "cannot be written (No such file or directory)"),
    ):
        ran = textmill("cache", "export", name)
        assert ran.code in (2, 13)
        assert why in ran.err
        assert "Traceback" not in ran.err
    assert textmill("cache", "export", "x").code == 0
    assert textmill("cache", "export", "x").code == 0
    assert sorted(each.name for each in workdir.iterdir()) == [
        "in.jsonl", "v.parquet", "v.parquet.run", "x"
    ]
    assert textmill("cache", "export", "-", "--json").code == 2


def test_a_file_that_is_no_export_is_refused_on_one_line(workdir, textmill):
    Path("pickle").write_bytes(b"\x80\x04cos\nabort\n(tR.")
    for name, why in (
        ("pickle", "pickle: not a file of `textmill cache export`\n"),
        ("gone", "gone: cannot be read (No such file or directory)\n"),
        (".", ".: cannot be read (Is a directory)\n"),
    ):
        ran = textmill("cache", "import", name)
        assert (ran.code, ran.out, ran.err) == (6, "", why)
    assert textmill("cache", "import", "gone", "--json").last["exit"] == 6
