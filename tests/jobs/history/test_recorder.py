"""The journal of a run: folded, bounded, private, and never the reason why a run fails."""

import errno
import json
import os
import stat
import time

import hypothesis.strategies as st
import pytest
from hypothesis import given

from jobs.history import event_log as journals
from jobs.history import recorder as record
from jobs.history import register
from jobs.history.event_log import EventLog, window_seconds
from jobs.history.recorder import Recorder, record_run
from jobs.history.register import RegisterEntry, runs, start_record
from pipeline import events
from pipeline.disk import locks
from pipeline.errors import OutageError, UsageError
from pipeline.records import Usage


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def journal(folder, clock=None):
    clock = clock or Clock()
    made = EventLog(clock, lambda: 1_795_226_400.25 + clock.now)
    made.open(folder)
    return made


def lines(folder):
    return [json.loads(line) for line in (folder / "events.jsonl").read_text("utf-8").splitlines()]


def test_a_journal_of_a_short_run(tmp_path):
    clock = Clock()
    record_text = EventLog(clock, lambda: 1_795_226_400.25)
    record_text.on(events.Surveyed(3, 1))
    record_text.open(tmp_path)
    record_text.on(events.Started("20261121T020000Z-abcdef", "/out.run/runs/1"))
    record_text.on(events.Admitted(3, 40, 8))
    for _ in range(3):
        record_text.on(events.CallEnded("hub", 8, 0.5, 100, 7, 0.1))
    record_text.on(events.CallEnded("hub", 8, 1.5, error="rate", message="429 of `secret text`"))
    record_text.on(events.Paused("hub", 7.0, True, 1, "rate", "429 of `secret text`"))
    clock.now += 1
    record_text.fold()
    record_text.on(events.Written(3, 2, 0, 1))
    record_text.on(events.Draining("`secret text`", 5))
    record_text.on(events.Committed("out.parquet", 3))
    assert record_text.close(event="ended", exit=3) == ""
    at = {"at": "2026-11-21T02:00:00.250Z"}
    assert lines(tmp_path) == [
        at | {"event": "surveyed", "documents": 3, "parts": 1},
        at | {"event": "started", "run": "20261121T020000Z-abcdef", "folder": "/out.run/runs/1"},
        at | {"event": "calls", "window_seconds": 1.0, "endpoint": "hub", "error": None, "calls": 3, "errors": 0, "requests": 24,
              "input_tokens": 300, "output_tokens": 21, "cost_usd": 0.3, "seconds": 1.5, "slowest_seconds": 0.5, "unpriced_calls": 0, "ambiguous": 0},
        at | {"event": "calls", "window_seconds": 1.0, "endpoint": "hub", "error": "rate", "calls": 1, "errors": 1, "requests": 8,
              "input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0, "seconds": 1.5, "slowest_seconds": 1.5, "unpriced_calls": 0, "ambiguous": 0},
        at | {"event": "rows", "window_seconds": 1.0, "admitted": 3, "requests": 40, "cached": 8},
        at | {"event": "pauses", "window_seconds": 1.0, "endpoint": "hub", "kind": "rate", "times": 1, "seconds": 7.0},
        at | {"event": "draining", "in_flight": 5},
        at | {"event": "rows", "window_seconds": 0.0, "ok": 2, "partial": 0, "failed": 1},
        at | {"event": "committed", "path": "out.parquet", "rows": 3},
        at | {"event": "ended", "exit": 3},
    ]
    assert "secret" not in (tmp_path / "events.jsonl").read_text("utf-8")
    assert stat.S_IMODE((tmp_path / "events.jsonl").stat().st_mode) == 0o600


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 9), st.sampled_from([None, "rate"]),
                          st.floats(0, 5))))
def test_folded_calls_add_up(tmp_path_factory, calls):
    folder, clock = tmp_path_factory.mktemp("run"), Clock()
    record_text = journal(folder, clock)
    for endpoint, requests, error, seconds in calls:
        record_text.on(events.CallEnded(endpoint, requests, seconds, requests, error=error))
        clock.now += seconds
        record_text.fold()
    record_text.close(event="ended")
    folded = [line for line in lines(folder) if line["event"] == "calls"]
    for name in ("a", "b"):
        mine = [line for line in folded if line["endpoint"] == name]
        assert sum(line["calls"] for line in mine) == sum(1 for each in calls if each[0] == name)
        assert sum(line["errors"] for line in mine) == sum(1 for each in calls if each[0] == name and each[2])
        assert sum(line["requests"] for line in mine) == sum(each[1] for each in calls if each[0] == name)


