"""A server without a model name is known by what its /info says, also when it is away."""

import json

import pytest

from jobs.mock import Fault, serving
from pipeline.endpoints.server_info import listed_limit


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": n, "text": f"Row {n}."}) + "\n" for n in range(9)))
    return path


def arguments(command, rows, url, tmp_path, *more):
    return [
        command,
        "embed",
        "-i",
        rows,
        "--id",
        "id",
        "-o",
        tmp_path / "out.parquet",
        "--kind",
        "tei",
        "--url",
        url,
        "--json",
        *more,
    ]


@pytest.mark.parametrize(("revision", "texts"), [("5c38ec7c", 0), (None, 3)])
def test_the_same_model_behind_another_url_is_not_paid_twice(
    textmill, rows, tmp_path, revision, texts
):
    """A server that names the revision needs no comparison; the name alone proves nothing."""
    with serving(revision=revision) as one, serving(revision=revision) as other:
        assert textmill(*arguments("run", rows, one.url, tmp_path)).code == 0
        assert textmill(*arguments("run", rows, other.url, tmp_path)).code == 0
        assert one.bill.totals().inputs == 9
        assert other.bill.totals().inputs == texts
        assert textmill(*arguments("run", rows, other.url, tmp_path)).code == 0
        assert other.bill.totals().inputs == texts  # compared once


def test_a_plan_needs_no_network_and_a_finished_job_no_server(textmill, rows, tmp_path):
    with serving() as mock:
        assert json.loads(textmill(*arguments("plan", rows, mock.url, tmp_path)).out)["cached"] == 0
        assert mock.bill.totals().lookups == 0
        assert textmill(*arguments("run", rows, mock.url, tmp_path)).code == 0
        url = mock.url
    assert json.loads(textmill(*arguments("plan", rows, url, tmp_path)).out)["cached"] == 9
    ran = textmill(*arguments("run", rows, url, tmp_path))
    assert (ran.code, ran.last["calls"]) == (0, 0)


def test_a_batch_is_cut_to_what_the_server_takes(textmill, rows, tmp_path):
    with serving(batch_limit=4) as mock:
        ran = textmill(*arguments("run", rows, mock.url, tmp_path, "--batch-size", "32"))
        assert (ran.code, ran.last["calls"]) == (0, 3)


def test_a_chunk_larger_than_the_model_reads_is_refused_with_both_figures(textmill, rows, tmp_path):
    with serving() as mock:
        ran = textmill(*arguments("run", rows, mock.url, tmp_path, "--size", "4000"))
        assert ran.code == 2
        assert "a chunk may have 6,000 tokens, more than" in ran.err
        assert mock.bill.totals().calls == 0


def test_a_server_that_comes_back_with_another_model_is_not_believed(textmill, rows, tmp_path):
    with serving() as mock:
        assert textmill(*arguments("run", rows, mock.url, tmp_path)).code == 0
        port = int(mock.url.rsplit(":", 1)[1])
        url = mock.url
    rows.write_text(rows.read_text() + json.dumps({"id": 99, "text": "A new row."}) + "\n")
    with serving(["reset path=/info x1"], port=port, models={"tei": "another/model"}) as other:
        ran = textmill(*arguments("run", rows, url, tmp_path))
        assert ran.code in (0, 14), ran.err
        if ran.code == 0:  # it was asked again before the first call, under its own name
            assert other.bill.totals().inputs == 10


def test_a_server_that_was_never_seen_is_waited_for(textmill, rows, tmp_path):
    with serving(["503 path=/info x2"]) as mock:
        assert textmill(*arguments("run", rows, mock.url, tmp_path)).code == 0
        assert textmill(*arguments("run", rows, mock.url, tmp_path)).last["unchanged"] == 9
        assert mock.bill.totals().repeated_inputs == 0
        gone = mock.url.replace("127.0.0.1", "127.0.0.2")
    ran = textmill(*arguments("run", rows, gone, tmp_path, "--max-start", "0.3"))
    assert ran.code == 5
    assert "did not say which model it serves" in ran.err


def test_a_server_that_runs_another_model_than_the_jobs_is_refused(textmill, rows, tmp_path):
    with serving() as mock:
        ran = textmill(*arguments("run", rows, mock.url, tmp_path, "--model", "some/other"))
        assert ran.code == 2
        assert "not endpoint.model = `some/other`" in ran.err


def changed(rows, number):
    rows.write_text(rows.read_text() + json.dumps({"id": number, "text": f"Row {number}."}) + "\n")


