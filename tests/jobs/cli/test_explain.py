"""`textmill explain`: why a row's answers are kept, or would have to be paid for."""

import json
import sqlite3
from pathlib import Path

import pytest

from jobs.mock import serving

LONG = " ".join(f"The gauge at weir {n} read {n * 37 % 1000} mm in week {n}." for n in range(60))
ROWS = [
    {"id": "long", "text": LONG},
    {"id": "short", "text": "The lock did not flood."},
    {"id": "blank", "text": " \n"},
    {"id": "bad", "text": 7},
]


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(ROWS)
    return tmp_path


def write(rows):
    Path("in.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8"
    )


JOB = ["embed", "-i", "in.jsonl", "-o", "v.parquet", "--size", "64", "--overlap", "0"]
ID = ["--set", "input.id=id"]


def run(textmill, *more, command=JOB):
    ran = textmill("run", *command, *ID, *more)
    assert ran.code in (0, 3), ran.err


def row_report(textmill, name, *more, command=JOB):
    ran = textmill("explain", *command, *ID, *more, "--id", name, "--json")
    assert ran.code == 0, ran.err
    return ran.last


def states(row):
    return [(chunk["state"], chunk["why"]) for chunk in row["chunks"]]


def differs(row):
    return [(d["name"], d["before"], d["now"]) for chunk in row["chunks"] for d in chunk["differs"]]


def changed(row):
    return [(d["name"], d["before"], d["now"]) for d in row["changed"]]


def test_before_any_run_nothing_was_ever_answered(workdir, own_home, textmill):
    row = row_report(textmill, "short")
    assert row["address"] == "in.jsonl:2"
    assert (row["changed"], row["is_in_output"]) == (None, False)
    assert states(row) == [("missing", "never answered, and no run of this output has committed")]
    assert not (own_home / "answers").exists()


def test_after_a_run_every_chunk_is_cached_and_shown_with_span_tokens_and_key(workdir, textmill):
    run(textmill)
    row = row_report(textmill, "long")
    assert {state for state, _ in states(row)} == {"cached"}
    assert [chunk["chunk"] for chunk in row["chunks"]] == list(range(len(row["chunks"])))
    assert row["chunks"][0]["start_char"] == 0
    assert row["chunks"][-1]["end_char"] == len(LONG)
    assert all(0 < chunk["tokens"] <= 64 for chunk in row["chunks"])
    assert all(len(bytes.fromhex(chunk["key"])) == 6 for chunk in row["chunks"])
    assert len({chunk["key"] for chunk in row["chunks"]}) > 10
    assert (row["changed"], row["is_in_output"]) == ([], True)
    lines = textmill("explain", *JOB, *ID, "--id", "long").out.splitlines()
    assert lines[0] == f"long  in.jsonl:1  {len(row['chunks'])} chunks, {len(row['chunks'])} cached"
    assert lines[1].split() == ["chunk", "span", "tokens", "key"]
    assert lines[2].split()[1:2] == [f"0..{row['chunks'][0]['end_char']}"]
    assert lines[2].endswith(f"{row['chunks'][0]['key']}  cached")


