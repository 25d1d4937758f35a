"""The requests of a check: calls like all others, ahead of them, whose answers are compared."""

import math

import anyio
import anyio.lowlevel
import pytest

from jobs.mock import clock
from pipeline.cache.store import AnswerCache
from pipeline.dispatch.dispatch import Dispatch
from pipeline.dispatch.queue import Group
from pipeline.errors import BudgetError, EndpointError, GuardError, OutageError, TextmillError
from pipeline.records import Answer, Answered, Price, Request, Stop, Usage
from tests.pipeline.dispatch.test_dispatch import cache, endpoint, request, texts

pytestmark = pytest.mark.anyio

__all__ = ["cache"]  # a fixture


class Known:
    """A check: these texts must be answered with their upper case."""

    def __init__(self, *known):
        self.requests = [request(text) for text in known]
        self.ended = []

    def compare(self, request, answer):
        right = answer.value == request.input.upper()
        return None if right else GuardError(f"{request.input}: {answer.value}")

    def end(self, compared):
        self.ended.append(compared)
        return None if compared else GuardError("nothing to compare")


class Service:
    """Answers with the upper case, unless the script has another reply for the call."""

    def __init__(self, script=None, seconds=0.0):
        self.calls, self.times, self.running, self.most = [], [], 0, 0
        self.script, self.seconds = script or (lambda inputs, call: None), seconds

    async def __call__(self, requests):
        inputs = [each.input for each in requests]
        self.calls.append(inputs)
        self.times.append(anyio.current_time())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await anyio.sleep(self.seconds)
            scripted = self.script(inputs, len(self.calls))
        finally:
            self.running -= 1
        if isinstance(scripted, Exception):
            raise scripted
        return Answered(scripted or [Answer(text.upper(), 10, 5) for text in inputs])


def checked(folder, service, known, count=2, made=None, **options):
    """Run on a virtual clock with a check before the endpoint: the dispatch and the error."""

    async def main():
        opened = AnswerCache(folder / "answers")
        dispatch = Dispatch([(made or endpoint(concurrency=1), service)], opened, lambda event: None,
                            free_bytes=lambda: 1 << 40, uniform=lambda: 0.0,
                            clock=anyio.current_time, **options)  # fmt: skip
        dispatch.guard(0, known)
        error = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(dispatch.run)
                group = Group()
                await dispatch.admit(group, texts(count))
                await group.whole.wait()
                dispatch.close()
        except* TextmillError as errors:
            error = errors.exceptions[0]
            while isinstance(error, BaseExceptionGroup):
                (error,) = error.exceptions
        kept = opened.get_many([each.key for each in known.requests])
        opened.close()
        return dispatch, error, kept

    return clock.run(main)


def test_known_texts_go_first_are_paid_for_and_are_not_kept(tmp_path):
    service, known = Service(), Known("known")
    made = endpoint(concurrency=1, price=Price(request=1.0))
    dispatch, error, kept = checked(tmp_path, service, known, made=made)
    assert (error, known.ended, kept) == (None, [1], {})
    assert service.calls == [["known"], ["text 0", "text 1"]]
    assert dispatch.usage == Usage(2, 2, 0, 30, 15, 3.0)


def test_without_known_texts_there_is_no_check(tmp_path):
    service, known = Service(), Known()
    assert checked(tmp_path, service, known)[1] is None
    assert (known.ended, service.calls) == ([], [["text 0", "text 1"]])


def test_an_answer_that_differs_is_requested_once_more_before_the_run_ends(tmp_path):
    service = Service(lambda inputs, call: [Answer("x")] if inputs == ["known"] else None)
    _, error, _ = checked(tmp_path, service, Known("known"))
    assert isinstance(error, GuardError) and str(error) == "known: x"
    assert service.calls == [["known"], ["known"]]
    service = Service(lambda inputs, call: [Answer("x")] * len(inputs) if call == 1 else None)
    known = Known("one", "two")
    assert checked(tmp_path, service, known)[1] is None
    assert service.calls == [["one", "two"], ["one", "two"], ["text 0", "text 1"]]
    assert known.ended == [2]


def test_the_budget_refuses_the_calls_of_a_check(tmp_path):
    service, made = Service(), endpoint(price=Price(request=1.0), batch_size=1)
    dispatch, error, _ = checked(
        tmp_path, service, Known("a", "b", "c"), made=made, max_cost_usd=2.0)  # fmt: skip
    assert isinstance(error, BudgetError)
    assert sorted(service.calls) == [["a"], ["b"]]
    assert dispatch.usage.cost_usd == 2.0


