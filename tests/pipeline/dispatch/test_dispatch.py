import math

import anyio
import anyio.lowlevel
import pytest

from jobs.mock import clock
from pipeline import events
from pipeline.cache.store import AnswerCache
from pipeline.dispatch.dispatch import Dispatch
from pipeline.dispatch.queue import Group
from pipeline.errors import (
    BudgetError,
    EndpointError,
    GuardError,
    OutageError,
    RefusedError,
    StorageError,
    TextmillError,
    UsageError,
)
from pipeline.records import Answer, Answered, Chunk, Endpoint, Failure, Price, Request, Split, Stop

pytestmark = pytest.mark.anyio


def request(text, tokens=10):
    return Request(text.encode().ljust(32, b"."), text, tokens, Chunk(0, len(text), tokens))


def texts(count):
    return [request(f"text {number}") for number in range(count)]


class Server:
    """Answers every text with its own upper case, unless the script gives another reply."""

    def __init__(self, script=None):
        self.calls = []
        self.script = script or (lambda inputs, call: None)

    async def __call__(self, requests):
        inputs = [each.input for each in requests]
        self.calls.append(inputs)
        await anyio.lowlevel.checkpoint()
        scripted = self.script(inputs, len(self.calls))
        if isinstance(scripted, Exception):
            raise scripted
        return Answered(scripted or [Answer(text.upper(), 10, 5) for text in inputs])


def endpoint(**changed):
    return Endpoint(
        **{
            "name": "hub",
            "kind": "openai",
            "task": "chat-completion",
            "model": "m",
            "identity": ("openai", "", "m", "main"),
            "concurrency": 4,
            "batch_size": 8,
        }
        | changed
    )


@pytest.fixture
def cache(tmp_path):
    opened = AnswerCache(tmp_path / "answers")
    yield opened
    opened.close()


async def run(cache, server, groups, endpoint=endpoint(), free=1 << 40, **options):  # noqa: B008
    """Dispatch these groups of requests; the dispatch, the events and the error."""
    emitted = []
    dispatch = Dispatch(
        [(endpoint, server)],
        cache,
        emitted.append,
        free_bytes=lambda: free,
        uniform=lambda: 0.0,
        **options,
    )
    error = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dispatch.run)
            opened = []
            for requests in groups:
                group = Group()
                await dispatch.admit(group, requests)
                opened.append(group)
            with anyio.fail_after(20):
                for group in opened:
                    await group.whole.wait()
            dispatch.close()
    except* TextmillError as errors:
        (error,) = errors.exceptions
        while isinstance(error, BaseExceptionGroup):
            (error,) = error.exceptions
    return dispatch, emitted, error


async def test_every_request_is_answered_once_and_kept(cache):
    server = Server()
    dispatch, _, error = await run(cache, server, [texts(20)])
    assert error is None
    assert sorted(text for call in server.calls for text in call) == sorted(
        f"text {number}" for number in range(20)
    )
    stored = cache.get_many([each.key for each in texts(20)])
    assert [answer.value for answer in stored.values()] == [f"TEXT {n}" for n in range(20)]
    assert (dispatch.tally.requests, dispatch.tally.cached, dispatch.usage.calls) == (20, 0, 3)


async def test_calls_are_packed_across_groups_up_to_the_batch_and_its_tokens(cache):
    server = Server()
    groups = [[each] for each in texts(16)]
    await run(cache, server, groups, endpoint(concurrency=1))
    assert max(len(call) for call in server.calls) <= 8
    server = Server()
    long = [request(f"long {number}", 60) for number in range(4)]
    await run(cache, server, [long], endpoint(batch_tokens=130))
    assert [len(call) for call in server.calls] == [2, 2]


async def test_one_request_over_the_tokens_of_a_call_goes_alone(cache):
    server = Server()
    await run(cache, server, [[request("a", 500), request("b", 1)]], endpoint(batch_tokens=130))
    assert server.calls == [["a"], ["b"]]


async def test_equal_requests_are_sent_once_across_groups(cache):
    server = Server()
    same = request("same")
    dispatch, _, _ = await run(cache, server, [[same, same], [same], [same, request("other")]])
    assert sorted(text for call in server.calls for text in call) == ["other", "same"]
    assert dispatch.tally.cached == 3


