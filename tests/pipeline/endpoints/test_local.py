"""The embedded model: the same text has the same vector in any batch, and summaries are sentences of the text."""

import json
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from chunkers.boundaries.scan import sentences
from pipeline.endpoints import local
from pipeline.errors import UsageError
from pipeline.records import Answer, Chunk, Endpoint, Failure, Request
from tests.support import SAMPLES, require_module

require_module("wordllama")

SAMPLE = SAMPLES / "reports.jsonl"
with SAMPLE.open("rb") as file:
    SAMPLES = [json.loads(line)["text"] for line in file]
REPORT = (
    "Annual report. The weir at Oxmead held through the winter without damage. "
    "In March the gauge at the lower lock failed, and levels were read by hand for nine days. "
    "We thank the volunteers of the ferry club. "
    "Repairs to the sluice cost 41,000 crowns, a third more than planned. Yours, H. Drood"
)
CHINESE = (
    "年度报告。冬季期间，葫芦河上的水闸没有受到任何损坏，运行情况总体良好。"
    "三月份，下游船闸的水位计发生故障，值班人员连续九天用人工方式读取水位。"
    "我们感谢渡船俱乐部的全体志愿者在汛期给予的大力支持与帮助。"
    "水闸的修理费用为四万一千元，比原来的计划超出了三分之一左右。此致敬礼"
)
PIECES = st.builds(
    lambda text, start, length: text[start : start + length],
    st.sampled_from(SAMPLES), st.integers(0, 1_000), st.integers(1, 900),
)
TEXTS = PIECES | st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


def endpoint(task="feature-extraction", **parameters):
    return Endpoint("local", "local", task, "", ("local", "m"), parameters=parameters)


def request(text, tokens=3):
    return Request(b"", text, tokens, Chunk(0, len(text), tokens))


def summaries(text, **parameters):
    answer = local.answerer(endpoint("summarization", **parameters), sentences)
    (outcome,) = answer([request(text)])
    return outcome.value


@settings(max_examples=20)
@given(st.lists(TEXTS, min_size=1, max_size=70))
def test_a_vector_does_not_depend_on_its_batch(texts):
    together = local.embed(texts)
    assert together.shape == (len(texts), 256)
    assert together.dtype == np.float32
    for text, vector in list(zip(texts, together, strict=True))[::9]:
        assert local.embed([text])[0].tobytes() == vector.tobytes()
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)


def test_near_texts_have_near_vectors():
    cat, kitten, ledger = local.embed(["The cat sleeps.", "A sleeping kitten.", "Ledger totals."])
    assert cat @ kitten > cat @ ledger + 0.2


def test_one_answer_per_request_with_the_requests_tokens():
    answers = local.answerer(endpoint(), sentences)([request("weir", 2), request("水闸", 5)])
    assert [(a.input_tokens, a.output_tokens, a.model) for a in answers] == [
        (2, 0, "wordllama-256"), (5, 0, "wordllama-256"),
    ]
    assert [a.value for a in answers] == [v.tobytes() for v in local.embed(["weir", "水闸"])]


def test_a_text_without_a_vector_is_a_failure_and_its_neighbours_are_answered(monkeypatch):
    answer = local.answerer(endpoint(), sentences)
    spoilt = np.ones((3, 256), np.float32)
    spoilt[1, 7] = np.nan
    monkeypatch.setattr(local, "embed", lambda texts: spoilt)
    first, second, third = answer([request(text) for text in "abc"])
    assert isinstance(first, Answer)
    assert isinstance(third, Answer)
    assert second == Failure("poison", "the embedded model has no vector for this text")


@settings(max_examples=30)
@given(TEXTS.filter(str.strip), st.integers(1, 4))
def test_a_summary_is_sentences_of_the_text_in_their_order(text, count):
    summary = local.summary(text, sentences(text), count)
    assert summary.strip()
    written = [" ".join(text[start:end].split()) for start, end in sentences(text)]
    places, tail = [], summary
    for place, sentence in enumerate(written):
        if sentence and tail.startswith(sentence) and tail[len(sentence):][:1] in ("", " "):
            places.append(place)
            tail = tail[len(sentence) + 1:]
    assert tail == ""
    assert 1 <= len(places) <= count
    assert all(first < second for first, second in pairwise(places))


@pytest.mark.parametrize(("text", "summary"), [
    (REPORT, "In March the gauge at the lower lock failed, and levels were read by hand for nine "
             "days."),
    (CHINESE, "三月份，下游船闸的水位计发生故障，值班人员连续九天用人工方式读取水位。"),
])
def test_the_most_relevant_sentence(text, summary):
    assert local.summary(text, sentences(text), 1) == summary


@pytest.mark.parametrize("text", [REPORT, CHINESE])
def test_a_summary_has_three_sentences_by_default(text):
    spans = sentences(text)
    for parameters, count in (({}, 3), ({"sentences": 2}, 2)):
        summary = summaries(text, **parameters)
        assert sum(text[start:end].strip() in summary for start, end in spans) == count


@pytest.mark.parametrize("text", ["Yes.", "好。", "...", "\x00", "\u200b", "| a | b |\n", "# H",
                                  "word " * 500, "水" * 3_000, "a\n\n\n" * 50])
def test_a_summary_is_never_empty(text):
    assert summaries(text)


def test_equal_sentences_appear_once_and_short_ones_only_if_there_are_no_others():
    text = "The weir held all winter. " * 9 + "Yours, H. Drood."
    assert local.summary(text, sentences(text), 3) == "The weir held all winter."


@pytest.mark.parametrize("count", [0, -1, "abc", 2.5, None])
def test_an_invalid_number_of_sentences_is_refused(count):
    with pytest.raises(UsageError) as error:
        local.answerer(endpoint("summarization", sentences=count), sentences)
    assert str(error.value) == (
        f"`parameters.sentences` = {count!r} must be a whole number from 1"
    )


def test_without_the_extra_there_is_a_hint(monkeypatch):
    monkeypatch.setattr(local, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs the extra `local`") as error:
        local._load.__wrapped__()
    assert error.value.hint == "pip install 'textmill[local]'"
