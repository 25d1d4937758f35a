"""The numbered faults, each against the command line and real HTTP.

Every test goes through `check`, which also asserts what must hold after any fault: rows balance,
neighbours are intact, no byte that a run leaves holds the key, and a run after the fault is gone
gives the same bytes as one that never met it.
"""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.mock import Fault, serving
from tests.support.crashing import JobFolder
from tests.support.served import KEY

GOOD = [
    {"id": f"r-{n}", "text": f"Row {n}: the weir at Oxmead stood at {n * 7} mm."} for n in range(5)
]


def lines(rows):
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def job(workdir, url, **changed):
    """A job file on the OpenAI protocol with one call at a time."""
    settings = {
        "path": "in.jsonl",
        "output": "out.parquet",
        "id": 'id = "id"',
        "batch": 8,
        "extra": "",
    } | changed
    path = workdir / "job.toml"
    path.write_text(f"""
task = "feature-extraction"
[input]
path = "{settings["path"]}"
{settings["id"]}
[chunk]
size = 64
[[endpoint]]
name = "mock"
kind = "openai"
url = "{url}/v1"
model = "m"
api_key = {{ env = "MOCK_KEY" }}
concurrency = 2
batch_size = {settings["batch"]}
{settings["extra"]}
[output]
path = "{settings["output"]}"
""")
    return path


def table(workdir):
    return pq.read_table(workdir / "out.parquet").to_pylist()


def failures(workdir):
    found = sorted(workdir.glob("*.run/runs/*/failures.jsonl"))
    return [json.loads(line) for line in found[-1].read_text().splitlines()] if found else []


def balanced(ran):
    told = ran.last
    assert told["exit"] == ran.code
    if ran.code in (0, 3):
        assert told["ok"] + told["partial"] + told["failed"] == told["documents"]
    return told


INPUTS = [
    (1, "malformed line", lines(GOOD[:2]) + b'{"id": "bad", "text": oops}\n' + lines(GOOD[2:]), 3),
    (2, "last line without newline", lines(GOOD).rstrip(b"\n"), 0),
    (3, "truncated last line", lines(GOOD) + b'{"id": "r-9", "te', 3),
    (4, "invalid UTF-8", lines(GOOD) + b'{"id": "r-9", "text": "caf\xe9"}\n', 3),
    (5, "byte order mark", b"\xef\xbb\xbf" + lines(GOOD), 0),
    (6, "NUL and control bytes", lines([*GOOD, {"id": "r-9", "text": "a\0b\x1b[31mc"}]), 0),
    (7, "lone surrogate", lines(GOOD) + b'{"id": "r-9", "text": "a\\ud800b"}\n', 3),
    (12, "null text", lines([*GOOD, {"id": "r-9", "text": None}]), 0),
    (12, "blank text", lines([*GOOD, {"id": "r-9", "text": " \n\u3000"}]), 0),
    (13, "text is a number", lines([*GOOD, {"id": "r-9", "text": 5}]), 3),
    (13, "text is missing", lines([*GOOD, {"id": "r-9"}]), 0),
    (8, "integer beyond int64", lines(GOOD) + b'{"id": 99999999999999999999, "text": "x"}\n', 3),
    (9, "NaN literal", lines(GOOD) + b'{"id": "r-9", "text": "x", "n": NaN}\n', 3),
    (11, "late key", lines([*GOOD, {"id": "r-9", "text": "late", "late": 1}]), 0),
]


@pytest.mark.parametrize(
    ("number", "name", "raw", "code"), INPUTS, ids=lambda value: str(value)[:24]
)
def test_faulty_input_is_isolated_and_its_neighbours_are_intact(
    workdir, textmill, number, name, raw, code
):
    (workdir / "in.jsonl").write_bytes(raw)
    with serving(key=KEY) as mock:
        ran = textmill("run", job(workdir, mock.url), "--json")
        assert ran.code == code, ran.err
        told = balanced(ran)
        good = [row for row in table(workdir) if row["id"] in {each["id"] for each in GOOD}]
        assert [row["text"] for row in good] == [each["text"] for each in GOOD]
        assert all(row["_status"] == "ok" and len(row["vector"]) == 384 for row in good)
        odd = [row for row in table(workdir) if row not in good]
        assert len(odd) == told["documents"] - 5
        if code == 3:
            (failure,) = failures(workdir)
            (row,) = odd
            assert failure["file"].endswith("in.jsonl")
            assert (
                failure["line"] == raw.count(b"\n", 0, raw.rstrip(b"\n").rfind(b"\n") + 1) + 1
                or number == 1
            )
            assert failure["reason"]
            assert (row["_status"], row["chunk"], row["vector"]) == ("failed", None, None)
            assert row["_error"]
        before = (workdir / "out.parquet").read_bytes()
        calls = mock.bill.totals().calls
        assert textmill("run", job(workdir, mock.url)).code == code
        assert mock.bill.totals().calls == calls
        assert (workdir / "out.parquet").read_bytes() == before


