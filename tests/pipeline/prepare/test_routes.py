"""Who may answer a row, and who takes a call."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dispatch.policy import View, takes
from pipeline.prepare.routes import Router
from pipeline.records import Endpoint, Route, Rule


def endpoint(name, **changed):
    return Endpoint(name, "openai", "chat-completion", "m", ("openai", "", name, "main"), **changed)


HUB, SPARE, LOCAL = endpoint("hub"), endpoint("spare", is_fallback=True), endpoint("local")
PRIVATE = Rule("sensitive", True, ("local",))


def test_a_row_without_rules_may_go_to_all_and_to_fallbacks_last():
    assert Router([HUB, SPARE, LOCAL]).route({}) == Route(((0, 2), (1,)))


@pytest.mark.parametrize(("value", "tiers"), [
    (True, ((2,),)),
    (False, ((0, 2), (1,))),
    (None, ((2,),)),
    ("true", ((2,),)), ("no", ((2,),)), (1, ((2,),)), (0, ((2,),)), ([], ((2,),)), (0.0, ((2,),)),
])  # fmt: skip
def test_what_is_not_plainly_another_value_counts_as_the_strictest(value, tiers):
    assert Router([HUB, SPARE, LOCAL], [PRIVATE]).route({"sensitive": value}) == Route(tiers)


def test_a_missing_column_counts_as_the_strictest():
    rules = [Rule("level", "secret", ("local",)), Rule("level", "inside", ("local", "hub"))]
    router = Router([HUB, SPARE, LOCAL], rules)
    assert router.route({}) == Route(((2,),))
    assert router.route({"level": "inside"}) == Route(((0, 2),))
    assert router.route({"level": "open"}) == Route(((0, 2), (1,)))


def test_rules_that_exclude_each_other_leave_nobody():
    rules = [Rule("a", True, ("hub",)), Rule("b", True, ("local",))]
    router = Router([HUB, SPARE, LOCAL], rules)
    assert router.route({"a": True, "b": True}) is None
    assert router.route({"a": True, "b": False}) == Route(((0,),))


def test_a_rule_may_name_only_fallbacks():
    router = Router([HUB, SPARE, LOCAL], [Rule("a", True, ("spare",))])
    assert router.route({"a": True}) == Route(((1,),))


@given(st.dictionaries(st.sampled_from("ab"), st.sampled_from([True, False, None, 1, "x"])),
       st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([True, False, 1, "x"]),
                          st.sets(st.sampled_from(["hub", "spare", "local"]), min_size=1))))
def test_no_row_ever_goes_where_a_rule_on_it_forbids(fields, said):
    endpoints = [HUB, SPARE, LOCAL]
    rules = [Rule(column, value, tuple(names)) for column, value, names in said]
    route = Router(endpoints, rules).route(fields)
    may = {endpoints[at].name for at in route.positions} if route else set()
    for column, value, names in said:
        if fields.get(column) is None or (type(fields[column]) is type(value)
                                          and fields[column] == value):
            assert may <= names


def test_routes_are_named_apart_and_the_whole_one_by_its_key():
    router = Router([HUB, SPARE, LOCAL], [PRIVATE])
    open_, private = router.route({"sensitive": False}), router.route({})
    assert router.name(open_, b"k") == b"k"
    assert router.name(private, b"k") == b"k\x04"


def view(position, *, room=True, cost=0.0, seconds=0.0, share=0.0, step=1.0):
    return View(position, room, cost, seconds, share, step)


def taker(policy, views):
    return [each.position for each in views if takes(policy, views, each.position)]


@pytest.mark.parametrize(("policy", "views", "taken"), [
    ("ordered", [view(0), view(1)], [0]),
    ("ordered", [view(0, room=False), view(1)], [1]),
    ("ordered", [view(0, room=False), view(1, room=False)], []),
    ("cheapest", [view(0, cost=2.0), view(1, cost=1.0)], [1]),
    ("cheapest", [view(0, cost=2.0), view(1, cost=1.0, room=False)], [0]),
    ("cheapest", [view(0, cost=1.0), view(1, cost=1.0)], [0]),
    ("fastest", [view(0, seconds=0.4), view(1, seconds=0.2)], [1]),
    ("fastest", [view(0, seconds=0.4), view(1)], [1]),  # nobody knows yet: it is tried
])  # fmt: skip
def test_who_takes_a_call(policy, views, taken):
    assert taker(policy, views) == taken
