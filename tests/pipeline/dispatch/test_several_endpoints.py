"""Dispatch over several endpoints: spill-over, fallback, pauses, replicas, learned sizes."""

import anyio
import anyio.lowlevel
import pytest

from pipeline.cache.keys import Keys
from pipeline.cache.store import AnswerCache
from pipeline.dispatch.dispatch import Dispatch
from pipeline.dispatch.queue import Group
from pipeline.errors import EndpointError, OutageError, TextmillError
from pipeline.prepare.routes import Router
from pipeline.records import Answer, Answered, Chunk, Endpoint, Request, Split, Stop

pytestmark = pytest.mark.anyio


class Server:
    def __init__(self, name, script=None, seconds=0.0):
        self.name, self.calls, self.seconds = name, [], seconds
        self.script = script or (lambda inputs, call: None)

    async def __call__(self, requests):
        inputs = [each.input for each in requests]
        self.calls.append(inputs)
        await anyio.sleep(self.seconds)
        scripted = self.script(inputs, len(self.calls))
        if isinstance(scripted, Exception):
            raise scripted
        return Answered(scripted or [Answer(f"{self.name}: {text}", 10, 5) for text in inputs])

    @property
    def texts(self):
        return [text for call in self.calls for text in call]


def endpoint(name, **changed):
    settings = {"concurrency": 2, "batch_size": 1, "identity": ("openai", "", name, "main")}
    return Endpoint(name=name, kind="openai", task="chat-completion", model=name,
                    **(settings | changed))


@pytest.fixture
def cache(tmp_path):
    opened = AnswerCache(tmp_path / "answers")
    yield opened
    opened.close()


async def run(cache, served, count=20, *, fields=None, rules=(), **options):
    """Dispatch requests over these endpoints; the dispatch, the requests, the error."""
    endpoints = [each for each, _ in served]
    keys, router = Keys(endpoints), Router(endpoints, rules)
    requests = []
    for number in range(count):
        text = f"text {number}"
        route = router.route(fields(number) if fields else {})
        key = keys.first(route)(text)
        chunk = Chunk(0, len(text), 10)
        requests.append(Request(key, text, 10, chunk, route, router.name(route, key)))
    dispatch = Dispatch(served, cache, lambda event: None, free_bytes=lambda: 1 << 40,
                        uniform=lambda: 0.0, **options)
    error = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dispatch.run)
            group = Group()
            await dispatch.admit(group, requests)
            with anyio.fail_after(20):
                await group.whole.wait()
            dispatch.close()
    except* TextmillError as errors:
        (error,) = errors.exceptions
        while isinstance(error, BaseExceptionGroup):
            (error,) = error.exceptions
    return dispatch, requests, error


def down(inputs, call):
    return EndpointError("unreachable", "cannot connect")


async def test_ordered_spills_over_to_the_next_when_the_first_has_no_room(cache):
    hub, spare = Server("hub", seconds=0.01), Server("spare", seconds=0.01)
    served = [(endpoint("hub", concurrency=2), hub), (endpoint("spare"), spare)]
    await run(cache, served, 2)
    assert (len(hub.texts), len(spare.texts)) == (2, 0)
    await run(cache, served, 30)
    assert len(hub.texts) + len(spare.texts) == 30
    assert len(spare.texts) >= 10


async def test_a_fallback_gets_only_requests_that_the_others_failed(cache):
    def picky(inputs, call):
        return EndpointError("poison", "no", status=422) if inputs == ["text 3"] else None

    hub, spare = Server("hub", picky), Server("spare")
    served = [(endpoint("hub"), hub), (endpoint("spare", is_fallback=True), spare)]
    dispatch, requests, error = await run(cache, served)
    assert error is None and dispatch.failures == {}
    assert spare.texts == ["text 3"]
    under = Keys([each for each, _ in served]).others(requests[3])
    assert [answer.value for answer in cache.get_many(under).values()] == ["spare: text 3"]
    assert cache.get_many([requests[3].key]) == {}
    # and the cache hits it, though the first endpoint is healthy
    again = Server("hub")
    await run(cache, [(endpoint("hub"), again), served[1]])
    assert again.texts == [] and spare.texts == ["text 3"]


async def test_a_fallback_answers_while_the_first_is_paused(cache):
    hub, spare = Server("hub", down), Server("spare")
    served = [(endpoint("hub"), hub), (endpoint("spare", is_fallback=True), spare)]
    dispatch, _, error = await run(cache, served)
    assert error is None and dispatch.failures == {}
    assert sorted(spare.texts) == sorted(f"text {n}" for n in range(20))
    assert len(hub.calls) <= 4


async def test_without_a_fallback_a_failed_request_goes_nowhere_else(cache):
    def refuse(inputs, call):
        return EndpointError("poison", "no", status=422) if inputs == ["text 3"] else None

    hub, other = Server("hub", refuse), Server("other", refuse)
    dispatch, requests, _ = await run(cache, [(endpoint("hub"), hub), (endpoint("other"), other)])
    assert list(dispatch.failures) == [requests[3].dedup_key]
    assert (hub.texts + other.texts).count("text 3") == 1


