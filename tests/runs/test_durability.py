"""Kill it anywhere, fill the disk, revoke the key: nothing settled is lost or paid twice.

The program runs as a process of its own against the mock; a boundary is an operation on the disk
(`tests/support/faulty_disk.py`), and the bill says what was paid. The long forms of the loops stand in
`benchmarks/crash.py`.
"""

import json
import os
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from jobs.mock import serving
from tests.support.crashing import (
    COMPLETE,
    IN_FLIGHT,
    SCRIPT,
    JobFolder,
    Life,
    after,
    boundaries,
    chain,
    quiet,
)
from tests.support.served import KEY, Gate, eventually


@pytest.fixture
def job(tmp_path):
    made = JobFolder(tmp_path / "job")
    yield made
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file


@pytest.fixture
def mock():
    with serving(SCRIPT, key=KEY) as made:
        yield made


def calm(processes, job, mock, *more):
    """The bytes of a run that nothing disturbed; the job is as before it."""
    ended = processes.run(job, *job.argv(mock.url, *more))
    assert ended.code == COMPLETE, ended.err
    found = job.published()
    job.clear()
    quiet(mock)
    mock.bill.clear()
    return found


# 60 and 61: every boundary


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "output", "for_good"),
    [("kill", "out.parquet", False), ("kill", "out", False), ("tear", "out.jsonl", False),
     ("EIO", "out.parquet", False), ("ENOSPC", "out", True)],
)  # fmt: skip
def test_faults_60_and_61_a_blow_at_any_boundary_loses_nothing_settled(
    processes, tmp_path, mock, action, output, for_good
):
    job = JobFolder(tmp_path / "job", output=output)
    names = list(dict.fromkeys(each.only for each in boundaries(processes, job, mock)))
    expected = job.published()
    # Kills go through all of them; the others through what makes a difference to them.
    if (action, output) != ("kill", "out.parquet"):
        ours = [each for each in names if output in each or "RUN" in each or "-wal" in each]
        names = [each for each in ours if each.split()[0] in ("write", "fsync", "rename", "open")]
    if output != "out.parquet":
        names = [each for each in names if "manifest" not in each and "lock" not in each]
    assert any("rename" in each and output in each for each in names)
    assert any("cache.db-wal" in each for each in names), "SQLite is not wrapped"
    life = Life(job, mock, expected)
    assert chain(processes, life, names, action, for_good=for_good) == []
    assert life.blows > len(names) // 2


@pytest.mark.parametrize("calls", [1, 3, 5])
def test_fault_60_a_kill_between_two_calls_pays_again_at_most_what_was_in_flight(
    processes, job, mock, calls
):
    expected = calm(processes, job, mock)
    gate = Gate(mock, after=calls)
    pid = processes.start(job, *job.argv(mock.url))
    eventually(lambda: mock.bill.totals().calls >= calls)
    os.kill(pid, signal.SIGKILL)
    first = processes.wait(job, pid)
    gate.open()
    struck = after(processes, job, mock, first)
    assert struck.first.code == -9
    assert struck.problems(expected) == []


# Open runs


FAILURES = "open runs/RUN/failures.jsonl"


def test_a_settled_failure_stands_when_the_run_goes_on_and_costs_no_call(processes, job, mock):
    expected = calm(processes, job, mock)
    killed = processes.run(job, *job.argv(mock.url), disk=job.disk("kill", 1, only=FAILURES))
    assert killed.code == -9
    (before,) = job.manifests()
    assert before["state"] == "open"
    refused = mock.bill.totals().by_status["400"]
    mock.play()  # now it would answer
    ended = processes.run(job, *job.argv(mock.url))
    assert ended.code == COMPLETE
    assert mock.bill.totals().by_status["400"] == refused
    (manifest,) = job.manifests()
    assert manifest["run"] == before["run"]
    assert (manifest["state"], manifest["exit"], manifest["rows_out"]) == ("committed", 3, 13)
    assert job.published() == expected
    assert not list(Path(f"{job.output}.run").rglob("journal"))

    again = processes.run(job, *job.argv(mock.url))  # after a commit: a new run, tried once more
    assert again.last["ok"] == 12
    assert [each["number"] for each in job.manifests()] == [1, 2]


