"""A kind and a task that textmill does not have, each added by one row: whole runs over the mock."""

import pytest
from msgspec.structs import replace

from jobs.mock import serving
from pipeline.endpoints.kinds import KINDS, Kind
from pipeline.records import Column
from pipeline.tasks import TASKS, Task
from tests.support.served import at, balanced, given, job, rows, written

ROW = Kind(
    module="tests.support.made_up_kind",
    tasks=("summarization", "paraphrase"),
    needs_model=False,
    default_parameters={"summarization": {"max_new_tokens": 4}},
    concurrency=3,
)
PARAPHRASE = Task(
    value="text",
    column=Column("paraphrase", "string"),
    aggregates=("rows", "text"),
    default_aggregate="rows",
    one_per_call=True,
)
GIST = Task(
    value="vector",
    column=Column("vector", "vector"),
    aggregates=("mean",),
    default_aggregate="mean",
    accepts_prompt=False,
    output_tokens=0,
)


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setitem(KINDS, "made-up", ROW)


def asks(mock, **keys):
    return at(mock, kind="made-up", url=mock.url, model=None, concurrency=None, **keys)


def test_a_kind_is_one_file_and_one_row(workdir, textmill, made_up):
    given(workdir, rows(5))
    with serving(record=True) as mock:
        path = job(workdir, asks(mock), task="summarization")
        told = balanced(textmill("run", path, "--json"))
        assert (told["ok"], told["documents"]) == (5, 5)
        assert {call.path for call in mock.bill.recorded} == {"/generate"}
        assert mock.bill.totals().calls == 5
        assert all(b'"max_new_tokens": 4' in call.body for call in mock.bill.recorded)
        assert [row["id"] for row in written(workdir)] == [0, 1, 2, 3, 4]
        assert all(row["summary"] for row in written(workdir))
        balanced(textmill("run", path, "--json"))
        assert mock.bill.totals().calls == 5


def test_the_checks_of_a_job_read_the_facts_of_a_new_kind(workdir, textmill, made_up):
    given(workdir, rows(1))
    with serving() as mock:
        path = job(workdir, asks(mock))
        ran = textmill("run", path)
    assert ran.code == 2
    assert 'endpoint.kind = "made-up" does not serve task = "feature-extraction"' in ran.err
    ran = textmill("run", path, "--kind", "made-upp")
    assert ("must be one of local, hf, tei, openai, made-up, "
            'got "made-upp" (did you mean `made-up`?)') in ran.err  # fmt: skip


def test_a_text_task_is_one_row_and_its_name_in_a_kind(workdir, textmill, made_up, monkeypatch):
    monkeypatch.setitem(TASKS, "paraphrase", PARAPHRASE)
    given(workdir, rows(4))
    with serving() as mock:
        told = balanced(textmill("run", job(workdir, asks(mock), task="paraphrase"), "--json"))
        ran = textmill("run", job(workdir, asks(mock, batch_size=2), task="paraphrase"))
    assert told["ok"] == 4
    assert all(row["paraphrase"] and row["chunk"] == 0 for row in written(workdir))
    assert (ran.code, "endpoint.batch_size must be 1 for paraphrase, got 2" in ran.err) == (2, True)


def test_a_task_of_vectors_needs_no_change_of_a_protocol(workdir, textmill, monkeypatch):
    monkeypatch.setitem(TASKS, "gist", GIST)
    monkeypatch.setitem(KINDS, "openai", replace(KINDS["openai"], tasks=("gist",)))
    given(workdir, rows(4))
    with serving() as mock:
        path = job(workdir, at(mock), task="gist", output="out.parquet")
        path.write_text(path.read_text().replace("[parameters]\nprompt", "# prompt"))
        told = balanced(textmill("run", path, "--json"))
        found = textmill("search", "out.parquet", written(workdir)[2]["text"], "-n", "1", "--job", path, "--json")
    assert told["ok"] == 4
    assert {len(row["vector"]) for row in written(workdir)} == {384}
    assert (found.code, found.last["id"]) == (0, 2), found.err
