"""Answers of another server under the same model name: compared, or named, and never taken silently."""

import json
import os
import signal
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from jobs.mock import serving
from pipeline.text import canonical_url
from tests.support.served import (
    KEY,
    Gate,
    at,
    balanced,
    eventually,
    failures,
    given,
    job,
    rows,
    written,
)

SAME = {"name": "emb", "model": "emb"}


def served(**knobs):
    return serving(key=KEY, models=["emb", "chat"], **knobs)


def embed(workdir, mock, *, output="out.parquet", **keys):
    return job(workdir, at(mock, **SAME | keys), output=output)


def inputs(mock):
    return mock.bill.totals().inputs


@pytest.fixture
def folder(workdir, own_home):
    """The place of jobs that run as processes of their own."""
    return SimpleNamespace(turns=0, folder=workdir, home=own_home, key=KEY, printed={})


def messages_of(ran):
    return [line for line in ran.err.splitlines() if "serve for" in line]


@pytest.mark.parametrize(("output", "texts"), [("out.parquet", 2), ("again.parquet", 3)])
def test_equal_vectors_of_another_url_cost_the_texts_that_are_compared_once(
    workdir, textmill, output, texts
):
    """Also where every row is reused, and where every answer is cached."""
    given(workdir, rows(30))
    with served() as one, served() as two:
        assert textmill("run", embed(workdir, one)).code == 0
        before = (workdir / "out.parquet").read_bytes()
        last = balanced(textmill("run", embed(workdir, two, output=output), "--json"))
        assert (workdir / output).read_bytes() == before
        assert (inputs(one), inputs(two), last["calls"]) == (30, texts, 1)
        given(workdir, rows(40))
        for mock, paid in ((two, 10 + texts), (one, 30), (two, 10 + texts)):
            assert textmill("run", embed(workdir, mock, output="more.parquet")).code == 0
            assert inputs(mock) == paid


@pytest.mark.parametrize(("output", "texts"), [("out.parquet", 2), ("again.parquet", 3)])
def test_other_vectors_of_another_url_end_the_run_before_one_is_used(
    workdir, textmill, output, texts
):
    given(workdir, rows(30))
    with served() as one, served(weights="other") as two:
        assert textmill("run", embed(workdir, one)).code == 0
        before = (workdir / "out.parquet").read_bytes()
        path = embed(workdir, two, output=output)
        for more in (0, 10):  # also in a run with new rows
            given(workdir, rows(30 + more))
            ran = textmill("run", path)
            assert ran.code == 14
            (line, hint) = ran.err.splitlines()[-2:]
            assert f"{one.url}/v1" in line and f"{two.url}/v1" in line and "`emb`" in line
            assert "endpoint.identity" in hint
        assert (workdir / "out.parquet").read_bytes() == before
        assert (workdir / "again.parquet").exists() is False
        assert inputs(one) == 30
        assert inputs(two) == 2 * 2 * texts  # each twice, in each run


def test_answers_to_other_texts_are_compared_when_they_come_together(workdir, textmill):
    """Two jobs without a text in common fill one cache; the third one would mix their vectors."""
    texts = rows(20)
    with served() as one, served(weights="other") as two:
        given(workdir, texts[:10])
        assert textmill("run", embed(workdir, one, output="a.parquet")).code == 0
        given(workdir, texts[10:])
        assert textmill("run", embed(workdir, two, output="b.parquet")).code == 0
        given(workdir, texts)
        for mock in (one, two):
            ran = textmill("run", embed(workdir, mock, output="c.parquet"))
            assert ran.code == 14
            assert f"{one.url}/v1" in ran.err and f"{two.url}/v1" in ran.err
        assert not (workdir / "c.parquet").exists()