def test_fault_15_duplicate_ids_are_refused_before_any_call_with_both_places(workdir, textmill):
    (workdir / "in.jsonl").write_bytes(lines([*GOOD, GOOD[1]]))
    with serving(key=KEY) as mock:
        ran = textmill("run", job(workdir, mock.url), "--json")
        assert ran.code == 6
        assert ran.last["exit"] == 6
        assert "in.jsonl:2 and " in ran.err
        assert "in.jsonl:6: id `r-1` is not unique" in ran.err
        assert mock.bill.totals().calls == 0


def test_fault_16_a_missing_column_is_refused_with_the_columns(workdir, textmill):
    (workdir / "in.jsonl").write_bytes(lines([{"id": 1, "txt": "a"}]))
    with serving(key=KEY) as mock:
        ran = textmill("run", job(workdir, mock.url))
        assert ran.code == 2
        assert "`text`" in ran.err
        assert "`id`" in ran.err
        assert "`txt`" in ran.err
        assert "did you mean `txt`?" in ran.err


def test_fault_17_truncated_parquet_is_refused_before_any_call(workdir, textmill):
    pq.write_table(pa.Table.from_pylist(GOOD), workdir / "in.parquet")
    raw = (workdir / "in.parquet").read_bytes()
    (workdir / "in.parquet").write_bytes(raw[:-100])
    with serving(key=KEY) as mock:
        ran = textmill("run", job(workdir, mock.url, path="in.parquet"))
        assert ran.code == 6
        assert "in.parquet: not a whole Parquet file" in ran.err
        assert mock.bill.totals().calls == 0


def test_fault_19_an_empty_file_is_a_valid_empty_output(workdir, textmill):
    (workdir / "in.jsonl").write_bytes(b"")
    with serving(key=KEY) as mock:
        ran = textmill("run", job(workdir, mock.url), "--json")
        assert ran.code == 0
        assert table(workdir) == []


def test_gzip_and_parquet_give_the_same_rows_as_jsonl(workdir, textmill):
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    (workdir / "in.jsonl.gz").write_bytes(gzip.compress(lines(GOOD)))
    pq.write_table(pa.Table.from_pylist(GOOD), workdir / "in.parquet")
    with serving(key=KEY) as mock:
        found = []
        for path in ("in.jsonl", "in.jsonl.gz", "in.parquet"):
            assert textmill("run", job(workdir, mock.url, path=path)).code == 0
            found.append((workdir / "out.parquet").read_bytes())
        assert found[0] == found[1] == found[2]
        assert mock.bill.totals().repeated_inputs == 0


SERVER = [
    (30, ["html x2"], 0),
    (30, ["html match='Row 3'"], 3),
    (31, ["wrong_count x1"], 0),
    (31, ["wrong_count count=1 x2"], 0),
    (31, ["wrong_count match='Row 3'"], 3),
    (32, ["shuffled_index"], 0),
    (33, ["wrong_dimension match='Row 3'"], 3),
    (34, ["nan match='Row 3'"], 3),
    (34, ["null match='Row 3'"], 3),
    (34, ["zero match='Row 3'"], 3),
    (35, ["empty x2"], 0),
    (36, ["half_body x1"], 0),
    (36, ["half_chunked x1"], 0),
    (43, ["429 x2 retry-after:0"], 0),
    (44, ["429 x1"], 0),
    (45, ["loading seconds=0.01 x2"], 0),
    (47, ["500 30%"], 0),
    (49, ["400 match='Row 3'"], 3),
    (49, ["422 match='Row 3'"], 3),
    (49, ["424 match='Row 3'"], 3),
    (50, ["413 x1"], 0),
    (55, ["reset x1"], 0),
    (55, ["cut bytes=40 x1"], 0),
]


