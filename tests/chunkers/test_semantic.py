"""`semantic`: the laws with a false model and with the real one, and what the model decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkers import CHUNKERS, semantic, units
from chunkers.semantic import best_ends, chunk_semantic, shared_words
from chunkers.tokens import encoded
from chunkers.tokens.tokenizers import segments
from pipeline.errors import UsageError
from pipeline.records import Chunk
from tests.support import require_module
from tests.support.chunk_laws import check_laws
from tests.support.chunk_texts import TEXTS, cuts

KILN = "The kiln was lit at six. The kiln cracked two plates. The kiln was cold by noon. "
FERRY = "A ferry ran aground at low tide. The ferry waited for the tide. No ferry left that day. "


def pieces(text: str, **options: Any) -> list[str]:
    return [text[c.start_char : c.end_char] for c in chunk_semantic(text, **options)]


def by_length(texts: Sequence[str]) -> Any:
    """A false model: vectors that depend on the text and mean nothing, some of them nothing at all."""
    assert all(texts)
    vectors = np.array([[len(text) % 7 - 3, ord(text[0]) % 5 - 2, 1.0] for text in texts])
    vectors[[len(text) % 11 == 0 for text in texts]] = np.nan
    return vectors.astype(np.float32)


@given(cut=cuts(), focus=st.floats(0, 1))
@settings(max_examples=250, deadline=None)
def test_the_laws_hold_for_any_model(cut: tuple[str, int, int], focus: float) -> None:
    check_laws(*cut, "o200k_base", method="semantic", embed=by_length, focus=focus)


@pytest.mark.parametrize("name", ["o200k_base", "wordllama"])
@given(cut=cuts())
@settings(max_examples=60, deadline=None)
def test_the_laws_hold_with_the_embedded_model(name: str, cut: tuple[str, int, int]) -> None:
    require_module("wordllama")
    from pipeline.endpoints.local import embed

    check_laws(*cut, name, method="semantic", embed=embed)


def test_a_chunk_ends_with_its_subject() -> None:
    for first, second in ((KILN, FERRY), (FERRY, KILN)):
        assert pieces(first + second, size=40, focus=0.5)[0] == first[:-1]


def test_the_embedded_model_knows_a_subject_without_a_shared_word() -> None:
    require_module("wordllama")
    from pipeline.endpoints.local import embed

    bread = "Knead the dough for ten minutes. Bake the loaf in a hot oven. Flour your hands first. "
    court = "The judge read out the verdict. Her lawyer will appeal. A jury had found him guilty. "
    for first, second in ((bread, court), (court, bread)):
        assert pieces(first + second, size=40, focus=0.5, embed=embed)[0] == first[:-1]


def test_focus_makes_chunks_shorter() -> None:
    text = (KILN + FERRY) * 60
    amounts = [len(pieces(text, size=128, focus=focus)) for focus in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert amounts == sorted(amounts)
    assert amounts[-1] > 2 * amounts[0]


def exhaustive(worths: dict[tuple[int, int], float], count: int) -> float:
    best = [0.0] + [-np.inf] * count
    for end in range(1, count + 1):
        for start in range(end):
            best[end] = max(best[end], best[start] + worths.get((start, end), -np.inf))
    return best[count]


@given(
    seed=st.integers(0, 10_000),
    tokens=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    room=st.integers(30, 90),
)
@settings(max_examples=100, deadline=None)
def test_no_other_way_of_joining_is_worth_more(seed: int, tokens: list[int], room: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(len(tokens), 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    edges = np.concatenate(([0], np.cumsum(tokens)))
    of_end = np.random.default_rng(seed + 1).normal(size=len(tokens)) / 4
    alike = np.mean(np.sum(vectors[1:] * vectors[:-1], axis=1)) if len(tokens) > 1 else 0.0
    worths = {}
    for start in range(len(tokens)):
        for end in range(start + 1, len(tokens) + 1):
            weight = np.array(tokens[start:end], float)
            if weight.sum() > room:
                continue
            inside = np.outer(weight, weight) * (vectors[start:end] @ vectors[start:end].T)
            inside -= np.diag(weight**2)
            prior = semantic.PRIOR * 40.0**2
            cohesion = inside.sum() + prior * alike
            cohesion /= weight.sum() ** 2 - (weight**2).sum() + prior
            length = semantic.LENGTH * np.log(weight.sum() / 40) ** 2
            worths[start, end] = weight.sum() * (cohesion - length) + of_end[end - 1] * 40
    ends = best_ends(vectors, edges, edges, of_end, room, 40.0)
    found = sum(worths[pair] for pair in zip([0, *ends], ends, strict=False))
    assert found == pytest.approx(exhaustive(worths, len(tokens)))


@pytest.mark.parametrize(
    "text", [(KILN + FERRY) * 40, "窑是早上六点点着的。渡船没有开。\n\n" * 200]
)
def test_the_end_of_a_window_changes_no_cut(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(chunk_semantic(text, size=32, overlap=6))
    monkeypatch.setattr(semantic, "WINDOW", 16)
    assert list(chunk_semantic(text, size=32, overlap=6)) == whole
    monkeypatch.setattr(encoded, "segments", lambda text: segments(text, 1000))
    monkeypatch.setattr(units, "KEPT", 10)
    assert list(chunk_semantic(text, size=32, overlap=6)) == whole


class Reading:
    """A model that counts what it reads."""

    def __init__(self) -> None:
        self.chars = self.longest = 0

    def __call__(self, texts: Sequence[str]) -> Any:
        self.chars += sum(map(len, texts))
        self.longest = max(self.longest, len(texts))
        return shared_words(texts)


@pytest.mark.parametrize("text", [KILN * 3000, "a\r\n\n" * 60_000, "。" * 100_000, "# \n" * 50_000])
def test_the_model_reads_no_text_twice_and_only_a_window_at_once(text: str) -> None:
    reading = Reading()
    assert list(chunk_semantic(text, size=128, embed=reading))
    assert reading.chars <= 1.2 * len(text)
    assert reading.longest <= semantic.WINDOW * (semantic.MAX_PIECES + 2)


def test_an_edit_changes_few_chunks() -> None:
    text = "".join(
        f"{KILN}{FERRY}Number {index} was seen on day {index}.\n\n" for index in range(150)
    )
    before = set(pieces(text, size=96))
    place = text.index("Number 75 was")
    edited = f"{text[:place]}Somebody had opened the door in the night. {text[place:]}"
    assert sum(piece not in before for piece in pieces(edited, size=96)) <= 3


def test_a_model_without_a_vector_for_anything_still_cuts() -> None:
    def nothing(texts: Sequence[str]) -> Any:
        return np.full((len(texts), 2), np.nan)

    text = (KILN + FERRY) * 9
    chunks: list[Chunk] = list(chunk_semantic(text, size=32, embed=nothing))
    assert "".join(text[c.start_char : c.end_char] for c in chunks) == text


@given(text=TEXTS)
@settings(max_examples=100, deadline=None)
def test_shared_words_are_finite_vectors_of_at_most_one(text: str) -> None:
    vectors = shared_words([text, "kiln"])
    assert np.isfinite(vectors).all()
    assert (np.linalg.norm(vectors, axis=1) <= 1 + 1e-9).all()


@pytest.mark.parametrize("focus", [-0.1, 1.5, float("nan")])
def test_a_focus_out_of_bounds_is_named(focus: float) -> None:
    with pytest.raises(UsageError, match=r"chunk\.focus = .* must be between 0 and 1"):
        chunk_semantic(KILN, focus=focus)


def test_the_registry_lists_it_by_name() -> None:
    chunks = list(CHUNKERS["semantic"](KILN + FERRY, size=40, embed=by_length, focus=0.5))
    assert chunks[-1].end_char == len(KILN + FERRY)


def job(**flags: object) -> Any:
    from jobs.spec.load import load

    named = {key.replace("__", "."): value for key, value in flags.items()}
    given = {"input.path": "in.jsonl", "output.path": "-", "chunk.method": "semantic"}
    return load("embed", flags=given | {"chunk.size": 40, "chunk.overlap": 0} | named)


def test_a_job_cuts_with_the_embedded_model_and_its_focus() -> None:
    require_module("wordllama")
    from jobs.build import chunker
    from pipeline.endpoints.local import embed

    text = (KILN + FERRY) * 20
    for focus in (0.0, 1.0):
        made = chunker(job(chunk__focus=focus))
        options: dict[str, Any] = {"size": 40, "tokenizer": "wordllama", "focus": focus}
        assert list(made(text)) == list(chunk_semantic(text, embed=embed, **options))


def test_the_focus_is_part_of_the_fingerprint() -> None:
    from jobs.spec.fingerprint import fingerprint

    assert fingerprint(job(chunk__focus=0.5)) != fingerprint(job())


def test_a_job_without_the_extra_fails_before_any_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.build import chunker
    from pipeline.endpoints import local

    def missing(texts: Sequence[str]) -> Any:
        raise UsageError("no wordllama", hint="pip install 'textmill[local]'")

    monkeypatch.setattr(local, "embed", missing)
    with pytest.raises(UsageError, match=r'chunk\.method = "semantic" needs the extra `local`'):
        chunker(job())
