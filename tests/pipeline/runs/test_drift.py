"""The drift check alone: what it compares, and what it says of another model."""

import numpy as np
import pytest

from pipeline.records import Answer, Chunk, Endpoint, Request
from pipeline.runs.drift import DriftCheck

ENDPOINT = Endpoint(name="e", kind="openai", task="feature-extraction", model="m", identity=("m",))
KNOWN = Request(b"known", "known", 1, Chunk(0, 1, 1))


def answer(vector):
    return Answer(np.array(vector, "<f4").tobytes(), 1, 0, False, "m")


def check():
    passed = []
    known = [(KNOWN, answer([1.0, 0.0]))]
    return DriftCheck(ENDPOINT, known, lambda: passed.append(True)), passed


@pytest.mark.parametrize(("vector", "cosine"), [
    ([1.0, 0.0], None), ([3.0, 0.001], None), ([0.0, 1.0], "0.000"), ([1.0, 0.5], "0.894"),
    ([1.0, 0.0, 0.0], "-1.000"), ([0.0, 0.0], "-1.000"),
])  # fmt: skip
def test_a_vector_is_compared_with_the_one_before(vector, cosine):
    error = check()[0].compare(KNOWN, answer(vector))
    assert error is None or f"e: the model answers other vectors than before (cosine {cosine}" in str(error)
    assert (error is None) is (cosine is None)


def test_it_passes_if_one_text_was_compared_and_else_ends_the_run():
    drift, passed = check()
    assert [each.input for each in drift.requests] == ["known"]
    assert (drift.end(1), passed) == (None, [True])
    drift, passed = check()
    assert str(drift.end(0)).startswith("e: 1 text of the last commit got no vector when sent again")
    assert passed == []
