"""What came before is known as by a set."""

import hypothesis.strategies as st
from hypothesis import given

from pipeline import plan as seen
from pipeline.plan import RecentKeys


@given(
    groups=st.lists(st.lists(st.binary(max_size=1), max_size=20), max_size=12),
    recent=st.integers(0, 9),
)
def test_it_tells_what_a_set_tells(monkeypatch, groups, recent):
    with monkeypatch.context() as patched:
        patched.setattr(seen, "RECENT", recent)
        before, names = set(), RecentKeys()
        for group in groups:
            told = []
            for name in group:
                told.append(name not in before)
                before.add(name)
            assert names.are_new(group) == told
        assert len(names) == len(before)
