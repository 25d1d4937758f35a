"""What the chunkers do with real-looking texts: literal cuts, work counted, errors."""

from __future__ import annotations

import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import chunkers
from chunkers import CHUNKERS, units
from chunkers.fixed import chunk_fixed
from chunkers.markdown import chunk_markdown
from chunkers.structure import chunk_structure
from chunkers.tokens import encoded
from chunkers.tokens.tokenizers import merge_segments, segments, tokenizer
from pipeline.errors import UsageError
from pipeline.records import Chunk
from tests.support import require_module

ENGLISH = (
    "The kiln was lit at six. Mr. Aldous, who had never trusted it, stood by the door. "
    "By noon the cones had bent. “It holds,” he said. Nobody answered.\n\n"
    "The second firing was worse. It cracked 14 of 40 plates, e.g. the blue ones.\n"
)
CHINESE = (
    "窑是早上六点点着的。老周从来不信它，站在门口不走。到了中午，测温锥弯了。“行。”他说。"
    "没有人答话。\n\n第二次更糟。四十个盘子裂了十四个，蓝色的几乎没剩下。\n"
)


def texts(text: str, chunks: Any) -> list[str]:
    return [text[chunk.start_char : chunk.end_char] for chunk in chunks]


def test_english_is_cut_at_paragraphs_and_sentences() -> None:
    assert texts(ENGLISH, chunk_structure(ENGLISH, size=32)) == [
        "The kiln was lit at six. Mr. Aldous, who had never trusted it, stood by the door.",
        " By noon the cones had bent. “It holds,” he said. Nobody answered.\n\n",
        "The second firing was worse. It cracked 14 of 40 plates, e.g. the blue ones.\n",
    ]


def test_chinese_is_cut_at_sentences() -> None:
    assert texts(CHINESE, chunk_structure(CHINESE, size=32)) == [
        "窑是早上六点点着的。老周从来不信它，站在门口不走。",
        "到了中午，测温锥弯了。“行。”他说。没有人答话。\n\n",
        "第二次更糟。四十个盘子裂了十四个，蓝色的几乎没剩下。\n",
    ]


def test_an_overlap_begins_at_a_sentence() -> None:
    chunks = list(chunk_structure(ENGLISH, size=32, overlap=8))
    assert [ENGLISH[b.start_char : a.end_char] for a, b in pairwise(chunks)] == [
        " stood by the door.",  # its sentence is longer than the overlap: a clause
        " Nobody answered.\n\n",
    ]


def test_an_overlap_gives_way_to_a_sentence_that_fits_only_without_it() -> None:
    long = "The third firing, which nobody had asked for, was cold, damp, and slow, so we left. "
    text = (ENGLISH.partition("\n")[0] + " " + long * 3).strip()
    for size in (24, 28, 32):
        for overlap in (8, 16, 20):
            ends = {chunk.end_char for chunk in chunk_structure(text, size=size, overlap=overlap)}
            starts = [index for index in range(len(text)) if text.startswith(long.strip(), index)]
            assert all(start + len(long.strip()) in ends for start in starts), (size, overlap)


def test_no_unit_of_a_long_text_is_torn_whatever_lies_between_them() -> None:
    text = "".join(
        f"{n}\nfirst, and\nsecond, {n}\n\n" * (n % 5) + "x\n" * (n % 9) + "\n" for n in range(900)
    )
    pieces = texts(text, chunk_structure(text, size=24))
    assert all(piece.count("first") == piece.count("second") for piece in pieces)


def test_markdown_chunks_know_their_section() -> None:
    text = (
        "# Guide\n\nWelcome to the guide, all of you.\n\n## Install\n\nRun the installer twice.\n\n"
        "## Use\n\n### Daily\n\nFeed it. Water it.\n\n# End\n\nBye, and thank you.\n"
    )
    chunks = list(chunk_markdown(text, size=40))
    assert [(chunk.section, text[chunk.start_char : chunk.end_char]) for chunk in chunks] == [
        ("Guide", "# Guide\n\nWelcome to the guide, all of you.\n\n"),
        ("Guide > Install", "## Install\n\nRun the installer twice.\n\n"),
        ("Guide > Use", "## Use\n\n### Daily\n\nFeed it. Water it.\n\n"),
        ("End", "# End\n\nBye, and thank you.\n"),
    ]


