"""`status` and `report`: what a person reads in the morning, and what a program does."""

import io
import json
import os
import signal
from datetime import datetime
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from jobs.cli import status
from jobs.history import report
from jobs.history.register import RegisterEntry, Run, RunProgress
from jobs.mock import serving
from pipeline.records import Usage
from tests.support.crashing import JobFolder
from tests.support.served import Gate, eventually

NOW = datetime.fromisoformat("2026-11-21T09:00:00+00:00").astimezone()


def run(entry="1", **changed):
    given = {"entry": entry, "job": "nightly", "started_at": "2026-11-21T02:04:00.000Z", "ended_at": "2026-11-21T02:31:00.000Z",
             "file": "/srv/nightly.toml", "output": "/srv/out.parquet", "command": "textmill run nightly.toml", "cwd": "/srv",
             "exit": 0, "class_": "complete", "documents": 1_204, "ok": 1_204, "requests": 9_632, "cached": 5_904,
             "usage": Usage(118, input_tokens=1_204_333, cost_usd=0.41), "seconds": 1_623.0}
    return Run(**given | changed)


OUTAGE = {"exit": 5, "class_": "outage", "resumable": True, "error": "endpoint `hub`: no answer for 1,800 s", "hint": "run again"}


def shown(renderable, width=80):
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(renderable)
    return out.getvalue()


def test_the_table_in_80_columns():
    from rich.cells import cell_len

    listed_runs = [
        run("9", job="夜间报告嵌入任务的名字非常非常长的一个任务", ended_at="", exit=None, class_="", documents=12_000_000,
            live=RunProgress(6_000_000.0, "2026-11-21T08:59:59.000Z", "working")),
        run("8", exit=4, class_="too many failed", failed=1_200, documents=12_000, usage=Usage(10_000, cost_usd=1_234.5), output="/a"),
        run("7", exit=137, class_="killed", resumable=True, started_at="2026-11-20T02:04:00.000Z", output="/b", job="\x1b[2Jevil"),
        run("6", started_at="2025-11-20T02:04:00.000Z"),
    ]
    lines = shown(status.table(listed_runs, NOW, 20)).splitlines()
    assert all(cell_len(line.rstrip()) <= 80 for line in lines), lines
    assert lines[0].split() == ["when", "job", "ended", "rows", "failed", "calls", "cost", "took"]
    assert "running, 50 %" in lines[1] and "夜间" in lines[1]
    assert "too many failed (exit 4)" in lines[2]
    assert "open (killed)" in lines[3] and "\x1b" not in "".join(lines)
    assert "complete" in lines[4] and "2025-11-20" in lines[4]
    assert len(shown(status.table(listed_runs, NOW, 2)).splitlines()) == 3


@pytest.mark.parametrize(("listed_runs", "lines"), [
    ([run()], []),
    ([run(exit=3, class_="failed rows")], []),
    ([run(**OUTAGE)], ["open: nightly, outage (exit 5): endpoint `hub`: no answer for 1,800 s", "      run again",
                       "      resume with: cd /srv && textmill run nightly.toml"]),
    ([run("2"), run("1", **OUTAGE)], []),
    ([run("2", exit=11, class_="locked", resumable=True), run("1", **OUTAGE)],
     ["open: nightly, outage (exit 5): endpoint `hub`: no answer for 1,800 s", "      run again",
      "      resume with: cd /srv && textmill run nightly.toml"]),
    ([run("2", ended_at="", exit=None), run("1", **OUTAGE)], []),
    ([run("2", output="/other"), run("1", exit=137, class_="killed", resumable=True, cwd="")],
     ["open: nightly, killed", "      resume with: textmill run nightly.toml"]),
    ([run(exit=2, class_="usage", output="", error="x.toml: unknown key `chunk.sise`", command="textmill run /srv/x.toml")],
     ["to fix: nightly, usage (exit 2): x.toml: unknown key `chunk.sise`", "      after fixing it, run: textmill run /srv/x.toml"]),
    ([run("2"), run("1", exit=2, class_="usage", output="", error="e")], []),
    ([run(output="-", file="", **OUTAGE)], []),
    ([run(exit=13, class_="storage", error="a\x1b]0;evil\x07", cwd="", resumable=True)],
     ["open: nightly, storage (exit 13): a\\x1b]0;evil\\x07", "      resume with: textmill run nightly.toml"]),
])
def test_what_is_open_and_the_command_that_goes_on(listed_runs, lines):
    assert status.open_lines(listed_runs) == lines


