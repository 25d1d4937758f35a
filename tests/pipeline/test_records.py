"""Usage adds up in any order, from zero, over all fields."""

import hypothesis.strategies as st
import pytest
from hypothesis import given
from msgspec.structs import astuple, fields

from pipeline.records import Usage

COUNTS, AMOUNTS = st.integers(0, 10**12), st.floats(0, 1e9)
USAGES = st.builds(
    Usage, **{each.name: COUNTS if each.type is int else AMOUNTS for each in fields(Usage)}
)


def same(one, other):
    return astuple(one) == pytest.approx(astuple(other), rel=1e-12)


@given(USAGES, USAGES)
def test_the_order_does_not_matter(one, other):
    assert one + other == other + one


@given(USAGES, USAGES, USAGES)
def test_nor_does_the_grouping(one, other, third):
    assert same((one + other) + third, one + (other + third))


@given(USAGES)
def test_nothing_changes_nothing(usage):
    assert usage + Usage() == Usage() + usage == usage
    assert sum([usage], Usage()) == usage


@given(st.lists(USAGES, max_size=20))
def test_a_sum_is_that_of_every_field_and_the_slowest_is_the_slowest(usages):
    total = sum(usages, Usage())
    for each in fields(Usage):
        values = [getattr(usage, each.name) for usage in usages]
        expected = max(values, default=0.0) if each.name == "slowest_seconds" else sum(values)
        assert getattr(total, each.name) == pytest.approx(expected, rel=1e-12)
    assert total.tokens == sum(usage.tokens for usage in usages)


def test_it_is_written_without_the_tails_of_sums():
    usage = Usage(3, 2, 1, 100, 7, 0.1 + 0.2, 0.1 + 0.2, 0.30000001)
    assert usage.rounded() == Usage(3, 2, 1, 100, 7, 0.3, 0.3, 0.3)
    assert usage.totals == {"calls": 3, "tokens": 107, "cost_usd": 0.3, "unpriced_calls": 0, "ambiguous": 0}
