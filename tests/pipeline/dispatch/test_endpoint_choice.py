"""Who takes which call when endpoints differ: in size, in limits, in rests, in what they say."""

import anyio
import pytest
from msgspec.structs import replace

from pipeline.dispatch.dispatch import Dispatch
from pipeline.dispatch.endpoint_state import EndpointState
from pipeline.dispatch.queue import Group, InFlight, PendingCall, RouteQueue
from pipeline.errors import EndpointError
from pipeline.limits.admission import Admission
from pipeline.records import SOLE, Chunk, Request
from tests.pipeline.dispatch.test_several_endpoints import Server, cache, down, endpoint, run

pytestmark = pytest.mark.anyio

__all__ = ["cache"]  # a fixture


def test_who_only_asks_does_not_break_up_the_calls_of_others():
    hub, spare = endpoint("hub"), endpoint("spare")
    group, queue = Group(), RouteQueue(SOLE)
    flights = [InFlight(Request(b"%d" % n, "x", 10, Chunk(0, 1, 10)), group, n) for n in range(16)]
    queue.retry(PendingCall(0.0, flights, 14.0))
    assert len(queue.next(1.0, spare, 1).entries) == 1
    assert queue.next(1.0, hub, 16).entries == flights
    part = queue.next(1.0, spare, 3)
    queue.mark_sent(part)
    assert (part.entries, part.cost, queue.in_flight) == (flights[:3], 14.0, 3)
    rest = queue.next(1.0, hub, 16)
    assert (rest.entries, rest.cost) == (flights[3:], 14.0)
    queue.mark_sent(rest)
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


async def test_calls_under_way_when_a_rest_begins_make_it_no_longer():
    control = Admission(endpoint("hub", concurrency=64), 0.0, lambda: 0.0)
    error = EndpointError("transient", "502", status=502)
    tickets = [control.lease(0.0, 1) for _ in range(7)]
    for _ in range(16):
        assert control.refused(control.lease(0.5, 1), 0.5, error) is None
    rests = [control.refused(permit, 1.0, error) for permit in tickets]
    assert [rest.seconds for rest in rests if rest] == [5.0]
    assert control.lease(5.9, 1) == pytest.approx(0.1)


async def test_fastest_goes_round_an_endpoint_that_its_limit_holds_back(cache):
    quick, other = Server("quick"), Server("other", seconds=0.02)
    served = [(endpoint("quick", requests_per_minute=60.0, concurrency=1), quick),
              (endpoint("other", concurrency=1), other)]
    started = anyio.current_time()
    _, _, error = await run(cache, served, 30, policy="fastest")
    assert error is None
    assert len(other.texts) >= 20
    assert anyio.current_time() - started < 10


def test_silence_is_told_from_one_call_that_breaks():
    live = EndpointState(0, endpoint("hub"), Server("hub"), 0.0, lambda: 0.0)
    assert not live.failed(1.0, "503")  # the first one may be at fault itself
    assert live.failed(2.0, "503")  # and so may the endpoint
    live.replied(0.5)  # it was sent before
    assert live.failed(3.0, "503")
    live.replied(3.5)
    assert not live.failed(4.0, "503")
    live.replied(4.5)
    # While this one hung others were answered: when it hangs again, it is at fault, not the endpoint.
    assert not live.failed(4.2, "503")
    assert not live.failed(5.0, "503")


@pytest.mark.parametrize("policy", ["ordered", "cheapest", "fastest"])
async def test_an_endpoint_that_its_limit_holds_back_has_no_room_meanwhile(cache, policy):
    one, two = Server("one"), Server("two")
    same = {"identity": ("openai", "", "m", "main"), "requests_per_minute": 1_200.0}
    served = [(endpoint("one", **same), one), (endpoint("two", replica_of="one", **same), two)]
    started = anyio.current_time()
    _, _, error = await run(cache, served, 60, policy=policy)
    assert error is None
    assert min(len(one.texts), len(two.texts)) >= 22
    assert anyio.current_time() - started < 2.6  # alone 3.0


@pytest.mark.parametrize("policy", ["ordered", "cheapest", "fastest", "weighted"])
async def test_nobody_asks_again_and_again_while_all_are_busy(cache, policy, monkeypatch):
    asked, take = 0, Dispatch.take

    def counted(self, *arguments):
        nonlocal asked
        asked += 1
        return take(self, *arguments)

    monkeypatch.setattr(Dispatch, "take", counted)
    served = [(endpoint(name, concurrency=32, is_fallback=name == "spare"), Server(name, seconds=0.2))
              for name in ("one", "two", "spare")]
    _, _, error = await run(cache, served, 40, policy=policy)
    assert error is None
    assert asked < 40 * 12