@pytest.mark.parametrize(("what", "entries"), [
    ("nightly", ["1", "2"]), ("weekly", ["3"]), ("/srv/nightly.toml", ["1", "2"]), ("/srv/out.parquet", ["1"]),
    ("/srv/out.parquet.run", ["1"]), ("20261121T020400Z-abcdef", ["2"]), (None, ["1", "2", "3"]),
])
def test_runs_are_chosen_by_job_file_output_or_run(what, entries):
    listed_runs = [run("1"), run("2", output="/srv/b.jsonl", run="20261121T020400Z-abcdef"),
            run("3", job="weekly", file="", output="/srv/w.jsonl")]
    assert [each.entry for each in status.choose(listed_runs, what)] == entries


def test_relative_names_are_those_of_this_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    listed_runs = [run(output=str(tmp_path / "out" / "v.parquet"))]
    assert status.choose(listed_runs, "out/v.parquet") == listed_runs


def put(home, *listed_runs):
    for each in listed_runs:
        RegisterEntry(home, replace(each, ended_at="")).end(each)


def test_the_command_without_with_and_with_unknown_runs(textmill, own_home):
    assert textmill("status").out == "no runs yet\n"
    assert textmill("report").out == "no runs yet\n"
    assert json.loads(textmill("status", "--json").out) == {"runs": [], "open": [], "ledger": []}
    put(own_home, run("1", **OUTAGE), run("2", job="weekly", output="/w", started_at="2026-11-21T03:00:00.000Z"))
    listed_runs = json.loads(textmill("status", "--json").out)
    assert [each["job"] for each in listed_runs["runs"]] == ["weekly", "nightly"]
    assert listed_runs["runs"][1]["class"] == "outage"
    assert [each["job"] for each in listed_runs["open"]] == ["nightly"]
    assert [day["job"] for day in listed_runs["ledger"]] == ["weekly", "nightly"]
    assert len(json.loads(textmill("status", "--json", "--limit", "1").out)["runs"]) == 1
    ran = textmill("status")
    assert "outage (exit 5)" in ran.out and "resume with: cd /srv && textmill run nightly.toml" in ran.out
    assert "\x1b" not in ran.out
    ran = textmill("status", "monthly")
    assert (ran.code, ran.err) == (2, "no run of `monthly`\nhint: jobs that ran: nightly, weekly\n")
    assert textmill("status", "--limit", "0").code == 2
    assert textmill("status", "--watch", "--json").code == 2


def test_a_damaged_line_is_reported_and_left_out(textmill, own_home):
    put(own_home, run())
    with (own_home / "runs.jsonl").open("a") as file:
        file.write("{nothing\n")
    ran = textmill("status")
    assert ran.err == f"{own_home}/runs.jsonl: 1 unreadable line is left out\n"
    assert "complete" in ran.out


def test_watching_nothing_ends_at_once(textmill):
    assert textmill("status", "--watch").out == "no job is running\n"


def test_watching_follows_a_run_to_its_end(capsys):
    live = replace(run(), ended_at="", exit=None, class_="", usage=Usage(7, cost_usd=0.41), live=RunProgress(600.0, "2026-11-21T08:59:59.000Z", "working"))
    looks = [[live]] * 12 + [[run(**OUTAGE)]]
    waited = []
    assert status._watch(lambda: looks.pop(0) if len(looks) > 1 else looks[0], 20, waited.append) == 0
    assert capsys.readouterr().out.splitlines() == [
        "nightly: 600 of 1,204 documents, 7 calls, 61 % cached, $0.41",
        "nightly: 600 of 1,204 documents, 7 calls, 61 % cached, $0.41",
        "nightly: ended, outage (exit 5), 1,204 of 1,204 documents, 118 calls, 61 % cached, $0.41",
        "open: nightly, outage (exit 5): endpoint `hub`: no answer for 1,800 s",
        "      run again",
        "      resume with: cd /srv && textmill run nightly.toml",
    ]
    assert waited == [1.0] * 12


