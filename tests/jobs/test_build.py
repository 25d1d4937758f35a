"""From a job file to wired stages."""

import os
import sys

import pytest

from jobs.build import build, tokenizer_name
from jobs.home import home
from jobs.spec.load import load
from pipeline.cache.keys import model_name, request_key
from pipeline.errors import UsageError
from pipeline.records import Budget, Deadline, Guard, Price, Stop


def job(template="embed", **flags):
    settings = {"input.path": "in.jsonl", "output.path": "out.parquet"}
    return load(template, flags=settings | {k.replace("__", "."): v for k, v in flags.items()})


def remote(kind, **flags):
    models = {"tei": None, "hf": "BAAI/bge-small-zh-v1.5", "openai": "m"}
    urls = {"tei": "http://127.0.0.1:8080", "hf": None, "openai": None}
    return job(endpoint__kind=kind, endpoint__model=models[kind], endpoint__url=urls[kind], **flags)


@pytest.mark.parametrize(("made", "identity", "name"), [
    (job("embed"), ("local", "wordllama-256"), "local/wordllama-256"),
    (job("summarize"), ("local", "extractive-wordllama-256"), "local/extractive-wordllama-256"),
    (remote("openai"), ("openai", "", "m", "main"), "openai/m"),
    (remote("hf"), ("hf", "hf-inference", "BAAI/bge-small-zh-v1.5", "main"),
     "hf/hf-inference/BAAI/bge-small-zh-v1.5"),
    (remote("tei"), ("tei", "", "http://127.0.0.1:8080"), "tei"),
    (remote("openai", endpoint__revision="v2"), ("openai", "", "m", "v2"), "openai/m@v2"),
    (remote("openai", endpoint__identity="b"), ("openai", "", "m", "main", "b"), "openai/m#b"),
    (remote("tei", endpoint__identity="b"), ("tei", "", "", "main", "b"), "tei#b"),
])
def test_the_identity_of_the_model_and_its_name(made, identity, name):
    pipeline = build(made, with_secret=False)
    assert pipeline.endpoints[0].identity == identity
    assert model_name(pipeline.endpoints[0]) == name


@pytest.mark.parametrize(("made", "sent"), [
    (remote("tei"), {"truncate": False}),
    (remote("hf"), {"truncate": False}),
    (remote("openai"), {}),
    (job("embed"), {}),
    (remote("tei", parameters__truncate=True, parameters__normalize=False),
     {"truncate": True, "normalize": False}),
    (remote("openai", parameters__dimensions=64), {"dimensions": 64}),
    (job("ask", endpoint__model="m"), {"temperature": 0}),
])
def test_parameters_are_the_jobs_and_no_input_is_cut_silently(made, sent):
    assert build(made, with_secret=False).endpoints[0].parameters == sent


def test_what_changes_answers_changes_the_key_and_nothing_else_does():
    def key(made):
        return request_key(build(made, with_secret=False).endpoints[0])("the weir")

    base = key(remote("openai"))
    same = [{"endpoint__name": "b"}, {"endpoint__batch_size": 1}, {"endpoint__concurrency": 9},
            {"endpoint__price.input": 1.0}, {"chunk__size": 64}, {"aggregate__method": "mean"}]
    other = [{"endpoint__revision": "v2"}, {"parameters__dimensions": 64}]
    assert [key(remote("openai", **flags)) for flags in same] == [base] * len(same)
    assert key(job(endpoint__kind="openai", endpoint__model="m",
                   endpoint__url="https://other.example/v1")) == base
    changed = [key(remote("openai", **flags)) for flags in other]
    assert len({base, *changed, key(remote("hf")), key(remote("tei"))}) == 5


def test_the_endpoint_is_what_the_job_says():
    endpoint = build(remote("openai", **{
        "endpoint__name": "hub", "endpoint__concurrency": 3, "endpoint__batch_size": 5,
        "endpoint__batch_tokens": 700, "endpoint__price.output": 2.0,
        "endpoint__deadline.idle_seconds": 4.0,
    }), with_secret=False).endpoints[0]
    assert (endpoint.name, endpoint.kind, endpoint.task, endpoint.model, endpoint.url) == (
        "hub", "openai", "feature-extraction", "m", "https://api.openai.com/v1",
    )
    assert (endpoint.concurrency, endpoint.batch_size, endpoint.batch_tokens) == (3, 5, 700)
    assert endpoint.price == Price(output=2.0)
    assert endpoint.deadline == Deadline(idle_seconds=4.0)


