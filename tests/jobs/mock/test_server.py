"""The mock's promises: other tests believe what it answers and what it counts."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64decode
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.mock import Bill, Fault, Mock, Script, check_host, parse, serve, serving
from jobs.mock.protocols import vectors as mock_vectors
from pipeline.errors import UsageError
from tests.support import ROOT, require_module

EMBEDDINGS = "/v1/embeddings"
CHAT = "/v1/chat/completions"
FEATURE = "/hf-inference/models/BAAI/bge-small-en-v1.5/pipeline/feature-extraction"
SUMMARY = "/hf-inference/models/facebook/bart-large-cnn"
HUB_CHAT = "/hf-inference/models/HuggingFaceTB/SmolLM3-3B/v1/chat/completions"

Answer = tuple[int, Any, dict[str, str]]
Post = Callable[..., Awaitable[Answer]]


def talk(script: Callable[[Mock, Post], Awaitable[None]], *faults: Any, **options: Any) -> Mock:
    """Runs `script` against a mock; `post` gives status, decoded body, headers."""

    async def run() -> Mock:
        async with Mock(faults, **options) as mock, aiohttp.ClientSession() as session:

            async def post(path: str, body: Any, **options: Any) -> Answer:
                options.setdefault("headers", {})
                async with session.post(
                    mock.url + path, json=body, allow_redirects=False, **options
                ) as response:
                    raw = await response.read()
                    lower_headers = {name.lower(): value for name, value in response.headers.items()}
                    is_json = "json" in lower_headers.get("content-type", "")
                    return response.status, json.loads(raw) if is_json else raw.decode(), lower_headers

            await script(mock, post)
        return mock

    return asyncio.run(run())


def embed(*texts: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "input": list(texts), **more}


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


# Vectors


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.text(min_size=1), min_size=2, max_size=8, unique=True),
    st.sampled_from([1, 7, 48, 256, 384, 768, 1024, 1536, 3072]),
)
def test_vectors_are_unit_length_equal_for_equal_texts_and_different_for_different_ones(
    texts: list[str], dimension: int
) -> None:
    digests = [mock_vectors.digest(text.encode("utf-8", "surrogatepass")) for text in texts]
    rows = [mock_vectors.vector(one, "m", dimension) for one in digests]
    for digest, row in zip(digests, rows, strict=True):
        assert row.shape == (dimension,)
        assert abs(float(np.linalg.norm(row)) - 1.0) < 1e-5
        as_json = json.loads(mock_vectors.written(digest, "m", dimension))
        as_base64 = json.loads(mock_vectors.written(digest, "m", dimension, base64=True))
        assert as_json == row.tolist()
        assert b64decode(as_base64) == np.array(as_json, "<f4").tobytes()
    if dimension >= 7:
        assert len({row.tobytes() for row in rows}) == len(texts)
        assert mock_vectors.vector(digests[0], "other", dimension).tolist() != rows[0].tolist()


def test_many_texts_have_many_vectors() -> None:
    digests = [mock_vectors.digest(b"%d" % n) for n in range(20_000)]
    assert len({mock_vectors.written(one, "m", 384, base64=True) for one in digests}) == 20_000


# Protocols


def test_openai_embeddings_come_in_order_as_floats_and_as_base64() -> None:
    async def script(mock: Mock, post: Post) -> None:
        status, floats, _ = await post(EMBEDDINGS, embed("alpha", "beta"))
        assert status == 200
        assert floats["object"] == "list" and floats["model"] == "m"
        assert floats["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        assert [row["index"] for row in floats["data"]] == [0, 1]
        assert [row["embedding"] for row in floats["data"]] == [
            mock.vector("alpha", "m"),
            mock.vector("beta", "m"),
        ]
        _, packed, _ = await post(EMBEDDINGS, embed("alpha", encoding_format="base64"))
        sent = np.frombuffer(b64decode(packed["data"][0]["embedding"]), "<f4")
        assert sent.tolist() == np.array(mock.vector("alpha", "m"), "<f4").tolist()
        _, short, _ = await post(EMBEDDINGS, {"model": "m", "input": "alpha", "dimensions": 12})
        assert len(short["data"]) == 1 and len(short["data"][0]["embedding"]) == 12
        status, refused, _ = await post(EMBEDDINGS, embed("a", dimensions=1000))
        assert (status, refused["error"]["param"]) == (400, "dimensions")

    talk(script)


def test_openai_chat_answers_from_the_prompt() -> None:
    async def script(mock: Mock, post: Post) -> None:
        prompt = "Summarise this.\n\n" + "The tide came in early. " * 40
        status, reply, _ = await post(CHAT, chat(prompt))
        [choice] = reply["choices"]
        assert status == 200 and choice["finish_reason"] == "stop"
        assert choice["message"]["content"].startswith("The tide came in early. The tide")
        assert choice["message"]["content"].endswith("early.")
        assert len(choice["message"]["content"]) <= 320
        used = reply["usage"]
        assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]
        assert mock.bill.totals().output_tokens == used["completion_tokens"]
        assert mock.bill.totals().input_tokens == used["prompt_tokens"]
        _, cut, _ = await post(CHAT, chat(prompt, max_tokens=3))
        assert cut["choices"][0]["finish_reason"] == "length"
        assert cut["choices"][0]["message"]["content"] == "The tide cam"
        assert cut["usage"]["completion_tokens"] == 3
        _, chinese, _ = await post(CHAT, chat("请总结：\n\n" + "潮水来得很早。" * 80))
        assert chinese["choices"][0]["message"]["content"] == "潮水来得很早。" * 45

    talk(script)


def test_chat_with_a_schema_answers_an_instance_of_it() -> None:
    schema = {
        "type": "object",
        "properties": {
            "label": {"enum": ["spam", "ham"]},
            "stars": {"type": "integer", "minimum": 1, "maximum": 5},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["label", "stars", "tags"],
    }

    async def script(mock: Mock, post: Post) -> None:
        wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        hub = {"type": "json_object", "value": schema}
        for path, form in ((CHAT, wanted), (HUB_CHAT, hub)):
            _, reply, _ = await post(path, chat("A nice day.", response_format=form))
            document = json.loads(reply["choices"][0]["message"]["content"])
            assert document["label"] in ("spam", "ham") and 1 <= document["stars"] <= 5
            assert document["tags"] == ["A nice day."]

    talk(script)


def test_hub_router_speaks_its_tasks() -> None:
    async def script(mock: Mock, post: Post) -> None:
        model = "BAAI/bge-small-en-v1.5"
        assert (await post(FEATURE, {"inputs": ["a", "b"]}))[1] == [
            mock.vector("a", model),
            mock.vector("b", model),
        ]
        assert (await post(FEATURE, {"inputs": "a"}))[1] == mock.vector("a", model)
        long = (await post(FEATURE, {"inputs": ["a"], "normalize": False}))[1]
        assert abs(float(np.linalg.norm(long)) - 4.0) < 1e-5
        assert (await post(SUMMARY, {"inputs": "One. Two."}))[1] == [{"summary_text": "One. Two."}]
        assert (await post(SUMMARY, {"inputs": ["A.", "B."]}))[1] == [
            {"summary_text": "A."},
            {"summary_text": "B."},
        ]
        labels = "/hf-inference/models/mock/labels"
        [one] = (await post(labels, {"inputs": "x"}))[1]
        assert {row["label"] for row in one} == {"POSITIVE", "NEGATIVE"}
        # Without top_k a batch looks like one input with many labels: the trap is kept.
        batch = (await post(labels, {"inputs": ["x", "y", "z"]}))[1]
        assert [len(row) for row in batch] == [3]
        top = {"inputs": ["x", "y", "z"], "parameters": {"top_k": 2}}
        assert [len(row) for row in (await post(labels, top))[1]] == [2, 2, 2]
        unknown = await post("/hf-inference/models/mock/fill", {"inputs": "x"})
        assert unknown[:2] == (400, {"error": "Model not supported by provider hf-inference"})
        status, reply, _ = await post(HUB_CHAT, chat("Hello there."))
        assert (status, reply["id"], reply["model"]) == (200, "", "HuggingFaceTB/SmolLM3-3B")

    talk(script, tasks={"mock/labels": "text-classification", "mock/fill": "fill-mask"})


def test_tei_takes_32_inputs_and_refuses_in_its_own_words() -> None:
    async def script(mock: Mock, post: Post) -> None:
        model = "mock-embedding"
        assert (await post("/embed", {"inputs": "a"}))[1] == [mock.vector("a", model)]
        assert len((await post("/embed", {"inputs": ["a"] * 32}))[1]) == 32
        assert (await post("/embed", {"inputs": ["a"] * 40}))[:2] == (
            422,
            {
                "error": "batch size 40 > maximum allowed batch size 32",
                "error_type": "Validation",
            },
        )
        empty = "Input validation error: `inputs` cannot be empty"
        assert (await post("/embed", {"inputs": ["a", ""]}))[:2] == (
            400,
            {"error": empty, "error_type": "Empty"},
        )
        assert (await post("/embed", {"inputs": []}))[1]["error"] == "`inputs` cannot be empty"
        status, text, headers = await post("/embed", {"text": "a"})
        assert (status, headers["content-type"]) == (422, "text/plain; charset=utf-8")
        assert "missing field `inputs`" in text
        status, text, _ = await post("/embed", {"inputs": "a" * 3000})
        assert (status, text) == (
            413,
            "Failed to buffer the request body: length limit exceeded",
        )

    assert talk(script, max_body_bytes=2000).bill.totals().inputs == 33


def test_tgi_answers_an_object_at_generate_and_a_list_at_the_root() -> None:
    async def script(mock: Mock, post: Post) -> None:
        wanted = {"inputs": "What is it?", "parameters": {"max_new_tokens": 2, "details": True}}
        _, reply, _ = await post("/generate", wanted)
        assert reply["generated_text"] == "What is "
        assert reply["details"]["finish_reason"] == "length"
        assert (await post("/", {"inputs": "A."}))[1] == [{"generated_text": "A."}]
        _, refused, _ = await post("/generate", {"inputs": ""})
        assert refused["error_type"] == "validation"

    talk(script, engine="tgi")


def test_lookups_name_the_models_and_the_limits() -> None:
    with serving(models=["a/b"], batch_limit=8, key="k") as mock:
        assert fetch(mock, "/health")[0] == 200
        assert fetch(mock, "/info")[0] == 401
        status, info = fetch(mock, "/info", key="k")
        assert (status, info["model_id"], info["max_client_batch_size"]) == (200, "a/b", 8)
        status, models = fetch(mock, "/v1/models", key="k")
        assert [one["id"] for one in models["data"]] == ["a/b"]
        assert fetch(mock, "/nothing", key="k")[0] == 404
        assert mock.bill.totals().lookups == 5 and mock.bill.totals().calls == 0


def fetch(mock: Mock, path: str, body: bytes | None = None, key: str = "") -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(mock.url + path, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            raw = response.read()
            return response.status, json.loads(raw) if raw else None
    except urllib.error.HTTPError as error:
        with error:
            raw = error.read()
            return error.code, json.loads(raw) if raw[:1] in b"{[" and raw else raw


def test_a_lookup_meets_only_faults_that_name_its_path() -> None:
    with serving(["503 x1", "503 path=/info x1", "half_body path=/info"]) as mock:
        assert fetch(mock, "/health")[0] == 200
        status, reply = fetch(mock, "/info")
        assert (status, reply["error_type"]) == (503, "Unhealthy")
        assert fetch(mock, "/info")[0] == 200
        assert mock.bill.totals().faults == {"status": 1}


@pytest.mark.parametrize(
    "path", ["/v1/v1/embeddings", "/v1/embed", "/hf-inference/models/gpt2", "/embeddings", "/v2"]
)
def test_a_wrong_path_is_not_found_and_on_the_bill(path: str) -> None:
    async def script(mock: Mock, post: Post) -> None:
        assert (await post(path, embed("a")))[0] == 404

    assert talk(script).bill.totals().by_status == {"404": 1}


@settings(deadline=None, max_examples=40)
@given(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [b"[" * 50_000, b'{"x":' * 50_000, b'{"inputs":"\\ud800"}', b'{"inputs":{}}']
        ),
        st.dictionaries(
            st.sampled_from(["inputs", "input", "model", "messages", "parameters"]),
            st.recursive(st.none() | st.integers() | st.text(max_size=3), st.lists, max_leaves=4),
        ).map(lambda one: json.dumps(one).encode()),
    ),
    st.sampled_from([EMBEDDINGS, CHAT, FEATURE, SUMMARY, HUB_CHAT, "/embed", "/generate", "/"]),
)
def test_any_body_gets_an_answer_and_never_a_500(body: bytes, path: str) -> None:
    async def run() -> None:
        headers = {"content-type": "application/json"}
        async with (
            Mock() as mock,
            aiohttp.ClientSession() as session,
            session.post(mock.url + path, data=body, headers=headers) as response,
        ):
            assert response.status in (200, 400, 422)

    asyncio.run(run())


def test_hub_client_understands_every_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    hub = require_module("huggingface_hub")
    with serving(key="hf_mock") as mock:
        base = mock.url + "/hf-inference/models"
        with hub.InferenceClient(token="hf_mock") as client:
            rows = client.feature_extraction(["a", "b"], model=mock.url + FEATURE)
            assert rows.shape == (2, 384)
            summary = client.summarization("One. Two.", model=mock.url + SUMMARY)
            assert summary.summary_text == "One. Two."
            labels = client.text_classification("x", model=base + "/mock/sst2")
            assert {one.label for one in labels} == {"POSITIVE", "NEGATIVE"}
            choice = client.zero_shot_classification(
                "x", candidate_labels=["a", "b"], model=base + "/mock/any"
            )
            assert {one.label for one in choice} == {"a", "b"}
            scores = client.sentence_similarity(
                "a",
                other_sentences=["a", "b"],
                model=base + "/mock/any/pipeline/sentence-similarity",
            )
            assert scores[0] == 1.0
            reply = client.chat_completion(
                [{"role": "user", "content": "Hello there."}], model=base + "/mock/any"
            )
            assert reply.choices[0].message.content == "Hello there."
        with (
            hub.InferenceClient(token="hf_wrong") as stranger,
            pytest.raises(hub.errors.HfHubHTTPError, match="Invalid username or password"),
        ):
            stranger.feature_extraction("a", model=mock.url + FEATURE)
        assert mock.bill.totals().by_status == {"200": 6, "401": 1}


# Refusals


def test_a_key_is_asked_for_in_the_words_of_each_service() -> None:
    async def script(mock: Mock, post: Post) -> None:
        status, reply, _ = await post(EMBEDDINGS, embed("a"))
        assert (status, reply["error"]["code"]) == (401, "invalid_api_key")
        assert (await post("/embed", {"inputs": "a"}))[:2] == (401, "")
        status, reply, headers = await post(FEATURE, {"inputs": "a"})
        assert (status, reply) == (401, {"error": "Invalid username or password."})
        assert headers["www-authenticate"].startswith("Bearer realm=")
        right = {"Authorization": "Bearer sk-1"}
        assert (await post(EMBEDDINGS, embed("a"), headers=right))[0] == 200
        mock.key = "sk-2"
        assert (await post(EMBEDDINGS, embed("a"), headers=right))[0] == 401

    mock = talk(script, key="sk-1")
    assert mock.bill.has_received("sk-1") and not mock.bill.has_received("sk-2")
    assert "sk-1" not in json.dumps(mock.bill.document(full=True))


def test_limits_refuse_in_the_words_of_each_service() -> None:
    async def script(mock: Mock, post: Post) -> None:
        status, reply, _ = await post(EMBEDDINGS, embed("a", "b", "c"))
        assert (status, reply["error"]["code"]) == (400, "array_above_max_length")
        status, reply, _ = await post(FEATURE, {"inputs": ["a", "b", "c"]})
        assert (status, reply["error"]) == (422, "batch size 3 > maximum allowed batch size 2")
        status, reply, _ = await post("/embed", {"inputs": "a" * 60})
        assert reply["error"].endswith("`inputs` must have less than 10 tokens. Given: 15")
        assert (await post("/embed", {"inputs": "a" * 60, "truncate": True}))[0] == 200
        status, reply, _ = await post(CHAT, chat("a" * 60))
        assert (status, reply["error"]["code"]) == (400, "context_length_exceeded")

    talk(script, batch_limit=2, max_input_tokens=10)


@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        (EMBEDDINGS, 429, ("error", "code", "rate_limit_exceeded")),
        (EMBEDDINGS, 500, ("error", "type", "server_error")),
        (FEATURE, 402, ("error", None, "You have depleted your monthly")),
        (FEATURE, 424, ("error_type", None, "Backend")),
        ("/embed", 429, ("error_type", None, "Overloaded")),
        ("/embed", 503, ("error_type", None, "Unhealthy")),
        ("/generate", 424, ("error_type", None, "generation")),
    ],
)
def test_a_status_comes_with_the_body_of_its_service(
    path: str, status: int, expected: tuple[str, str | None, str]
) -> None:
    async def script(mock: Mock, post: Post) -> None:
        got, reply, _ = await post(path, {"model": "m", "input": "a", "inputs": "a"})
        name, inner, text = expected
        value = reply[name][inner] if inner else reply[name]
        assert got == status and value.startswith(text)

    talk(script, Fault("status", status=status))


# Faults


def test_counted_faults_are_played_as_often_as_scripted() -> None:
    async def statuses(mock: Mock, post: Post) -> None:
        statuses = [(await post(EMBEDDINGS, embed(f"t{n}")))[0] for n in range(8)]
        assert statuses == [200, 200, 503, 200, 503, 200, 200, 200]

    mock = talk(statuses, Fault("status", status=503, after=2, every=2, times=2))
    assert mock.bill.totals().faults == {"status": 2}
    assert mock.bill.totals().by_status == {"200": 6, "503": 2}


def test_a_poison_text_fails_only_the_calls_that_carry_it() -> None:
    async def script(mock: Mock, post: Post) -> None:
        assert (await post("/embed", {"inputs": ["a", "this is poison"]}))[0] == 424
        assert (await post("/embed", {"inputs": ["a"]}))[0] == 200
        assert (await post(EMBEDDINGS, embed("poison")))[0] == 200  # another path

    talk(script, "424 match=poison path=/emb*", seed=1)


def test_chance_depends_on_the_call_and_its_try_not_on_the_order_of_arrival() -> None:
    def played(order: list[int], seed: int) -> dict[int, list[bool]]:
        script = Script([Fault("status", status=500, probability=0.3)], seed=seed)
        fired_by_fault: dict[int, list[bool]] = {}
        for n in order:
            fired = script.play("/", ["x"], b"%d" % n)
            fired_by_fault.setdefault(n, []).append(bool(fired))
        return fired_by_fault

    forward, backward = list(range(500)) * 2, list(range(499, -1, -1)) * 2
    assert played(forward, 1) == played(backward, 1)
    assert played(forward, 1) != played(forward, 2)
    share = sum(map(sum, played(forward, 1).values())) / 1000
    assert 0.25 < share < 0.35


def rows_of(path: str, reply: Any) -> list[Any]:
    return [row["embedding"] for row in reply["data"]] if path == EMBEDDINGS else reply


@pytest.mark.parametrize(
    ("path", "base64"),
    [(EMBEDDINGS, False), (EMBEDDINGS, True), (FEATURE, False), ("/embed", False)],
)
def test_spoilt_vectors(path: str, base64: bool) -> None:
    body = {"model": "m", "input": ["a", "bad", "c"], "inputs": ["a", "bad", "c"]}
    body |= {"encoding_format": "base64"} if base64 else {}

    def numbers(value: Any) -> list[float]:
        numbers: list[float] = np.frombuffer(b64decode(value), "<f4").tolist() if base64 else value
        return numbers

    async def script(mock: Mock, post: Post) -> None:
        good = rows_of(path, (await post(path, body))[1])

        async def with_fault(*faults: Fault) -> list[Any]:
            mock.play(*faults)
            status, reply, _ = await post(path, body)
            assert status == 200
            return rows_of(path, reply)

        assert await with_fault(Fault("wrong_count")) == good[:2]
        assert await with_fault(Fault("wrong_count", count=2)) == [*good, good[0], good[1]]
        assert await with_fault(Fault("empty")) == []
        for kind in ("null", "nan", "inf", "zero", "wrong_dimension"):
            spoilt = await with_fault(Fault(kind, match="bad"))
            assert spoilt[0] == good[0] and spoilt[2] == good[2]
            if kind == "null" and base64:
                assert spoilt[1] is None
                continue
            bad = numbers(spoilt[1])
            if kind == "wrong_dimension":
                assert len(bad) == 383
            elif kind == "zero":
                assert bad == [0.0] * 384
            elif kind == "null":
                assert bad.count(None) == 1  # type: ignore[arg-type]
            else:
                odd = [one for one in bad if not np.isfinite(one)]
                assert len(bad) == 384 and len(odd) == 1
                assert np.isnan(odd[0]) == (kind == "nan")
        one = await with_fault(Fault("zero"))
        assert [numbers(row) == [0.0] * 384 for row in one].count(True) == 1
        every = await with_fault(Fault("zero", whole=True))
        assert [numbers(row) == [0.0] * 384 for row in every] == [True] * 3

    totals = talk(script).bill.totals()
    assert (totals.inputs, totals.distinct_inputs, totals.repeated_inputs) == (33, 3, 30)
    assert totals.spoiled_inputs == 30


def test_index_faults_touch_only_rows_that_have_an_index() -> None:
    async def script(mock: Mock, post: Post) -> None:
        texts = ["a", "b", "c", "d"]
        _, reply, _ = await post(EMBEDDINGS, embed(*texts))
        assert [row["index"] for row in reply["data"]] != [0, 1, 2, 3]
        by_index = sorted(reply["data"], key=lambda row: row["index"])
        assert [row["embedding"] for row in by_index] == [mock.vector(one, "m") for one in texts]
        _, rows, _ = await post("/embed", {"inputs": texts})
        assert rows == [mock.vector(one, "mock-embedding") for one in texts]
        mock.play("wrong_index")
        _, reply, _ = await post(EMBEDDINGS, embed(*texts))
        assert [row["index"] for row in reply["data"]] == [0, 1, 2, 0]

    assert talk(script, shuffle=True).bill.totals().spoiled_inputs == 4


def test_texts_can_be_empty_and_the_model_another() -> None:
    async def script(mock: Mock, post: Post) -> None:
        _, reply, _ = await post(CHAT, chat("Hi."))
        assert reply["choices"][0]["message"]["content"] == ""
        assert (await post(SUMMARY, {"inputs": ["a"]}))[1] == [{"summary_text": ""}]
        mock.play("empty")
        assert (await post(CHAT, chat("Hi.")))[1]["choices"] == []
        assert (await post(SUMMARY, {"inputs": ["a"]}))[1] == []
        mock.play("other_model body=m-2")
        assert (await post(CHAT, chat("Hi.")))[1]["model"] == "m-2"

    talk(script, Fault("empty_text", whole=True))


def test_gateway_faults_charge_nothing() -> None:
    async def script(mock: Mock, post: Post) -> None:
        status, page, headers = await post(EMBEDDINGS, embed("a"))
        assert (status, headers["content-type"]) == (200, "text/html")
        assert page.startswith("<html>")
        mock.play("html status=502")
        assert (await post(EMBEDDINGS, embed("a")))[0] == 502
        mock.play("loading seconds=300")
        status, reply, _ = await post(FEATURE, {"inputs": "a"})
        assert (status, reply["estimated_time"]) == (503, 300.0)
        mock.play("loading status=200")
        assert (await post(FEATURE, {"inputs": "a"}))[1] == {
            "error": "Model BAAI/bge-small-en-v1.5 is currently loading",
            "estimated_time": 20.0,
        }
        mock.play("insufficient_quota")
        status, reply, _ = await post(EMBEDDINGS, embed("a"))
        assert (status, reply["error"]["code"]) == (429, "insufficient_quota")
        mock.play(Fault("redirect", location="http://127.0.0.2:9/x"))
        status, _, headers = await post(EMBEDDINGS, embed("a"))
        assert (status, headers["location"]) == (307, "http://127.0.0.2:9/x")
        mock.play(Fault("status", status=429, headers={"Retry-After": "-5"}, body={"error": "no"}))
        status, reply, headers = await post(EMBEDDINGS, embed("a"))
        assert (reply, headers["retry-after"]) == ({"error": "no"}, "-5")
        mock.play("headers x-ratelimit-limit-requests:1000000000")
        status, _, headers = await post(EMBEDDINGS, embed("a"))
        assert (status, headers["x-ratelimit-limit-requests"]) == (200, "1000000000")
        mock.play("garbage")
        with pytest.raises(json.JSONDecodeError):
            await post(EMBEDDINGS, embed("a"))

    totals = talk(script, "html").bill.totals()
    assert (totals.calls, totals.inputs) == (9, 1)


@pytest.mark.parametrize("uvloop", [False, True])
def test_connections_break_at_the_scripted_byte(uvloop: bool) -> None:
    async def raw(mock: Mock) -> tuple[bytes, bool]:
        """What crosses the wire, and whether it ended in a reset."""
        reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
        body = json.dumps(embed("a")).encode()
        head = f"POST {EMBEDDINGS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        got, was_reset = b"", False
        try:
            while piece := await reader.read(65536):
                got += piece
        except ConnectionResetError:
            was_reset = True
        finally:
            writer.close()
        return got, was_reset

    def split(got: bytes) -> tuple[int, bytes]:
        head, _, body = got.partition(b"\r\n\r\n")
        lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-le")]
        return (int(lengths[0].split(b":")[1]) if lengths else -1), body

    async def run() -> None:
        async with Mock() as mock:
            whole, _ = await raw(mock)
            length, full = split(whole)
            assert length == len(full)
            mock.play("half_body")
            assert split((await raw(mock))[0]) == (length, full[: length // 2])
            mock.play("half_body bytes=0")
            assert split((await raw(mock))[0]) == (length, b"")
            mock.play("half_chunked bytes=5")
            got, _ = await raw(mock)
            assert split(got) == (-1, b"5\r\n" + full[:5] + b"\r\n")
            for k in (0, 1, 20, 150, length):
                mock.play(Fault("cut", bytes=k))
                got, _ = await raw(mock)
                assert len(got) == k and (not k or got.startswith(b"HTTP/1.1 200 OK"[:k]))
            mock.play("reset")
            assert await raw(mock) == (b"", True)
            assert mock.bill.totals().by_status == {"200": 1, "cut": 8, "reset": 1}
            assert mock.bill.totals().spoiled_inputs == 8
            assert mock.bill.totals().in_flight == 0

    with asyncio.Runner(loop_factory=_uvloop() if uvloop else None) as runner:
        runner.run(run())


def _uvloop() -> Any:
    return require_module("uvloop").new_event_loop


def test_waiting_is_counted_not_slept() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def script(mock: Mock, post: Post) -> None:
        await post(SUMMARY, {"inputs": "Hi."})
        assert waits == [0.25]
        mock.play("delay seconds=3 times=1", "503")
        assert (await post(SUMMARY, {"inputs": "Hi."}))[0] == 503
        assert waits == [0.25, 3.0]
        mock.play("slow")
        assert (await post(SUMMARY, {"inputs": "Hi."}))[1] == [{"summary_text": "Hi."}]
        assert waits == [0.25, 3.0, 0.25] + [1.0] * len('[{"summary_text":"Hi."}]')

    talk(script, latency=0.25, sleep=sleep)


async def until(holds: Callable[[], bool]) -> None:
    """Lets the loop turn; the bill has no event to wait for, on purpose."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0)


