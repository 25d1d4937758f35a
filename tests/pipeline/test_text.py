import pytest

from pipeline.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("中文，　全角空格", "中文，　全角空格"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x9b0m", r"\x1b[31mred\x9b0m"),
        ("user\u202egpj.exe", r"user\u202egpj.exe"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("👩‍🚀 é", "👩‍🚀 é"),
        ("lone \ud800", r"lone \ud800"),
    ],
)
def test_what_could_act_on_a_terminal_is_escaped(text, shown):
    assert printable(text) == shown


def test_long_text_is_cut_to_its_limit():
    assert printable("x" * 301) == "x" * 299 + "…"
    assert printable("x" * 300) == "x" * 300