def test_a_secret_is_read_only_where_it_is_needed(monkeypatch):
    made = remote("openai", **{"endpoint__api_key.env": "TEXTMILL_TEST_KEY"})
    monkeypatch.delenv("TEXTMILL_TEST_KEY", raising=False)
    assert build(made, with_secret=False).endpoints[0].secret is None
    with pytest.raises(UsageError, match="`TEXTMILL_TEST_KEY` is not set"):
        build(made)
    monkeypatch.setenv("TEXTMILL_TEST_KEY", "canary-7f3a9c51d2")
    pipeline = build(made)
    assert pipeline.endpoints[0].secret.reveal() == "canary-7f3a9c51d2"
    assert "canary" not in repr(pipeline)


def test_metadata_names_task_tokenizer_and_job():
    pipeline = build(job())
    assert pipeline.output.metadata.items() >= {
        "textmill.tokenizer": "wordllama", "textmill.job": pipeline.fingerprint,
    }.items()
    assert len(pipeline.fingerprint) == 32


def test_the_fingerprint_is_of_what_affects_answers():
    base = build(job()).fingerprint
    assert build(job(output__path="other.parquet", endpoint__batch_size=3)).fingerprint == base
    changed = {build(job(**flags)).fingerprint for flags in (
        {"chunk__size": 128}, {"chunk__method": "fixed"}, {"aggregate__method": "mean"},
        {"input__text": "body"},
    )}
    assert len(changed | {base}) == 5


def test_the_tokenizer_is_the_models_own_where_it_is_known():
    assert tokenizer_name(job()) == "wordllama"
    assert tokenizer_name(remote("openai")) == "o200k_base"
    assert tokenizer_name(job(chunk__tokenizer="cl100k_base")) == "cl100k_base"


def test_columns_kept_by_default_are_none_per_chunk_and_all_per_document():
    assert build(job()).input.keep == ()
    assert build(job("enrich")).input.keep is None
    assert build(job("enrich", input__keep=("a",))).input.keep == ("a",)
    assert build(job(input__keep=("a",))).input.keep == ("a",)


@pytest.mark.parametrize(("made", "column", "per_chunk"), [
    (job(), ("vector", "vector"), True),
    (job("enrich"), ("vector", "vector"), False),
    (job("summarize"), ("summary", "string"), False),
    (job("ask", endpoint__model="m"), ("answer", "string"), False),
])
def test_the_aggregator_has_the_tasks_column(made, column, per_chunk):
    aggregator = build(made, with_secret=False).aggregator
    assert aggregator.columns == (column,)
    assert aggregator.per_chunk is per_chunk


def test_a_prompt_names_the_columns_to_read_and_is_counted_as_a_whole():
    prompt = "{title}: {chunk}"
    made = build(job("ask", endpoint__model="m", parameters__prompt=prompt), with_secret=False)
    assert made.input.fields == ("title",)
    assert made.prompt.count_tokens("one two three") == 3
    assert "prompt" not in made.endpoints[0].parameters
    assert (made.prompt.template, build(job()).prompt.template) == (prompt, None)


def test_chunks_are_cut_as_the_job_says():
    made = build(job(chunk__method="fixed", chunk__size=8, chunk__overlap=2,
                     chunk__tokenizer="o200k_base"))
    text = "one two three four five six seven eight nine ten"
    assert [(text[c.start_char:c.end_char], c.tokens) for c in made.chunking.cut(text, 8)] == [
        ("one two three four five six seven eight", 8), (" seven eight nine ten", 4),
    ]


def test_guards_and_bounds_are_handed_on():
    made = build(job(
        guard__max_failed=0.5, guard__max_chunks=7, guard__max_row_bytes=99,
        run__max_outage_seconds=3.0, run__grace_seconds=2.0, budget__max_cost_usd=1.5,
        budget__stop_at_cap=True,
    ))
    assert made.guard == Guard(max_failed=0.5, max_removed=0.25, drift_texts=3, max_chunks=7)
    assert made.input.max_row_bytes == 99
    assert made.stop == Stop(max_outage_seconds=3.0, grace_seconds=2.0, until=None)
    assert made.budget == Budget(max_cost_usd=1.5, stop_at_cap=True)


@pytest.mark.skipif(sys.platform == "darwin", reason="has a place of its own")
def test_home_is_the_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TEXTMILL_HOME", "~/mill")
    assert home() == tmp_path / "mill"
    monkeypatch.delenv("TEXTMILL_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert os.fspath(home()) == "/data/textmill"
    monkeypatch.setenv("XDG_DATA_HOME", "")
    assert home() == tmp_path / ".local/share/textmill"