def test_a_client_that_leaves_is_counted_and_a_hanging_call_does_not_stop_the_server() -> None:
    async def run() -> None:
        async with Mock(["hang"]) as mock:
            async with aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=0.05)
            ) as impatient:
                with pytest.raises(TimeoutError):
                    await impatient.post(mock.url + EMBEDDINGS, json=embed("a"))
            await until(lambda: not mock.bill.in_flight)
            assert mock.bill.totals().by_status == {"left": 1}
            session = aiohttp.ClientSession()
            waiting = asyncio.create_task(session.post(mock.url + EMBEDDINGS, json=embed("a")))
            await until(lambda: bool(mock.bill.in_flight))
        with pytest.raises(aiohttp.ClientError):
            await waiting
        await session.close()

    asyncio.run(run())


def test_a_client_that_leaves_in_the_middle_is_no_error_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        async with Mock(["slow seconds=0"]) as mock:
            body = json.dumps(embed("a")).encode()
            head = f"POST {EMBEDDINGS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            for sent in (head.encode() + body[:5], head.encode() + body):
                reader, writer = await asyncio.open_connection("127.0.0.1", mock.port)
                writer.write(sent)
                if sent.endswith(body):
                    await reader.readexactly(30)
                else:
                    await until(lambda: mock.bill.in_flight == 1)
                writer.transport.abort()
                await until(lambda: not mock.bill.in_flight)
            assert mock.bill.by_status.total() == mock.bill.calls == 2
            assert mock.bill.totals().inputs == 1

    asyncio.run(run())
    assert caplog.records == []


