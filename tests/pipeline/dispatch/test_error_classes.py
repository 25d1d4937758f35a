"""The effects of each class of error, in figures: one row, one test."""

import math
from typing import NamedTuple

import pytest

from pipeline.dispatch.endpoint_state import EndpointState
from pipeline.errors import ERRORS, EndpointError
from pipeline.events import CallEnded
from pipeline.limits.admission import Permit
from pipeline.limits.retries import Fail, Halve, Retry, SplitRequest, Stop, verdict
from pipeline.records import Chunk, Endpoint, Price, Request, Usage

PRICED = Endpoint("hub", "openai", "chat-completion", "m", ("m",), price=Price(request=0.25), concurrency=64)
REQUESTS = [Request(b"%d" % n, "x", 10, Chunk(0, 1, 10)) for n in range(2)]


class Row(NamedTuple):
    alone: tuple[str, int]
    """The outcome of one request that gets this error every time, and the deciding attempt."""
    of_two: str
    calls: int
    billed_usd: float
    is_outage: bool
    pauses: list[tuple[int, float]]
    """Of twenty calls that began together: the ones that pause the endpoint, and the seconds."""
    longest: float | None
    """The pause where the server requests an hour."""
    lowers: str | None
    retry_cost: float
    is_config: bool
    """True: this error on each of the first twenty requests means that the job is wrong."""


WAITS = ("waits", 0)
ROWS = {
    #                 alone            of two   sent billed outage pauses        longest lowers      cost  config
    "too_long":    Row(("split", 1),   "halve", 1,   0.0,   False, [],           None,  None,          0.0, True),
    "loading":     Row(WAITS,          "again", 1,   0.0,   True,  [(1, 0.625)], 21.0,  None,          5.0, False),
    "rate":        Row(WAITS,          "again", 1,   0.0,   True,  [(2, 0.625)], 300.0, "rate limit",  5.0, False),
    "overload":    Row(WAITS,          "again", 1,   0.0,   True,  [(1, 0.625)], 315.0, "concurrency", 5.0, False),
    "unreachable": Row(WAITS,          "again", 0,   0.0,   True,  [(1, 0.15625)],315.0, None,          5.0, False),
    "unknown_host":Row(WAITS,          "again", 0,   0.0,   True,  [(1, 0.15625)],315.0, None,          5.0, False),
    "quota":       Row(("stop", 7),    "stop",  1,   0.0,   False, [],           None,  None,          0.0, False),
    "auth":        Row(("stop", 7),    "stop",  1,   0.0,   False, [],           None,  None,          0.0, False),
    "poison":      Row(("fail", 1),    "halve", 1,   0.0,   False, [],           None,  None,         14.0, True),
    "config":      Row(("stop", 2),    "stop",  1,   0.0,   False, [],           None,  None,          0.0, False),
    "transient":   Row(("fail", 12),   "halve", 1,   0.0,   True,  [(20, 5.0)],  None,  None,         14.0, False),
    "ambiguous":   Row(("fail", 2),    "halve", 1,   0.5,   True,  [(20, 5.0)],  None,  None,         14.0, False),
    "invalid":     Row(("fail", 3),    "halve", 1,   0.5,   False, [],           None,  None,         14.0, False),
    "truncated":   Row(("fail", 1),    "halve", 1,   0.5,   False, [],           None,  None,          0.0, False),
}  # fmt: skip
NAMES = {Retry: "again", Halve: "halve", SplitRequest: "split", Fail: "fail", Stop: "stop"}


def new_state():
    async def send(requests):
        raise NotImplementedError

    return EndpointState(0, PRICED, send, 0.0, lambda: 0.5)


def decide(error, attempts, size):
    return verdict(error, attempts, size, "hub", lambda: 0.5, can_split=True)


def alone(error):
    """The outcome of a request that gets this error every time, and the attempt that decides it."""
    for attempts in range(1, 100):
        decided = decide(error, attempts, 1)
        if isinstance(decided, Stop):
            return "stop", decided.error.exit_code
        if not isinstance(decided, Retry):
            return NAMES[type(decided)], attempts
    return WAITS


def pauses(error):
    endpoint, paused = new_state(), []
    for number in range(1, 21):
        refusal = endpoint.refused(REQUESTS, error, Permit(0.0, 10.0), 1.0)
        paused += [(number, refusal.pause.seconds)] if refusal.pause else []
    return paused


@pytest.mark.parametrize("kind", ERRORS)
def test_what_a_class_of_error_does(kind):
    row, facts = ROWS[kind], ERRORS[kind]
    error = EndpointError(kind, "why", status=400)
    assert alone(error) == row.alone
    assert NAMES[type(decide(error, 99, 2))] == row.of_two

    endpoint = new_state()
    refusal = endpoint.refused(REQUESTS, error, Permit(1.0, 10.0), 1.5)
    expected = Usage(row.calls, 0, 1, 0, 0, row.billed_usd, 0.5, 0.5, ambiguous=int(row.billed_usd > 0))
    assert refusal.usage == endpoint.meter.usage == expected
    assert (endpoint.absence.since < math.inf) is row.is_outage

    assert pauses(error) == row.pauses
    throttled = EndpointError(kind, "why", status=400, retry_after=3_600.0)
    pause = new_state().refused(REQUESTS, throttled, Permit(0.0, 10.0), 1.0).pause
    assert (pause and pause.seconds) == row.longest

    refused = new_state()
    assert [bool(refused.count_refusal(error)) for _ in range(20)] == [False] * 19 + [row.is_config]
    assert (facts.lowers, facts.retry_cost) == (row.lowers, row.retry_cost)


@pytest.mark.parametrize("kind", [None, *ERRORS])
def test_the_event_of_a_call_holds_its_usage(kind):
    event = CallEnded("hub", 2, 0.5, 100, 7, 0.25, kind)
    sent, ambiguous = (ROWS[kind].calls, int(ROWS[kind].billed_usd > 0)) if kind else (1, 0)
    errors, requests = int(kind is not None), 0 if kind else 2
    assert event.usage == Usage(sent, requests, errors, 100, 7, 0.25, 0.5, 0.5, ambiguous=ambiguous)