@pytest.mark.parametrize(("number", "script", "code"), SERVER, ids=str)
def test_a_faulty_server_loses_no_neighbour_and_the_next_run_makes_it_whole(
    workdir, textmill, monkeypatch, number, script, code
):
    rows = [
        {"id": n, "text": f"Row {n}: the weir at Oxmead stood at {n * 7} mm."} for n in range(40)
    ]
    (workdir / "in.jsonl").write_bytes(lines(rows))
    with serving(script, key=KEY) as mock:
        ran = textmill("run", job(workdir, mock.url, batch=16), "--json", "--max-outage", "20")
        assert ran.code == code, ran.err
        balanced(ran)
        found = table(workdir)
        assert [row["id"] for row in found] == list(range(40))
        for row in found:
            if row["_status"] == "ok":
                assert row["vector"] == pytest.approx(mock.vector(row["text"], "m"))
        if code == 3 and "Row 3" in script[0]:
            bad = {row["id"] for row in found if row["_status"] != "ok"}
            assert {3} <= bad <= {3, *range(30, 40)}
            assert {failure["id"] for failure in failures(workdir)} == bad
        mock.play()
        assert textmill("run", job(workdir, mock.url, batch=16)).code == 0
        after = (workdir / "out.parquet").read_bytes()
    with serving(key=KEY) as mock:  # a run that never met the fault
        monkeypatch.setenv("TEXTMILL_HOME", str(workdir / "fresh"))
        (workdir / "out.parquet").unlink()
        assert textmill("run", job(workdir, mock.url, batch=16)).code == 0
        assert (workdir / "out.parquet").read_bytes() == after


def test_fault_38_a_redirect_is_refused_and_nothing_arrives_there(workdir, textmill):
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    with (
        serving() as other,
        serving([f"redirect location={other.url}/v1/embeddings"], key=KEY) as mock,
    ):
        ran = textmill("run", job(workdir, mock.url))
        assert ran.code == 2
        assert "redirect" in ran.err
        assert other.bill.totals().calls == 0


def test_fault_40_a_wrong_key_makes_at_most_concurrency_calls(workdir, textmill):
    rows = [{"id": n, "text": f"Row {n}."} for n in range(100)]
    (workdir / "in.jsonl").write_bytes(lines(rows))
    with serving(key="another") as mock:
        ran = textmill("run", job(workdir, mock.url), "--json")
        assert ran.code == 7
        assert ran.last["resumable"] is True
        assert mock.bill.totals().calls <= 2
        assert not (workdir / "out.parquet").exists()
        mock.key = KEY
        assert textmill("run", job(workdir, mock.url)).code == 0


@pytest.mark.parametrize("fault", ["402", "insufficient_quota"])
def test_fault_42_a_used_up_quota_stops_without_a_storm(workdir, textmill, fault):
    rows = [{"id": n, "text": f"Row {n}."} for n in range(100)]
    (workdir / "in.jsonl").write_bytes(lines(rows))
    with serving([fault], key=KEY) as mock:
        assert textmill("run", job(workdir, mock.url)).code == 7
        assert mock.bill.totals().calls <= 2


def test_fault_52_the_same_refusal_of_the_first_rows_is_a_configuration_error(workdir, textmill):
    rows = [{"id": n, "text": f"Row {n}."} for n in range(100)]
    (workdir / "in.jsonl").write_bytes(lines(rows))
    with serving(["422"], key=KEY) as mock:
        ran = textmill("run", job(workdir, mock.url, batch=1))
        assert ran.code == 2
        assert "rejected each of the first 20 requests" in ran.err
        assert mock.bill.totals().calls <= 22


def test_more_failed_rows_than_allowed_publish_nothing(workdir, textmill):
    rows = [{"id": n, "text": f"{'bad' if n % 2 else 'good'} row {n}."} for n in range(100)]
    (workdir / "in.jsonl").write_bytes(lines(rows))
    with serving(["400 match=bad"], key=KEY) as mock:
        ran = textmill("run", job(workdir, mock.url, batch=1), "--json")
        assert ran.code == 4
        assert ran.last["class"] == "too many failed"
        assert not (workdir / "out.parquet").exists()