def test_a_parameter_a_model_and_a_kind_that_differ_are_named(workdir, textmill):
    with serving(models=["a", "b"]) as server:
        served = [*JOB, "--kind", "openai", "--url", f"{server.url}/v1"]
        run(textmill, "--model", "a", "--set", "parameters.normalize=true", command=served)
        before = server.bill.calls
        row = row_report(
            textmill, "short", "--model", "a", "--set", "parameters.normalize=false", command=served
        )
        assert states(row) == [("missing", "answered under another key")]
        assert differs(row) == [("parameters.normalize", True, False)]
        assert changed(row) == [("parameters.normalize", True, False)]
        row = row_report(textmill, "short", "--model", "b", "--set", "parameters.normalize=true",
                   command=served)
        assert differs(row) == [("endpoint.model", "a", "b")]
        row = row_report(textmill, "short", "--model", "a", command=served)
        assert differs(row) == [("parameters.normalize", True, None)]
        row = row_report(textmill, "short", "--model", "a", "--set", "parameters.normalize=true",
                   "--set", "endpoint.revision=v2", command=served)
        assert differs(row) == [("endpoint.revision", "main", "v2")]
        assert server.bill.calls == before  # nothing is sent
    lines = textmill(
        "explain", *served, *ID, "--model", "b", "--set", "parameters.normalize=false",
        "--id", "short",
    ).out.splitlines()
    assert lines[2].endswith(
        "missing: answered under another key: "
        'endpoint.model: "a" -> "b"; parameters.normalize: true -> false'
    )
    assert lines[3:] == [
        "since the last committed run:",
        '  endpoint.model: "a" -> "b"',
        "  parameters.normalize: true -> false",
    ]


def test_the_nearest_of_many_earlier_answers_is_named(workdir, textmill):
    with serving(models=["a"]) as server:
        served = [*JOB, "--kind", "openai", "--url", f"{server.url}/v1", "--model", "a"]
        run(textmill, "--set", "parameters.x=1", "--set", "parameters.y=1", command=served)
        run(textmill, "--set", "parameters.x=2", "--set", "parameters.y=2", command=served)
        run(textmill, "--set", "parameters.x=3", "--set", "parameters.y=3", command=served)
    row = row_report(textmill, "short", "--set", "parameters.x=1", "--set", "parameters.y=9", command=served)
    assert differs(row) == [("parameters.y", 1, 9)]


def test_what_cuts_the_text_otherwise_is_named(workdir, textmill):
    run(textmill)
    row = row_report(textmill, "long", "--size", "128")
    assert changed(row) == [("chunk.size", 64, 128)]
    why = "the input is new: its settings changed since the last committed run"
    assert ("missing", why) in states(row)
    assert states(row_report(textmill, "short", "--size", "128")) == [("cached", None)]
    row = row_report(textmill, "long", "--overlap", "8", "--tokenizer", "cl100k_base", "--method", "fixed")
    assert changed(row) == [
        ("chunk.method", "structure", "fixed"),
        ("chunk.overlap", 0, 8),
        ("chunk.tokenizer", "wordllama", "cl100k_base"),
    ]
    out = textmill("explain", *JOB, *ID, "--id", "long", "--size", "128").out
    assert out.endswith("since the last committed run:\n  chunk.size: 64 -> 128\n")


def test_a_prompt_that_differs_is_named(workdir, textmill):
    with serving(models=["chat"]) as server:
        ask = ["ask", "-i", "in.jsonl", "-o", "a.jsonl", "--kind", "openai", "--url",
               f"{server.url}/v1", "--model", "chat"]
        run(textmill, "--prompt", "Shorten: {chunk}", command=ask)
        assert states(row_report(textmill, "short", "--prompt", "Shorten: {chunk}", command=ask)) == [
            ("cached", None)
        ]
        row = row_report(textmill, "short", "--prompt", "Cut: {chunk}", command=ask)
    assert changed(row) == [("parameters.prompt", "Shorten: {chunk}", "Cut: {chunk}")]
    assert row["is_in_output"]


def test_a_text_that_changed_differs_from_a_new_row(workdir, textmill):
    run(textmill)
    changed_text = LONG.replace("weir 30 read", "weir 30 showed")
    write([{"id": "long", "text": changed_text}, {"id": "new", "text": "A row of today."}])
    row = row_report(textmill, "long")
    missing = [chunk for chunk in row["chunks"] if chunk["state"] == "missing"]
    assert 1 <= len(missing) <= 2
    at = changed_text.index("showed")
    assert any(chunk["start_char"] <= at < chunk["end_char"] for chunk in missing)
    assert {chunk["why"] for chunk in missing} == {
        "the text changed, or a column that the prompt reads"
    }
    assert states(row_report(textmill, "new")) == [("missing", "a new row")]