def test_texts_are_not_compared_and_one_line_names_both_servers(workdir, textmill):
    given(workdir, rows(30))
    with served() as one, served() as two:
        chat = {"name": "chat", "model": "default"}
        path = job(workdir, at(one, **chat), task="chat-completion")
        assert textmill("run", path).code == 0
        path = job(workdir, at(two, **chat), task="chat-completion", output="b.jsonl")
        ran = textmill("run", path)
        assert ran.code == 0
        (line,) = messages_of(ran)
        assert line == (
            f"endpoint `chat`: answers of {one.url}/v1 serve for {two.url}/v1, which gives its model "
            'the same name; endpoint.identity = "NAME" keeps them apart'
        )
        assert inputs(two) == 0
        ran = textmill("run", path, "--json")  # every row is reused, and it is still so
        shared = [{"event": "answers_shared", "endpoint": "chat", "url": f"{two.url}/v1",
                   "answered_by": f"{one.url}/v1"}]  # fmt: skip
        assert ran.last["answers_shared"] == shared
        events = [json.loads(each) for each in ran.out.splitlines()]
        assert [each for each in events if each.get("event") == "answers_shared"] == shared
        ran = textmill("run", job(workdir, at(two, **chat, identity="two"), task="chat-completion"))
        assert (ran.code, messages_of(ran), inputs(two)) == (0, [], 30)


def test_drift_texts_0_compares_nothing_and_names_both_servers(workdir, textmill):
    given(workdir, rows(9))
    with served() as one, served(weights="other") as two:
        assert textmill("run", embed(workdir, one)).code == 0
        ran = textmill("run", embed(workdir, two), "--set", "guard.drift_texts=0")
        assert ran.code == 0
        assert len(messages_of(ran)) == 1
        assert inputs(two) == 0


def test_a_declared_identity_separates_and_joins(workdir, textmill):
    given(workdir, rows(9))
    with served() as one, served(weights="other") as two, served(weights="other") as three:
        assert textmill("run", embed(workdir, one)).code == 0
        assert textmill("run", embed(workdir, two, identity="v2", output="b.parquet")).code == 0
        assert (inputs(one), inputs(two)) == (9, 9)
        ran = textmill("run", embed(workdir, three, identity="v2", output="c.parquet"))
        assert (ran.code, inputs(three), messages_of(ran)) == (0, 0, [])
        assert (workdir / "b.parquet").read_bytes() == (workdir / "c.parquet").read_bytes()
        # `tei` needs no server to say what the job declares.
        ran = textmill("run", job(workdir, {"name": "t", "kind": "tei", "url": "http://127.0.0.1:9",
                                            "identity": "v2"}), "--max-start", "0.1")  # fmt: skip
        assert ran.code == 5 and "did not say which model" not in ran.err


def test_a_replica_is_believed(workdir, textmill):
    given(workdir, rows(9))
    with served() as one, served() as two:
        assert textmill("run", embed(workdir, one)).code == 0
        path = job(workdir, at(two, "new", model="emb"), at(one, "old", model="emb", replica_of="new"),
                   output="b.parquet")  # fmt: skip
        ran = textmill("run", path)
        assert (ran.code, inputs(one), inputs(two), messages_of(ran)) == (0, 9, 0, [])


def test_two_endpoints_of_a_job_with_one_model_name_are_compared(workdir, textmill):
    given(workdir, rows(64))
    small = {"model": "emb", "batch_size": 2}
    with served() as one, served() as two, served(weights="other") as three:
        Gate(one, after=0).open()
        path = job(workdir, at(one, "one", **small), at(two, "two", **small), route="weighted")
        last = balanced(textmill("run", path, "--json"))
        assert last["endpoints"][1]["requests"] > 0
        assert inputs(one) + inputs(two) <= 64 + 3
        path = job(workdir, at(one, "one", **small), at(three, "three", **small), route="weighted",
                   output="c.parquet")  # fmt: skip
        given(workdir, rows(128))
        ran = textmill("run", path)
        assert ran.code == 14
        assert f"{three.url}/v1" in ran.err and "/v1" in ran.err
        assert not (workdir / "c.parquet").exists()


