"""Tokenizers: true counts, true ends, seams, and what they say when something is missing."""

from __future__ import annotations

from importlib import util
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chunkers.tokens import tokenizers as tokens
from chunkers.tokens.tokenizers import check_tokenizer, segments, tokenizer
from pipeline.errors import UsageError
from tests.support import require_module
from tests.support.chunk_texts import TEXTS


def test_counts_are_those_of_the_published_encodings() -> None:
    text = "Dr. Łódź paid 3.14 dollars; 今天天气很好。👍🏽\n\n    x = 1"
    assert tokenizer("o200k_base").count(text) == 26
    assert tokenizer("cl100k_base").count(text) == 35


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
def test_the_patterns_are_those_of_tiktoken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiktoken_ext import openai_public

    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", lambda *_, **__: {})
    assert tokens.PATTERNS[name] == getattr(openai_public, name)()["pat_str"]


def test_special_tokens_are_ordinary_text() -> None:
    assert tokenizer("o200k_base").count("<|endoftext|>") == 7


def test_the_end_of_each_token_is_in_code_points() -> None:
    ends = tokenizer("cl100k_base").encode_ends("Hi 𠀀!")
    assert ends.tolist() == [2, 3, 4, 4, 4, 5]


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base", "wordllama"])
@given(text=TEXTS)
@example(text="the\n    " * 354 + "Rate\n    " * 141)  # longer than one segment of a file's tokenizer
@settings(max_examples=60, deadline=None)
def test_there_is_one_end_per_token_and_the_last_one_is_the_texts(name: str, text: str) -> None:
    if name == "wordllama":
        require_module("wordllama")
    ends = tokenizer(name).encode_ends(text)
    assert (ends[1:] >= ends[:-1]).all()
    parts = [text] if name != "wordllama" else [
        text[start:end] for start, end in segments(text, tokens.FILE_SEGMENT_CHARS)
    ]
    if text:
        assert len(ends) == sum(tokenizer(name).count(part) for part in parts)
        assert ends[-1] == len(text)


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
@given(text=TEXTS)
@settings(max_examples=200, deadline=None)
def test_segments_have_the_tokens_of_the_whole(name: str, text: str) -> None:
    count = tokenizer(name).count
    seams = [match.start() for match in tokens.SEAM.finditer(text)]
    for cut in seams[:: len(seams) // 24 + 1]:  # a text of 300 seams repeats their contexts
        assert count(text[:cut]) + count(text[cut:]) == count(text)


@given(text=TEXTS, chars=st.integers(8, 200))
def test_segments_cover_the_text_and_are_not_longer_than_the_limit(text: str, chars: int) -> None:
    spans = list(segments(text, chars))
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(0 < end - start <= chars for start, end in spans)


@pytest.mark.slow
@pytest.mark.parametrize("letter", [" ", "\n", " \n", "a", "A", "\u0301", "!", "\x00"])
def test_a_million_equal_characters_are_encoded(letter: str) -> None:
    text = letter * (1_000_000 // len(letter))
    assert tokenizer("o200k_base").encode_ends(text[:300_000])[-1] == 300_000
    assert tokenizer("o200k_base").count(text) > 0


def test_an_unknown_tokenizer_is_named_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown tokenizer `o200k_bas` \(did you mean `o200k"):
        tokenizer("o200k_bas")


def test_a_missing_tokenizer_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"tokenizer `.*no\.json` does not exist"):
        tokenizer(str(tmp_path / "no.json"))


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UsageError, match=r"tokenizer `.*bad\.json` cannot be read: "):
        tokenizer(str(tmp_path / "bad.json"))


def test_without_the_local_model_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    tokenizer.cache_clear()
    with pytest.raises(UsageError, match="tokenizer `wordllama` needs the extra `local`") as caught:
        tokenizer("wordllama")
    assert caught.value.hint == "pip install textmill[local]"


def test_a_changed_rank_table_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tokens.RANKS, "cl100k_base", "0" * 64)
    tokenizer.cache_clear()
    with pytest.raises(UsageError, match=r"cl100k_base\.tiktoken: SHA-256 is 223921b76ee9…"):
        tokenizer("cl100k_base")
    tokenizer.cache_clear()


@pytest.mark.parametrize("name", ["o200k_bas", "nowhere.json", "wordllama"])
def test_a_name_is_checked_without_loading_and_refused_in_the_same_words(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    tokenizer.cache_clear()
    with pytest.raises(UsageError) as loaded:
        tokenizer(name)
    with pytest.raises(UsageError) as checked:
        check_tokenizer(name)
    assert (str(checked.value), checked.value.hint) == (str(loaded.value), loaded.value.hint)


def test_a_good_name_is_checked_without_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(tokens, "_from_package", never)
    monkeypatch.setattr(tokens, "FileTokenizer", never)
    (tmp_path / "own.json").write_text("{}")
    for name in ("o200k_base", "cl100k_base", "p50k_base", str(tmp_path / "own.json")):
        check_tokenizer(name)
