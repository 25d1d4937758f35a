"""Prefixes in whole runs: sent and counted, written into the metadata, used by `search`."""

import json

import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from jobs.mock import serving

ROWS = [
    {"id": n, "title": f"Report {n}", "text": f"The weir at Oxmead stood at {n * 7} mm. " * 8}
    for n in range(3)
]
E5 = "intfloat/e5-base-v2"
NOTE = f'prefix `passage: ` for {E5}; embed.passage_prefix = "" turns it off\n'


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


@pytest.fixture
def mock():
    with serving(record=True, models=(E5,)) as served:
        yield served


def run(mock, *more, kind="openai", output="v.parquet"):
    model = ("--model", E5) if kind == "openai" else ()
    url = f"{mock.url}/v1" if kind == "openai" else mock.url
    return ("run", "embed", "-i", "in.jsonl", "--id", "id", "-o", output, "--size", "64",
            "--kind", kind, *model, "--url", url, *more)


def sent(mock):
    """Every text that was sent so far, in any order; empties the record."""
    bodies = [json.loads(call.body) for call in mock.bill.recorded if call.body]
    mock.bill.recorded.clear()
    return [text for body in bodies for text in body.get("input", body.get("inputs"))]


def output(path="v.parquet"):
    table = pq.read_table(path)
    tags = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    return table.to_pylist(), {k[9:]: v for k, v in tags.items() if k.endswith("_prefix")}


def test_a_model_that_wants_a_prefix_gets_it_and_the_output_holds_the_text_alone(rows, mock, textmill):
    planned = textmill("plan", *run(mock)[1:])
    assert planned.err == NOTE
    ran = textmill(*run(mock))
    assert (ran.code, ran.err.count(NOTE)) == (0, 1)
    found, tags = output()
    assert sorted(sent(mock)) == sorted({f"passage: {row['text']}" for row in found})
    texts = {row["id"]: row["text"] for row in ROWS}
    assert all(row["text"] == texts[row["id"]][row["start_char"]:row["end_char"]] for row in found)
    assert tags == {"query_prefix": "query: ", "passage_prefix": "passage: "}
    asked = textmill("search", "v.parquet", "How high?", "--kind", "openai", "--model", E5,
                     "--url", f"{mock.url}/v1", "--json")
    assert (asked.code, sent(mock)) == (0, ["query: How high?"])
    assert asked.err == "prefix `query: ` before the question, as the output says\n"


def test_another_prefix_means_other_vectors_of_all_rows_and_the_old_ones_are_kept(rows, mock, textmill):
    assert textmill(*run(mock)).code == 0
    first, vectors = sent(mock), [row["vector"] for row in output()[0]]
    other = ("--set", "embed.passage_prefix=", "--set", "embed.query_prefix=")
    assert textmill(*run(mock, *other)).code == 0
    found, tags = output()
    assert (len(sent(mock)) > 0, tags) == (True, {})
    assert not [row for row in found if row["vector"] in vectors]
    asked = textmill("search", "v.parquet", "How high?", "--kind", "openai", "--model", E5,
                     "--url", f"{mock.url}/v1")
    assert (asked.err, sent(mock)) == ("", ["How high?"])
    assert textmill(*run(mock)).code == 0
    assert (sent(mock), output()[1]["passage_prefix"]) == ([], "passage: ")
    assert first


def test_only_another_prefix_of_questions_costs_nothing_and_is_in_the_output(rows, mock, textmill):
    assert textmill(*run(mock)).code == 0
    sent(mock)
    assert textmill(*run(mock, "--set", "embed.query_prefix=ask: ")).code == 0
    assert (sent(mock), output()[1]["query_prefix"]) == ([], "ask: ")


def test_the_model_that_a_server_names_decides(rows, mock, textmill):
    ran = textmill(*run(mock, kind="tei"))
    assert (ran.code, NOTE in ran.err) == (0, True)
    assert {text[:9] for text in sent(mock)} == {"passage: "}
    shown = textmill("chunks", *run(mock, kind="tei")[1:], "--json")  # as the run cut
    assert shown.err.endswith("tokenizer o200k_base, prefix passage: \n")


