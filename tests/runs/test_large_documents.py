"""Faults 14 and 22: a document of many megabytes, and one of very many chunks, over whole runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.mock import serving
from pipeline.loop import Window
from pipeline.prepare import long_documents
from pipeline.prepare import requests as prepare
from tests.support import ROOT

PEAK = """
import sys
from jobs.__main__ import main
try:
    main()
finally:
    with open("/proc/self/status") as told:
        (peak,) = [line.split()[1] for line in told if line.startswith("VmHWM")]
    print("peak", peak, file=sys.stderr)
"""


def write(rows):
    with Path("in.jsonl").open("w") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def options(mock, *more):
    return ["run", "embed", "-i", "in.jsonl", "-o", "out.parquet", "--id", "id", "--json", "--kind",
            "openai", "--url", f"{mock.url}/v1", "--model", "m", "--method", "fixed", "--overlap", "0",
            *more]  # fmt: skip


def text_of(sentences, start=0):
    return " ".join(f"The weir stood at {n * 7} mm on day {n}." for n in range(start, start + sentences))


def document_peak_mb(mock, output):
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, *options(mock, "--size", "4096", "--batch-size", "64", "-o", output)],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return int(ran.stderr.split("peak ")[1]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
def test_fault_14_a_document_of_64_mb_takes_its_text_and_little_more(workdir):
    line = "The weir at Oxmead stood at 41 mm, and the keeper wrote it down. "
    with serving(dimension=8) as mock:
        write([{"id": 1, "text": text_of(20_000)}])
        small = document_peak_mb(mock, "small.parquet")
        write([{"id": 0, "text": "first"}, {"id": 1, "text": line * (64_000_000 // len(line))},
               {"id": 2, "text": "last"}])  # fmt: skip
        large = document_peak_mb(mock, "large.parquet")
    assert large - small < 64 + 110  # what may be open besides, of any document
    rows = pq.read_table("large.parquet", columns=["id", "text", "_status"]).to_pylist()
    assert (rows[0]["text"], rows[-1]["text"]) == ("first", "last")
    assert {row["_status"] for row in rows} == {"ok"}
    assert "".join(row["text"] for row in rows[1:-1]) == line * (64_000_000 // len(line))


SCRIPTS = [([], 0, {}), (["400 match='day 77.'"], 3, {}), ([], 0, {"max_input_tokens": 12})]


@pytest.mark.parametrize(("script", "code", "limits"), SCRIPTS, ids=["fine", "one fails", "split"])
def test_fault_22_segments_give_the_same_bytes_as_a_document_at_once(
    workdir, textmill, monkeypatch, script, code, limits
):
    write([{"id": 0, "text": "before"}, {"id": 1, "text": text_of(900)},
           {"id": 2, "text": text_of(300, 2_000)}, {"id": 3, "text": "after"}])  # fmt: skip
    found, most_open = [], []
    enter = Window.enter

    async def watched(self, weight, entries):
        await enter(self, weight, entries)
        most_open.append(entries)

    monkeypatch.setattr(Window, "enter", watched)
    for requests, chars in ((10_000, 4_000_000), (64, 4_000_000), (10_000, 900)):
        for module in (long_documents, prepare):
            monkeypatch.setattr(module, "SEGMENT_REQUESTS", requests)
            monkeypatch.setattr(module, "SEGMENT_CHARS", chars)
        monkeypatch.setenv("TEXTMILL_HOME", str(Path(f"home-{requests}-{chars}").absolute()))
        most_open.clear()
        with serving(script, dimension=8, **limits) as mock:
            ran = textmill(*options(mock, "--size", "16", "--batch-size", "16"))
            assert ran.code == code, ran.err
            told = ran.last
            assert (told["documents"], told["ok"] + told["partial"]) == (4, 4)
            assert mock.bill.totals().repeated_inputs == 0
            calls = mock.bill.totals().calls
            found.append(Path("out.parquet").read_bytes())
            assert textmill(*options(mock, "--size", "16", "--batch-size", "16")).code == code
            assert code or mock.bill.totals().calls == calls
            assert Path("out.parquet").read_bytes() == found[-1]
        assert max(most_open) <= max(requests if requests == 64 else 0, 1_500) + 4
        if requests == 64:
            assert max(most_open) <= 65
    assert found[0] == found[1] == found[2]


def test_fault_22_above_the_bound_it_is_isolated_before_a_chunk_of_it_is_paid(workdir, textmill):
    write([{"id": 0, "text": "before"}, {"id": 1, "text": text_of(9_000)}, {"id": 2, "text": "after"}])
    with serving(dimension=8) as mock:
        ran = textmill(*options(mock, "--size", "8", "--set", "guard.max_chunks=5000"))
        assert ran.code == 3, ran.err
        assert mock.bill.totals().inputs == 2
    rows = pq.read_table("out.parquet").to_pylist()
    assert [row["_status"] for row in rows] == ["ok", "failed", "ok"]
    assert rows[1]["_error"] == "more than guard.max_chunks = 5,000 chunks"


def test_a_plan_counts_the_requests_of_all_segments(workdir, textmill):
    write([{"id": 1, "text": text_of(3_000)}])
    with serving(dimension=8) as mock:
        arguments = options(mock, "--size", "16")
        told = json.loads(textmill("plan", *arguments[1:]).out)
        ran = textmill(*arguments)
        assert (told["documents"], told["requests"]) == (1, ran.last["requests"])
        assert told["requests"] > prepare.SEGMENT_REQUESTS
        assert json.loads(textmill("plan", *arguments[1:]).out)["calls"] == 0
