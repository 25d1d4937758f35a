"""Short texts are scanned in plain Python, with the same result."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chunkers.boundaries.scan import SENTENCE, scan
from chunkers.boundaries.scan_short import scan_short
from chunkers.boundaries.short_sentences import clean_at, mark_at
from tests.support.chunk_texts import TEXTS

LINES = st.sampled_from(
    [
        "Dr. No came. He left.", "今天天气很好。我们走吧！", "# One", "- item", "12) x", "(3) y",
        "（三）丙", "第三章 风雨", "一、甲", "① z", "", "   ", "    indented. So", "Rent is 3. 4 etc. are",
        "    y = f(x)", "  }", "}", "{", "end", "  end", "else x", "ANNA: so", "Q: why?", "A: for it", "问：谁", "：x",
        ": a definition", "|--|--|", "| --- | --- |", "| a | b |", "</p>", "<p>x</p>", "7. For", "2) x", "2)d) x", "1.2 x",
        "(00h00). So", "（2）x", "                    far right", "\tx = 1", "\t# no", "  # deep", "> quoted. so", "    and a line of more than forty letters that is deep",
        "a line of more than thirty letters that", "goes on in lower case. And ends", "9. x", "10. x", '{"a": 1, "b": [1, 2], "c": {"d": "e. F"}, "g": [3, 4, 5, 6, 7, 8], "h": {"i": 9}}',
        "a line of some forty letters that goes on", "and another one that is as long as that",
        "e.g. a", "I. B", "“So.” she said", "x...", "wait... no", "ends in J. R.", "\u3000缩进。", "1. one",
        "- --", "===", "---", "```py", "~~~", "第三章 of more than forty characters, so no heading", "##", "####### seven", "#tag", "U.S. 5", "Fig. 3", "No. and", "\x00.", "Łódź st. x",
    ]
)  # fmt: skip
BREAKS = st.sampled_from(["\n", "\n", "\n\n", "\r\n", "\r", "\u2028", " \n"])
PAGES = st.lists(st.tuples(LINES, BREAKS), max_size=20).map(
    lambda pairs: "".join(line + gap for line, gap in pairs)
)


@given(text=st.one_of(PAGES, TEXTS, st.tuples(PAGES, LINES).map("".join)))
@example(text="x. \r")
@example(text="第三章 is long, longer than forty characters, x\n===")
@settings(max_examples=400, deadline=None)
def test_a_short_text_has_the_boundaries_of_the_scan(text: str) -> None:
    found = scan_short(text, with_sentences=True)
    if found is None or not text:
        return
    whole = scan(text, 0, len(text))
    at, strength, headings = found
    assert at == whole.at.tolist()
    assert list(strength) == whole.level.tolist()
    assert headings == whole.headings.tolist()
    assert [clean_at(text, place) for place in at] == whole.clean.tolist()
    assert [mark_at(text, place) for place in at] == whole.mark.tolist()
    lines = scan_short(text, with_sentences=False)
    assert lines == (
        [place for place, level in zip(at, strength, strict=True) if level > SENTENCE],
        bytes(level for level in strength if level > SENTENCE),
        headings,
    )


@pytest.mark.parametrize(
    "text",
    ["so\n" * 70, " " * 300 + "x", "a line of thirty letters, and on\nit goes\nthen on\nand on\n"],
)
def test_other_texts_are_left_to_the_scan(text: str) -> None:
    assert scan_short(text, with_sentences=True) is None
