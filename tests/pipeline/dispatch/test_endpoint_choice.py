"""Which endpoint takes a call if they differ in batch size, limits, pauses or replies."""

import anyio
import pytest
from msgspec.structs import replace

from pipeline.dispatch.dispatch import Dispatch
from pipeline.dispatch.endpoint_state import EndpointState
from pipeline.dispatch.queue import Group, InFlight, PendingCall, RouteQueue
from pipeline.errors import EndpointError
from pipeline.limits.admission import Admission
from pipeline.records import SOLE, Chunk, Request, Route
from tests.pipeline.dispatch.test_several_endpoints import Server, cache, down, endpoint, run

pytestmark = pytest.mark.anyio

__all__ = ["cache"]  # a fixture

BUSY = EndpointError("overload", "503", status=503)


def test_a_poll_does_not_split_the_calls_of_other_endpoints():
    hub, spare = endpoint("hub"), endpoint("spare")
    group, queue = Group(), RouteQueue(SOLE)
    entries = [InFlight(Request(b"%d" % n, "x", 10, Chunk(0, 1, 10)), group, n, queue) for n in range(16)]
    queue.retry(PendingCall(0.0, entries, 14.0))
    assert len(queue.next(1.0, spare, 1).entries) == 1
    assert queue.next(1.0, hub, 16).entries == entries
    part = queue.next(1.0, spare, 3)
    queue.mark_sent(part)
    assert (part.entries, part.cost, queue.in_flight) == (entries[:3], 14.0, 3)
    unsent = queue.next(1.0, hub, 16)
    assert (unsent.entries, unsent.cost) == (entries[3:], 14.0)
    queue.mark_sent(unsent)
    assert (queue.oldest, queue.next(1.0, hub, 16)) == (None, None)


async def test_a_call_made_again_elsewhere_keeps_to_the_tokens_that_are_taken_there(cache):
    hub, spare = Server("hub", down), Server("spare")
    served = [(endpoint("hub", batch_size=8), hub),
              (endpoint("spare", batch_size=8, batch_tokens=30, is_fallback=True), spare)]
    _, _, error = await run(cache, served, 16)
    assert error is None
    assert max(len(call) for call in spare.calls) == 3
    assert sorted(spare.texts) == sorted(f"text {n}" for n in range(16))


async def test_a_batch_size_is_learned_for_the_endpoint_that_refused_it(cache):
    def most_4(inputs, call):
        return EndpointError("too_long", "413", status=413) if len(inputs) > 4 else None

    hub, other = Server("hub", most_4, seconds=0.003), Server("other", seconds=0.003)
    served = [(endpoint("hub", batch_size=16, concurrency=1), hub),
              (endpoint("other", batch_size=16, concurrency=1), other)]
    await run(cache, served, 400)
    assert [len(call) > 4 for call in hub.calls].count(True) <= 6
    assert max(len(call) for call in other.calls[-6:]) == 16


async def test_an_endpoint_that_is_not_adaptive_has_as_much_room_as_it_has_workers(cache):
    local, hub = Server("local", seconds=0.02), Server("hub", seconds=0.02)
    served = [(endpoint("local", concurrency=2), local), (endpoint("hub", concurrency=2), hub)]
    served[0] = (replace(served[0][0], is_adaptive=False), local)
    await run(cache, served, 40)
    assert min(len(local.texts), len(hub.texts)) >= 10


async def test_calls_in_flight_when_a_pause_begins_do_not_lengthen_it():
    control = Admission(endpoint("hub", concurrency=64), 0.0, lambda: 0.0)
    error = EndpointError("transient", "502", status=502)
    permits = [control.lease(0.0, 1) for _ in range(7)]
    for _ in range(16):
        assert control.refused(control.lease(0.5, 1), 0.5, error) is None
    pauses = [control.refused(permit, 1.0, error) for permit in permits]
    assert [pause.seconds for pause in pauses if pause] == [5.0]
    assert control.lease(5.9, 1) == pytest.approx(0.1)


async def test_fastest_avoids_a_rate_limited_endpoint(cache):
    quick, other = Server("quick"), Server("other", seconds=0.02)
    served = [(endpoint("quick", requests_per_minute=60.0, concurrency=1), quick),
              (endpoint("other", concurrency=1), other)]
    started = anyio.current_time()
    _, _, error = await run(cache, served, 30, policy="fastest")
    assert error is None
    assert len(other.texts) >= 20
    assert anyio.current_time() - started < 10