def test_a_week_of_calls_takes_few_lines(tmp_path):
    clock = Clock()
    record_text = journal(tmp_path, clock)
    for second in range(7 * 24 * 360):
        clock.now = 100.0 + second * 10.0
        record_text.on(events.CallEnded("hub", 1, 0.1))
        record_text.on(events.Written(1, 1, 0, 0))
        record_text.fold()
    record_text.flush()
    record_text.close(event="ended")
    assert len(lines(tmp_path)) < 2 * 14_000
    assert window_seconds(0) == 1.0 and window_seconds(1_200) == 2.0 and window_seconds(10**6) == 60.0


def test_lines_that_nobody_folds_are_bounded_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "MAX_LINES", 50)
    record_text = journal(tmp_path)
    for number in range(60):
        record_text.on(events.Committed("out", number))
    assert record_text.close(event="ended") == "events.jsonl is missing 11 lines: more than 50 lines"
    assert len(lines(tmp_path)) == 50


class Disk:
    """os.write of a disk that is full for a while."""

    def __init__(self, monkeypatch):
        self.is_full, self._write = False, os.write
        monkeypatch.setattr(os, "write", self)

    def __call__(self, descriptor, content):
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._write(descriptor, content[:100])


def test_a_full_disk_loses_lines_and_says_so(tmp_path, monkeypatch):
    disk, record_text = Disk(monkeypatch), journal(tmp_path)
    record_text.on(events.Committed("a" * 150, 1))
    record_text.flush()
    disk.is_full = True
    record_text.on(events.Committed("b", 2))
    record_text.flush()
    assert record_text.close(event="ended") == "events.jsonl is missing 2 lines: No space left on device"
    assert [line["rows"] for line in lines(tmp_path)] == [1]


def test_a_disk_that_has_room_again_gets_what_waited(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "MAX_WAITING", 3)
    disk, record_text = Disk(monkeypatch), journal(tmp_path)
    disk.is_full = True
    for number in range(5):
        record_text.on(events.Committed("out", number))
        record_text.flush()
    disk.is_full = False
    assert record_text.close(event="ended") == "events.jsonl is missing 2 lines: No space left on device"
    assert [line.get("rows") for line in lines(tmp_path)] == [0, 3, 4, None]


@pytest.mark.parametrize("make", [
    lambda path: path.symlink_to("elsewhere"), lambda path: path.mkdir(),
])
def test_a_journal_that_cannot_be_opened_is_reported(tmp_path, make):
    make(tmp_path / "events.jsonl")
    record_text = journal(tmp_path)
    record_text.on(events.Surveyed(1, 1))
    assert record_text.close(event="ended").startswith("events.jsonl is missing 2 lines: ")


def test_what_could_act_on_a_terminal_or_looks_secret_is_not_in_a_line(tmp_path):
    record_text = journal(tmp_path)
    record_text.on(events.CallEnded("hub\x1b[2J", 1, 0.1))
    record_text.on(events.Committed("/out/\u202egnp/hf_" + "a1" * 12, 3))
    record_text.close(event="ended")
    raw = (tmp_path / "events.jsonl").read_bytes()
    assert b"\\u001b" not in raw and "\u202e".encode() not in raw and b"a1a1" not in raw


def told_of(home, **changed):
    return start_record("nightly", file="/j.toml", output=str(home / "out.parquet"), command="textmill run /j.toml")


