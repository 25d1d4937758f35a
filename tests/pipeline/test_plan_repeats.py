"""The known keys of a plan behave like a set."""

import hypothesis.strategies as st
from hypothesis import given

from pipeline import plan
from pipeline.plan import KnownKeys


@given(
    groups=st.lists(st.lists(st.binary(max_size=1), max_size=20), max_size=12),
    recent=st.integers(0, 9),
)
def test_known_keys_behave_like_a_set(monkeypatch, groups, recent):
    with monkeypatch.context() as patched:
        patched.setattr(plan, "MAX_RECENT", recent)
        before, known = set(), KnownKeys()
        for group in groups:
            expected = []
            for key in group:
                expected.append(key not in before)
                before.add(key)
            assert known.are_new(group) == expected
        assert len(known) == len(before)