async def test_what_every_tier_fails_is_a_failure_of_the_last(cache):
    def refuse(inputs, call):
        return EndpointError("poison", f"call {call}", status=422)

    servers = [Server("a", refuse), Server("b", refuse), Server("c", refuse)]
    served = [(endpoint(s.name, is_fallback=s.name != "a"), s) for s in servers]
    journal = []
    dispatch, requests, error = await run(cache, served, 1, journal=journal.extend)
    assert error is None
    assert [server.texts for server in servers] == [["text 0"]] * 3
    assert journal == [(requests[0].dedup_key, dispatch.failures[requests[0].dedup_key])]


async def test_a_private_row_waits_for_its_endpoint_and_never_goes_elsewhere(cache):
    from pipeline.records import Rule

    hub = Server("hub")
    inside = Server("inside", lambda inputs, call: down(inputs, call) if call < 4 else None)
    served = [(endpoint("hub"), hub), (endpoint("inside"), inside),
              (endpoint("spare", is_fallback=True), Server("spare"))]
    rules = [Rule("private", True, ("inside",))]
    _, _, error = await run(cache, served, fields=lambda n: {"private": n % 2 == 0}, rules=rules)
    assert error is None
    assert set(hub.texts) <= {f"text {n}" for n in range(1, 20, 2)}
    assert {f"text {n}" for n in range(0, 20, 2)} <= {*inside.texts}


async def test_an_outage_of_a_whole_route_ends_the_run_though_others_answer(cache):
    from pipeline.records import Rule

    hub, inside = Server("hub"), Server("inside", down)
    served = [(endpoint("hub"), hub), (endpoint("inside"), inside)]
    rules = [Rule("private", True, ("inside",))]
    _, _, error = await run(cache, served, fields=lambda n: {"private": n == 0}, rules=rules,
                            patience=Stop(max_start_seconds=0.3))
    assert isinstance(error, OutageError)
    assert str(error).startswith("endpoint `inside`: no reply for")
    assert len(hub.texts) == 19


async def test_a_paused_endpoint_is_probed_while_another_works(cache):
    hub = Server("hub", lambda inputs, call: down(inputs, call) if call == 1 else None)
    other = Server("other", seconds=0.02)
    served = [(endpoint("hub", concurrency=1), hub), (endpoint("other", concurrency=1), other)]
    dispatch, _, error = await run(cache, served, 60)
    assert error is None
    assert len(hub.calls) > 3  # the probe was answered, and it took part again
    assert len(other.calls) > 3
    hub_figures, other_figures = dispatch.endpoints
    assert (hub_figures.requests, other_figures.requests) == (len(hub.calls) - 1, len(other.calls))
    assert hub_figures.errors == 1 and other_figures.success == 1.0


async def test_replicas_share_keys_and_load(cache):
    one, two = Server("one", seconds=0.01), Server("two", seconds=0.01)
    same = ("tei", "", "m", "sha")
    served = [(endpoint("one", identity=same), one),
              (endpoint("two", identity=same, replica_of="one"), two)]
    await run(cache, served, 30)
    assert len(one.texts) + len(two.texts) == 30
    assert min(len(one.texts), len(two.texts)) >= 8
    await run(cache, served[:1], 30)
    assert len(one.texts) + len(two.texts) == 30


@pytest.mark.parametrize(("weights", "expected"), [((3.0, 1.0), 30), ((1.0, 1.0), 20)])
async def test_weighted_endpoints_have_their_shares_however_fast_they_are(
    cache, weights, expected
):
    one, two = Server("one", seconds=0.004), Server("two")
    served = [(endpoint("one", weight=weights[0]), one), (endpoint("two", weight=weights[1]), two)]
    await run(cache, served, 40, policy="weighted")
    assert abs(len(one.texts) - expected) <= 2
    assert len(one.texts) + len(two.texts) == 40


async def test_a_batch_too_large_for_the_next_endpoint_is_split(cache):
    hub = Server("hub", down)
    spare = Server("spare")
    served = [(endpoint("hub", batch_size=8), hub),
              (endpoint("spare", batch_size=3, is_fallback=True), spare)]
    _, _, error = await run(cache, served, 16)
    assert error is None
    assert max(len(call) for call in spare.calls) <= 3
    assert sorted(spare.texts) == sorted(f"text {n}" for n in range(16))


async def test_a_batch_size_that_was_refused_is_learned(cache):
    def most_4(inputs, call):
        return EndpointError("too_long", "413", status=413) if len(inputs) > 4 else None

    hub = Server("hub", most_4)
    await run(cache, [(endpoint("hub", batch_size=16, concurrency=1), hub)], 160)
    sizes = [len(call) for call in hub.calls]
    refused = [at for at, size in enumerate(sizes) if size > 4]
    assert len(refused) <= 6 and max(refused) < 12
    assert max(sizes[12:]) == 4


async def test_one_text_that_is_too_long_does_not_shrink_the_batches_of_others(cache):
    def one_long(inputs, call):
        is_long = "text 5" in inputs
        return EndpointError("too_long", "too long", status=400) if is_long else None

    hub = Server("hub", one_long)
    dispatch, requests, _ = await run(
        cache, [(endpoint("hub", batch_size=16, concurrency=1), hub)], 160
    )
    assert dispatch.splits == {requests[5].dedup_key}
    assert cache.get_many([requests[5].key]) == {requests[5].key: Split()}
    assert max(len(call) for call in hub.calls[-4:]) == 16
