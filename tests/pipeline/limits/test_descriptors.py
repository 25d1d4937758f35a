"""Calls at a time are bounded by the open files that the system allows."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pipeline.errors import UsageError
from pipeline.limits.descriptors import FILES, MIN_CALLS, SPARE, Fit, bounds, fit

COUNTS = st.integers(0, 3_000)


@pytest.mark.parametrize(("soft", "hard", "wanted", "expected"), [
    (1024, 1024, 16, Fit(1024, 16)),  # all fit
    (256, 4096, 400, Fit(512, 400)),  # the soft limit of macOS is raised
    (256, 256, 400, Fit(256, 208)),  # the hard one is not
    (64, 64, 400, Fit(64, 16)),
    (52, 52, 4, Fit(52, 4)),
    (20, 2_000_000, 0, Fit(112, 0)),  # an embedded model: files only
])  # fmt: skip
def test_calls_fit_below_the_limit(soft, hard, wanted, expected):
    assert (FILES, SPARE, MIN_CALLS) == (40, 64, 8)
    assert fit(soft, hard, 8, wanted) == expected


def test_a_limit_that_is_too_low_names_the_command():
    with pytest.raises(UsageError) as error:
        fit(20, 20, 8, 400)
    assert str(error.value) == (
        "the limit of 20 open files is too low: 8 are open, a run needs 48 more"
    )
    assert error.value.hint == "raise it with `ulimit -n 1024`"


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_the_soft_limit_only_rises_and_calls_leave_room_for_files(soft, more, in_use, wanted):
    hard = soft + more
    try:
        fitted = fit(soft, hard, in_use, wanted)
    except UsageError:
        assert hard < in_use + FILES + min(wanted, MIN_CALLS)
        return
    assert soft <= fitted.soft <= hard
    assert min(wanted, MIN_CALLS) <= fitted.calls <= wanted
    assert in_use + FILES + fitted.calls <= fitted.soft


@pytest.mark.parametrize(("ceilings", "total", "expected"), [
    ([400], 16, [16]),
    ([400, 4], 16, [12, 4]),
    ([400, 300, 2], 20, [9, 9, 2]),
    ([4, 4], 16, [4, 4]),
    ([5, 5, 5], 2, [1, 1, 1]),
    ([], 8, []),
])  # fmt: skip
def test_the_largest_ceilings_are_lowered_to_one_level(ceilings, total, expected):
    assert bounds(ceilings, total) == expected


@given(st.lists(st.integers(1, 500), max_size=8), st.integers(8, 2_000))
def test_bounds_add_up_to_at_most_the_total_and_use_it(ceilings, total):
    lowered = bounds(ceilings, total)
    assert all(1 <= low <= ceiling for low, ceiling in zip(lowered, ceilings, strict=True))
    assert sum(lowered) <= total
    assert sum(lowered) > min(sum(ceilings), total) - max(1, len(ceilings))
