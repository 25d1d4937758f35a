"""Strategies: texts of every script, with all that is hard to cut."""

from __future__ import annotations

from hypothesis import strategies as st

WORDS = st.sampled_from(
    [
        "the", "Rate", "No.", "7", "3.14", "e.g.", "naïve", "Łódź", "“So.”", "(see", "Fig.", "3)",
        "end.", "Why?", "wait...", "I’m", "don't", "'s", "XMLHttp", "a/b", "U.S.", "--", "::",
        "今天", "天气很好。", "他说：", "“好。”", "但是", "，我", "目前", "第三章", "……", "！？", "「は」", "しかし",
        "שלום", "مرحبا", "नमस्ते", "한국어", "👨‍👩‍👧", "🇩🇪", "👍🏽", "❤️", "e\u0301\u0302", "\u0301", "\u200d",
        "\u200f", "\x00", "𝒳", "𠀀", "<|endoftext|>", "|", "```", "#", "-", "/", "\ufeff", "\ud800",
    ]
)  # fmt: skip
GAPS = st.sampled_from(
    ["", " ", " ", " ", "  ", "\n", "\n\n", "\r\n", "\r", "\t", "\u3000", "\n    "]
)
MIXED = st.lists(st.tuples(WORDS, GAPS), max_size=120).map(
    lambda pairs: "".join(word + gap for word, gap in pairs)
)
REPEATED = st.tuples(WORDS, GAPS, st.integers(1, 300)).map(lambda t: (t[0] + t[1]) * t[2])
ANYTHING = st.text(st.characters(), max_size=300)
TEXTS = st.one_of(
    MIXED,
    REPEATED,
    ANYTHING,
    st.lists(st.one_of(MIXED, REPEATED, ANYTHING), max_size=4).map("".join),
)
SIZES = st.one_of(st.integers(8, 24), st.integers(8, 200))


@st.composite
def cuts(draw: st.DrawFn) -> tuple[str, int, int]:
    size = draw(SIZES)
    overlap = draw(st.one_of(st.just(0), st.integers(0, size - 1)))
    return draw(TEXTS), size, overlap
