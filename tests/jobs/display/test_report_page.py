"""The report as a page: it stands alone, adds up, and nothing from outside becomes markup."""

import re
import stat
from html.parser import HTMLParser

import hypothesis.strategies as st
from hypothesis import given

from jobs.display import report_page
from jobs.display.report_page import CallBucket, calls_chart, page
from jobs.history.register import Run
from jobs.history.report import Failures, Report
from jobs.history.report import lines as lines_of
from pipeline.records import Usage
from pipeline.text import printable

WORDS = st.text(max_size=40)


def made(job="nightly", error="", reason="8,000 tokens", endpoint="hub", **changed):
    run = Run(entry="1", job=job, started_at="2026-11-21T02:04:00.000Z", ended_at="2026-11-21T02:05:00.000Z", exit=3,
              class_="failed rows", error=error, output="/srv/o.parquet", documents=200, ok=150, partial=20, failed=30, seconds=60.0,
              endpoints={endpoint: Usage(9, 90, 1, 1, 1, 0.5, 4.5, 2.0)}, **changed)
    return Report(run, {"added": 1, "removed": 2}, [Failures("too_long", 30, [reason])], {endpoint: 61.0}, "look")


class Seen(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        assert not {name for name, _ in attributes} & {"src", "href", "onload", "onclick"}

    def handle_data(self, text):
        self.text.append(text)


def seen(html):
    parser = Seen()
    parser.feed(html)
    return parser


def test_the_page_says_what_the_report_says():
    html = page(made(), [CallBucket(10.0, 5, 1)])
    text = "".join(seen(html).text)
    for line in lines_of(made()):
        assert line.lstrip("#- ") in text
    assert '<span class="" style="width:75.00%"></span><span class="some" style="width:10.00%"></span><span class="bad" style="width:15.00%"></span>' in html


@given(WORDS, WORDS, WORDS, WORDS)
def test_nothing_from_outside_becomes_markup_or_a_control(job, error, reason, endpoint):
    html = page(made(job, error, printable(reason), endpoint), [])
    plain = seen(page(made(), []))
    assert seen(html).tags == plain.tags
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", html)


def test_the_page_loads_nothing_and_runs_nothing():
    html = page(made(job="<script>alert(1)</script>"), [CallBucket(1.0, 1, 0)])
    assert "<script" not in html and "http:" not in html and "https:" not in html and "url(" not in html
    assert "default-src 'none'" in html


@given(st.lists(st.builds(CallBucket, st.floats(-5, 90_000), st.integers(0, 1_000), st.integers(0, 50)), max_size=300), st.floats(0, 90_000))
def test_the_bars_add_up(beats, seconds):
    beats = [CallBucket(beat.seconds, beat.calls + beat.errors, beat.errors) for beat in beats]
    drawn = calls_chart(beats, seconds)
    report_shown = re.findall(r": ([\d,]+) calls?, ([\d,]+) errors?</title>", drawn)
    per_bar = {}
    for x, calls, errors in re.findall(r'x="(\d+)"[^>]*><title>[^:]*: ([\d,]+) calls?, ([\d,]+) errors?', drawn):
        per_bar[x] = (int(calls.replace(",", "")), int(errors.replace(",", "")))
    assert sum(errors for _, errors in per_bar.values()) == sum(beat.errors for beat in beats)
    assert sum(calls for calls, _ in per_bar.values()) == sum(beat.calls - beat.errors for beat in beats)
    assert len(per_bar) <= 120 and bool(report_shown) == any(beat.calls or beat.errors for beat in beats)


def test_each_run_leaves_its_page_for_its_owner_alone(textmill, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs.jsonl").write_text('{"id":1,"text":"一个报告。"}\n{"id":2,\n', "utf-8")
    assert textmill("run", "embed", "-i", "docs.jsonl", "--id", "id", "-o", "v.parquet").code == 3
    (path,) = (tmp_path / "v.parquet.run" / "runs").glob("*/report.html")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    text = "".join(seen(path.read_text("utf-8")).text)
    assert "embed: published, " in text and "docs.jsonl:2" in text and "一个报告" not in text


def test_a_page_that_cannot_be_written_is_reported_and_changes_nothing(textmill, tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_page, "write_page", refuse)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs.jsonl").write_text('{"id":1,"text":"a"}\n')
    ran = textmill("run", "embed", "-i", "docs.jsonl", "--id", "id", "-o", "v.parquet")
    assert ran.code == 0 and "report.html cannot be written: No space left on device\n" in ran.err