def test_fixed_windows_have_the_size_and_the_overlap_exactly() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"
    assert texts(text, chunk_fixed(text, size=8, overlap=2)) == [
        "one two three four five six seven eight",
        " seven eight nine ten eleven twelve",
    ]


def test_a_code_fence_that_fits_is_not_cut() -> None:
    code = "```py\n" + "total = total + 1\n" * 10 + "```\n"
    text = "A short line before it.\n\n" + code + "\nAfter it comes more.\n"
    assert any(code in piece for piece in texts(text, chunk_structure(text, size=80)))


@pytest.mark.parametrize("text", ["", " ", "\n\n \t\u3000\r\n", "\u2028"])
@pytest.mark.parametrize("method", sorted(CHUNKERS))
def test_blank_text_gives_no_chunks(method: str, text: str) -> None:
    assert list(CHUNKERS[method](text)) == []


@pytest.mark.parametrize("method", sorted(CHUNKERS))
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"size": 512, "overlap": 600},
            "chunk.overlap = 600 tokens must be smaller than chunk.size = 512 tokens",
        ),
        (
            {"size": 64, "overlap": 64},
            "chunk.overlap = 64 tokens must be smaller than chunk.size = 64 tokens",
        ),
        ({"size": 7}, "chunk.size = 7 tokens must be at least 8 tokens"),
        ({"overlap": -1}, "chunk.overlap = -1 tokens must be at least 0 tokens"),
        ({"tokenizer": "o300k"}, "unknown tokenizer `o300k`"),
    ],
)
def test_invalid_sizes_are_rejected_at_once_with_their_bound(
    method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        CHUNKERS[method]("text", **options)  # not even iterated
    assert str(caught.value).startswith(message)


class Counting:
    """A tokenizer that counts its calls."""

    def __init__(self, name: str) -> None:
        self.inner = tokenizer(name)
        self.name = name
        self.additive = self.inner.additive
        self.passes = 0
        self.counted_chars = 0

    def count(self, text: str) -> int:
        self.counted_chars += len(text)
        return self.inner.count(text)

    def encode_ends(self, text: str) -> Any:
        self.passes += 1
        return self.inner.encode_ends(text)


@pytest.mark.parametrize("overlap", [0, 12])
def test_ascii_is_encoded_once_and_nothing_is_counted_again(overlap: int) -> None:
    text = ENGLISH.replace("“", '"').replace("”", '"') * 4000
    counting = Counting("o200k_base")
    assert list(chunk_structure(text, size=64, overlap=overlap, tokenizer=counting))
    assert counting.passes == len(list(merge_segments(text, segments(text)))) == 2
    assert counting.counted_chars == 0


@pytest.mark.parametrize("overlap", [0, 12])
def test_of_chinese_only_a_few_characters_beside_the_cuts_are_counted_again(overlap: int) -> None:
    text = CHINESE * 500
    counting = Counting("o200k_base")
    assert list(chunk_structure(text, size=64, overlap=overlap, tokenizer=counting))
    assert counting.passes == 1
    assert counting.counted_chars < len(text) / 10


HARD = {
    "no blank": "abcdefghij" * 50_000,
    "one letter": "a" * 300_000,
    "capitals": "A" * 300_000,
    "spaces": " " * 300_000 + "x",
    "line breaks": "\r\n\r" * 50_000 + "x",
    "stops": "。" * 100_000,
    "quotes": '?"' * 100_000,
    "emoji": "👨‍👩‍👧❤️🇩🇪e\u0301" * 10_000,
    "flags": "x" + "🇩🇪" * 30_000,
    "marks": "e" + "\u0301" * 50_000,
    "NUL": "\x00" * 100_000,
    "right to left": "\u202bשלום עולם\u202c " * 20_000,
    "tiny lines": "a\r\n\n" * 30_000,
    "pipes": "|" * 100_000,
    "hashes": "# \n" * 50_000,
    "fences": "```\n" * 50_000,
    "surrogates": "\ud83d\ude00\ud800" * 20_000,
    "digits": "1234567890" * 20_000,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(HARD))
@pytest.mark.parametrize("method", sorted(CHUNKERS))
def test_hard_texts_are_rebuilt_with_work_that_grows_with_their_length(
    method: str, name: str
) -> None:
    text = HARD[name]
    counting = Counting("o200k_base")
    chunks: list[Chunk] = list(CHUNKERS[method](text, size=128, tokenizer=counting))
    assert "".join(texts(text, chunks)) == text
    count = counting.inner.count
    assert all(
        count(piece) <= chunk.tokens <= 128
        for piece, chunk in zip(texts(text, chunks), chunks, strict=True)
    )
    assert counting.counted_chars <= 3 * len(text)


def test_an_edit_changes_few_chunks() -> None:
    text = "".join(f"{ENGLISH}Number {index} was fired on day {index}.\n\n" for index in range(200))
    before = set(texts(text, chunk_structure(text, size=128)))
    place = text.index("Number 100 was")
    edited = f"{text[:place]}Somebody had opened the door in the night. {text[place:]}"
    after = texts(edited, chunk_structure(edited, size=128))
    assert sum(piece not in before for piece in after) <= 3


@pytest.mark.parametrize("method", sorted(CHUNKERS))
@pytest.mark.parametrize(
    "text",
    [
        ENGLISH * 150, CHINESE * 300, (ENGLISH + CHINESE) * 90,
        "def f(a):\n    if a:\n\n        return a\n    return 2\n\n\n" * 500,
        '{"a":1,"b":{"c":[1,2,3],"d":"e. F, g"}},' * 500, "one\n\ntwo two. So\n\x0c" * 900,
    ],
)  # fmt: skip
def test_segments_and_threads_change_nothing(
    method: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(CHUNKERS[method](text, size=64, overlap=10))
    monkeypatch.setattr(encoded, "segments", lambda text: segments(text, 5000))
    monkeypatch.setattr(encoded, "THREADED_CHARS", 1000)
    monkeypatch.setattr(units, "KEPT", 10)
    assert list(CHUNKERS[method](text, size=64, overlap=10)) == whole


def test_a_chunker_that_is_not_read_to_the_end_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoded, "segments", lambda text: segments(text, 5000))
    monkeypatch.setattr(encoded, "THREADED_CHARS", 1000)
    chunks = chunk_structure(ENGLISH * 500, size=64)
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    for thread in threading.enumerate():
        if thread.name.startswith("textmill-encode"):
            thread.join(10)
            assert not thread.is_alive()


def test_a_tokenizer_file_counts_for_models_like_bert(tmp_path: Path) -> None:
    tokenizers = require_module("tokenizers")
    words = ["[UNK]", "the", "kiln", "was", "lit", "at", "six", ".", ",", "door", "##s", "窑", "是"]
    model = tokenizers.models.WordPiece(
        {word: number for number, word in enumerate(words)}, unk_token="[UNK]"
    )
    bert = tokenizers.Tokenizer(model)
    bert.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    bert.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    bert.enable_truncation(4)  # as files from the hub have it: it must not be obeyed
    path = tmp_path / "tokenizer.json"
    bert.save(str(path))
    for text in (ENGLISH, CHINESE, "\u200e\u200e" * 50, "doors\u0301  \x00 " * 40):
        chunks = list(chunk_structure(text, size=16, overlap=4, tokenizer=str(path)))
        count = tokenizer(str(path)).count
        assert all(count(piece) <= 16 for piece in texts(text, chunks))
        assert chunks[-1].end_char == len(text)
    assert texts(ENGLISH, chunk_structure(ENGLISH, size=16, tokenizer=str(path)))[0] == (
        "The kiln was lit at six."
    )


def test_every_line_of_the_table_names_a_function_and_a_file_of_this_package() -> None:
    folder = Path(chunkers.__file__).parent
    named = {path.stem for path in folder.glob("*.py")} - {"__init__", "units"}
    assert {method.function.partition(":")[0] for method in CHUNKERS.values()} == named
    for name, method in CHUNKERS.items():
        assert list(method("One sentence.", size=16)) == [Chunk(0, 13, 3)], name


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, chunkers; "
        "print([m for m in ('numpy', 'tiktoken', 'tokenizers', 'regex') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