def test_a_comparison_sends_no_text_to_an_endpoint_that_must_not_read_it(workdir, textmill):
    given(workdir, rows(20, site=lambda n: "in" if n < 10 else "out"))
    with served() as inside, served() as first, served(record=True) as out:
        rule = [{"column": "site", "equals": "in", "endpoints": ["inside"]}]
        ends = at(first, "out", model="emb"), at(inside, "inside", model="emb")
        assert textmill("run", job(workdir, *ends, rules=rule)).code == 0
        ends = at(out, "out", model="emb"), at(inside, "inside", model="emb")
        ran = textmill("run", job(workdir, *ends, rules=rule, output="b.parquet"))
        assert ran.code == 0, ran.err
        assert inputs(out) > 0 and not any(out.bill.has_received(f"Row <{n}>") for n in range(10))


def test_an_answer_to_an_equal_text_of_another_route_is_compared_too(workdir, textmill):
    given(workdir, [{"id": n, "text": "One text.", "site": "in" if n % 2 else "out"} for n in range(8)])
    rules = [{"column": "site", "equals": "in", "endpoints": ["inside"]},
             {"column": "site", "equals": "out", "endpoints": ["outside"]}]  # fmt: skip
    with served() as out, served(weights="other") as inside:
        path = job(workdir, at(out, "outside", model="emb"), at(inside, "inside", model="emb"),
                   rules=rules)  # fmt: skip
        ran = textmill("run", path)
        assert ran.code == 14
        assert f"{out.url}/v1" in ran.err and f"{inside.url}/v1" in ran.err


def test_a_server_that_is_away_is_an_outage_and_nothing_is_taken(workdir, textmill):
    given(workdir, rows(9))
    with served() as one, served() as two:
        assert textmill("run", embed(workdir, one)).code == 0
        two.play("503")
        path = embed(workdir, two, output="b.parquet")
        ran = textmill("run", path, "--max-outage", "0.2")
        assert ran.code == 5
        assert not (workdir / "b.parquet").exists()
        two.play()
        assert textmill("run", path).code == 0
        assert inputs(two) == 3


def test_a_comparison_that_passed_is_not_repeated_after_a_kill(workdir, textmill, folder, processes):
    given(workdir, rows(9))
    with served() as one, served() as two:
        assert textmill("run", embed(workdir, one)).code == 0
        given(workdir, rows(18))
        path = embed(workdir, two, output="b.parquet", batch_size=9, concurrency=1)
        gate = Gate(two, after=1)
        pid = processes.start(folder, "run", str(path))
        eventually(lambda: inputs(two) == 3 + 9)
        os.kill(pid, signal.SIGKILL)
        processes.wait(folder, pid)
        gate.open()
        assert textmill("run", path).code == 0
        assert inputs(two) == 3 + 9 + 9


def test_two_runs_at_once_publish_the_answers_that_were_stored_first(
    workdir, textmill, folder, processes
):
    """The server gives another vector each time; both runs have sent all before one is answered."""
    given(workdir, rows(16))
    with served() as mock:
        gate = Gate(mock)
        outputs = ["a.parquet", "b.parquet"]
        paths = []
        for output in outputs:
            path = embed(workdir, mock, output=output, batch_size=4, concurrency=4)
            paths.append(path.rename(workdir / f"{output}.toml"))
        one = processes.start(folder, "run", str(paths[0]))
        eventually(lambda: inputs(mock) == 16)
        mock.settings = replace(mock.settings, weights="later")
        two = processes.start(folder, "run", str(paths[1]))
        eventually(lambda: inputs(mock) == 32)
        gate.open()
        assert [processes.wait(folder, pid).code for pid in (one, two)] == [0, 0]
        a, b = [(workdir / output).read_bytes() for output in outputs]
        assert a == b
        assert textmill("run", embed(workdir, mock, output="held.parquet")).code == 0
        assert (workdir / "held.parquet").read_bytes() == a
        assert inputs(mock) == 32


def test_two_runs_at_two_urls_at_once_do_not_mix_their_vectors(workdir, folder, processes):
    """The second one to store finds the other server's answers under its keys: it compares."""
    given(workdir, rows(8))
    with served() as one, served(weights="other") as two:
        first, second = Gate(one), Gate(two)
        paths = [
            embed(workdir, mock, output=f"{n}.parquet", batch_size=8).rename(workdir / f"{n}.toml")
            for n, mock in enumerate((one, two))
        ]
        a, b = [processes.start(folder, "run", str(path)) for path in paths]
        eventually(lambda: (inputs(one), inputs(two)) == (8, 8))
        first.open()
        assert processes.wait(folder, a).code == 0
        second.open()
        assert processes.wait(folder, b).code == 14
        assert not (workdir / "1.parquet").exists()