async def test_a_second_run_sends_nothing(cache):
    await run(cache, Server(), [texts(20)])
    server = Server()
    dispatch, _, _ = await run(cache, server, [texts(20)])
    assert server.calls == []
    assert (dispatch.tally.cached, dispatch.usage.calls) == (20, 0)


async def test_an_answer_is_durable_before_its_group_is_whole(cache):
    server = Server()
    group = Group()
    dispatch = Dispatch([(endpoint(), server)], cache, lambda event: None, free_bytes=lambda: 1 << 40)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(dispatch.run)
        await dispatch.admit(group, texts(3))
        await group.whole.wait()
        assert len(cache.get_many([each.key for each in texts(3)])) == 3
        dispatch.close()


async def test_no_more_calls_are_in_flight_than_the_endpoint_allows(cache):
    running, most = 0, 0

    async def send(requests):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(0.001)
        running -= 1
        return Answered([Answer("x") for _ in requests])

    await run(cache, send, [texts(60)], endpoint(concurrency=3, batch_size=2))
    assert most == 3


async def test_a_transient_error_is_retried_and_no_row_is_lost(cache):
    server = Server(
        lambda inputs, call: EndpointError("transient", "500", status=500) if call <= 3 else None
    )
    dispatch, _, error = await run(cache, server, [texts(8)], endpoint(concurrency=1))
    assert error is None
    assert len(server.calls) == 4
    assert not dispatch.failures


async def test_a_transient_error_is_final_after_twelve_attempts(cache):
    server = Server(lambda inputs, call: EndpointError("transient", "500 boom", status=500))
    dispatch, _, error = await run(cache, server, [texts(1)])
    assert error is None
    assert len(server.calls) == 12
    assert list(dispatch.failures.values()) == [Failure("transient", "500 boom", 12)]


async def test_one_poison_row_in_64_costs_no_neighbour(cache):
    server = Server(
        lambda inputs, call: (
            EndpointError("poison", "400", status=400) if "text 17" in inputs else None
        )
    )
    dispatch, _, _ = await run(cache, server, [texts(64)], endpoint(batch_size=64, concurrency=1))
    assert list(dispatch.failures) == [request("text 17").key]
    assert len(cache.get_many([each.key for each in texts(64)])) == 63
    assert len(server.calls) <= 1 + 2 * math.log2(64)


async def test_a_call_with_a_wrong_count_is_tried_twice_more_and_then_bisected(cache):
    server = Server(
        lambda inputs, call: (
            EndpointError("invalid", "count", status=200) if "text 3" in inputs else None
        )
    )
    dispatch, _, _ = await run(cache, server, [texts(8)], endpoint(concurrency=1))
    assert [len(call) for call in server.calls][:4] == [8, 8, 8, 4]
    assert list(dispatch.failures) == [request("text 3").key]


async def test_one_bad_vector_of_a_call_is_sent_again_alone(cache):
    def script(inputs, call):
        answers = [Answer(b"\x00\x00\x80?") for _ in inputs]
        if call == 1:
            answers[2] = Failure("invalid", "NaN")
        return answers

    server = Server(script)
    dispatch, _, _ = await run(cache, server, [texts(4)], endpoint(concurrency=1))
    assert server.calls == [[f"text {n}" for n in range(4)], ["text 2"]]
    assert not dispatch.failures


async def test_a_vector_of_another_dimension_is_no_answer(cache):
    def script(inputs, call):
        return [Answer(b"\x00\x00\x80?" * (3 if text == "text 5" else 2)) for text in inputs]

    dispatch, _, _ = await run(cache, Server(script), [texts(8)], endpoint(concurrency=1))
    (failure,) = dispatch.failures.values()
    assert failure.message == "a vector of 3 dimensions, expected 2"
    assert len(cache.get_many([each.key for each in texts(8)])) == 7


async def test_429_pauses_the_endpoint_and_uses_up_no_attempts(cache):
    server = Server(
        lambda inputs, call: (
            EndpointError("rate", "429", status=429, retry_after=0.001) if call <= 30 else None
        )
    )
    dispatch, emitted, error = await run(cache, server, [texts(4)], endpoint(concurrency=2))
    assert error is None
    assert not dispatch.failures
    assert dispatch.tally.pauses == 30