def test_a_server_that_was_away_comes_back_at_the_same_address_with_its_bill() -> None:
    async def run() -> None:
        async with Mock() as mock, aiohttp.ClientSession() as session:
            url = mock.url + EMBEDDINGS
            async with session.post(url, json=embed("a")) as response:
                assert response.status == 200
            await mock.stop()
            with pytest.raises(aiohttp.ClientError):
                await session.post(url, json=embed("a"))
            await mock.start()
            async with session.post(url, json=embed("a")) as response:
                assert response.status == 200
            assert mock.bill.totals().repeated_inputs == 1

    asyncio.run(run())


def test_headers_that_differ_in_every_call_do_not_hide_a_secret() -> None:
    bill = Bill()
    for n in range(20_001):
        bill.begin("/embed", [("x-trace", str(n)), ("authorization", f"Bearer {n // 20_000}")])
    assert len(bill.headers["x-trace"]) == 10_000
    assert bill.headers["authorization"] == {"Bearer 0", "Bearer 1"}


def test_no_secret_follows_a_redirect_is_something_the_bill_can_tell() -> None:
    with serving(record=True) as elsewhere:
        target = elsewhere.url + EMBEDDINGS
        with serving([Fault("redirect", status=308, location=target)]) as mock:

            async def follow() -> int:
                headers = {"X-Api-Key": "sk-secret"}
                async with (
                    aiohttp.ClientSession() as session,
                    session.post(
                        mock.url + EMBEDDINGS, json=embed("private"), headers=headers
                    ) as response,
                ):
                    return response.status

            assert asyncio.run(follow()) == 200
            assert mock.bill.has_received("sk-secret") and elsewhere.bill.has_received("sk-secret")
            assert elsewhere.bill.has_received("private")
            assert elsewhere.bill.totals().calls == 1


