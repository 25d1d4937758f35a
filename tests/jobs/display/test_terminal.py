"""What a person or a program sees of a run."""

import io
import json
import sys
from pathlib import Path

import pytest

from jobs.display import terminal as display
from jobs.display.terminal import (
    Harmless,
    JsonLines,
    Plain,
    Terminal,
    closing_line,
    endpoint_lines,
)
from jobs.history.progress import Progress
from pipeline import events
from pipeline.records import Usage
from pipeline.runs.summary import Ended

PAUSE = events.Paused("api.example.com", 7.0, True, 12, "rate", "429")
STORY = [
    events.Surveyed(1_204, 3),
    events.Admitted(256, 2_000, 1_220),
    events.CallEnded("hub", 32, 0.5, 900, 0, 0.41),
    PAUSE,
    events.CallEnded("hub", 32, 0.5, error="rate", message="429"),
    events.Written(100, 97, 1, 2),
    events.Written(56, 53, 1, 2),
]


class Clock:
    def __init__(self):
        self.now = 1_000.0

    def __call__(self):
        return self.now


def ended(failures=None, **changed):
    given = {"exit": 0, "class_": "complete", "resumable": False, "documents": 1_204, "ok": 1_204,
             "requests": 9_632, "cached": 5_904, "usage": Usage(cost_usd=0.414), "seconds": 372.4}
    return Ended(events.Summary(**given | changed), None, failures)


@pytest.mark.parametrize(("how", "line"), [
    (ended(Path("out/x.run/failures.jsonl"), ok=1_201, failed=3),
     "1,201 of 1,204 documents written, 3 failed (out/x.run/failures.jsonl), 9,632 requests, "
     "61 % cached, $0.41, 6 min 12 s"),
    (ended(), "1,204 of 1,204 documents written, 9,632 requests, 61 % cached, $0.41, 6 min 12 s"),
    (ended(Path("f"), ok=1_200, failed=3, partial=1),
     "1,200 of 1,204 documents written, 3 failed and 1 partial (f), 9,632 requests, 61 % cached, "
     "$0.41, 6 min 12 s"),
    (ended(Path("f"), ok=1_203, partial=1),
     "1,203 of 1,204 documents written, 1 partial (f), 9,632 requests, 61 % cached, $0.41, "
     "6 min 12 s"),
    (ended(documents=0, ok=0, requests=0, cached=0, usage=Usage(cost_usd=0.0), seconds=0.04),
     "0 of 0 documents written, 0 requests, $0.00, 0.0 s"),
    (ended(Path("a\x1b[2J\nb"), ok=1_203, failed=1, usage=Usage(cost_usd=1_234.5)),
     "1,203 of 1,204 documents written, 1 failed (a\\x1b[2J\\nb), 9,632 requests, 61 % cached, "
     "$1,234.50, 6 min 12 s"),
])
def test_the_closing_line(how, line):
    assert closing_line(how) == line


def endpoint(name, calls):
    return events.EndpointStats(calls, calls, 0, name=name, success=1.0, p50_seconds=0.2, p95_seconds=0.3,
                                requests_per_second=1.0, unpriced_calls=calls)  # fmt: skip


@pytest.mark.parametrize(("usage", "cost"), [
    (Usage(3, cost_usd=0.41), "$0.41"), (Usage(3, cost_usd=0.41, unpriced_calls=1), "at least $0.41"),
    (Usage(3), "$0.00"), (Usage(3, unpriced_calls=3), "cost unknown"),
])  # fmt: skip
def test_the_closing_line_does_not_show_an_unknown_cost_as_a_sum(usage, cost):
    assert closing_line(ended(usage=usage)).endswith(f", 61 % cached, {cost}, 6 min 12 s")


def test_each_of_several_endpoints_has_a_line_and_no_latency_without_calls():
    summary = ended(endpoints=(endpoint("hub", 3), endpoint("spare", 0))).summary
    assert endpoint_lines(summary) == [
        "  hub    3 requests in 3 calls, 0 errors, p50 0.20 s, p95 0.30 s, cost unknown",
        "  spare  0 requests in 0 calls, 0 errors, $0.00",
    ]
    assert endpoint_lines(ended(endpoints=(endpoint("hub", 3),)).summary) == []


def test_progress_adds_up_what_happened():
    clock = Clock()
    progress = Progress(clock)
    clock.now += 1_000  # the survey
    for event in STORY:
        progress.on(event)
    clock.now += 10
    assert progress.line() == (
        "160 of 1,204 documents, 0.2 calls/s, 61 % cached, 6 failed, $0.41, 1 error, 1 min 5 s left"
    )
    assert progress.usage.errors == 1
    progress.on(events.Draining("SIGINT", 64))
    assert progress.line().endswith("$0.41, 1 error, draining 64 requests in flight")