async def test_401_stops_the_run_after_at_most_concurrency_calls(cache):
    server = Server(lambda inputs, call: EndpointError("auth", "401", status=401))
    dispatch, _, error = await run(cache, server, [texts(200)], endpoint(concurrency=4))
    assert isinstance(error, RefusedError)
    assert len(server.calls) <= 4
    assert not dispatch.failures


async def test_twenty_rejected_rows_are_a_configuration_error(cache):
    server = Server(lambda inputs, call: EndpointError("poison", "422 no", status=422))
    _, _, error = await run(cache, server, [texts(100)], endpoint(concurrency=1, batch_size=1))
    assert isinstance(error, UsageError)
    assert len(server.calls) == 20
    assert str(error) == "endpoint `hub` rejected each of the first 20 requests: 422 no"


async def test_nineteen_refusals_are_nineteen_failed_rows(cache):
    server = Server(lambda inputs, call: EndpointError("poison", "422 no", status=422))
    dispatch, _, error = await run(cache, server, [texts(19)], endpoint(batch_size=1))
    assert error is None
    assert len(dispatch.failures) == 19


async def test_no_answer_at_all_ends_as_an_outage(cache):
    server = Server(lambda inputs, call: EndpointError("unreachable", "refused"))
    dispatch, _, error = await run(cache, server, [texts(4)], patience=Stop(max_start_seconds=0.05))
    assert isinstance(error, OutageError)
    assert not dispatch.failures
    assert dispatch.usage.calls == 0


async def test_a_full_disk_stops_before_anything_is_sent(cache):
    server = Server()
    _, _, error = await run(cache, server, [texts(4)], free=1_000)
    assert isinstance(error, StorageError)
    assert server.calls == []


async def test_the_budget_holds_before_a_call_is_made(cache):
    server = Server()
    price = Price(request=1.0)
    dispatch, _, error = await run(
        cache, server, [texts(10)], endpoint(price=price, batch_size=2), max_cost_usd=5.0
    )
    assert isinstance(error, BudgetError)
    assert sum(len(call) for call in server.calls) == 4
    assert dispatch.usage.cost_usd <= 5.0


async def test_a_failed_request_is_not_sent_again_for_an_equal_one_later(cache):
    server = Server(
        lambda inputs, call: EndpointError("poison", "400", status=400) if "bad" in inputs else None
    )
    emitted = []
    dispatch = Dispatch([(endpoint(), server)], cache, emitted.append, free_bytes=lambda: 1 << 40)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(dispatch.run)
        for _ in range(2):
            group = Group()
            await dispatch.admit(group, [request("bad"), request("good")])
            await group.whole.wait()
        dispatch.close()
    assert sum("bad" in call for call in server.calls) == 2  # with its neighbour, then alone
    assert len(dispatch.failures) == 1


async def test_answers_that_cannot_be_kept_end_the_run(cache, monkeypatch):
    def full(answers, can_use):
        raise StorageError("disk full")

    monkeypatch.setattr(cache, "put_many", full)
    _, _, error = await run(cache, Server(), [texts(4)])
    assert isinstance(error, StorageError)


class Meanwhile(Server):
    """While it answers, another run stores its own answers to the same requests."""

    def __init__(self, cache, stored):
        super().__init__()
        self._cache, self._stored = cache, stored

    async def __call__(self, requests):
        self._cache.put_many(self._stored)
        return await super().__call__(requests)


async def test_the_first_durable_answer_stands_and_the_later_one_gives_way(cache):
    first, second = texts(2)
    server = Meanwhile(cache, [(first.key, Answer("the other run's"))])
    dispatch, _, error = await run(cache, server, [[first, second]])
    assert error is None
    stored = cache.get_many([first.key, second.key])
    assert [stored[each.key].value for each in (first, second)] == ["the other run's", "TEXT 1"]
    assert dispatch.usage.requests == 2


async def test_a_split_that_stands_is_cut_and_an_answer_that_stands_is_not(cache):
    long, whole = request("too long for one", 1_000), request("answered by another", 1_000)
    server = Meanwhile(cache, [(long.key, Split())])
    dispatch, _, error = await run(cache, server, [[long]])
    assert error is None
    assert dispatch.splits == {long.dedup_key}
    assert cache.get_many([long.key]) == {long.key: Split()}

    class Refusing(Meanwhile):
        async def __call__(self, requests):
            await super().__call__(requests)
            raise EndpointError("too_long", "too long", status=413)

    dispatch, _, error = await run(cache, Refusing(cache, [(whole.key, Answer("whole"))]), [[whole]])
    assert error is None
    assert not dispatch.splits
    assert cache.get_many([whole.key]) == {whole.key: Answer("whole")}


