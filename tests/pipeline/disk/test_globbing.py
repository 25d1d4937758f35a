"""A pattern matches exactly the paths that `glob` finds."""

import glob
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.disk.globbing import matches

NAMES = ("a", "b1", ".c")
PARTS = st.sampled_from(["a", "b1", ".c", "*", "b?", "[ab]*", ".*", "**"])


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Every path of up to three names, as a file."""
    root = tmp_path_factory.mktemp("tree")
    paths = [path for depth in (1, 2, 3) for path in itertools.product(NAMES, repeat=depth)]
    for path in paths:
        *folders, name = path
        folder = Path(root, *(f"{folder}.d" for folder in folders))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return root


@example(["*", "**"])
@example(["a", "**"])
@example(["**"])
@example(["a", "**"])
@given(
    st.lists(PARTS | st.sampled_from(["a.d", "*.d", ".c.d", "?.d"]), min_size=1, max_size=5)
)
def test_it_matches_exactly_what_glob_finds(tree, pattern):
    every = [path for path in tree.rglob("*") if path.is_file()]
    # `a/**` also gives `a/` where `a` is a file: that is no path of it.
    found = {
        Path(each)
        for each in glob.glob(str(tree.joinpath(*pattern)), recursive=True)  # noqa: PTH207
        if os.path.isfile(each)  # noqa: PTH113
    }
    assert {path for path in every if matches(path.relative_to(tree).parts, pattern)} == found


def test_many_double_stars_cost_no_more_than_their_number():
    assert not matches(["a"] * 200, ["**", "a"] * 100 + ["b"])
    assert matches(["a"] * 200, ["**", "a"] * 100)