def test_a_server_that_adds_a_prompt_gets_no_prefix(rows, mock, textmill):
    mock.settings = replace(mock.settings, default_prompt="passage: ")
    ran = textmill(*run(mock, kind="tei"))
    assert (ran.code, "prefix" in ran.err, output()[1]) == (0, False, {})
    assert {text[:9] for text in sent(mock)} <= {row["text"][:9] for row in output()[0]}


def test_no_prefix_beside_a_prompt_name(rows, mock, textmill):
    ran = textmill(*run(mock, "--set", "parameters.prompt_name=passage", kind="tei"))
    assert (ran.code, "prefix" in ran.err, output()[1]) == (0, False, {})
    assert not [text for text in sent(mock) if text.startswith("passage: ")]
    ask = ("search", "v.parquet", "How high?")
    (rows / "job.toml").write_text(
        'task = "feature-extraction"\nparameters = { prompt_name = "passage" }\n'
        f'[[endpoint]]\nkind = "tei"\nurl = "{mock.url}"\n')
    line = "the question is sent with parameters.prompt_name = passage; --set parameters.prompt_name=VALUE changes it\n"
    assert textmill(*ask, "--job", "job.toml").err == line
    assert textmill(*ask, "--job", "job.toml", "--set", "parameters.prompt_name=query").err == ""


def test_a_prefix_may_have_columns_and_the_section(rows, mock, textmill):
    text = "# Levels\n\n" + "The weir held. " * 20 + "\n\n# Locks\n\n" + "No lock flooded. " * 20
    (rows / "in.jsonl").write_text(json.dumps({"id": 1, "title": "Oxmead", "text": text}) + "\n")
    template = "title: {title}, {section} | text: "
    ran = textmill(*run(mock, "--method", "markdown", "--set", f"embed.passage_prefix={template}"))
    assert ran.code == 0
    assert {text.split("text: ")[0] for text in sent(mock)} == {
        "title: Oxmead, Levels | ", "title: Oxmead, Locks | "}
    assert output()[1]["passage_prefix"] == template
    ran = textmill(*run(mock, "--set", "embed.passage_prefix={titel}: ", output="w.parquet"))
    assert (ran.code, "titel" in ran.err) == (2, True)


def test_headers_are_sent_and_not_written(rows, mock, textmill):
    head = "| place | level |\n|---|---|\n"
    text = head + "".join(f"| lock {n} | {n} mm |\n" for n in range(80))
    (rows / "in.jsonl").write_text(json.dumps({"id": 1, "text": text}) + "\n")
    ran = textmill(*run(mock, "--overlap", "0", "--set", "chunk.repeat_header=true",
                        "--set", "embed.passage_prefix="))
    assert ran.code == 0
    texts = sent(mock)
    assert len(texts) > 5 and all(each.startswith(head) for each in texts)
    assert "".join(row["text"] for row in output()[0]) == text


@pytest.mark.parametrize(("setting", "line"), [
    ("embed.query_prefix={title}: ",
     "--set embed.query_prefix: must not have {title}: a question has no columns and no section"),
    ("embed.passage_prefix=a {chunk}", "--set embed.passage_prefix: must not have {chunk}: the chunk follows"),
    ("embed.passage_prefix=a\x1bb", "must not hold control characters"),
    ("embed.prefix=a", "unknown key `embed.prefix`"),
])
def test_prefixes_that_cannot_be_filled_in_are_refused(rows, mock, textmill, setting, line):
    ran = textmill("plan", *run(mock)[1:], "--set", setting)
    assert (ran.code, line in ran.err) == (2, True)


def test_a_text_task_has_no_prefix(rows, textmill):
    ran = textmill("plan", "ask", "-i", "in.jsonl", "--model", E5, "--set", "embed.passage_prefix=a")
    assert (ran.code, ran.err) == (
        2, "--set embed.passage_prefix: is not used by task chat-completion\n")
    assert textmill("plan", "ask", "-i", "in.jsonl", "--id", "id", "--model", E5).err == ""