def test_a_server_whose_model_the_job_names_is_asked_at_first_and_then_before_its_first_call(
    textmill, rows, tmp_path
):
    with serving(models=["some/model"], batch_limit=4) as mock:
        named = arguments("run", rows, mock.url, tmp_path, "--model", "some/model")
        told = textmill(*named)
        assert (told.code, told.last["calls"]) == (0, 3)  # its limit is known before
        assert mock.bill.totals().lookups == 1
        assert textmill(*named).last["unchanged"] == 9
        assert mock.bill.totals().lookups == 1
        changed(rows, 99)
        assert textmill(*named).code == 0
        assert mock.bill.totals().lookups == 2
        port = int(mock.url.rsplit(":", 1)[1])
    changed(rows, 100)
    with serving(port=port, models=["another/model"]) as other:
        ran = textmill(*named)
        assert ran.code == 2
        assert "its server runs `another/model`, not endpoint.model = `some/model`" in ran.err
        assert other.bill.totals().inputs == 0


def test_a_server_that_names_its_model_itself_is_asked_by_every_run(textmill, rows, tmp_path):
    with serving(models=["some/model"]) as mock:
        for lookups in (1, 2):
            assert textmill(*arguments("run", rows, mock.url, tmp_path)).code == 0
            assert mock.bill.totals().lookups == lookups
        port = int(mock.url.rsplit(":", 1)[1])
    with serving(port=port, models=["another/model"]) as other:
        ran = textmill(*arguments("run", rows, other.url, tmp_path))
        assert (ran.code, ran.last["unchanged"]) == (0, 9)
        assert other.bill.totals().inputs == 9  # all rows, by the new model


def test_what_is_remembered_of_a_server_refuses_no_job_that_it_serves_by_now(textmill, rows, tmp_path):
    with serving(models=["some/model"]) as mock:
        assert textmill(*arguments("run", rows, mock.url, tmp_path)).code == 0
        port = int(mock.url.rsplit(":", 1)[1])
    with serving(port=port, models=["another/model"]) as other:
        named = arguments("run", rows, other.url, tmp_path, "--model", "another/model")
        assert textmill(*named).code == 0
        assert other.bill.totals().inputs == 9


def models(*entries):
    return Fault("status", status=200, body={"object": "list", "data": list(entries)}, path="/v1/models")


def as_openai(rows, mock, tmp_path, *more):
    return [
        "run", "embed", "-i", rows, "--id", "id", "-o", tmp_path / "out.parquet", "--kind", "openai",
        "--url", f"{mock.url}/v1", "--model", "m", "--json", *more,
    ]  # fmt: skip


def test_the_limit_in_a_list_of_models_refuses_a_larger_chunk_before_it_is_paid(textmill, rows, tmp_path):
    with serving([models({"id": "m", "max_model_len": 512})]) as mock:
        ran = textmill(*as_openai(rows, mock, tmp_path, "--size", "4000"))
        assert (ran.code, mock.bill.totals().calls) == (2, 0)
        assert "a chunk may have 6,000 tokens, more than `m` reads (512)" in ran.err
        assert textmill(*as_openai(rows, mock, tmp_path, "--size", "300")).code == 0


@pytest.mark.parametrize("fault", ["404 path=/v1/models", "501 path=/v1/models", "401 path=/v1/models",
                                   "reset path=/v1/models", "html path=/v1/models"])  # fmt: skip
def test_a_server_without_a_list_of_models_names_no_limit(textmill, rows, tmp_path, fault):
    with serving([fault]) as mock:
        assert textmill(*as_openai(rows, mock, tmp_path)).code == 0


@pytest.mark.parametrize(("entries", "limit"), [
    ([{"id": "m", "max_model_len": 4096}, {"id": "n", "max_model_len": 9}], 4096),
    ([{"id": "other", "root": "m", "context_length": 512}, {"id": "n"}], 512),
    ([{"id": "path/of.gguf", "meta": {"n_ctx_train": 2048, "n_embd": 384}}], 2048),
    ([{"id": "m", "context_window": 131072, "max_input_tokens": 8192}], 8192),
    ([{"id": "a", "max_model_len": 7}, {"id": "b", "max_model_len": 7}], None),
    ([{"id": "m", "max_model_len": None}], None),
    ([{"id": "m", "max_model_len": 0}], None),
    ([{"id": "m", "max_model_len": True}], None),
    (["m"], None),
])  # fmt: skip
def test_the_limit_of_a_model_in_a_list(entries, limit):
    assert listed_limit(json.dumps({"data": entries}).encode(), "m") == limit
    assert listed_limit(b"{", "m") is None


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_whose_info_is_definitely_none_is_no_outage(textmill, rows, tmp_path, status):
    with serving([f"{status} path=/info"]) as mock:
        ran = textmill(*arguments("run", rows, mock.url, tmp_path, "--max-outage", "0.3"))
        assert (ran.code, ran.last["ok"]) == (0, 9)
