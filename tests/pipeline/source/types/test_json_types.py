"""The type of a column holds every value that made it, and only ever grows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.source.types import json_types
from pipeline.source.types.json_types import (
    INTEGERS,
    ListOf,
    Misfit,
    ObjectOf,
    type_changes,
    widen,
    widens,
)

LARGE = st.integers(2**63 - 2, 2**63 + 2) | st.just(2**64 - 1)
EXACT = st.integers(-3, 3) | st.integers(-(2**53), 2**53)
"""Integers that a float holds exactly: a column of floats takes no others."""
LEAVES = st.none() | EXACT | st.floats(allow_nan=False) | st.sampled_from(["", "x", True])
VALUES = st.lists(
    st.recursive(
        LEAVES,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
        ),
        max_leaves=6,
    ),
    max_size=8,
)


def inferred(values):
    """The type of a column, and those of its values that fit, as the survey infers them."""
    known, fitting = None, []
    for value in values:
        try:
            known = widen(known, value)
        except Misfit:
            continue
        fitting.append(value)
    return known, fitting


def holds(wide, narrow):
    """Whether every value of the one type is one of the other."""
    if narrow is None or wide == narrow or (wide == "float" and narrow in INTEGERS):
        return True
    if narrow == "integer" and wide in INTEGERS:
        return True
    if isinstance(wide, ListOf) and isinstance(narrow, ListOf):
        return holds(wide.element, narrow.element)
    if isinstance(wide, ObjectOf) and isinstance(narrow, ObjectOf):
        return all(
            key in wide.fields and holds(wide.fields[key], each)
            for key, each in narrow.fields.items()
        )
    return False


@given(values=VALUES)
def test_a_repeated_value_changes_nothing(values):
    known, fitting = inferred(values)
    for value in fitting:
        assert widen(known, value) is known


@given(values=VALUES)
def test_a_type_only_grows(values):
    known, fitting = inferred(values)
    before = None
    for value in fitting:
        after = widen(before, value)
        assert holds(after, before)
        before = after
    assert before == known


@given(values=VALUES, data=st.data())
def test_the_order_of_the_values_makes_no_difference(values, data):
    known, fitting = inferred(values)
    shuffled, all_of_them = inferred(data.draw(st.permutations(fitting)))
    assert (shuffled, len(all_of_them)) == (known, len(fitting))


@given(values=st.lists(EXACT | LARGE), data=st.data())
def test_the_order_of_integers_of_any_size_makes_no_difference(values, data):
    known, fitting = inferred(values)
    shuffled, all_of_them = inferred(data.draw(st.permutations(fitting)))
    assert (shuffled, len(all_of_them)) == (known, len(fitting))


@given(values=VALUES, value=LEAVES)
def test_only_integers_that_became_floats_are_a_change_of_type(values, value):
    known, _ = inferred(values)
    try:
        after = widen(known, value)
    except Misfit:
        return
    assert widens(known, after) == (known in INTEGERS and after == "float")


@given(rows=st.lists(st.dictionaries(st.sampled_from("abc"), LEAVES, max_size=3), max_size=6))
def test_a_row_changes_the_fields_that_its_object_would(rows):
    known = ObjectOf({})
    for row in rows:
        try:
            changes = type_changes(known.fields, row)
        except Misfit:
            with pytest.raises(Misfit):
                widen(known, row)
            continue
        assert widen(known, row) == ObjectOf({**known.fields, **changes})
        known = ObjectOf({**known.fields, **changes})


@pytest.mark.parametrize(("known", "value", "expected"), [
    (None, None, None), (None, 1, "integer"), ("integer", 1.5, "float"), ("float", 2, "float"),
    (None, True, "boolean"), ("string", None, "string"), (None, [], ListOf(None)),
    (None, -1, "signed"), ("integer", -1, "signed"), ("signed", 1, "signed"), ("signed", 0.5, "float"),
    (None, 2**63, "unsigned"), ("integer", 2**64 - 1, "unsigned"), ("unsigned", 1, "unsigned"),
    (ListOf(None), [1, None], ListOf("integer")), (None, {}, ObjectOf({})),
    (ObjectOf({"a": "integer"}), {"b": "x"}, ObjectOf({"a": "integer", "b": "string"})),
    (ListOf(ObjectOf({"a": "integer"})), [{"a": 0.5}], ListOf(ObjectOf({"a": "float"}))),
])  # fmt: skip
def test_types(known, value, expected):
    assert widen(known, value) == expected


@pytest.mark.parametrize(("known", "value", "problem"), [
    ("integer", True, "`` must be integer, as in the rows before, got boolean"),
    ("boolean", 1, "`` must be boolean, as in the rows before, got integer"),
    ("string", [], "`` must be string, as in the rows before, got list"),
    (ListOf("integer"), {}, "`` must be list, as in the rows before, got object"),
    (None, 2**64, "`` is an integer beyond 64 bits"),
    (None, -(2**63) - 1, "`` is an integer beyond 64 bits"),
    ("signed", 2**63, "`` does not fit 64 bits together with the rows before: some are negative, some above 2^63"),
    ("unsigned", -1, "`` does not fit 64 bits together with the rows before: some are negative, some above 2^63"),
    ("float", 2**53 + 1, "`` is an integer that its column of floats cannot hold exactly"),
    (ObjectOf({"a": ListOf("string")}), {"a": ["x", 1]},
     "`a.[]` must be string, as in the rows before, got integer"),
])  # fmt: skip
def test_a_misfit_names_its_place_and_reason(known, value, problem):
    with pytest.raises(Misfit) as misfit:
        widen(known, value)
    assert str(misfit.value) == problem


def test_objects_used_as_maps_end_at_a_bound(monkeypatch):
    monkeypatch.setattr(json_types, "MAX_KEYS", 2)
    known = widen(None, {"a": 1, "b": 1})
    assert widen(known, {"a": 2}) is known
    with pytest.raises(Misfit, match="`c` is a new key after 2 different ones"):
        widen(known, {"b": 1, "c": 1})