def test_before_and_after_there_is_no_time_left():
    progress = Progress(Clock())
    assert progress.line() == "0 of 0 documents"
    progress.on(events.Surveyed(2, 1))
    assert progress.line() == "0 of 2 documents"
    progress.on(events.Written(2, 2, 0, 0))
    assert progress.line() == "2 of 2 documents"


def test_a_warning_says_who_paused_for_how_long_and_how_often():
    progress = Progress(Clock())
    assert progress.warning() is None
    progress.on(PAUSE)
    assert progress.warning() == (
        "endpoint api.example.com: 429; retry 12 in 7.0 s (set by the server)"
    )
    progress.on(events.Paused("hub", 1.25, False, 1, "overload", "no \x1b[31mroom\n" + "x" * 999))
    warning = progress.warning()
    assert warning.startswith("endpoint hub: no \\x1b[31mroom\\nxxx")
    assert warning.endswith("; retry 1 in 1.2 s")
    assert len(warning) < 160


def test_json_is_one_object_a_line_with_the_name_of_the_event():
    out = io.StringIO()
    shown = JsonLines(out)
    for event in [*STORY, events.Committed("a\nb", 3)]:
        shown.on(event)
    shown.close()
    shown_lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [each["event"] for each in shown_lines] == [
        "surveyed", "admitted", "call_ended", "paused", "call_ended", "written", "written", "committed",
    ]
    assert shown_lines[0] == {"event": "surveyed", "documents": 1_204, "parts": 3}
    assert shown_lines[-1]["path"] == "a\nb"


def test_plain_speaks_every_ten_seconds_and_of_a_pause_once(monkeypatch):
    clock, out = Clock(), io.StringIO()
    monkeypatch.setattr(display.time, "monotonic", clock)
    shown = Plain(out)
    shown._progress._clock = clock
    for event in STORY:
        clock.now += 0.5
        shown.on(event)
    assert out.getvalue() == ""
    clock.now += 10
    shown.on(events.Written(1, 1, 0, 0))
    first = out.getvalue().splitlines()
    assert first[0] == "endpoint api.example.com: 429; retry 12 in 7.0 s (set by the server)"
    assert first[1].startswith("160 of 1,204 documents, ")
    assert len(first) == 2
    clock.now += 10
    shown.on(events.Written(1, 1, 0, 0))
    assert len(out.getvalue().splitlines()) == 3
    shown.on(events.Draining("SIGTERM", 5))
    assert out.getvalue().endswith("draining 5 requests in flight\n")
    shown.close()


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_the_display_suits_the_place(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(display.display(as_json=False), Plain)
    assert isinstance(display.display(as_json=True), JsonLines)
    monkeypatch.setattr(sys, "stderr", Screen())
    monkeypatch.setenv("TERM", "xterm")
    shown = display.display(as_json=False)
    assert isinstance(shown, Terminal)
    shown.close()
    monkeypatch.setenv("TERM", "dumb")  # rich would draw nothing on it
    assert isinstance(display.display(as_json=False), Plain)


def test_the_terminal_shows_figures_and_leaves_nothing_behind(monkeypatch):
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    shown = Terminal()
    for event in [*STORY, events.Paused("hub", 1.0, False, 1, "overload", "[red]no\x1b[31m room")]:
        shown.on(event)
    shown._live.refresh()
    shown_lines = screen.getvalue()
    assert "160 of 1,204 documents, " in shown_lines
    assert "endpoint hub: [red]no\\x1b[31m room; retry 1 in 1.0 s" in shown_lines
    shown.close()
    assert screen.getvalue().endswith("\x1b[2K")
    assert "\x1b[?25h" in screen.getvalue()


class Broken:
    """A display that fails at each event."""

    def __init__(self):
        self.events = 0

    def on(self, event):
        self.events += 1
        raise UnicodeEncodeError("ascii", "\u4e2d", 0, 1, "no such character")

    def close(self):
        raise OSError("gone")


def test_a_display_that_fails_ends_and_disturbs_nothing(capsys):
    broken = Broken()
    shown = Harmless(lambda: broken)
    for _ in range(3):
        shown.on(events.Surveyed(1, 1))
    shown.close()
    assert broken.events == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_display_that_cannot_begin_disturbs_nothing(capsys):
    shown = Harmless(lambda: 1 / 0)
    shown.on(events.Surveyed(1, 1))
    shown.close()
    assert capsys.readouterr().err == (
        "the display has ended: ZeroDivisionError division by zero\n"
    )