def test_fault_66_no_server_at_the_start_is_an_outage(workdir, textmill):
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    with serving() as mock:
        gone = mock.url
    ran = textmill("run", job(workdir, gone), "--json", "--max-start", "0.5")
    assert ran.code == 5
    assert ran.last["calls"] == 0
    assert ran.last["resumable"] is True
    assert "no reply for" in ran.err


def test_fault_37_a_server_that_never_answers_ends_by_our_own_deadline(workdir, textmill):
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    extra = "deadline = { first_byte_seconds = 1.0, connect_seconds = 1.0 }"
    with serving(["hang x1"], key=KEY) as mock:
        assert textmill("run", job(workdir, mock.url, extra=extra)).code == 0


BAD_JOBS = [
    (80, "extra_key = 1", "unknown key `endpoint.extra_key`"),
    (80, "overlaps = 1", "unknown key"),
    (81, 'headers = "Bearer hf_abcdefghijklmnopqrstuvwx"', ""),
    (85, "batch_tokens = 0", "endpoint.batch_tokens"),
    (85, "max_input_tokens = -5", "endpoint.max_input_tokens"),
    (87, "max_input_tokens = 32", "64"),
]


@pytest.mark.parametrize(("number", "extra", "said"), BAD_JOBS, ids=str)
def test_a_bad_job_file_is_one_line_and_exit_2(workdir, textmill, number, extra, said):
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    ran = textmill("run", job(workdir, "http://127.0.0.1:9", extra=extra))
    assert ran.code == 2
    assert said in ran.err
    assert "hf_abcdefghij" not in ran.err
    assert "Traceback" not in ran.err
    assert not list(workdir.glob("*.run"))


@pytest.mark.parametrize(
    ("number", "url"),
    [(82, "http://user:pw@127.0.0.1:9"), (82, "http://93.184.216.34"), (82, "ftp://127.0.0.1")],
)
def test_fault_82_a_url_that_leaks_is_refused(workdir, textmill, number, url):
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    ran = textmill("run", job(workdir, url))
    assert ran.code == 2
    assert "pw" not in ran.err


@pytest.mark.parametrize(
    "output", ["in.jsonl", "./in.jsonl", "out.parquet.run/x.parquet", "../escaped.parquet"]
)
def test_faults_83_and_84_an_output_in_the_wrong_place_is_refused(workdir, textmill, output):
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    ran = textmill("run", job(workdir, "http://127.0.0.1:9", output=output))
    if output.startswith("out.parquet.run"):
        (workdir / "out.parquet.run").mkdir(exist_ok=True)
        (workdir / "out.parquet.run" / "lock").touch()
        ran = textmill("run", job(workdir, "http://127.0.0.1:9", output=output))
    assert ran.code == 2
    assert (workdir / "in.jsonl").read_bytes() == lines(GOOD)


def test_fault_86_a_plan_above_the_budget_is_refused_before_the_first_call(workdir, textmill):
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    extra = "price = { request = 1.0 }"
    with serving(key=KEY) as mock:
        ran = textmill("run", job(workdir, mock.url, extra=extra), "--json", "--max-cost-usd", "4.5")
        assert ran.code == 8
        assert mock.bill.totals().calls == 0
        ran = textmill(
            "run",
            job(workdir, mock.url, batch=1, extra=extra),
            "--json",
            "--max-cost-usd",
            "3",
            "--stop-at-cap",
        )
        assert ran.code == 8
        assert ran.last["resumable"] is True
        assert mock.bill.totals().inputs == 3
        ran = textmill(
            "run",
            job(workdir, mock.url, batch=1, extra=extra),
            "--json",
            "--max-cost-usd",
            "3",
            "--stop-at-cap",
        )
        assert ran.code == 0
        assert mock.bill.totals().inputs == 5


def test_fault_88_an_unset_key_is_named(workdir, textmill, monkeypatch):
    monkeypatch.delenv("MOCK_KEY")
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    ran = textmill("run", job(workdir, "http://127.0.0.1:9"))
    assert ran.code == 2
    assert "`MOCK_KEY` is not set" in ran.err


