"""Equal texts of rows with different routes: one call for one key; on a virtual clock."""

from collections import Counter

import pytest

from pipeline.errors import EndpointError
from pipeline.records import Answer, Rule
from tests.support.routed import DEADLINE_SECONDS, Service, endpoint, run

ONE = Rule("to", "one", ("one",))
TWO = Rule("to", "two", ("two",))
SAME = {"model": "m", "concurrency": 8}


def same(count=20):
    """Each text in a row of any endpoint, one of `one` and one of `two`."""
    return [(f"text {n}", {"to": to}) for n in range(count) for to in ("any", "one", "two")]


def distinct(*services):
    counts = Counter((service.name, text) for service in services for text in service.texts)
    return max(counts.values())


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("admitted", [1, 7, 60])
def test_endpoints_that_share_a_model_are_paid_once_for_a_text_whatever_its_rows_allow(
    tmp_path, batch_size, admitted
):
    one, two = Service("one"), Service("two", 0.13)
    served = [(endpoint("one", batch_size=batch_size, **SAME), one),
              (endpoint("two", batch_size=batch_size, replica_of="one", **SAME), two)]
    ended = run(tmp_path, served, same(), [ONE, TWO], admitted=admitted)
    assert ended.error is None
    assert sorted(one.texts + two.texts) == sorted(f"text {n}" for n in range(20))
    assert all(isinstance(each, Answer) for each in ended.answers)
    for n in range(0, 60, 3):
        assert len({each.value for each in ended.answers[n : n + 3]}) == 1
    # As for any other text: one request was sent, the others were equal to it.
    assert (ended.dispatch.tally.requests, ended.dispatch.tally.cached) == (60, 40)


def test_routes_that_share_no_endpoint_share_the_answer_of_one_model(tmp_path):
    one, two = Service("one"), Service("two")
    served = [(endpoint("one", **SAME), one), (endpoint("two", **SAME), two)]
    rows = [("text", {"to": "one"}), ("text", {"to": "two"})]
    ended = run(tmp_path, served, rows, [ONE, TWO])
    assert (one.texts, two.texts) == (["text"], [])
    assert [each.value for each in ended.answers] == ["one: text", "one: text"]


def test_other_models_answer_the_rows_that_only_they_may_answer(tmp_path):
    one, two = Service("one"), Service("two")
    served = [(endpoint("one", concurrency=8), one), (endpoint("two", concurrency=8), two)]
    ended = run(tmp_path, served, same(), [ONE, TWO])
    assert distinct(one, two) == 1
    assert sorted(one.texts) == sorted(two.texts) == sorted(f"text {n}" for n in range(20))
    for n in range(0, 60, 3):
        either, of_one, of_two = (each.value for each in ended.answers[n : n + 3])
        assert (of_one, of_two) == (f"one: text {n // 3}", f"two: text {n // 3}")
        assert either in (of_one, of_two)


def test_a_row_follows_the_call_of_another_one_only_until_that_call_fails(tmp_path):
    broken = Service("one", script=lambda inputs, now: EndpointError("poison", "no", status=422))
    two = Service("two")
    served = [(endpoint("one", **SAME), broken), (endpoint("two", **SAME), two)]
    rows = [("text", {"to": "one"}), ("text", {"to": "two"})]
    ended = run(tmp_path, served, rows, [ONE, TWO])
    assert (broken.texts, two.texts) == (["text"], ["text"])
    assert ended.answers[0].message == "no"
    assert ended.answers[1].value == "two: text"


@pytest.mark.parametrize("kind", ["transient", "unreachable", "rate", "overload"])
def test_a_row_that_waits_to_be_sent_again_is_settled_with_its_twin(tmp_path, kind):
    broken = Service("one", script=lambda inputs, now: EndpointError(kind, "no", status=500))
    two = Service("two")
    served = [(endpoint("one", **SAME), broken), (endpoint("two", **SAME), two)]
    rows = [("text", {"to": "one"}), ("text", {"to": "two"})]
    ended = run(tmp_path, served, rows, [ONE, TWO])
    assert ended.error is None and ended.seconds < 30
    assert two.texts == ["text"]
    assert [each.value for each in ended.answers] == ["two: text", "two: text"]


def test_a_text_that_is_too_long_is_split_for_all_its_rows(tmp_path):
    def long(inputs, now):
        return EndpointError("too_long", "too long", status=400)

    one, two = Service("one", script=long), Service("two", script=long)
    served = [(endpoint("one", **SAME), one), (endpoint("two", **SAME), two)]
    ended = run(tmp_path, served, [("text", {"to": "one"}), ("text", {"to": "two"})], [ONE, TWO])
    assert one.texts + two.texts == ["text"]
    assert len(ended.dispatch.splits) == 2


def test_a_twin_in_the_queue_of_the_next_tier_is_not_in_the_same_call(tmp_path):
    def refuse(inputs, now):
        return EndpointError("poison", "no", status=422)

    first, two = Service("first", script=refuse), Service("two", 1.0)
    served = [(endpoint("first", concurrency=1), first),
              (endpoint("two", concurrency=1, batch_size=8, is_fallback=True), two)]
    rows = [*((f"blocked {n}", {"to": "two"}) for n in range(8)),
            ("text", {"to": "any"}), ("text", {"to": "two"})]
    ended = run(tmp_path, served, rows, [TWO])
    assert ended.error is None
    assert two.texts.count("text") == 1
    assert [each.value for each in ended.answers[-2:]] == ["two: text"] * 2


def test_a_twin_of_a_hung_call_is_settled_once_its_deadline_is_over(tmp_path):
    hung, two = Service("one", script=lambda inputs, now: "hang"), Service("two")
    served = [(endpoint("one", **SAME), hung), (endpoint("two", **SAME), two)]
    rows = [("text", {"to": "one"}), ("text", {"to": "two"}), ("other", {"to": "two"})]
    ended = run(tmp_path, served, rows, [ONE, TWO])
    assert ended.error is None
    assert DEADLINE_SECONDS <= ended.seconds < DEADLINE_SECONDS + 10
    assert two.answered[0][0] == "other" and two.answered[0][1] < 1
    assert [each.value for each in ended.answers[:2]] == ["two: text"] * 2


def test_an_answer_that_comes_during_a_look_up_settles_the_row_that_is_looked_up(tmp_path):
    one, two = Service("one", 0.0), Service("two", 0.0)
    served = [(endpoint("one", **SAME), one), (endpoint("two", **SAME), two)]
    ended = run(tmp_path, served, same(50), [ONE, TWO], admitted=1)
    assert ended.error is None
    assert len(one.texts + two.texts) == 50
