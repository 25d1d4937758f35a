"""Where no grapheme cluster may be cut."""

from __future__ import annotations

import pytest

from chunkers.boundaries.graphemes import is_break


@pytest.mark.parametrize(
    "cluster",
    [
        "e\u0301\u0302", "\r\n", "👨‍👩‍👧", "👍🏽", "❤️", "🇩🇪", "각", "\u1100\u1161\u11a8", "क्षि", "நி",
        "\u0e01\u0e33", "🏴\U000e0067\U000e0062\U000e007f", "か\u3099", "x\u1ad8",
    ],
)  # fmt: skip
def test_a_cluster_is_whole(cluster: str) -> None:
    text = f"a{cluster}b"
    assert [place for place in range(1, len(text)) if is_break(text, place)] == [1, len(text) - 1]


@pytest.mark.parametrize("before", ["", "x", "x🇩"])
@pytest.mark.parametrize("flags", [3, 511, 512, 513, 3000])
def test_flags_are_paired_from_the_beginning_of_their_row(before: str, flags: int) -> None:
    text = before + "🇩🇪" * flags
    start = 1 if before else 0
    assert all(is_break(text, place) == ((place - start) % 2 == 0) for place in range(1, len(text)))