async def test_what_stands_but_cannot_be_used_is_replaced(cache):
    short = request("short", 1)
    dispatch, _, error = await run(
        cache, Meanwhile(cache, [(short.key, Split())]), [[short]], min_split_tokens=8
    )
    assert error is None
    assert cache.get_many([short.key])[short.key].value == "SHORT"
    two, three = Answer(b"\x00\x00\x80?" * 2), Answer(b"\x00\x00\x80?" * 3)

    class Vectors(Meanwhile):
        async def __call__(self, requests):
            self._cache.put_many(self._stored)
            return Answered([two for _ in requests])

    wrong = request("wrong dimension")
    await run(cache, Vectors(cache, [(wrong.key, three)]), [[wrong]], dimension=2)
    assert cache.get_many([wrong.key]) == {wrong.key: two}


async def test_a_row_on_which_the_server_fails_takes_no_neighbour_with_it(cache):
    server = Server(lambda inputs, call: EndpointError("transient", "500", status=500)
                    if "text 3" in inputs else None)
    dispatch, _, error = await run(cache, server, [texts(8)], endpoint(concurrency=1))
    assert error is None
    assert list(dispatch.failures) == [request("text 3").key]


async def test_answers_from_before_show_that_the_configuration_works(cache):
    await run(cache, Server(), [texts(1)])
    server = Server(lambda inputs, call: EndpointError("poison", "422", status=422))
    dispatch, _, error = await run(cache, server, [texts(31)], endpoint(batch_size=1))
    assert error is None
    assert len(dispatch.failures) == 30


async def test_another_model_than_that_of_kept_answers_stops_the_run(cache):
    def named(model):
        return Server(lambda inputs, call: [Answer("x", model=model) for _ in inputs])

    await run(cache, named("m"), [texts(2)])
    _, _, error = await run(cache, named("m-2"), [texts(4)])
    assert isinstance(error, GuardError)
    _, _, error = await run(cache, named("m-2"), [texts(4)], endpoint(allow_model_change=True))
    assert error is None


async def test_what_may_have_been_billed_counts_against_the_budget(cache):
    server = Server(lambda inputs, call: EndpointError("ambiguous", "cut"))
    price = Price(request=1.0)
    dispatch, _, error = await run(
        cache, server, [texts(9)], endpoint(price=price, batch_size=2, concurrency=1),
        max_cost_usd=5.0,
    )
    assert isinstance(error, BudgetError)
    assert dispatch.usage.cost_usd <= 5.0


async def test_a_server_that_only_fails_is_an_outage_and_fails_no_rows(cache):
    server = Server(lambda inputs, call: EndpointError("transient", "500", status=500))
    dispatch, emitted, error = await run(
        cache, server, [texts(400)], endpoint(batch_size=1), patience=Stop(max_outage_seconds=0.3)
    )
    assert isinstance(error, OutageError)
    assert not dispatch.failures
    assert len(server.calls) <= 24 + 4
    assert any(isinstance(event, events.Paused) for event in emitted)


async def test_answers_that_came_after_the_grace_are_still_kept(cache):
    import threading

    slow, entered, put = threading.Event(), threading.Event(), cache.put_many
    dispatch = Dispatch([(endpoint(concurrency=2, batch_size=1), Server())], cache, lambda event: None,
                        free_bytes=lambda: 1 << 40)

    def stalled(answers, can_use):
        entered.set()
        slow.wait(5)
        return put(answers, can_use)

    cache.put_many = stalled
    with pytest.raises(ExceptionGroup):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dispatch.run)
            await dispatch.admit(Group(), texts(2))
            while not (entered.is_set() and dispatch.usage.calls == 2):
                await anyio.lowlevel.checkpoint()
            dispatch.stop(OutageError("over"), 0.0)
            slow.set()
    assert len(cache.get_many([each.key for each in texts(2)])) == 2