def test_an_answer_that_was_pruned_differs_from_a_text_that_changed(workdir, textmill):
    run(textmill)
    assert textmill("cache", "prune", "--older-than", "0h").code == 0
    assert states(row_report(textmill, "short")) == [
        ("missing", "in the output, but its answer is gone: pruned, or kept in another TEXTMILL_HOME")
    ]


def test_a_damaged_entry_is_reported(workdir, own_home, textmill):
    run(textmill)
    file = sqlite3.connect(own_home / "answers" / "cache.db", isolation_level=None)
    file.execute("UPDATE Cache SET value = x'00' WHERE length(key) = 32")
    file.close()
    assert states(row_report(textmill, "short")) == [("damaged", "it will be requested again")]


def test_a_failure_of_the_last_run_is_reported(workdir, textmill):
    with serving(["422 match=flood"], models=["m"]) as server:
        served = [*JOB, "--kind", "openai", "--url", f"{server.url}/v1", "--model", "m"]
        run(textmill, command=served)
    (chunk,) = row_report(textmill, "short", command=served)["chunks"]
    assert chunk["state"] == "missing"
    assert chunk["why"].startswith("failed in the last run: 422")
    assert chunk["failure"]["kind"] == "poison"
    assert {state for state, _ in states(row_report(textmill, "long", command=served))} == {"cached"}


def test_a_chunk_that_is_too_long_for_its_model_is_shown_as_its_pieces(workdir, textmill):
    with serving(models=["m"], max_input_tokens=40) as server:
        served = [*JOB, "--kind", "openai", "--url", f"{server.url}/v1", "--model", "m"]
        run(textmill, command=served)
        row = row_report(textmill, "long", command=served)
    assert {state for state, _ in states(row)} == {"cached"}
    import pyarrow.parquet as pq

    output = pq.read_table("v.parquet").to_pylist()
    spans = [(r["start_char"], r["end_char"]) for r in output if r["id"] == "long"]
    assert [(chunk["start_char"], chunk["end_char"]) for chunk in row["chunks"]] == spans


def test_a_row_without_requests_says_why(workdir, textmill):
    run(textmill)
    out = textmill("explain", *JOB, *ID, "--id", "blank").out
    assert out == "blank  in.jsonl:3  0 chunks, 0 cached\nnothing to send: the text is blank\n"
    out = textmill("explain", *JOB, *ID, "--id", "bad").out
    assert out.splitlines()[1].startswith("not sent: ")
    assert row_report(textmill, "bad")["error"]


def test_a_row_that_is_not_there_is_2_with_a_hint(workdir, textmill):
    ran = textmill("explain", *JOB, *ID, "--id", "shorty")
    assert (ran.code, ran.out, ran.err) == (
        2, "", "in.jsonl: no row with the id `shorty`\nhint: an id of this input is `short`\n"
    )
    ran = textmill("explain", *JOB, "--id", "short")
    assert (ran.code, ran.err.splitlines()[-1]) == (
        2, "hint: --set input.id=COLUMN names the column of ids"
    )
    assert textmill("explain", *JOB, *ID, "--id", "shorty", "--json").last["exit"] == 2


def test_a_row_is_found_by_number_or_by_its_identity(workdir, textmill):
    write([{"id": 1, "text": "one"}, {"id": 2, "text": "two"}])
    assert row_report(textmill, "2")["address"] == "in.jsonl:2"
    identity = row_report(textmill, "1")["identity"]
    assert row_report(textmill, identity)["id"] == 1


def test_without_an_id_column_the_identity_names_the_row(workdir, textmill):
    assert textmill("run", *JOB).code == 3
    import pyarrow.parquet as pq

    name = pq.read_table("v.parquet").to_pylist()[-2]["id"]
    ran = textmill("explain", *JOB, "--id", name, "--json")
    assert (ran.code, ran.last["is_in_output"]) == (0, True)