def test_leaving_the_watch_is_no_bug(capsys):
    live = replace(run(), ended_at="", exit=None)

    def leave(_):
        raise KeyboardInterrupt

    assert status._watch(lambda: [live], 20, leave) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_that_hangs_is_reported():
    silent = replace(run(), ended_at="", live=RunProgress(1.0, "2026-11-21T08:58:00.000Z", "working", "hub (rate), 3 times"))
    assert status.live_lines(silent, NOW)[1:] == [
        "  paused: hub (rate), 3 times",
        "  no update for 2 min 0 s: the process or the disk does not respond"]


def test_the_morning_report(tmp_path):
    folder = tmp_path / "runs" / "1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"rows": 9, "changes": {"added": 12, "changed": 40, "removed": 3}}))
    failures = [{"file": "docs.jsonl", "line": n, "id": f"r-{n}", "chunk": 4, "kind": "too_long", "reason": "8,000 tokens"} for n in range(5)]
    failures += [{"file": "d.parquet", "row": 16, "id": None, "reason": "a\x1b[2J"}]
    (folder / "failures.jsonl").write_text("\n".join(map(json.dumps, failures)) + '\n{"cut')
    (folder / "events.jsonl").write_text('{"event":"pauses","endpoint":"hub","seconds":61.0}\n')
    listed_runs = run(exit=3, class_="failed rows", ok=1_198, failed=6, folder=str(folder), notes=("events.jsonl is missing 2 lines: full",),
               latency={"hub": (1.2, 4.75), "local": (0.1, 0.25)}, endpoints={"local": Usage(8, seconds=0.8, slowest_seconds=0.2), "hub": Usage(110, 900, 2, 1, 1, 0.41, 165.0, 9.25)})
    lines = report.lines(report.report_of(listed_runs))
    began = datetime.fromisoformat("2026-11-21T02:04:00+00:00").astimezone()
    assert lines == [
        "# nightly: published, 6 of 1,204 rows failed (exit 3)", "",
        f"- {began:%a %Y-%m-%d %H:%M} to {began.replace(minute=31):%H:%M}, 27 min 3 s",
        "- output: /srv/out.parquet",
        "- next: fix the rows below; the next run retries only those",
        "- after fixing it, run: cd /srv && textmill run nightly.toml", "",
        "## Rows", "",
        "- 1,204 rows: 1,198 ok, 6 failed",
        "- since the previous run: 12 added, 40 changed, 3 removed",
        "- 9,632 requests, 61 % cached, 118 calls",
        "- 1,204,333 tokens, $0.41", "",
        "## Failures", "",
        "- too_long: 5",
        "  - docs.jsonl:0 (r-0) chunk 4: 8,000 tokens",
        "  - docs.jsonl:1 (r-1) chunk 4: 8,000 tokens",
        "  - docs.jsonl:2 (r-2) chunk 4: 8,000 tokens",
        "- row: 1",
        "  - d.parquet: row 16: a\\x1b[2J",
        f"- all failures: {folder}/failures.jsonl", "",
        "## Endpoints, slowest first", "",
        "- hub: 110 calls, 2 errors, p50 1.20 s, p95 4.75 s, slowest 9.25 s, paused for 1 min 1 s, $0.41",
        "- local: 8 calls, p50 0.10 s, p95 0.20 s, slowest 0.20 s, $0.00", "",
        "## Notes", "",
        "- events.jsonl is missing 2 lines: full",
    ]


@pytest.mark.parametrize(("failed", "partial", "ending"), [
    (1, 0, "published, 1 of 1,204 rows failed (exit 3)"),
    (0, 2, "published, 2 of 1,204 rows partial (exit 3)"),
    (1, 2, "published, 1 of 1,204 rows failed and 2 partial (exit 3)"),
])  # fmt: skip
def test_the_headline_of_a_run_with_failed_rows(failed, partial, ending):
    ended = run(exit=3, class_="failed rows", failed=failed, partial=partial)
    assert report.headline(report.report_of(ended)) == f"nightly: {ending}"