def test_a_plan_needs_no_key_and_no_network(workdir, textmill, monkeypatch):
    monkeypatch.delenv("MOCK_KEY")
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    ran = textmill(
        "plan", job(workdir, "http://127.0.0.1:9", extra="price = { input = 1_000_000.0 }"), "--json"
    )
    assert ran.code == 0
    told = json.loads(ran.out)
    assert list(told) == [
        "documents",
        "chunks",
        "requests",
        "cached",
        "calls",
        "tokens",
        "cost_usd",
        "seconds",
        "unpriced",
        "compared",
    ]
    assert (told["documents"], told["requests"], told["cached"], told["calls"]) == (5, 5, 0, 1)
    assert told["cost_usd"] == told["tokens"]
    assert Path("job.toml").exists()
    assert not list(workdir.glob("*.run"))


def test_fault_20_an_input_edited_during_the_run_is_not_published(workdir, textmill):
    rows = [{"id": n, "text": f"Row {n}."} for n in range(2_000)]
    (workdir / "in.jsonl").write_bytes(lines(rows))

    def edit(*_):
        (workdir / "in.jsonl").write_bytes(lines([*rows, {"id": 2_000, "text": "late"}]))
        return 0.0

    with serving(latency=edit, key=KEY) as mock:
        ran = textmill("run", job(workdir, mock.url, batch=8), "--json")
        assert ran.code == 6
        assert "changed while it was read" in ran.err
        assert not (workdir / "out.parquet").exists()
        mock.latency = 0.0
        paid = mock.bill.totals().inputs
        assert textmill("run", job(workdir, mock.url, batch=8)).code == 0
        assert mock.bill.totals().repeated_inputs == 0
        assert mock.bill.totals().inputs == 2_001 > paid


def test_a_run_that_never_began_leaves_nothing_behind(workdir, textmill):
    ran = textmill("run", job(workdir, "http://127.0.0.1:9", path="missing.jsonl"))
    assert ran.code == 2
    assert "missing.jsonl: no such file" in ran.err
    assert sorted(each.name for each in workdir.iterdir()) == ["job.toml"]


def test_fault_54_another_model_on_one_endpoint_stops_the_run(workdir, textmill):
    rows = [{"id": n, "text": f"Row {n}."} for n in range(40)]
    (workdir / "in.jsonl").write_bytes(lines(rows))
    with serving(["other_model after=2 body=other"], key=KEY) as mock:
        ran = textmill("run", job(workdir, mock.url, batch=4), "--json", "--concurrency", "1")
        assert ran.code == 14
        assert "the model changed from `m` to `other`" in ran.err
        assert not (workdir / "out.parquet").exists()
        allowed = job(workdir, mock.url, batch=4, extra="allow_model_change = true")
        assert textmill("run", allowed).code == 0


def test_an_output_with_rows_is_not_replaced_by_one_without(workdir, textmill):
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    with serving(key=KEY) as mock:
        assert textmill("run", job(workdir, mock.url)).code == 0
        before = (workdir / "out.parquet").read_bytes()
        (workdir / "in.jsonl").write_bytes(b"")
        ran = textmill("run", job(workdir, mock.url))
        assert ran.code == 14
        assert "the input is empty, and the output so far has rows" in ran.err
        (workdir / "in.jsonl").write_bytes(lines([{"id": "new", "text": "Something new."}]))
        mock.play("html")
        ran = textmill("run", job(workdir, mock.url))
        assert ran.code == 4
        assert "no row is ok" in ran.err
        assert (workdir / "out.parquet").read_bytes() == before


def test_a_server_that_sends_our_key_back_does_not_make_us_keep_it(workdir, textmill):
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    body = {"error": f"bad header authorization: Bearer {KEY}"}
    with serving([Fault("status", status=400, body=body)], key=KEY) as mock:
        ran = textmill("run", job(workdir, mock.url))
        assert ran.code == 4
        assert "bad header authorization: Bearer ***" in failures(workdir)[0]["reason"]
    with serving([Fault("status", status=401, body=body)], key=KEY) as mock:
        ran = textmill("run", job(workdir, mock.url, output="b.parquet"))
        assert KEY not in ran.out + ran.err  # the fixture looks into every file


@pytest.mark.parametrize("usage", [10**30, -5, "many", None, 1.5, True])
def test_absurd_usage_is_no_reason_to_stop(workdir, textmill, usage):
    body = {"data": [{"embedding": [1.0, 2.0]}], "model": "m", "usage": {"prompt_tokens": usage}}
    raw = json.dumps(body)
    (workdir / "in.jsonl").write_bytes(lines(GOOD[:1]))
    with serving([Fault("status", status=200, body=raw)], key=KEY) as mock:
        assert textmill("run", job(workdir, mock.url)).code == 0


