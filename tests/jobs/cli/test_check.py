"""`textmill check`: one request to each endpoint, and all that can be known before a night."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.mock import serving
from tests.support.served import KEY, at, given, job, rows

RULE = {"column": "private", "equals": True, "endpoints": ["inside"]}


def check(textmill, path, *more):
    """The exit code, and the JSON of the check."""
    ran = textmill("check", path, "--json", *more)
    report = json.loads(ran.out)
    assert report["exit"] == ran.code
    return report


def states(report):
    return {each["what"]: each["state"] for each in report["checks"]}


def test_everything_that_works_is_shown_in_the_order_of_the_file(workdir, textmill):
    given(workdir, rows(3))
    limit = "bucket calls=600/min headers=openai"
    with serving(key=KEY, dimension=8, limit=limit) as one, serving(key=KEY, dimension=8) as two:
        price = {"input": 1000.0}
        path = job(workdir, at(one, "one", model="mock-embedding", price=price),
                   at(two, "two", model="mock-embedding", kind="tei") | {"url": two.url})
        ran = textmill("check", path)
        assert ran.code == 0, ran.out
        lines = ran.out.splitlines()
        assert [line.split(":")[0] for line in lines[:-1]] == [
            "ok     job", "ok     input", "ok     output", "ok     answers", "ok     one", "ok     two"]  # fmt: skip
        assert ", 8 dimensions, " in lines[4] and lines[4].endswith("600 calls/min, model mock-embedding")
        assert ", reads 512 tokens, model mock-embedding" in lines[5]
        assert lines[-1].startswith("2 of 2 endpoints answered, 2 calls, at least $0.0")
        assert (one.bill.totals().calls, two.bill.totals().calls) == (1, 1)


def test_what_it_costs_is_paid_and_in_the_ledger_and_no_answer_is_kept(workdir, textmill):
    given(workdir, rows(1))
    with serving(key=KEY) as mock:
        path = job(workdir, at(mock, price={"input": 1000.0}))
        report = check(textmill, path)
        (own,) = report["endpoints"]
        assert own["works"] and own["input_tokens"] == 19 and own["answer_seconds"] > 0
        assert report["cost_usd"] == own["cost_usd"] == 0.019
        listed = json.loads(textmill("status", "--json").out)
        assert listed["runs"] == []  # it is no run
        assert [(day["runs"], day["calls"], day["cost_usd"]) for day in listed["ledger"]] == [(0, 1, 0.019)]
        ran = textmill("run", path, "--json")
        assert (ran.last["cached"], ran.last["calls"]) == (0, 1)


@pytest.mark.parametrize(("fault", "code", "problem"), [
    ("401", 7, "401 "), ("402", 7, "402 "), ("403", 7, "403 "), ("404", 2, "404 "),
    ("422", 2, "422 "), ("413", 2, "413 "), ("503", 5, "503 "), ("429", 5, "429 "),
    ("loading", 5, "503 "), ("500", 5, "500 "), ("html", 4, "200 but not an answer: an HTML page"),
    ("nan", 4, "NaN"), ("wrong_count", 4, "0 vectors for 1 input"), ("reset", 5, "the connection broke"),
    ("hang", 5, "no complete answer within 0.5 s"),
    ("redirect location=/login", 2, "the server redirects to"),
])  # fmt: skip
def test_the_exit_code_is_that_of_a_run_in_which_every_call_ends_so(
    workdir, textmill, fault, code, problem
):
    with serving([fault], key=KEY) as mock:
        path = job(workdir, at(mock))
        (own,) = check(textmill, path, "--max-start", "0.5" if fault == "hang" else "20")["endpoints"]
        assert (own["works"], own["exit"]) == (False, code)
        assert problem in own["error"]
        # Nothing is retried; floats are asked for where base64 brings nothing.
        assert mock.bill.totals().calls == (2 if fault == "wrong_count" else 1)


def test_each_endpoint_is_asked_whatever_is_wrong_with_the_others(workdir, textmill):
    with serving() as gone:
        url = gone.url
    with serving(key=KEY) as mock:
        path = job(workdir, at(url, "gone", model="m"), at(mock, "short", model="m") | {"url": mock.url},
                   at(mock, "keyless", model="m", api_key={"env": "NO_SUCH_KEY"}), at(mock, "good", model="m"))  # fmt: skip
        report = check(textmill, path)
        found = {each["name"]: (each["exit"], each["hint"] or "") for each in report["endpoints"]}
        assert [*found] == ["gone", "short", "keyless", "good"]
        assert {name: code for name, (code, _) in found.items()} == {
            "gone": 5, "short": 2, "keyless": 2, "good": 0}  # fmt: skip
        assert found["short"][1].startswith(f'endpoint.url = "{mock.url}/v1"')
        assert found["keyless"][1] == "export NO_SUCH_KEY=..."
        assert report["exit"] == 2  # the same command does not solve it


def test_no_row_is_sent_and_an_input_that_is_not_there_yet_is_only_noted(workdir, textmill):
    with serving(key=KEY, record=True) as outside, serving(key=KEY, record=True) as inside:
        path = job(workdir, at(outside, "outside"), at(inside, "inside"), task="chat-completion",
                   rules=[RULE])
        report = check(textmill, path)
        assert (report["exit"], states(report)["input"]) == (0, "note")
        given(workdir, rows(4, Private=True))
        report = check(textmill, path)
        assert (report["exit"], states(report)["input"]) == (0, "note")
        notes = [each["message"] for each in report["checks"] if each["state"] == "note"]
        assert "no row has the column `private` (did you mean `Private`?)" in notes[0]
        for mock in (outside, inside):
            sent = b"".join(each.body for each in mock.bill.recorded)
            assert b"Oxmead" not in sent and b"Say it again: The weir was repaired" in sent


@pytest.mark.parametrize(("name", "written", "problem"), [
    ("in.jsonl", b'{"ID": 1, "text": "a"}\n', "column `id` (input.id) not found (did you mean `ID`?)"),
    ("in.parquet", {"Id": [1], "text": ["a"]}, "column `id` (input.id) not found (did you mean `Id`?)"),
    ("in.parquet", b"no parquet", "in.parquet: "),
    ("in.csv.bz2", b"x", "unknown kind of file"),
])  # fmt: skip
def test_an_input_that_cannot_be_used_is_wrong_and_the_endpoints_are_asked(
    workdir, textmill, name, written, problem
):
    if isinstance(written, dict):
        pq.write_table(pa.table(written), workdir / name)
    else:
        (workdir / name).write_bytes(written)
    with serving(key=KEY) as mock:
        report = check(textmill, job(workdir, at(mock)), "-i", name)
    assert report["exit"] in (2, 6) and report["endpoints"][0]["works"]
    (wrong,) = [each for each in report["checks"] if each["state"] == "wrong"]
    assert wrong["what"] == "input" and problem in wrong["message"]


def test_an_output_that_cannot_be_written_is_wrong(workdir, textmill, monkeypatch):
    monkeypatch.setattr("jobs.cli.check.os.access", lambda path, mode: path != workdir)
    with serving(key=KEY) as mock:
        report = check(textmill, job(workdir, at(mock)), "-o", "new/folder/out.parquet")
    assert (report["exit"], states(report)["output"], states(report)["answers"]) == (13, "wrong", "ok")


def test_a_chunk_that_is_longer_than_the_model_reads_is_found(workdir, textmill):
    with serving(key=KEY, max_input_tokens=64) as mock:
        report = check(textmill, job(workdir, at(mock, kind="tei", model=None) | {"url": mock.url}),
                     "--size", "200")  # fmt: skip
    assert report["exit"] == 2
    assert "a chunk may have 300 tokens, more than `mock-embedding` reads (64)" in report["endpoints"][0]["error"]


def test_vectors_that_cannot_be_in_one_output_are_found(workdir, textmill):
    with serving(key=KEY, dimension=8) as one, serving(key=KEY, dimension=16) as two:
        report = check(textmill, job(workdir, at(one, "one", model="m"), at(two, "two", model="m")))
    assert (report["exit"], states(report)["vectors"]) == (2, "wrong")
    assert report["checks"][-1]["message"].endswith("got `one` 8, `two` 16")


def test_another_way_of_asking_is_tried_as_in_a_run(workdir, textmill):
    with serving(["400 body='encoding_format base64 is not supported' x1"], key=KEY) as mock:
        (own,) = check(textmill, job(workdir, at(mock)))["endpoints"]
        assert (own["works"], own["calls"], mock.bill.totals().calls) == (True, 2, 2)


def test_an_embedded_model_and_a_template_are_checked_without_an_input(textmill):
    report = check(textmill, "embed")
    assert (report["exit"], report["endpoints"][0]["dimension"]) == (0, 256)
    assert states(report) == {"job": "ok", "input": "note", "output": "note", "answers": "ok"}


def test_a_job_file_that_is_wrong_ends_the_check_before_any_call(workdir, textmill):
    with serving(key=KEY) as mock:
        path = job(workdir, at(mock))
        path.write_text(path.read_text().replace("size = 64", "size = 0"))
        ran = textmill("check", path)
        assert (ran.code, mock.bill.totals().calls) == (2, 0)
