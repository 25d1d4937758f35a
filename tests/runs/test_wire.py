"""The same task through huggingface_hub's client and through textmill: equal bodies on the wire."""

import json

import pytest
from huggingface_hub import InferenceClient

from jobs.mock import serving

TEXT = "The ferry at Oxmead ran every half hour. 渡口的船半小时一班。"


def bodies(mock):
    return [(call.path, json.loads(call.body)) for call in mock.bill.recorded if call.method == "POST"]


def row(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps({"id": 1, "text": TEXT}) + "\n", "utf-8")
    return path


def run(textmill, tmp_path, template, mock, *more):
    ran = textmill(
        "run", template, "-i", row(tmp_path), "-o", tmp_path / "out.jsonl", "--id", "id", *more
    )
    assert ran.code == 0, ran.err


def test_feature_extraction(tmp_path, textmill):
    with serving(record=True) as mock:
        run(
            textmill,
            tmp_path,
            "embed",
            mock,
            "--kind",
            "hf",
            "--url",
            mock.url,
            "--model",
            "org/m",
            "--set",
            "parameters.normalize=true",
        )
        client = InferenceClient(
            model=f"{mock.url}/hf-inference/models/org/m/pipeline/feature-extraction"
        )
        client.feature_extraction([TEXT], normalize=True, truncate=False)
        ours, theirs = bodies(mock)
        assert ours == theirs


def test_summarization(tmp_path, textmill):
    with serving(record=True) as mock:
        run(
            textmill,
            tmp_path,
            "summarize",
            mock,
            "--kind",
            "hf",
            "--url",
            mock.url,
            "--model",
            "org/m",
            "--set",
            "parameters.clean_up_tokenization_spaces=true",
        )
        client = InferenceClient(model=f"{mock.url}/hf-inference/models/org/m")
        client.summarization(TEXT, clean_up_tokenization_spaces=True)
        ours, theirs = bodies(mock)
        assert ours == theirs


def test_chat_completion(tmp_path, textmill):
    with serving(record=True) as mock:
        run(
            textmill,
            tmp_path,
            "ask",
            mock,
            "--url",
            f"{mock.url}/v1",
            "--model",
            "org/m",
            "--prompt",
            "Say: {chunk}",
        )
        client = InferenceClient(base_url=f"{mock.url}/v1")
        client.chat_completion(
            [{"role": "user", "content": f"Say: {TEXT}"}], model="org/m", temperature=0
        )
        (path, ours), (their_path, theirs) = bodies(mock)
        assert path == their_path
        assert {key: value for key, value in theirs.items() if key in ours} == ours
        assert {key: theirs[key] for key in theirs.keys() - ours.keys()} in ({}, {"stream": False})


@pytest.mark.parametrize("template", ["embed", "summarize"])
def test_the_answers_are_the_same_as_the_official_clients(tmp_path, textmill, template):
    with serving(record=True) as mock:
        run(textmill, tmp_path, template, mock, "--kind", "hf", "--url", mock.url, "--model", "org/m")
        (told,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
        url = f"{mock.url}/hf-inference/models/org/m"
        if template == "embed":
            client = InferenceClient(model=f"{url}/pipeline/feature-extraction")
            expected = client.feature_extraction([TEXT])[0].tolist()
            assert told["vector"] == pytest.approx(expected)
        else:
            assert told["summary"] == InferenceClient(model=url).summarization(TEXT).summary_text