def test_an_input_touched_after_its_last_row_was_read_is_not_published(workdir, textmill):
    (workdir / "in.jsonl").write_bytes(lines(GOOD))

    def edit(*_):
        with (workdir / "in.jsonl").open("ab") as file:
            file.write(b"\n")
        return 0.0

    with serving(latency=edit, key=KEY) as mock:
        ran = textmill("run", job(workdir, mock.url))
        assert ran.code == 6
        assert not (workdir / "out.parquet").exists()


@pytest.mark.parametrize("prompt", ['"Summarize" {chunk}', "'tis {chunk}", "[x] {chunk}", "{chunk} = 1"])
def test_a_flag_is_taken_as_it_stands(workdir, textmill, prompt):
    (workdir / "in.jsonl").write_bytes(lines(GOOD[:1]))
    with serving(record=True) as mock:
        ran = textmill("run", "ask", "-i", "in.jsonl", "-o", "o.jsonl", "--id", "id", "--url",
                       f"{mock.url}/v1", "--model", "m", "--prompt", prompt)
        assert ran.code == 0, ran.err
        sent = json.loads(mock.bill.recorded[0].body)["messages"][0]["content"]
        assert sent == prompt.replace("{chunk}", GOOD[0]["text"])


@pytest.mark.parametrize("pack", [lambda raw: raw, gzip.compress], ids=["plain", "gzip"])
def test_standard_input_says_what_it_is(tmp_path, processes, pack):
    folder = JobFolder(tmp_path / "job", rows=0)
    (tmp_path / "piped").write_bytes(pack(lines(GOOD)))
    argv = ["run", "embed", "-i", "-", "-o", "-", "--id", "id"]
    ran = processes.run(folder, *argv, stdin=str(tmp_path / "piped"))
    assert ran.code == 0, ran.err
    assert [json.loads(line)["id"] for line in ran.out.splitlines()] == [r["id"] for r in GOOD]


def test_an_empty_folder_may_become_the_output(workdir, textmill):
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    (workdir / "out").mkdir()
    with serving(key=KEY) as mock:
        for _ in range(2):
            assert textmill("run", job(workdir, mock.url, output="out")).code == 0
    assert pq.read_table(workdir / "out").num_rows == 5


def test_a_key_that_is_a_word_is_not_taken_out_of_answers(workdir, textmill, monkeypatch):
    monkeypatch.setenv("MOCK_KEY", "weir")
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    with serving() as mock:
        ran = textmill("run", "ask", "-i", "in.jsonl", "-o", "o.jsonl", "--id", "id", "--url",
                       f"{mock.url}/v1", "--model", "m", "--set", "endpoint.api_key.env=MOCK_KEY")
        assert ran.code == 0, ran.err
    assert "the weir at Oxmead" in (workdir / "o.jsonl").read_text()


def test_failing_while_more_is_fed_ends_with_its_own_code(workdir, textmill):
    rows = [{"id": n, "text": f"{'bad' if n < 300 else 'good'} row {n}."} for n in range(3_000)]
    (workdir / "in.jsonl").write_bytes(lines(rows))
    with serving(["400 match=bad"], key=KEY, latency=0.002) as mock:
        ran = textmill("run", job(workdir, mock.url, batch=8), "--json", "--max-failed", "0.01")
        assert ran.code in (2, 4), ran.err
        assert "Traceback" not in ran.err


def test_kept_columns_count_against_what_may_be_open(workdir, textmill):
    from jobs.build import build
    from jobs.spec.load import load
    from pipeline.loop import _weight
    from pipeline.prepare.factory import RequestFactory
    from pipeline.prepare.requests import prepare
    from pipeline.source.scan import survey

    rows = [{"id": n, "text": " ", "big": "x" * 10_000} for n in range(100)]
    (workdir / "in.jsonl").write_bytes(lines(rows))
    made = load("enrich", (), {"input.path": "in.jsonl", "output.path": "o.parquet",
                               "input.id": "id"})
    pipeline = build(made)
    (group,) = prepare(RequestFactory(pipeline, pipeline.endpoints), survey(pipeline.input))
    assert _weight(group) >= 1_000_000