def test_silence_is_distinguished_from_one_call_that_breaks():
    state = EndpointState(0, endpoint("hub"), Server("hub"), 0.0, lambda: 0.0)
    assert not state.failed(1.0, BUSY)  # the first one may be at fault itself
    assert state.failed(2.0, BUSY)  # and so may the endpoint
    state.replied(0.5)  # it was sent before
    assert state.failed(3.0, BUSY)
    state.replied(3.5)
    assert not state.failed(4.0, BUSY)
    state.replied(4.5)
    # While this one hung others were answered: when it hangs again, it is at fault, not the endpoint.
    assert not state.failed(4.2, BUSY)
    assert not state.failed(5.0, BUSY)


@pytest.mark.parametrize("policy", ["ordered", "cheapest", "fastest"])
async def test_a_rate_limited_endpoint_is_skipped_meanwhile(cache, policy):
    one, two = Server("one"), Server("two")
    same = {"identity": ("openai", "", "m", "main"), "requests_per_minute": 1_200.0}
    served = [(endpoint("one", **same), one), (endpoint("two", replica_of="one", **same), two)]
    started = anyio.current_time()
    _, _, error = await run(cache, served, 60, policy=policy)
    assert error is None
    assert min(len(one.texts), len(two.texts)) >= 22
    assert anyio.current_time() - started < 2.6  # alone 3.0


@pytest.fixture
def polls(monkeypatch):
    """Grows with each time that a worker looks for a call."""
    found, take = [], Dispatch.take

    def counted(self, *arguments):
        found.append(self)
        return take(self, *arguments)

    monkeypatch.setattr(Dispatch, "take", counted)
    return found


@pytest.mark.parametrize("policy", ["ordered", "cheapest", "fastest", "weighted"])
async def test_no_worker_polls_in_a_loop_while_all_are_busy(cache, policy, polls):
    served = [(endpoint(name, concurrency=32, is_fallback=name == "spare"), Server(name, seconds=0.2))
              for name in ("one", "two", "spare")]
    _, _, error = await run(cache, served, 40, policy=policy)
    assert error is None
    assert len(polls) < 40 * 12


async def test_no_worker_polls_in_a_loop_while_two_wait_for_a_third(cache, polls):
    slow = (endpoint("slow", concurrency=1), Server("slow", seconds=0.3))
    served = [slow, *((endpoint(name), Server(name)) for name in ("two", "three"))]
    _, _, error = await run(cache, served, 12, policy="weighted")
    assert error is None
    assert len(slow[1].texts) >= 3
    assert len(polls) < 200


def test_the_repr_of_an_endpoint_is_its_state():
    state = EndpointState(0, endpoint("hub", concurrency=8), Server("hub"), 0.0, lambda: 0.5)
    permits = [state.admission.lease(0.0, 1.0) for _ in range(4)]
    assert repr(state) == "<EndpointState hub: 4 of 8 in flight>"
    state.admission.refused(permits[0], 0.0, EndpointError("loading", "503", retry_after=4.0))
    assert repr(state) == "<EndpointState hub: 3 of 8 in flight, paused 4.2 s>"


def test_the_repr_of_a_queue_counts_its_requests():
    queue, group, hub = RouteQueue(Route(((0, 1), (2,)))), Group(), endpoint("hub")
    assert repr(queue) == "<RouteQueue of endpoints 0, 1 then 2: 0 new, 0 to retry, 0 in flight>"
    entries = [InFlight(Request(b"%d" % n, "x", 10, Chunk(0, 1, 10)), group, n, queue) for n in range(5)]
    for entry in entries[:3]:
        queue.add(entry)
    queue.retry(PendingCall(4.0, entries[3:], 14.0))
    assert repr(queue) == "<RouteQueue of endpoints 0, 1 then 2: 3 new, 2 to retry, 0 in flight>"
    queue.mark_sent(queue.next(1.0, hub, 2))
    assert repr(queue) == "<RouteQueue of endpoints 0, 1 then 2: 1 new, 2 to retry, 2 in flight>"