@pytest.mark.parametrize(("flag", "ok"), [("--retry-failed=poison", 12), ("--retry-failed", 12),
                                          ("--retry-failed=invalid", 11), (None, 11)])  # fmt: skip
def test_failures_of_an_open_run_are_tried_again_when_asked_for(processes, job, mock, flag, ok):
    processes.run(job, *job.argv(mock.url), disk=job.disk("kill", 1, only=FAILURES))
    mock.play()
    argv = job.argv(mock.url)
    ended = processes.run(job, argv[0], *([flag] if flag else []), *argv[1:])
    assert ended.last["ok"] == ok
    assert len(job.manifests()) == 1


def test_a_changed_input_or_job_is_a_new_run_that_reuses_every_answer(processes, job, mock):
    for change in ("input", "settings"):
        processes.run(job, *job.argv(mock.url), disk=job.disk("kill", 1, only=FAILURES))
        paid = mock.bill.totals().inputs
        more = []
        if change == "input":
            with (job.folder / "in.jsonl").open("a") as file:
                file.write('{"id": "late", "text": "Late."}\n')
        else:
            more = ["--size", "128"]
        assert processes.run(job, *job.argv(mock.url, *more)).code == COMPLETE
        states = [each["state"] for each in job.manifests()]
        assert states == ["open", "committed"]
        assert mock.bill.totals().inputs <= paid + 1
        shutil.rmtree(f"{job.output}.run")


ENDS = [
    (5, ["503 after=3"], ["--max-outage", "0.2"]),
    (8, [], ["--max-cost-usd", "5", "--stop-at-cap", "--set", "endpoint.price.request=1"]),
    (13, [], []),
    (143, [], []),
]


@pytest.mark.parametrize(("code", "script", "more"), ENDS, ids=str)
def test_what_passes_by_itself_leaves_the_run_open(processes, job, mock, code, script, more):
    expected = calm(processes, job, mock)
    mock.play(*SCRIPT, *script)
    gate = Gate(mock, after=2) if code == 143 else None
    blow = {"fill_up": 3} if code == 13 else {}
    pid = processes.start(job, *job.argv(mock.url, *more), **blow)
    if gate:
        eventually(lambda: mock.bill.totals().calls >= 3)
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: '"draining"' in job.out(pid))
        gate.open()
    ended = processes.wait(job, pid)
    assert ended.code == code, ended.err
    assert ended.last["resumable"] is True
    (manifest,) = job.manifests()
    assert (manifest["state"], manifest["exit"]) == ("open", code)
    assert job.published() is None
    mock.play(*SCRIPT)
    struck = after(processes, job, mock, ended)
    assert struck.problems(expected) == []
    assert struck.again == 0
    assert [each["run"] for each in struck.manifests] == [manifest["run"]]


CLOSING = [
    (2, ["400"]),
    (4, ["400 after=4"]),
    (6, []),
    (14, ["other_model after=3 body=other"]),
]


@pytest.mark.parametrize(("code", "script"), CLOSING, ids=str)
def test_what_another_try_cannot_better_closes_the_run(processes, tmp_path, mock, code, script):
    job = JobFolder(tmp_path / "job", rows=80)
    mock.play(*script)

    def touch(*_):
        os.utime(job.folder / "in.jsonl")
        return 0.0

    mock.latency = touch if code == 6 else 0.0
    ended = processes.run(job, *job.argv(mock.url))
    assert ended.code == code, ended.err
    (closed,) = job.manifests()
    assert (closed["state"], closed["exit"]) == ("closed", code)
    assert not list(Path(f"{job.output}.run").rglob("journal"))
    assert job.published() is None
    mock.latency = 0.0
    mock.play()
    assert processes.run(job, *job.argv(mock.url)).last["ok"] == 80
    assert [each["state"] for each in job.manifests()] == ["closed", "committed"]
    assert mock.bill.totals().repeated_inputs <= (IN_FLIGHT if code == 14 else 0)


# 20, 21, 41: others change what we work with