def test_failures_of_a_stream_can_be_read_afterwards(workdir, own_home, processes):
    (workdir / "in.jsonl").write_bytes(lines(GOOD) + b"oops\n")
    folder = JobFolder(workdir, rows=0, home=own_home)
    with serving(key=KEY) as mock:
        ran = processes.run(folder, "run", str(job(workdir, mock.url, output="-")))
    assert ran.code == 3, ran.err
    assert len(ran.out.splitlines()) == 6
    (told,) = own_home.rglob("failures.jsonl")
    assert str(told) in ran.err
    assert not list(own_home.rglob("out.jsonl"))


def test_fault_51_a_chunk_too_long_for_its_model_is_split_and_its_pieces_are_in_the_output(
    workdir, textmill
):
    words = " ".join(f"Sentence {n} says that the weir stood at {n * 7} mm." for n in range(9))
    rows = [{"id": 1, "text": "Short."}, {"id": 2, "text": words}, {"id": 3, "text": "Last."}]
    (workdir / "in.jsonl").write_bytes(lines(rows))
    with serving(key=KEY, max_input_tokens=40) as mock:  # of its own, a quarter of the bytes
        path = job(workdir, mock.url)
        path.write_text(path.read_text().replace("size = 64", "size = 512"))
        ran = textmill("run", path, "--json")
        assert ran.code == 0, ran.err
        rows = [row for row in table(workdir) if row["id"] == 2]
        assert len(rows) >= 3
        assert "".join(row["text"] for row in rows) == words
        assert [row["chunk"] for row in rows] == list(range(len(rows)))
        assert all(row["_status"] == "ok" and len(row["text"]) <= 160 for row in rows)
        asked = mock.bill.totals().calls
        before = (workdir / "out.parquet").read_bytes()
        assert textmill("run", path).code == 0
        assert mock.bill.totals().calls == asked
        assert (workdir / "out.parquet").read_bytes() == before
    with serving(key=KEY, max_input_tokens=2) as mock:  # nothing fits
        other = job(workdir, mock.url, output="b.parquet")
        other.write_text(other.read_text().replace('model = "m"', 'model = "n"'))
        ran = textmill("run", other, "--json")
        assert ran.code == 3, ran.err
        assert {row["reason"] for row in failures(workdir)} == {
            "too long for the model, but too short to be split again"}


def test_a_key_that_a_long_message_cuts_in_half_is_masked_all_the_same(workdir, textmill):
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    body = {"error": "x" * 285 + " bearer " + KEY}
    with serving([Fault("status", status=400, body=body)], key=KEY) as mock:
        assert textmill("run", job(workdir, mock.url)).code == 4
    for file in workdir.rglob("*"):
        assert not file.is_file() or KEY[:8].encode() not in file.read_bytes()


def test_a_model_name_that_is_our_key_is_masked(workdir, textmill):
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    with serving([f"other_model after=1 body={KEY}"], key=KEY) as mock:
        ran = textmill("run", job(workdir, mock.url, batch=1), "--concurrency", "1")
        assert ran.code == 14
        assert KEY not in ran.err


def test_calls_that_brought_no_answer_count_against_the_budget(workdir, textmill):
    rows = [{"id": n, "text": f"Row {n}."} for n in range(40)]
    (workdir / "in.jsonl").write_bytes(lines(rows))
    with serving(["wrong_count"], key=KEY) as mock:
        ran = textmill("run", job(workdir, mock.url, batch=8, extra="price = { request = 1.0 }"),
                       "--max-cost-usd", "60")
        assert ran.code == 8
        assert mock.bill.totals().inputs <= 60


@pytest.mark.parametrize("asked", ["-1", "0", "Fri, 01 Jan 2010 00:00:00 GMT", "soon"])
def test_fault_43_a_429_without_a_time_to_wait_is_no_reason_to_hurry(workdir, textmill, asked):
    (workdir / "in.jsonl").write_bytes(lines(GOOD))
    fault = Fault("status", status=429, headers={"retry-after": asked}, times=3)
    with serving([fault], key=KEY) as mock:
        assert textmill("run", job(workdir, mock.url)).code == 0
        assert mock.bill.totals().calls == 4
