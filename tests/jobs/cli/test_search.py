"""`search` and `templates`, as a person meets them."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.mock import serving

ROWS = [
    {"name": "weir", "text": "The weir at Oxmead held all winter, and the lock did not flood."},
    {"name": "渡船", "text": "渡船俱乐部在汛期停止营业，码头上的乘客改乘公共汽车前往对岸。"},
    {"name": "bread", "text": "Knead the dough for ten minutes and let the loaf rise overnight."},
]


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


@pytest.fixture
def vectors(rows, textmill):
    ran = textmill("run", "embed", "-i", "in.jsonl", "--id", "name", "-o", "v.parquet")
    assert ran.code == 0
    return rows


def objects(out):
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize(("arguments", "line"), [
    (["search", "gone.parquet", "q"], "gone.parquet: no such output"),
    (["search", "empty", "q"], "empty: no Parquet file in this folder"),
    (["search", "gone.parquet", " \n"], "the question is blank"),
    (["search", "gone.parquet", "q", "-n", "0"], "--count = 0 must be at least 1"),
    (["search", "other.parquet", "q"], "other.parquet: not an embedding output of textmill"),
    (["templates", "embedd"], "no template `embedd`"),
])
def test_errors_are_one_line(rows, textmill, arguments, line):
    (rows / "empty").mkdir()
    pq.write_table(pa.table({"vector": [1]}), rows / "other.parquet")
    ran = textmill(*arguments)
    assert (ran.code, ran.out, ran.err.splitlines()[0]) == (2, "", line)
    assert "Traceback" not in ran.err


def test_search_finds_the_chunk_that_answers_the_question_best_first(vectors, textmill):
    ran = textmill("search", "v.parquet", "How does bread dough rise?", "--json")
    hits = objects(ran.out)
    assert hits[0]["name"] == "bread"
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert "vector" not in hits[0]
    ran = textmill("search", "v.parquet", "汛期渡船停运了吗？", "-n", "1", "--json")
    assert [hit["text"] for hit in objects(ran.out)] == [ROWS[1]["text"]]


def test_search_for_people_shows_score_id_span_and_text(vectors, textmill):
    ran = textmill("search", "v.parquet", "bread dough", "-n", "1")
    head, text = ran.out.splitlines()
    score, name, span = head.split()
    assert 0.2 < float(score) <= 1
    assert (name, span) == ("bread", "0..64")
    assert text == "       " + ROWS[2]["text"]


def test_rows_may_have_columns_of_any_name_and_type(rows, textmill):
    columns = {
        "body": [row["text"] for row in ROWS], "text": [1, 2, 3], "section": [4, 5, 6],
        "chunk": [7, 8, 9], "start_char": ["a", "b", "c"], "score": [9.0, 9.0, 9.0],
        "when": pa.array([1_700_000_000_123_456_789] * 3, pa.timestamp("ns")),
    }
    pq.write_table(pa.table(columns), rows / "in.parquet")
    run = ["run", "enrich", "-i", "in.parquet", "--text", "body", "-o", "m.parquet"]
    assert textmill(*run).code == 0
    ran = textmill("search", "m.parquet", "bread dough", "-n", "1")
    assert (ran.code, ran.out.splitlines()[1], ran.err) == (0, "       3", "")
    (hit,) = objects(textmill("search", "m.parquet", "bread dough", "-n", "1", "--json").out)
    assert (hit["chunk"], hit["when"]) == (9, "2023-11-14T22:13:20.123456789")
    assert 0.2 < hit["score"] <= 1


JOB = """
task = "feature-extraction"
[input]
path = "in.jsonl"
id = "name"
[[endpoint]]
name = "hub"
kind = "openai"
url = "{url}/v1"
model = "{model}"
[output]
path = "v.parquet"
"""


def test_a_question_is_embedded_by_the_model_that_made_the_output(rows, textmill):
    with serving() as mock:
        (rows / "job.toml").write_text(JOB.format(url=mock.url, model="m"))
        (rows / "other.toml").write_text(JOB.format(url=mock.url, model="n"))
        assert textmill("run", "job.toml").code == 0
        asked = mock.bill.totals().calls
        ran = textmill("search", "v.parquet", ROWS[0]["text"], "--job", "job.toml", "--json")
        first = objects(ran.out)[0]
        assert (first["name"], first["score"]) == ("weir", 1.0)
        assert mock.bill.totals().calls == asked + 1
        ran = textmill("search", "v.parquet", "q", "--job", "other.toml")
        assert (ran.code, ran.err) == (
            2, "other.toml: its model openai/n is not that of the output, openai/m\n",
        )
        ran = textmill("search", "v.parquet", "q")
        assert (ran.code, ran.err) == (
            2,
            "v.parquet: embedded with openai/m, which is not local\n"
            "hint: use --job JOB with the job that wrote it, or --kind, --model and --url\n",
        )
        mock.play("401")
        ran = textmill("search", "v.parquet", "q", "--job", "job.toml")
        assert (ran.code, ran.out) == (7, "")
        assert ran.err.startswith("endpoint `hub`: 401 ")


def test_of_several_endpoints_the_first_that_has_the_model_and_is_there_embeds_the_question(
    rows, textmill
):
    def endpoint(name, model, url, more=""):
        return (
            f'[[endpoint]]\nname = "{name}"\nkind = "openai"\nmodel = "{model}"\n'
            f'url = "{url}/v1"\n{more}\n'
        )

    with serving() as mock, serving() as other:
        (rows / "job.toml").write_text(JOB.format(url=mock.url, model="m"))
        assert textmill("run", "job.toml").code == 0
        away = endpoint("away", "m", "http://127.0.0.1:1")
        here = endpoint("here", "m", other.url)
        third = endpoint("third", "m", mock.url)
        head = JOB.split("[[endpoint]]")[0] + '[output]\npath = "w.parquet"\n'
        (rows / "both.toml").write_text(head + away + here + third)
        asked = mock.bill.totals().calls
        ran = textmill("search", "v.parquet", ROWS[0]["text"], "--job", "both.toml", "--json")
        assert (ran.code, objects(ran.out)[0]["name"]) == (0, "weir")
        assert (other.bill.totals().calls, mock.bill.totals().calls) == (1, asked)
        (rows / "gone.toml").write_text(head + away)
        ran = textmill("search", "v.parquet", "q", "--job", "gone.toml")
        assert ran.code == 5 and ran.err.startswith("endpoint `away`: ")
        others = head + endpoint("a", "n", other.url) + endpoint("b", "n", other.url, 'revision = "v2"')
        (rows / "others.toml").write_text(others.replace("feature-extraction", "chat-completion").replace(
            "[output]", '[parameters]\nprompt = "{chunk}"\n[output]'))
        ran = textmill("search", "v.parquet", "q", "--job", "others.toml")
        assert (ran.code, ran.err) == (
            2,
            "others.toml: none of its models openai/n, openai/n@v2 is that of the output, openai/m\n",
        )


def test_a_local_job_cannot_name_another_model(rows, textmill):
    local = JOB.replace("openai", "local").replace('url = "{url}/v1"\n', "")
    (rows / "job.toml").write_text(local.format(model="mine"))
    ran = textmill("run", "job.toml")
    assert ran.code == 2
    assert "endpoint.model is not used by kind local" in ran.err


def test_templates_are_listed_and_printed_as_they_are(textmill):
    listed = textmill("templates").out.splitlines()
    assert [line.split()[0] for line in listed] == ["ask", "embed", "enrich", "summarize"]
    hits_shown = objects(textmill("templates", "--json").out)
    assert [each["name"] for each in hits_shown] == ["ask", "embed", "enrich", "summarize"]
    assert all(each["purpose"] for each in hits_shown)
    ran = textmill("templates", "embed")
    assert (ran.code, ran.err) == (0, "")
    assert 'task = "feature-extraction"' in ran.out


@pytest.mark.parametrize(("flags", "line"), [
    (["--kind", "openai"], "--kind openai needs --model as well"),
    (["--kind", "tei", "--model", "m"], "--kind tei needs --url as well"),
])  # fmt: skip
def test_flags_that_are_not_enough_name_the_one_that_is_missing(vectors, textmill, flags, line):
    ran = textmill("search", "v.parquet", "the weir", *flags)
    assert ran.code == 2
    first, hint = ran.err.splitlines()
    assert first == line
    assert hint.startswith("hint: the output was embedded with local/")
