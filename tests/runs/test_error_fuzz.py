"""10,000 replies that are no answers, each sent for ever to a job of one row, on a virtual clock.

Each gets a class, none ends in a traceback, and none is sent more than 12 times by attempts that
count. The normal suite takes the first 300 of them.
"""

import random

import anyio
import pytest

from jobs.mock import Fault, SimulatedServer, clock
from pipeline import events
from pipeline.dispatch.dispatch import Dispatch
from pipeline.dispatch.queue import Group
from pipeline.errors import ERRORS, TextmillError
from pipeline.records import Chunk, Deadline, Endpoint, Request, Stop
from tests.support.error_replies import STATUSES, replies

ENDPOINT = Endpoint("mock", "openai", "chat-completion", "m", ("m",), concurrency=1, batch_size=1,
                    deadline=Deadline(loading_seconds=20.0))  # fmt: skip
REQUEST = Request(bytes(32), "The weir held.", 10, Chunk(0, 14, 10))
COUNT, SAMPLE, SEED = 10_000, 300, 10


class Nothing:
    """A cache that holds no answer, and is asked to keep none."""

    folder = "memory"

    def get_many(self, keys):
        return {}

    def put_many(self, answers):
        raise AssertionError(f"{answers} is no answer")


async def served_for_ever(reply):
    """The classes of all calls of the job, the error that ended it, and the failure of its row."""
    fault = Fault("status", status=reply.status, body=reply.body)
    server = SimulatedServer("slots=8", script=[fault])
    seen = []
    dispatch = Dispatch(
        [(ENDPOINT, server.send)],
        Nothing(),
        seen.append,
        free_bytes=lambda: 1 << 40,
        patience=Stop(max_outage_seconds=20.0),
        min_split_tokens=100,
        clock=anyio.current_time,
        uniform=random.Random(0).random,
    )
    await dispatch.admit(Group(), [REQUEST])
    dispatch.close()
    try:
        with anyio.fail_after(600):
            await dispatch.run()
    except TextmillError:
        pass
    kinds = [event.error for event in seen if isinstance(event, events.CallEnded)]
    return kinds, dispatch.stopped_by, dispatch.failures.get(REQUEST.dedup_key)


def check(sample):
    async def main():
        for reply in sample:
            kinds, error, failure = await served_for_ever(reply)
            assert kinds, reply
            assert set(kinds) <= {*ERRORS, None}, reply
            counted = [kind for kind in kinds if kind is None or not ERRORS[kind].is_pausing]
            assert len(counted) <= 12, reply
            assert (error is None) != (failure is None), reply
            if failure is not None:
                assert failure.kind in ERRORS, reply
                assert 1 <= failure.attempts <= 12, reply
                assert "\x1b" not in failure.message, reply
            else:
                assert error.exit_code in (2, 5, 7), reply
                assert "\n" not in str(error), reply

    clock.run(main)


def test_a_sample_of_replies_that_are_no_answers():
    check(replies(SAMPLE, SEED))


def test_every_status_and_both_languages_are_among_them():
    drawn = replies(1_000, SEED)
    assert {reply.status for reply in drawn} == set(STATUSES)
    assert sum("模型".encode() in reply.body for reply in drawn) > 5


@pytest.mark.slow  # 40 s of CPU in all, on a free core
@pytest.mark.parametrize("part", range(10))
def test_10_000_replies_that_are_no_answers(part):
    check(replies(COUNT // 10, SEED + part))
