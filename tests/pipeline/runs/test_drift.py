"""The canary alone: what it asks of a server, and when it speaks of another model."""

import anyio
import numpy as np
import pytest

from pipeline.errors import GuardError
from pipeline.records import Answer, Answered, Chunk, Endpoint, Request
from pipeline.runs.drift import DriftCheck

ONE, OTHER, LONGER = ([1.0, 0.0], [0.0, 1.0], [1.0, 0.0, 0.0])


def answer(vector):
    return Answer(np.array(vector, "<f4").tobytes(), 1, 0, False, "m")


def of(*answers):
    """A canary of one text, and a server that gives these answers, then the last one for ever."""
    left, sent = list(answers), []

    async def send(requests):
        sent.append([each.input for each in requests])
        await anyio.lowlevel.checkpoint()
        vector = left.pop(0) if len(left) > 1 else left[0]
        return Answered([answer(vector) for _ in requests])

    known = [(request("known"), answer(ONE).value)]
    return DriftCheck(ENDPOINT, known, lambda: sent.append("passed")), send, sent


def request(text):
    return Request(text.encode(), text, 1, Chunk(0, 1, 1))


ENDPOINT = Endpoint(name="e", kind="openai", task="feature-extraction", model="m", identity=("m",))


def test_a_vector_of_another_length_is_asked_for_once_more():
    canary, send, sent = of(LONGER, ONE)
    anyio.run(canary, send)
    assert sent == [["known"], ["known"], "passed"]
    anyio.run(canary, send)
    assert sent == [["known"], ["known"], "passed"]  # once a run
    canary, send, sent = of(LONGER)
    with pytest.raises(GuardError, match="cosine -1"):
        anyio.run(canary, send)
    assert sent == [["known"], ["known"]]


def test_calls_that_begin_together_ask_a_model_that_moved_once():
    canary, send, sent = of(OTHER)
    refused = []

    async def call():
        try:
            await canary(send)
        except GuardError as error:
            refused.append(str(error))

    async def together():
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(call)

    anyio.run(together)
    assert sent == [["known"]]
    assert len(refused) == 8