@pytest.mark.parametrize(("unpriced", "usd", "cost"), [
    (0, 0.0, "$0.00"), (3, 0.0, "unknown"), (2, 0.4, "at least $0.40"),
])  # fmt: skip
def test_the_cost_of_calls_without_a_price_is_unknown(unpriced, usd, cost):
    hub = Usage(3, cost_usd=usd, unpriced_calls=unpriced)
    ended = run(endpoints={"hub": hub, "spare": Usage()}, usage=hub)
    phrase = "cost unknown" if cost == "unknown" else cost
    assert cost in shown(status.table([ended], NOW, 1)).splitlines()[1]
    assert status.statistics(ended) == f"1,204 of 1,204 documents, 3 calls, 61 % cached, {phrase}"
    lines = report.lines(report.report_of(ended))
    assert f"- 0 tokens, {phrase}" in lines
    assert f"- hub: 3 calls, mean 0.00 s, slowest 0.00 s, {phrase}" in lines
    assert "- spare: 0 calls, mean 0.00 s, slowest 0.00 s, $0.00" in lines


def test_a_report_of_the_night_is_of_every_job_that_ran_and_its_last_run():
    listed_runs = [run("4", started_at="2026-11-21T07:00:00.000Z", exit=11), run("3", job="b", output="/b"), run("2"),
            run("1", **OUTAGE), run("0", job="old", output="/o", started_at="2026-11-19T02:00:00.000Z")]
    assert [each.entry for each in report.runs_of_the_night(listed_runs, NOW, only_last=False)] == ["3", "2"]
    assert [each.entry for each in report.runs_of_the_night(listed_runs, NOW, only_last=True)] == ["3"]
    assert [each.entry for each in report.runs_of_the_night(listed_runs[4:], NOW, only_last=False)] == ["0"]


def test_every_exit_code_says_what_to_do():
    from pipeline.errors import CLASSES

    assert set(report.NEXT) == {*CLASSES, 137}