def test_plan_names_what_would_be_compared_and_sends_nothing(workdir, textmill):
    given(workdir, rows(9))
    with served() as one, served() as two:
        assert textmill("run", embed(workdir, one)).code == 0
        path = embed(workdir, two, output="b.parquet")
        ran = textmill("plan", path)
        assert (
            f"endpoint `emb`: 3 texts sent to {two.url}/v1 first, to compare its model with that of "
            f"the kept answers of {one.url}/v1"
        ) in ran.out.splitlines()
        assert textmill("plan", path, "--json").last["compared"] == [
            {"endpoint": "emb", "url": f"{two.url}/v1", "answered_by": f"{one.url}/v1", "texts": 3}
        ]
        assert messages_of(ran) == []
        ran = textmill("plan", path, "--set", "guard.drift_texts=0")
        assert "serve for" in ran.out
        assert inputs(two) == 0
        assert textmill("plan", embed(workdir, one), "--json").last["compared"] == []


def test_explain_names_the_server_that_gave_an_answer(workdir, textmill):
    given(workdir, rows(3))
    with served() as one, served() as two:
        assert textmill("run", embed(workdir, one)).code == 0
        ran = textmill("explain", embed(workdir, two), "--id", 1)
        assert f"cached: answered by {one.url}/v1, not by this endpoint" in ran.out
        ran = textmill("explain", embed(workdir, one), "--id", 1, "--json")
        (chunk,) = ran.last["chunks"]
        assert (chunk["answered_by"], chunk["why"]) == (f"{one.url}/v1", None)


def test_origins_travel_and_are_shown(workdir, textmill, monkeypatch):
    given(workdir, rows(9))
    with served() as one, served() as two:
        assert textmill("run", embed(workdir, one)).code == 0
        assert textmill("run", embed(workdir, two, output="b.parquet")).code == 0
        assert textmill("cache", "export", workdir / "file").code == 0
        monkeypatch.setenv("TEXTMILL_HOME", str(workdir / "elsewhere"))
        assert textmill("cache", "import", workdir / "file").code == 0
        (settings,) = textmill("cache", "stats", "--json").last["asked"]
        assert settings["origins"] == [f"{one.url}/v1", f"{two.url}/v1"]
        assert f"    answered by {two.url}/v1" in textmill("cache", "stats").out.splitlines()
        assert textmill("cache", "verify").code == 0
        assert textmill("run", embed(workdir, two, output="c.parquet")).code == 0
        assert inputs(two) == 3
        assert failures(workdir) == [] and len(written(workdir)) == 9


@pytest.mark.parametrize(("url", "canonical"), [
    ("https://Api.Example.com/v1/", "https://api.example.com/v1"),
    ("https://api.example.com:443/v1", "https://api.example.com/v1"),
    ("http://127.0.0.1:80", "http://127.0.0.1"),
    ("http://127.0.0.1:443/", "http://127.0.0.1:443"),
    ("https://user:secret@api.example.com./v1?key=secret#x", "https://api.example.com/v1"),
    ("https://[::1]:8080/V1", "https://[::1]:8080/V1"),
])  # fmt: skip
def test_a_url_has_one_spelling_without_credentials(url, canonical):
    assert canonical_url(url) == canonical


@pytest.mark.parametrize("spelled", ["{}/v1/", "{}/v1"])
def test_a_url_in_another_spelling_is_the_same_server(workdir, textmill, spelled):
    given(workdir, rows(9))
    with served() as mock:
        assert textmill("run", embed(workdir, mock)).code == 0
        url = spelled.format(mock.url)
        ran = textmill("run", embed(workdir, mock, output="b.parquet", url=url))
        assert (ran.code, inputs(mock), messages_of(ran)) == (0, 9, [])