def test_the_calls_of_a_check_keep_the_rate_limits(tmp_path):
    service = Service()
    made = endpoint(requests_per_minute=60.0, batch_size=1)
    checked(tmp_path, service, Known("a", "b", "c"), made=made)
    assert all(b - a >= 1.0 for a, b in zip(service.times, service.times[1:], strict=False))
    service = Service()
    made = endpoint(tokens_per_minute=600.0, batch_size=1)  # a text has 10 tokens, an answer 512
    checked(tmp_path / "2", service, Known("a", "b", "c"), made=made)
    assert service.times[2] - service.times[0] > 1.0


def test_the_calls_of_a_check_need_a_permit_each(tmp_path):
    service = Service(seconds=1.0)
    known = Known(*"abcdefgh")
    made = endpoint(concurrency=2, batch_size=1)
    assert checked(tmp_path, service, known, made=made)[1] is None
    assert service.most == 2
    # Nothing else is sent before the last text of the check is compared.
    assert sorted(text for call in service.calls[:8] for text in call) == list("abcdefgh")
    assert min(service.times[8:]) == 4.0


def test_a_call_of_a_check_is_retried_like_all(tmp_path):
    errors = [EndpointError("transient", "500", status=500), EndpointError("rate", "429", status=429),
              EndpointError("overload", "503", status=503), EndpointError("unreachable", "gone"),
              EndpointError("invalid", "html", status=200)]  # fmt: skip
    service = Service(lambda inputs, call: errors[call - 1] if call <= len(errors) else None, 0.01)
    known = Known("known")
    dispatch, error, _ = checked(tmp_path, service, known)
    assert (error, known.ended) == (None, [1])
    assert service.calls == [["known"]] * 6 + [["text 0", "text 1"]]
    assert (dispatch.usage.errors, dispatch.failures) == (5, {})


def test_an_outage_during_a_check_is_an_outage(tmp_path):
    for kind in ("unreachable", "transient"):
        service = Service(lambda inputs, call, kind=kind: EndpointError(kind, "gone", status=None), 0.01)
        known = Known("known")
        _, error, _ = checked(tmp_path / kind, service, known, patience=Stop(max_start_seconds=600.0))
        assert isinstance(error, OutageError)
        assert {tuple(call) for call in service.calls} == {("known",)}
        assert known.ended == []


def test_a_text_that_is_refused_says_nothing_but_one_must_be_answered(tmp_path):
    def refuse(*refused):
        return lambda inputs, call: (
            EndpointError("poison", "no", status=422) if set(inputs) & set(refused) else None)

    known = Known("a", "b")
    dispatch, error, _ = checked(tmp_path, Service(refuse("a")), known)
    assert (error, known.ended, dispatch.failures) == (None, [1], {})
    known = Known("a", "b")
    _, error, _ = checked(tmp_path / "2", Service(refuse("a", "b")), known)
    assert (str(error), known.ended) == ("nothing to compare", [0])


def test_an_endpoint_that_gets_no_call_is_not_checked(tmp_path):
    async def main():
        cache = AnswerCache(tmp_path / "answers")
        first, spare = Service(), Service()
        served = [(endpoint(), first), (endpoint(name="spare", is_fallback=True), spare)]
        dispatch = Dispatch(served, cache, lambda event: None, free_bytes=lambda: 1 << 40,
                            clock=anyio.current_time)  # fmt: skip
        dispatch.guard(0, Known("a"))
        dispatch.guard(1, Known("b"))
        from pipeline.records import Route
        route = Route(((0,), (1,)))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dispatch.run)
            group = Group()
            requests = [Request(each.key, each.input, 10, each.chunk, route) for each in texts(4)]
            await dispatch.admit(group, requests)
            await group.whole.wait()
            dispatch.close()
        cache.close()
        return first.calls, spare.calls

    first, spare = clock.run(main)
    assert first[0] == ["a"] and len(first) == 2
    assert spare == []


async def test_a_vector_of_another_length_is_a_mismatch_and_no_failed_row(cache):
    def script(inputs, call):
        return [Answer(b"\x00\x00\x80?" * 3)] if inputs == ["known"] else None

    class Vectors(Known):
        def compare(self, request, answer):
            return GuardError("other") if len(answer.value) != 8 else None

    service = Service(script)
    dispatch = Dispatch([(endpoint(), service)], cache, lambda event: None,
                        free_bytes=lambda: 1 << 40, dimension=2)  # fmt: skip
    dispatch.guard(0, Vectors("known"))
    with pytest.raises(ExceptionGroup) as caught:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dispatch.run)
            await dispatch.admit(Group(), texts(2))
            await anyio.sleep_forever()
    assert str(caught.value.exceptions[0]) == "other"
    assert service.calls == [["known"], ["known"]]
    assert dispatch.usage.requests == 0 and not math.isnan(dispatch.usage.cost_usd)