def test_fault_21_an_input_that_vanishes_is_not_published_and_its_answers_are_kept(
    processes, job, mock
):
    expected = calm(processes, job, mock)
    raw = (job.folder / "in.jsonl").read_bytes()

    def remove(*_):
        (job.folder / "in.jsonl").unlink(missing_ok=True)
        return 0.0

    mock.latency = remove
    ended = processes.run(job, *job.argv(mock.url))
    assert ended.code == 6
    assert "in.jsonl: changed while it was read (deleted)" in ended.err
    mock.latency = 0.0
    (job.folder / "in.jsonl").write_bytes(raw)
    struck = after(processes, job, mock, ended)
    assert struck.second.code == COMPLETE
    assert (struck.early, struck.late, struck.again) == (None, expected, 0)


def test_fault_41_a_token_revoked_mid_run_keeps_the_answers_and_a_new_one_goes_on(
    processes, job, mock
):
    expected = calm(processes, job, mock)

    def revoke(*_):
        if mock.bill.totals().calls == 4:
            mock.key = "another"
        return 0.0

    mock.latency = revoke
    ended = processes.run(job, *job.argv(mock.url))
    assert ended.code == 7, ended.err
    (manifest,) = job.manifests()
    assert manifest["state"] == "open"
    assert mock.bill.totals().by_status["401"] <= 2
    mock.latency, job.key = 0.0, "another"
    struck = after(processes, job, mock, ended)
    assert struck.problems(expected) == []
    assert struck.again == 0
    assert [each["run"] for each in struck.manifests] == [manifest["run"]]


# 62 to 72: the machine


def test_fault_62_no_call_is_made_for_an_answer_that_cannot_be_kept(processes, job, mock):
    expected = calm(processes, job, mock)
    ended = processes.run(job, *job.argv(mock.url), fill_up=0)
    assert ended.code == 13
    assert "0 bytes free" in ended.err
    assert mock.bill.totals().calls == 0
    ended = processes.run(job, *job.argv(mock.url), fill_up=4)
    assert ended.code == 13
    assert 0 < mock.bill.totals().inputs < 11
    struck = after(processes, job, mock, ended)
    assert (struck.second.code, struck.late, struck.again) == (COMPLETE, expected, 0)


@pytest.mark.parametrize("where", ["home", "out"])
def test_fault_63_what_cannot_be_written_is_refused_before_any_call(processes, tmp_path, mock, where):
    job = JobFolder(tmp_path / "job")
    (job.folder / "out").mkdir()
    job.output = job.folder / "out" / "out.parquet"
    more = ["-o", "out/out.parquet"]
    (job.home / "answers").mkdir(parents=True)
    blow = {"roots": [str(job.folder / where)], "action": "EROFS", "at": 1, "for_good": True}
    ended = processes.run(job, *job.argv(mock.url, *more), disk=blow)
    assert ended.code == 13, ended.err
    assert "Traceback" not in ended.err
    assert mock.bill.totals().calls == 0
    assert processes.run(job, *job.argv(mock.url, *more)).code == COMPLETE


@pytest.mark.parametrize("where", ["home", "out"])
def test_fault_63_a_file_where_a_folder_must_be_is_refused_before_any_call(
    processes, job, mock, where
):
    (job.folder / where).write_text("")
    ended = processes.run(job, *job.argv(mock.url, "-o", "out/x.parquet"))
    assert ended.code in (2, 13)
    assert "Traceback" not in ended.err
    assert mock.bill.totals().calls == 0
    assert (job.folder / where).read_text() == ""


def test_fault_64_two_runs_of_one_job_and_two_jobs_on_one_cache(processes, job, mock, tmp_path):
    gate = Gate(mock)  # the first run cannot end before the others have
    first = processes.start(job, *job.argv(mock.url))
    eventually(lambda: mock.bill.in_flight)
    second = processes.run(job, *job.argv(mock.url))
    assert second.code == 11
    assert f"pid {first}" in second.err
    other = JobFolder(tmp_path / "other", rows=20, home=job.home)
    with serving(SCRIPT, key=KEY) as another:
        assert processes.run(other, *other.argv(another.url)).code == COMPLETE
    gate.open()
    assert processes.wait(job, first).code == COMPLETE
    assert job.published()
    assert other.published()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [86_400, -86_400])