# The bill and the script at run time


def test_the_bill_counts_every_input_and_the_highest_tide() -> None:
    async def script(mock: Mock, post: Post) -> None:
        async def wait(_: float) -> None:
            arrived.append(1)
            if len(arrived) == 5:
                gate.set()
            await gate.wait()

        arrived: list[int] = []
        gate = asyncio.Event()
        mock.sleep = wait
        await asyncio.gather(*(post(EMBEDDINGS, embed("same", f"t{n}")) for n in range(5)))
        totals = mock.bill.totals()
        assert totals.max_in_flight == 5
        assert (totals.inputs, totals.distinct_inputs, totals.repeated_inputs) == (10, 6, 4)
        assert mock.bill.times("same") == 5 and mock.bill.times("t0") == 1
        assert mock.bill.times("same", model="other") == 0
        # Another model or task is another question.
        await post(EMBEDDINGS, {**embed("same"), "model": "n"})
        assert mock.bill.totals().repeated_inputs == 4
        [first, *_] = mock.bill.recorded
        assert first.path == EMBEDDINGS and json.loads(first.body)["input"][0] == "same"

    talk(script, latency=1.0, record=True)


def test_script_and_bill_are_set_and_read_over_http() -> None:
    with serving() as mock:
        body = json.dumps(embed("a")).encode()
        faults = json.dumps(["429 x1 retry-after:2", {"kind": "html", "times": 1}]).encode()
        status, shown = fetch(mock, "/_mock/script", faults)
        assert status == 200 and shown[0]["fault"]["headers"] == {"retry-after": "2"}
        assert fetch(mock, EMBEDDINGS, body)[0] == 429
        status, bill = fetch(mock, "/_mock/bill")
        assert bill["by_status"] == {"429": 1} and "answered" not in bill
        assert fetch(mock, "/_mock/script")[1][0]["played"] == 1
        assert fetch(mock, "/_mock/reset", b"")[0] == 200
        assert fetch(mock, EMBEDDINGS, body)[0] == 429
        assert fetch(mock, "/_mock/script", b"[]") == (200, [])
        assert fetch(mock, EMBEDDINGS, body)[0] == 200
        full = fetch(mock, "/_mock/bill?full=1")[1]
        assert [one["times"] for one in full["answered"]] == [1]
        status, refused = fetch(mock, "/_mock/script", b'["429 x"]')
        assert (status, refused) == (400, {"error": "fault `429 x`: cannot read `x`"})
        for hostile in (b"", b"[" * 90_000, b"\xff", b"3"):
            assert fetch(mock, "/_mock/script", hostile)[0] == 400


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ("429 x3", Fault("status", status=429, times=3)),
        ("503 after=10 x5", Fault("status", status=503, after=10, times=5)),
        ("500 30%", Fault("status", status=500, probability=0.3)),
        ("wrong_count every=7 count=1", Fault("wrong_count", every=7, count=1)),
        ('422 match="two words"', Fault("status", status=422, match="two words")),
        ("429 x2 retry-after:2", Fault("status", 429, headers={"retry-after": "2"}, times=2)),
        ("zero whole=true", Fault("zero", whole=True)),
        ("redirect location=http://[::1]:9/", Fault("redirect", location="http://[::1]:9/")),
        ('{"kind": "slow", "seconds": 0.5}', Fault("slow", seconds=0.5)),
    ],
)
def test_faults_in_words(words: str, fault: Fault) -> None:
    assert parse(words) == (fault,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "fault ``: "),
        ("explode", "fault `explode`: unknown kind `explode`"),
        ("429 soon", "fault `429 soon`: cannot read `soon`"),
        ("99", "fault `status`: `status` = 99 must be from 200 to 599"),
        ("429 every=0", "fault `status`: `every` = 0 must be from 1 to 1000000000"),
        ("500 200%", "fault `status`: `probability` = 2.0 must be from 0 to 1"),
        ("redirect", "fault `redirect`: `location` is missing"),
        ("delay", "fault `delay`: `seconds` is missing"),
        ("status", "fault `status`: `status` is missing"),
        ('429 match="', 'fault `429 match="`: No closing quotation'),
        ('{"kind": "zero", "row": 3}', 'fault `{"kind":"zero","row":3}`: Object contains unknown'),
        ('{"kind": "zero"', "fault `"),
        ("500 seconds=nan", "fault `status`: `seconds` = nan must be from 0 to 1000000000"),
    ],
)
def test_faults_that_cannot_be_read_are_refused_in_one_line(words: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(words)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


# Running


def test_only_loopback_unless_public() -> None:
    assert check_host("localhost") == "127.0.0.1"
    assert check_host("::1") == "::1"
    assert check_host("0.0.0.0", public=True) == "0.0.0.0"
    for host in ("0.0.0.0", "", "example.com", "10.0.0.1"):
        with pytest.raises(UsageError, match="is not a loopback address"):
            serve(host, 0)


def test_a_taken_port_is_an_error_of_the_user() -> None:
    with (
        serving() as mock,
        pytest.raises(UsageError, match=f"cannot listen on {mock.url}: "),
        serving(port=mock.port),
    ):
        pass


@pytest.mark.parametrize("option", [{"dimension": 0}, {"batch_limit": 0}, {"models": []}])
def test_settings_out_of_bounds_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Mock(**option)


def test_the_command_prints_its_address_and_at_the_end_the_bill() -> None:
    code = "from jobs.mock import serve; serve(port=0, key='k', faults=['429 x1'])"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("mock: http://127.0.0.1:")
        request = urllib.request.Request(
            line.split()[1] + EMBEDDINGS,
            data=json.dumps(embed("a")).encode(),
            headers={"Authorization": "Bearer k"},
        )
        with pytest.raises(urllib.error.HTTPError, match="429") as caught:
            urllib.request.urlopen(request, timeout=30)
        caught.value.close()
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and errors == ""
    assert json.loads(out)["by_status"] == {"429": 1}