async def test_a_request_too_long_for_its_model_is_split_and_never_sent_again(cache):
    server = Server(lambda inputs, call: EndpointError("too_long", "400", status=400)
                    if "text 1" in inputs else None)
    for calls in (3, 0):  # together, then each alone; and nothing in a second run
        server.calls.clear()
        dispatch, _, error = await run(cache, server, [texts(2)], endpoint(concurrency=1))
        assert error is None
        assert dispatch.splits == {request("text 1").key}
        assert not dispatch.failures
        assert len(server.calls) == calls
    assert cache.get_many([request("text 1").key]) == {request("text 1").key: Split()}


async def test_a_prompt_that_is_always_too_long_is_a_configuration_error(cache):
    server = Server(lambda inputs, call: EndpointError("too_long", "400 too long", status=400))
    _, _, error = await run(cache, server, [texts(60)], endpoint(concurrency=1, batch_size=1))
    assert isinstance(error, UsageError)
    assert len(server.calls) == 20


async def test_endpoints_are_opened_once_and_only_if_something_is_to_be_sent(cache):
    server, seen = Server(), []

    async def open_endpoints():
        seen.append(len(server.calls))
        await anyio.lowlevel.checkpoint()

    await run(cache, server, [texts(4), texts(9)], open_endpoints=open_endpoints)
    assert seen == [0]
    await run(cache, server, [texts(9)], open_endpoints=open_endpoints)
    assert seen == [0]


async def test_an_endpoint_that_cannot_be_opened_ends_the_run_before_a_call(cache):
    async def missing():
        raise UsageError("the extra is missing")

    server = Server()
    with pytest.raises(UsageError, match="extra"):
        dispatch = Dispatch([(endpoint(), server)], cache, lambda event: None,
                            free_bytes=lambda: 1 << 40, open_endpoints=missing)  # fmt: skip
        await dispatch.admit(Group(), texts(1))
    assert server.calls == []


async def test_requests_that_are_given_up_are_durable_first_and_never_sent(cache):
    journal, server = [], Server()
    why = Failure("too_long", "cannot be cut")
    dispatch = Dispatch([(endpoint(), server)], cache, lambda event: None,
                        free_bytes=lambda: 1 << 40, journal=journal.extend)  # fmt: skip
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(dispatch.run)
        await dispatch.fail(texts(2), why)
        assert journal == [(each.dedup_key, why) for each in texts(2)]
        assert dispatch.failures == dict(journal)
        group = Group()
        assert await dispatch.admit(group, texts(3)) == 2
        await group.whole.wait()
        dispatch.close()
    assert server.calls == [["text 2"]]


async def test_the_disk_is_not_asked_before_each_call(cache):
    asked, now = [], 0.0

    def free_bytes():
        asked.append(now)
        return 1 << 40

    async def send(requests):
        nonlocal now
        now += 0.25
        return Answered([Answer("x") for _ in requests])

    dispatch = Dispatch([(endpoint(concurrency=1, batch_size=1), send)], cache, lambda event: None,
                        free_bytes=free_bytes, clock=lambda: now)  # fmt: skip
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(dispatch.run)
        group = Group()
        await dispatch.admit(group, texts(9))
        await group.whole.wait()
        dispatch.close()
    assert asked == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("is_refused", [False, True])
def test_the_headers_of_a_reply_are_heard_whatever_else_it_says(tmp_path, is_refused):
    headers = {"ratelimit-policy": '"minute";q=100;w=60', "ratelimit": '"minute";r=0;t=30'}
    times = []

    async def send(requests):
        times.append(anyio.current_time())
        if is_refused and len(times) == 1:
            error = EndpointError("transient", "500", status=500)
            error.headers = headers
            raise error
        return Answered([Answer("x") for _ in requests], headers if len(times) == 1 else {})

    async def main():
        opened = AnswerCache(tmp_path / "answers")
        dispatch = Dispatch([(endpoint(concurrency=1, batch_size=1), send)], opened, lambda event: None,
                            free_bytes=lambda: 1 << 40, clock=anyio.current_time)  # fmt: skip
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dispatch.run)
            group = Group()
            await dispatch.admit(group, texts(2))
            await group.whole.wait()
            dispatch.close()
        opened.close()

    clock.run(main)
    assert times[0] < 1
    assert 30 <= times[1] < 40
