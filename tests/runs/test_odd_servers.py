"""Whole runs against servers that refuse in words of their own, or answer in odd ways."""

import json

import pytest

from jobs.mock import Fault, serving

LONG = "The weir at Oxmead held through the night. " * 40


def rows(tmp_path, count=8, long=True):
    path = tmp_path / "in.jsonl"
    texts = [f"Row {n} about the weir." for n in range(count - long)] + [LONG] * long
    path.write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)))
    return path


def run(textmill, tmp_path, mock, template="embed", *more, **of_rows):
    return textmill(
        "run", template, "-i", rows(tmp_path, **of_rows), "-o", tmp_path / "out.jsonl", "--id", "id", "--kind", "openai",
        "--url", f"{mock.url}/v1", "--model", "m", "--json", *more,
    )  # fmt: skip


@pytest.mark.parametrize(("status", "text"), [
    (500, "input (900 tokens) is too large to process"),
    (400, "the request exceeds the available context size"),
    (422, "输入长度超过最大限制"),
])  # fmt: skip
def test_a_chunk_that_any_server_calls_too_long_is_cut(textmill, tmp_path, status, text):
    # Half of it, and the other rows, have fewer than 30 of these sentences.
    too_long = Fault("status", status=status, body=text, match="held through the night. " + LONG[:43] * 30)
    with serving([too_long]) as mock:
        ran = run(textmill, tmp_path, mock)
        assert (ran.code, ran.last["ok"]) == (0, 8)
        assert mock.bill.totals().calls < 16


@pytest.mark.parametrize(("status", "body"), [
    (400, {"error": {"message": "/embeddings: Invalid model name passed in model=m"}}),
    (404, {"error": {"message": "The model `m` does not exist."}}),
    (400, {"error": {"message": "模型不存在"}}),
    (404, "404 page not found"),
])  # fmt: skip
@pytest.mark.parametrize("batch", [1, 8])
def test_fault_52_a_refusal_that_names_the_model_stops_after_a_few_calls(textmill, tmp_path, status, body, batch):
    with serving([Fault("status", status=status, body=body)]) as mock:
        ran = run(textmill, tmp_path, mock, "embed", "--batch-size", str(batch), count=60)
        assert ran.code == 2
        page = status == 404 and body == "404 page not found"
        assert ("the server has no /embeddings" if page else "is not one of the server's models") in ran.err
        assert mock.bill.totals().calls <= 8


@pytest.mark.parametrize("fault", ["400 body='encoding_format base64 is not supported' x2", "empty x2"])
def test_floats_after_base64_cost_no_attempt_and_no_row(textmill, tmp_path, fault):
    with serving([fault]) as mock:
        ran = run(textmill, tmp_path, mock, "embed", long=False)
        assert (ran.code, ran.last["ok"]) == (0, 8)
        again = run(textmill, tmp_path, mock, "embed", "--set", "parameters.encoding_format=float", long=False)
        assert (again.last["unchanged"], again.last["calls"]) == (8, 0)


def test_a_thought_without_an_answer_is_paid_once(textmill, tmp_path):
    choice = {"message": {"content": None, "reasoning": "so"}, "finish_reason": "length"}
    fault = Fault("status", status=200, body={"model": "m", "choices": [choice]})
    with serving([fault]) as mock:
        ran = run(textmill, tmp_path, mock, "ask", "--set", "parameters.max_tokens=64", count=1, long=False)
        assert ran.code != 0
        assert mock.bill.totals().calls == 1
    (failures,) = (tmp_path / "out.jsonl.run" / "runs").glob("*/failures.jsonl")
    failure = json.loads(failures.read_text())
    assert failure["kind"] == "truncated"
    assert "max_tokens = 64 ran out first (finish_reason: length)" in failure["reason"]


def test_a_usage_of_characters_is_named_once_and_not_paid(textmill, tmp_path):
    text = "Row 0 about the weir. " * 20
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"id": 0, "text": text}) + "\n")
    answer = {"model": "m", "data": [{"index": 0, "embedding": [1.0, 2.0]}], "usage": {"prompt_tokens": len(text)}}
    with serving([Fault("status", status=200, body=answer)]) as mock:
        ran = textmill(
            "run", "embed", "-i", path, "-o", tmp_path / "out.jsonl", "--id", "id", "--kind", "openai",
            "--url", f"{mock.url}/v1", "--model", "m", "--json", "--size", "400", "--set", "endpoint.price.input=1.0",
        )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "input tokens where" in ran.err
    assert ran.last["tokens"] < len(text) / 2
    assert ran.last["cost_usd"] == pytest.approx(ran.last["tokens"] / 1e6)


def test_calls_that_may_have_been_billed_are_counted_apart(textmill, tmp_path):
    with serving(["half_body x2"]) as mock:
        ran = run(textmill, tmp_path, mock, count=1, long=False)
        assert ran.code in (0, 3, 4)
        assert ran.last["ambiguous"] == 2
        assert ran.last["endpoints"][0]["ambiguous"] == 2