def test_an_output_of_json_lines_and_one_row_per_document_is_known_too(workdir, textmill):
    summarize = ["summarize", "-i", "in.jsonl", "-o", "s.jsonl"]
    run(textmill, command=summarize)
    write([{"id": "long", "text": "Quite another text, about a ferry."}])
    row = row_report(textmill, "long", command=summarize)
    assert row["is_in_output"]
    assert states(row) == [("missing", "the text changed, or a column that the prompt reads")]


def test_a_spoiled_run_folder_explains_less_and_breaks_nothing(workdir, textmill):
    run(textmill)
    (manifest,) = Path("v.parquet.run").glob("runs/*/manifest.json")
    good = json.loads(manifest.read_text())
    for bad in ("", "[]", "{", '{"state": "committed", "prefixes": [7, {}], "input_settings": 3}',
                json.dumps(good | {"prefixes": 9})):
        manifest.write_text(bad)
        row = row_report(textmill, "long", "--size", "100")
        assert any(chunk["state"] == "missing" for chunk in row["chunks"])


def test_what_is_remembered_holds_no_secret(workdir, own_home, textmill, monkeypatch):
    monkeypatch.setenv("THE_KEY", "sk-canary-123456")
    with serving(models=["m"], key="sk-canary-123456") as server:
        served = [*JOB, "--kind", "openai", "--url", f"{server.url}/v1", "--model", "m",
                  "--set", "endpoint.api_key.env=THE_KEY"]
        run(textmill, command=served)
        monkeypatch.delenv("THE_KEY")  # it is not needed to explain
        assert states(row_report(textmill, "short", command=served)) == [("cached", None)]
    for file in [*(own_home / "answers").iterdir(), *Path("v.parquet.run").rglob("*.json")]:
        content = file.read_bytes()
        assert b"canary" not in content
        if file.parent.name != "answers":  # the cache knows which server gave an answer
            assert str(server.url).encode() not in content


TWO = """
task = "chat-completion"
[input]
path = "in.jsonl"
id = "id"
[parameters]
prompt = "Shorten: {{chunk}}"
[[endpoint]]
name = "near"
kind = "openai"
model = "near"
url = "{url}/v1"
[[endpoint]]
name = "far"
kind = "openai"
model = "far"
url = "{url}/v1"
fallback = true
[output]
path = "a.jsonl"
"""
RULE = """
[[rule]]
column = "private"
equals = true
endpoints = ["far"]
"""


def test_an_answer_of_any_endpoint_that_may_answer_counts(workdir, textmill):
    with serving(models=["near", "far"]) as server:
        text = TWO.format(url=server.url)
        Path("two.toml").write_text(text)
        write([ROWS[1]])
        Path("one.toml").write_text(
            text.split('[[endpoint]]\nname = "near"')[0]
            + '[[endpoint]]\nname = "far"'
            + text.split('[[endpoint]]\nname = "far"')[1].replace("fallback = true\n", "")
        )
        assert textmill("run", "one.toml").code == 0
    ran = textmill("explain", "two.toml", "--id", "short", "--json")
    assert [chunk["state"] for chunk in ran.last["chunks"]] == ["cached"]
    assert changed(ran.last) == [("endpoint", ["far"], ["near", "far"])]


def test_an_answer_that_a_rule_keeps_from_a_row_is_reported(workdir, textmill):
    with serving(models=["near", "far"]) as server:
        write([ROWS[1] | {"private": False}])
        Path("two.toml").write_text(TWO.format(url=server.url) + RULE)
        assert textmill("run", "two.toml").code == 0
        write([ROWS[1] | {"private": True}])
        (chunk,) = textmill("explain", "two.toml", "--id", "short", "--json").last["chunks"]
        assert chunk["state"] == "missing"
        assert chunk["why"] == "answered by an endpoint that the job's rules keep from this row"
        assert chunk["differs"] == [{"name": "endpoint.model", "before": "near", "now": "far"}]
        assert server.bill.calls == 1
