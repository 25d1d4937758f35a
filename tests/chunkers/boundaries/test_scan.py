"""Where sentences, lines and sections end, in English, Chinese and Japanese."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chunkers.boundaries.levels import BLANK_LINE, HEADING, ITEM, LINE, ROW, SENTENCE
from chunkers.boundaries.scan import START, Boundaries, scan, sentences
from tests.support.chunk_texts import TEXTS


def pieces(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


def levels(text: str) -> list[tuple[str, int]]:
    """Each piece of the text with the strength of the boundary after it."""
    places = scan(text, 0, len(text))
    parts = []
    last = 0
    for at, strength in zip(places.at.tolist(), places.level.tolist(), strict=True):
        parts.append((text[last:at], strength))
        last = at
    return parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One ends. Two ends! Three?", ["One ends.", "Two ends!", "Three?"]),
        ("Dr. Smith met J. R. Ewing. He left.", ["Dr. Smith met J. R. Ewing.", "He left."]),
        ("It costs 3.14 now. Cheap.", ["It costs 3.14 now.", "Cheap."]),
        ("See No. 7, Fig. 3 and p. 12. Done.", ["See No. 7, Fig. 3 and p. 12.", "Done."]),
        ("Did he? No. He left.", ["Did he?", "No.", "He left."]),
        ("Fruit, e.g. apples, i.e. food. Yes.", ["Fruit, e.g. apples, i.e. food.", "Yes."]),
        (
            "“Go.” She went. (He stayed.) All well.",
            ["“Go.”", "She went.", "(He stayed.)", "All well."],
        ),
        ('"Really?" he asked. "Yes."', ['"Really?" he asked.', '"Yes."']),
        ("Well... maybe. Or... No.", ["Well... maybe.", "Or...", "No."]),
        (
            "all of it is lower case. so is this. yes",
            ["all of it is lower case.", "so is this.", "yes"],
        ),
        ("In the U.S. it rains. Here too.", ["In the U.S. it rains.", "Here too."]),
        ("You and I. Then we.", ["You and I.", "Then we."]),
        (
            "Acme Inc. was sold. Acme Inc. It grew.",
            ["Acme Inc. was sold.", "Acme Inc.", "It grew."],
        ),
        ("Go to example.org/a.html now. Bye.", ["Go to example.org/a.html now.", "Bye."]),
        ("1. First thing\n2. Second thing", ["1. First thing", "2. Second thing"]),
    ],
)
def test_english_sentences(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今天天气很好。我们去公园！你去吗？", ["今天天气很好。", "我们去公园！", "你去吗？"]),
        ("他说：“今天很好。”然后走了。", ["他说：“今天很好。”", "然后走了。"]),
        ("“好！”，他说。（没有人知道。）完", ["“好！”，他说。", "（没有人知道。）", "完"]),
        ("真的吗？！我……不知道；再见。", ["真的吗？！", "我……不知道；", "再见。"]),
        ("圆周率是3.14，版本2.0。好。", ["圆周率是3.14，版本2.0。", "好。"]),
        ("「行くよ。」と言った。そうか。", ["「行くよ。」と言った。", "そうか。"]),
    ],
)
def test_chinese_and_japanese_sentences(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


def test_headings_blank_lines_and_list_items_have_their_own_levels() -> None:
    text = "Intro here\n\n# One\n\nBody text\n- item\n- item\n\nTail\n\n第三章 风雨\n后来\n"
    assert levels(text) == [
        ("Intro here\n\n", HEADING),
        ("# One\n\nBody text\n", ITEM),
        ("- item\n", ITEM),
        ("- item\n\n", BLANK_LINE),
        ("Tail\n\n", HEADING),
        ("第三章 风雨\n后来\n", BLANK_LINE),
    ]


def test_an_underlined_heading_stays_with_its_text() -> None:
    assert levels("Before\n\nTitle\n=====\n\nBody\n") == [
        ("Before\n\n", HEADING),
        ("Title\n=====\n\nBody\n", BLANK_LINE),
    ]


def test_a_chapter_too_long_for_a_heading_is_one_where_it_is_underlined() -> None:
    long = "第三章 of more than forty characters. It goes on.\n"
    text = f"{long}\nx\n\n{long}===\nBody\n"
    assert scan(text, 0, len(text)).headings.tolist() == [text.rindex(long)]


def test_rows_of_a_table_and_lines_of_a_fence_are_weaker_than_lines() -> None:
    text = "x\n\n| a | b |\n| c | d |\n\n```py\n# no heading\ny = 1. Z\n```\nend"
    assert levels(text) == [
        ("x\n\n", BLANK_LINE),
        ("| a | b |\n", ROW),
        ("| c | d |\n\n", BLANK_LINE),
        ("```py\n", ROW),
        ("# no heading\n", ROW),
        ("y = 1. Z\n", ROW),
        ("```\n", LINE),
        ("end", BLANK_LINE),
    ]


def test_a_fence_left_open_ends_where_the_next_one_opens() -> None:
    text = "```py\na\n\nOne. Two.\n```py\nb\n```\nOne. Two.\n"
    assert levels(text)[-3:] == [("```\n", LINE), ("One.", SENTENCE), (" Two.\n", BLANK_LINE)]


WRAPPED = """It was the best of times, it was the worst of times, it was the age of
wisdom, it was the age of foolishness. It was the epoch of belief, it was
the epoch of incredulity. It was the season of Light, it was the season
of Darkness, it was the spring of hope, it was the winter of despair, we
had everything before us.
"""


def test_in_hard_wrapped_text_a_sentence_outranks_a_line_break() -> None:
    assert [strength for _, strength in levels(WRAPPED)] == [SENTENCE, SENTENCE, BLANK_LINE]


def test_a_bracket_or_dash_that_opens_a_wrapped_line_begins_no_item() -> None:
    text = WRAPPED.replace("\nwisdom,", "\n(wisdom),").replace("\nthe epoch", "\n— the epoch")
    assert [strength for _, strength in levels(text)] == [SENTENCE, SENTENCE, BLANK_LINE]
    items = "(1) first\n（二）second\n① third\n3) fourth\n一、fifth\n- sixth\n"
    assert [strength for _, strength in levels("x\n" + items)] == [
        ITEM, ITEM, ITEM, LINE, ITEM, ITEM, BLANK_LINE,
    ]  # fmt: skip


def test_hard_wrapped_chinese_is_cut_at_sentences() -> None:
    text = "春天来了河边的柳树又绿了孩子们在草地上放风筝他们跑得很快笑\n声传得很远老人坐在树下喝茶。他们说起从前的事情说起那年的大水和\n后来的丰收大家都笑了起来一直说到太阳下山才慢慢走回村子里面去\n了。\n"
    assert [strength for _, strength in levels(text)] == [SENTENCE, BLANK_LINE]


def test_verse_and_code_are_not_wrapped_text() -> None:
    verse = "the woods are lovely, dark and deep\nbut I have promises to keep\nand miles to go\n"
    assert [strength for _, strength in levels(verse)] == [LINE, LINE, BLANK_LINE]


@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_every_visible_character_is_in_exactly_one_sentence(text: str) -> None:
    spans = sentences(text)
    last = 0
    for start, end in spans:
        assert last <= start < end
        assert not text[last:start].strip()
        assert text[start:end] == text[start:end].strip()
        last = end
    assert not text[last:].strip()


@given(text=TEXTS, at=st.integers(0, 400))
@example(text="```！0", at=1)  # the border cuts a line that opens a fence
@example(text="```！0", at=2)
@example(text="```！0", at=3)
@example(text="```\n```！0", at=5)  # one that ends a fence
@example(text="```\na！0\n!0", at=5)  # one within a fence
@settings(max_examples=200, deadline=None)
def test_a_segment_has_the_boundaries_of_the_whole(text: str, at: int) -> None:
    whole = scan(text, 0, len(text))
    middle = min(at, len(text))
    first = scan(text, 0, middle) if middle else None
    state = first.state if first else START
    second = scan(text, middle, len(text), state) if middle < len(text) else None
    assert [
        each for part in (first, second) if part for each in places(part) if each[0] != middle
    ] == [each for each in places(whole) if each[0] != middle]


def places(boundaries: Boundaries) -> list[tuple[int, int]]:
    """Places with their strengths."""
    return list(zip(boundaries.at.tolist(), boundaries.level.tolist(), strict=True))