def test_a_recording_tells_the_register_how_far_the_run_is(tmp_path):
    folder = tmp_path / "runs" / "1"
    folder.mkdir(parents=True)
    recording = Recorder(RegisterEntry(tmp_path, told_of(tmp_path)))
    recording.on(events.Surveyed(10, 1))
    recording.on(events.Started("r1", str(folder)))
    recording.on(events.Admitted(10, 40, 20))
    recording.on(events.CallEnded("hub", 10, 0.5, 100, 7, 0.25))
    recording.on(events.Paused("hub", 7.0, True, 3, "rate", "secret"))
    ends = time.monotonic() + 30
    while not (found := runs(tmp_path)[0][0]).usage.calls:  # its own thread writes once a second
        assert time.monotonic() < ends
        time.sleep(0.02)
    assert (found.run, found.documents, found.cached, found.usage.tokens, found.usage.cost_usd) == ("r1", 10, 20, 107, 0.25)
    assert (found.live.done, found.live.state, found.live.pause) == (7.5, "working", "hub (rate), 3 times")
    assert found.endpoints == {"hub": found.usage} == {"hub": Usage(1, 10, 0, 100, 7, 0.25, 0.5, 0.5)}
    assert recording.close(130, "interrupted", resumable=True) == []
    (last,), _ = runs(tmp_path)
    assert (last.exit, last.class_, last.resumable, last.live) == (130, "interrupted", True, None)
    assert not list((tmp_path / "running").iterdir())
    assert lines(folder)[-1]["event"] == "ended"


@pytest.mark.parametrize(("raised", "code", "resumable", "error"), [
    (OutageError("no answer for 1,800 s"), 5, True, "no answer for 1,800 s"),
    (UsageError("`x` is not set"), 2, False, "`x` is not set"),
    (KeyboardInterrupt(), 130, True, ""),
    (SystemExit(143), 143, True, ""),
    (ZeroDivisionError("with a text"), 1, True, "ZeroDivisionError, a bug in textmill"),
])
def test_however_a_run_ends_the_register_knows(tmp_path, raised, code, resumable, error):
    with pytest.raises(type(raised)), record_run(tmp_path, told_of(tmp_path), print):
        raise raised
    (last,), _ = runs(tmp_path)
    assert (last.exit, last.resumable, last.error) == (code, resumable, error)
    assert last.ended_at


def test_a_home_that_cannot_be_written_is_reported_and_the_run_goes_on(tmp_path, monkeypatch):
    said = []

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system", "/home/x")

    monkeypatch.setattr(register.os, "open", refuse)
    with record_run(tmp_path, told_of(tmp_path), said.append) as recording:
        recording.on(events.Surveyed(1, 1))
        recording._run = record.replace(recording._run, exit=0, class_="complete")
    assert said == ["/home/x: Read-only file system: `status` may show this run incompletely"]


@pytest.mark.parametrize("name", ["open", "write", "pwrite", "fsync", "pread", "flock"])
def test_whatever_the_system_refuses_the_run_goes_on_and_the_register_stays_readable(tmp_path, monkeypatch, name):
    """The N-th call fails, N = 1.. until none is left; then every later one fails, too."""
    module = locks.fcntl if name == "flock" else os
    real = getattr(module, name)
    for is_for_good in (False, True):
        number = 0
        while True:
            number += 1
            calls = iter(range(1, 10_000))

            def failing(*arguments, calls=calls, number=number, is_for_good=is_for_good, **more):
                at = next(calls)
                if at == number or (is_for_good and at > number):
                    raise OSError(errno.EIO, "Input/output error", "/x")
                return real(*arguments, **more)

            home, folder = tmp_path / f"{is_for_good}{number}", tmp_path / f"run{is_for_good}{number}"
            folder.mkdir()
            said = []
            with monkeypatch.context() as patched:
                patched.setattr(module, name, failing)
                with record_run(home, told_of(home), said.append) as recording:
                    recording.on(events.Started("r", str(folder)))
                    recording.on(events.CallEnded("hub", 1, 0.5))
                    recording._run = record.replace(recording._run, exit=0, class_="complete")
                reached = next(calls) > number
            found, unread = runs(home)
            assert len(found) <= 1 and unread <= 1
            if not reached:
                assert (said, found[0].exit) == ([], 0)
                break
            assert said or found[0].exit == 0, number
            # The next run finds nothing in its way.
            with record_run(home, told_of(home), said.append) as recording:
                recording._run = record.replace(recording._run, exit=0, class_="complete")
            assert runs(home)[0][0].exit == 0
        assert number > 1