@pytest.mark.parametrize("looks", [0, 2])
def test_fault_65_a_clock_that_jumps_by_a_day_changes_nothing(processes, job, mock, seconds, looks):
    expected = calm(processes, job, mock)
    mock.play(*SCRIPT, "429 x1 retry-after:1")
    later = time.strftime("%H:%M", time.localtime(time.time() + 12 * 3_600))
    more = ["--set", "endpoint.requests_per_minute=60000", "--until", later]
    for _ in range(2):  # also over runs; one that waited for a day would be killed
        ended = processes.run(job, *job.argv(mock.url, *more), jump=[looks, seconds])
        assert ended.code == COMPLETE, ended.err
    assert job.published() == expected
    assert [each["number"] for each in job.manifests()] == [1, 2]


def test_fault_66_no_network_at_the_start_leaves_a_run_that_goes_on(processes, job, mock):
    expected = calm(processes, job, mock)
    with serving() as gone:
        url = gone.url
    ended = processes.run(job, *job.argv(url, "--max-start", "0.3"))
    assert ended.code == 5, ended.err
    struck = after(processes, job, mock, ended)
    assert struck.problems(expected) == []
    assert len(struck.manifests) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_faults_67_and_68_a_drain_takes_no_longer_than_the_grace(processes, job, mock, number, code):
    expected = calm(processes, job, mock)
    gate = Gate(mock)
    pid = processes.start(job, *job.argv(mock.url, "--grace", "0.2"))
    eventually(lambda: mock.bill.in_flight == 2)
    os.kill(pid, number)
    ended = processes.wait(job, pid)  # while both calls are held: only the grace can end it
    assert ended.code == code, ended.err
    gate.open()
    struck = after(processes, job, mock, ended)
    assert struck.problems(expected) == []
    assert struck.again <= IN_FLIGHT


