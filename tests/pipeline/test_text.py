import pytest

from pipeline.addresses import is_loopback
from pipeline.text import did_you_mean, inflect, many, nearest, printable


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


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 requests"), (1, "1 request"), (2, "2 requests"), (-1, "-1 requests"),
     (1_000, "1,000 requests"), (10**12, "1,000,000,000,000 requests")],
)  # fmt: skip
def test_a_noun_agrees_with_its_number(number, shown):
    assert many(number, "request") == shown


def test_some_nouns_have_a_plural_of_their_own():
    assert [many(number, "entry", "entries") for number in (1, 2)] == ["1 entry", "2 entries"]
    assert [inflect(number, "is", "are") for number in (0, 1, 2)] == ["are", "is", "are"]


@pytest.mark.parametrize(
    ("host", "is_it"),
    [("localhost", True), ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True),
     ("127.1", False), ("0.0.0.0", False), ("example.com", False), ("localhost.example", False),
     ("2130706433", False), ("", False)],
)  # fmt: skip
def test_only_this_machine_is_loopback(host, is_it):
    assert is_loopback(host) is is_it


@pytest.mark.parametrize(("name", "names", "near"), [
    ("sise", ["size", "overlap"], "size"),
    ("ID", ["id", "text"], "id"),
    ("doc-id", ["Doc_ID", "title"], "Doc_ID"),
    ("id", ["text", "doc_id"], "doc_id"),  # a whole word, if only one has it
    ("id", ["user_id", "doc_id"], ""),
    ("bge-small-en", ["BAAI/bge-small-en", "gte-base"], "BAAI/bge-small-en"),
    ("kopf", ["text"], ""), ("", ["text"], ""), ("text", [], ""), ("标题", ["标题文", "正文"], "标题文"),
    ("x" * 100_000, ["x" * 63], "x" * 63),
])  # fmt: skip
def test_the_nearest_name_is_the_one_that_was_probably_meant(name, names, near):
    assert nearest(name, names) == near
    assert did_you_mean(name, names) == (f" (did you mean `{near}`?)" if near else "")