def test_a_job_from_run_to_report(textmill, own_home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("docs.jsonl").write_text('{"id":1,"text":"一个报告。"}\n{"id":2,\n', "utf-8")
    assert textmill("run", "embed", "-i", "docs.jsonl", "--id", "id", "-o", "v.parquet").code == 3
    ran = textmill("report", "v.parquet")
    assert ran.code == 0
    assert "# embed: published, 1 of 2 rows failed (exit 3)" in ran.out and "- 2 rows: 1 ok, 1 failed" in ran.out and "  - docs.jsonl:2: " in ran.out
    listed_runs = json.loads(textmill("report", "--json").out)
    assert listed_runs["run"]["failed"] == 1 and listed_runs["failures"][0]["count"] == 1
    assert listed_runs["run"]["command"] == "textmill run embed -i docs.jsonl --id id -o v.parquet"
    (folder,) = (tmp_path / "v.parquet.run" / "runs").iterdir()
    assert listed_runs["run"]["folder"] == str(folder) and (folder / "events.jsonl").exists()


def test_a_job_file_that_is_refused_is_in_the_register_without_its_flags(textmill, tmp_path):
    job = tmp_path / "nightly.toml"
    job.write_text("[chunk]\nsise = 3\n")
    assert textmill("run", job, "--set", "parameters.x=hf_" + "a1" * 12).code == 2
    assert textmill("run", job).code == 2
    found = json.loads(textmill("status", "--json").out)
    assert [each["exit"] for each in found["runs"]] == [2, 2]
    assert "unknown key `chunk.sise`" in found["runs"][0]["error"]
    assert found["open"][0]["command"] == f"textmill run {job}"
    assert "a1a1" not in json.dumps(found)
    assert textmill("run", "no-such-template").code == 2
    assert len(json.loads(textmill("status", "--json").out)["runs"]) == 2


ROWS = 400


@pytest.fixture
def workdir(tmp_path):
    with (tmp_path / "in.jsonl").open("w") as file:
        for number in range(ROWS):
            file.write(json.dumps({"id": number, "text": f"Row {number} of the log."}) + "\n")
    return tmp_path


def argv(url, output="out.parquet"):
    return ["run", "embed", "-i", "in.jsonl", "--id", "id", "-o", output, "--kind", "openai", "--url", f"{url}/v1",
            "--model", "m", "--concurrency", "2", "--batch-size", "4"]


def listed_runs(textmill):
    return json.loads(textmill("status", "--json").out)


def test_two_runs_at_once_one_killed_one_interrupted(textmill, workdir, own_home, processes):
    job = JobFolder(workdir, rows=0, home=own_home)
    with serving() as mock, serving() as other:
        gates = [Gate(mock, after=10), Gate(other, after=10)]
        one, two = processes.start(job, *argv(mock.url)), processes.start(job, *argv(other.url, "two.parquet"))
        eventually(lambda: sum(each["calls"] > 0 for each in listed_runs(textmill)["runs"]) == 2)
        assert [each["live"]["state"] for each in listed_runs(textmill)["runs"]] == ["working", "working"]
        os.kill(one, signal.SIGKILL)
        assert processes.wait(job, one).code == -9
        os.kill(two, signal.SIGTERM)
        (events_file,) = workdir.glob("two.parquet.run/runs/*/events.jsonl")
        eventually(lambda: '"draining"' in events_file.read_text())
        for gate in gates:
            gate.open()
        processes.wait(job, two)
        found = {each["output"]: each for each in listed_runs(textmill)["runs"]}
        killed, stopped = found[str(workdir / "out.parquet")], found[str(workdir / "two.parquet")]
        assert (killed["exit"], killed["class"], stopped["exit"], stopped["class"]) == (137, "killed", 143, "interrupted")
        assert killed["calls"] > 0
        events = [json.loads(line) for line in (Path(stopped["folder"]) / "events.jsonl").read_text().splitlines()]
        assert [each["event"] for each in events][-1] == "ended" and "draining" in {each["event"] for each in events}
        assert sum(each["requests"] for each in events if each["event"] == "calls") == stopped["endpoints"]["openai"]["requests"]
        table = textmill("status").out
        assert "open (killed)" in table and "interrupted (exit 143)" in table
        assert f"resume with: cd {workdir} && textmill run embed -i in.jsonl" in table
        assert processes.run(job, *argv(mock.url)).code == 0
        left = listed_runs(textmill)
        assert [each["output"] for each in left["open"]] == [str(workdir / "two.parquet")]
        assert [each["exit"] for each in left["runs"]].count(137) == 1


def test_a_disk_that_takes_no_events_stops_no_run_and_is_reported(textmill, workdir, monkeypatch):
    import errno

    real = os.write

    def full(descriptor, content):
        if b'"event"' in content:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, content)

    monkeypatch.setattr(os, "write", full)
    monkeypatch.chdir(workdir)
    ran = textmill("run", "embed", "-i", "in.jsonl", "--id", "id", "-o", "v.parquet")
    assert ran.code == 0
    assert "lines: No space left on device" in ran.err and "400 of 400 documents written" in ran.err
    assert "events.jsonl is missing" in textmill("report").out


def test_runs_are_forgotten_by_name_or_because_their_output_is_gone(textmill, own_home, tmp_path):
    import socket

    here = socket.gethostname()
    (tmp_path / "kept.parquet").touch()
    for entry, output, host in [
        ("1", tmp_path / "gone.parquet", here), ("2", tmp_path / "kept.parquet", here),
        ("3", tmp_path / "elsewhere.parquet", "another"), ("4", "-", here),
    ]:  # fmt: skip
        each = run(entry, output=str(output), host=host, job=f"job{entry}")
        RegisterEntry(own_home, each).end(each)

    def listed():
        tables = json.loads(textmill("status", "--json").out)
        return {row["job"] for row in tables["runs"]}, tables["ledger"]

    before, ledger = listed()
    assert before == {"job1", "job2", "job3", "job4"}
    assert textmill("status", "--forget").code == 2
    assert textmill("status", "--all-missing").code == 2
    assert textmill("status", "--forget", "--all-missing").out == "1 run forgotten; their cost stays in the ledger\n"
    assert listed() == ({"job2", "job3", "job4"}, ledger)
    assert textmill("status", "job2", "--forget").code == 0
    assert listed() == ({"job3", "job4"}, ledger)
    assert "job2" not in textmill("report").out
    again = run("5", output=str(tmp_path / "kept.parquet"), host=here, job="job2")
    RegisterEntry(own_home, again).end(again)
    assert "job2" in listed()[0]  # a later run is listed