@pytest.mark.slow
def test_fault_69_memory_does_not_grow_with_the_rows(processes, tmp_path, mock):
    peaks = []
    for rows in (2_000, 10_000):
        job = JobFolder(tmp_path / str(rows), rows=rows)
        more = ["--concurrency", "8", "--batch-size", "64"]
        ended = processes.run(job, *job.argv(mock.url, *more))
        assert ended.code == COMPLETE, ended.err
        peaks.append(ended.rss_kb // 1024)
    assert peaks[1] < 512
    assert peaks[1] - peaks[0] < 64


def test_fault_70_a_damaged_answer_is_asked_for_again_and_no_other(processes, job, mock):
    expected = calm(processes, job, mock)
    processes.run(job, *job.argv(mock.url))
    with closing(sqlite3.connect(job.home / "answers" / "cache.db")) as database, database:
        (key, value) = database.execute(
            "SELECT key, value FROM Cache WHERE length(key) = 32 LIMIT 1"
        ).fetchone()
        value = value[:20] + bytes([value[20] ^ 1]) + value[21:]
        database.execute("UPDATE Cache SET value = ? WHERE key = ?", (value, key))
    job.output.unlink()
    shutil.rmtree(f"{job.output}.run")
    paid = mock.bill.totals().inputs
    assert processes.run(job, *job.argv(mock.url)).code == COMPLETE
    assert mock.bill.totals().inputs == paid + 1
    assert job.published() == expected


@pytest.mark.parametrize("damage", [lambda raw: raw[:-9], lambda raw: raw[:50] + b"?" + raw[51:]])
def test_fault_71_a_damaged_finished_part_is_built_anew(processes, job, mock, damage):
    expected = calm(processes, job, mock)
    killed = processes.run(
        job, *job.argv(mock.url), disk=job.disk("kill", 1, only="rename out.parquet")
    )
    parts = [each for each in Path(f"{job.output}.run").glob("parts/**/*") if each.is_file()]
    assert parts
    for part in parts:
        part.write_bytes(damage(part.read_bytes()))
    struck = after(processes, job, mock, killed)
    assert struck.problems(expected) == []
    assert struck.again == 0


def test_fault_72_at_the_hour_it_drains_and_the_next_night_goes_on(processes, tmp_path, mock):
    job = JobFolder(tmp_path / "job", rows=200)
    gate = Gate(mock, after=5)
    hour = job.folder / "the hour has come"
    pid = processes.start(job, *job.argv(mock.url, "--until", "06:00"), night_ends=str(hour))
    eventually(lambda: mock.bill.totals().calls > 5)
    hour.touch()
    eventually(lambda: '"draining"' in job.out(pid))
    gate.open()
    ended = processes.wait(job, pid)
    assert ended.code == 10, ended.err
    assert (ended.last["class"], ended.last["resumable"]) == ("time limit", True)
    assert "run.until = 06:00 reached; run the same command to resume" in ended.err
    assert job.published() is None
    (manifest,) = job.manifests()
    assert (manifest["state"], manifest["exit"]) == ("open", 10)
    assert 0 < mock.bill.totals().inputs < 199
    struck = after(processes, job, mock, ended)
    assert (struck.second.code, struck.again) == (COMPLETE, 0)
    assert [each["run"] for each in struck.manifests] == [manifest["run"]]


# What a kill leaves elsewhere


@pytest.mark.parametrize("output", ["out.parquet", "-"])
def test_streams_that_a_kill_left_are_removed_by_the_next_run(processes, job, mock, output):
    (job.folder / "tmp").mkdir()
    told = {"stdin": str(job.folder / "in.jsonl"), "env": {"TMPDIR": str(job.folder / "tmp")}}
    argv = [word for word in job.argv(mock.url, "-i", "-", "-o", output) if word != "--json"]

    def left():
        found = [*(job.folder / "tmp").iterdir(), *job.home.glob("streams/*")]
        return [each for each in found if list(each.rglob("stdin*")) or list(each.rglob("out*"))]

    killed = processes.run(
        job, *argv, **told, disk=job.disk("kill", 1, only="rename runs/RUN/manifest.json")
    )
    assert killed.code == -9
    assert len(left()) == (2 if output == "-" else 1)
    gate = Gate(mock)
    alive = processes.start(job, *argv, **told)  # what it needs must not be taken from it
    eventually(lambda: mock.bill.in_flight)
    with serving(SCRIPT, key=KEY) as another:
        other = [word.replace(mock.url, another.url) for word in argv]
        other += ["-o", "other.jsonl"] if output != "-" else []
        assert processes.run(job, *other, **told).code == COMPLETE
    gate.open()
    assert processes.wait(job, alive).code == COMPLETE
    held = [each for each in left() if not list(each.rglob("failures.jsonl"))]
    assert held == []
    assert not list((job.folder / "tmp").iterdir())


@pytest.mark.slow
def test_what_a_kill_left_in_the_run_folder_is_gone_after_the_next_run(processes, job, mock):
    names = [each.only for each in boundaries(processes, job, mock) if each.only.startswith("rename")]
    job.clear()
    seen = []
    for name in dict.fromkeys(names):
        processes.run(job, *job.argv(mock.url), disk=job.disk("kill", 1, only=name))
        seen += job.litter()
    assert seen
    assert processes.run(job, *job.argv(mock.url)).code == COMPLETE
    assert job.litter() == []
    for left in Path(f"{job.output}.run").glob("runs/*"):
        assert {each.name for each in left.iterdir()} >= {"failures.jsonl", "manifest.json"}
        assert not (left / "journal").exists()
    assert {each["state"] for each in job.manifests()} == {"committed"}


def test_the_manifest_says_what_the_run_is_before_the_first_call(processes, job, mock):
    opened = "open runs/RUN/.manifest.json.textmill.tmp"
    killed = processes.run(job, *job.argv(mock.url), disk=job.disk("kill", 1, only=opened))
    assert killed.code == -9
    assert mock.bill.totals().calls == 0

    def stop(*_):
        told.append(job.manifests())
        return 0.0

    told = []
    mock.latency = stop
    assert processes.run(job, *job.argv(mock.url)).code == COMPLETE
    (manifest,) = told[0]
    assert (manifest["state"], manifest["number"], manifest["rows"]) == ("open", 1, 13)
    assert manifest["columns"]["id"] == "int64"
    assert len(manifest["input"]) == 64
    assert json.dumps(manifest["models"]) == '[["openai", "", "m", "main"]]'
