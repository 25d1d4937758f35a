"""The law of prefixes and headers: they are sent, counted and part of the key, and never stored."""

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from chunkers.tokens.tokenizers import tokenizer
from jobs.build import build
from jobs.spec.load import load
from pipeline.errors import UsageError
from pipeline.prepare.factory import RequestFactory
from pipeline.prepare.pipeline import parts_fingerprint, settings_in_effect
from pipeline.prepare.prompts import renderer
from pipeline.prepare.requests import prepare, prepare_document
from pipeline.records import SOLE, Chunk, Document, RowRef
from pipeline.source.scan import survey

WORDS = st.sampled_from(["weir", "lock", "Oxmead", "水闸", "汛期", "1,204", "m³", "ferry"])
SENTENCE = st.lists(WORDS, min_size=1, max_size=30).map(lambda words: " ".join(words) + ". ")
ROW = st.lists(WORDS, min_size=2, max_size=2).map(lambda cells: f"| {cells[0]} | {cells[1]} |\n")
TABLE = st.tuples(ROW, st.lists(ROW, min_size=1, max_size=6).map(lambda rows: rows * 8)).map(
    lambda table: f"\n{table[0]}|---|--:|\n{''.join(table[1])}\n"
)
TEXT = st.lists(SENTENCE | TABLE | st.just("\n\n# Levels of the weir\n\n"), min_size=1, max_size=8).map("".join)
PREFIX = st.sampled_from(["", "passage: ", "{title}: ", "title: {title} | {section} | text: ", "文：\n"])


def factory(**flags):
    typed = {key.replace("__", "."): value for key, value in flags.items()}
    base = {"input.path": "x.jsonl", "endpoint.kind": "openai", "endpoint.model": "m",
            "chunk.tokenizer": "o200k_base"}
    made = build(load("embed", flags=base | typed, needs_output=False), with_secret=False)
    return RequestFactory(made, made.endpoints)


def document(text, **fields):
    return Document(b"\0" * 16, "d", text, fields, "in.jsonl:1", 0, RowRef(None, 0))


count = tokenizer("o200k_base").count


@settings(max_examples=60)
@given(TEXT, PREFIX, st.sampled_from(["structure", "fixed", "markdown"]), st.integers(40, 120),
       st.sampled_from([0, 16]), st.booleans(), st.sampled_from(["", "Report of 1997", "水位 " * 9]))
def test_what_is_sent_fits_and_what_is_stored_is_the_text(text, prefix, method, size, overlap, repeats, title):
    made = factory(chunk__method=method, chunk__size=size, chunk__overlap=overlap,
                   chunk__repeat_header=repeats, embed__passage_prefix=prefix)
    read = document(text, title=title)
    prepared = prepare_document(made, read)
    requests = prepared.requests
    assert (prepared.document.error is not None) == (size - count(renderer(prefix)(read, Chunk(0, 0, 0))) < 16)
    for request in requests:
        chunk, header = request.chunk, ""
        if chunk.header is not None:
            assert repeats
            start, end = chunk.header
            header = text[start:end]
            assert text[start:].split("\n")[1] == "|---|--:|" and end <= chunk.start_char
            assert "\n\n" not in text[start : chunk.start_char]  # of the same table
        own = header + text[chunk.start_char : chunk.end_char]
        before = renderer(prefix)
        assert request.input in {before(read, chunk) + own,
                                 before(read, Chunk(0, 0, 0)) + own}  # a long section is left out
        assert count(request.input) <= size
        if request.input != text[chunk.start_char : chunk.end_char]:
            assert request.tokens == count(request.input)
    if not overlap and prepared.document.error is None:
        spans = [text[r.chunk.start_char : r.chunk.end_char] for r in requests]
        assert "".join(spans) == text


def test_every_later_chunk_of_a_table_is_sent_with_its_header():
    rows = "".join(f"| lock {n} | {n * 7} mm |\n" for n in range(60))
    head = "| place | level |\n|:--|--:|\n"
    text = f"Levels of 1997.\n\n{head}{rows}\nThe weir held. " + "No lock flooded. " * 20
    made = factory(chunk__size=64, chunk__overlap=0, chunk__repeat_header=True)
    inputs = [r.input for r in prepare_document(made, document(text)).requests]
    parts = [part for part in inputs if "| lock " in part]
    assert len(parts) > 8
    assert all(part.count("| place | level |") == 1 for part in parts)
    assert all(part.startswith(head) for part in parts[1:])
    plain = factory(chunk__size=64, chunk__overlap=0)
    assert sum("| place" in r.input for r in prepare_document(plain, document(text)).requests) == 1


@pytest.mark.parametrize("method", ["structure", "markdown", "fixed"])
def test_a_full_chunk_is_cut_again_where_a_header_makes_it_too_long(method):
    head = "| place | level |\n|---|--:|\n"
    text = head + "".join(f"| lock {n} | {n * 7} mm |\n" for n in range(60))
    made = factory(chunk__size=64, chunk__overlap=0, chunk__repeat_header=True, chunk__method=method)
    requests = prepare_document(made, document(text)).requests
    assert {r.chunk.header for r in requests[1:]} == {(0, len(head))}
    assert max(count(r.input) for r in requests) <= 64
    assert "".join(text[r.chunk.start_char : r.chunk.end_char] for r in requests) == text


def test_a_header_of_more_than_half_a_chunk_is_not_repeated():
    head = "| " + "a long name of a column " * 9 + "| b |\n|---|---|\n"
    text = head + "".join(f"| {n} | weir |\n" for n in range(60))
    made = factory(chunk__size=64, chunk__overlap=0, chunk__repeat_header=True)
    assert not [r for r in prepare_document(made, document(text)).requests if r.chunk.header]


def test_a_piece_of_a_chunk_that_a_service_refuses_has_the_header_of_its_table():
    head = "| place | level |\n|---|---|\n"
    text = head + "".join(f"| lock {n} | {n * 7} mm |\n" for n in range(60))
    made = factory(chunk__size=128, chunk__overlap=0, chunk__repeat_header=True)
    chunk = prepare_document(made, document(text)).requests[2].chunk
    pieces = made.pieces(document(text), chunk)
    assert len(pieces) > 1
    assert "".join(text[p.start_char : p.end_char] for p in pieces) == text[chunk.start_char : chunk.end_char]
    assert {piece.header for piece in pieces} == {(0, len(head))}
    first = prepare_document(made, document(text)).requests[0].chunk
    assert made.pieces(document(text), first)[0].header is None
    assert {piece.header for piece in made.pieces(document(text), first)[1:]} == {(0, len(head))}


def test_a_prefix_that_leaves_no_room_is_refused_and_a_title_that_does_so_isolates_its_row():
    with pytest.raises(UsageError) as refused:
        list(factory(chunk__size=40, embed__passage_prefix="word " * 30).chunks(document("text")))
    assert str(refused.value) == (
        "embed.passage_prefix has 31 tokens and leaves fewer than 16 of chunk.size = 40 tokens"
    )
    made = factory(chunk__size=40, embed__passage_prefix="{title}: ")
    long = prepare_document(made, document("text", title="word " * 30))
    assert (long.requests, long.document.text) == ([], None)
    assert long.document.error.startswith("embed.passage_prefix has 32 tokens and leaves fewer than")
    assert [r.input for r in prepare_document(made, document("text", title="a")).requests] == ["a: text"]


def test_the_prefix_is_part_of_the_key_and_of_the_planned_tokens(tmp_path):
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "The weir held."}) + "\n")
    path = str(tmp_path / "in.jsonl")
    keys = set()
    for prefix, tokens in (("", 5), ("passage: ", 8), ("文：", 7)):
        flags = {"input.path": path, "endpoint.kind": "openai", "endpoint.model": "m",
                 "embed.passage_prefix": prefix}
        made = build(load("embed", flags=flags, needs_output=False), with_secret=False)
        ((each,),) = prepare(RequestFactory(made, made.endpoints), survey(made.input))
        (request,) = each.requests
        assert (request.input, request.tokens) == (f"{prefix}The weir held.", tokens)
        keys.add(request.key)
    assert len(keys) == 3


def test_an_overlap_shrinks_with_the_room_only_where_it_must():
    made = factory(chunk__size=64, chunk__overlap=40, embed__passage_prefix="{title}: ")
    text = "The weir held all winter and no lock flooded. " * 40
    few = prepare_document(made, document(text, title="a " * 30)).requests
    assert all(count(request.input) <= 64 for request in few)
    starts = [request.chunk.start_char for request in few]
    assert starts == sorted(set(starts)) and len(few) < 60
    assert made.request(document("x"), Chunk(0, 1, 1), SOLE).input == ": x"


def test_rows_of_another_prefix_are_not_reused_also_where_only_the_server_changed_it():
    flags = {"input.path": "x.jsonl", "endpoint.kind": "openai", "endpoint.model": "intfloat/e5-base-v2"}
    made = build(load("embed", flags=flags, needs_output=False), with_secret=False)
    (endpoint,) = made.endpoints
    adding = replace(endpoint, adds_prompt=True)
    assert parts_fingerprint(made, [endpoint]) != parts_fingerprint(made, [adding])
    assert settings_in_effect(made, [endpoint])["embed.passage_prefix"] == "passage: "
    assert "embed.passage_prefix" not in settings_in_effect(made, [adding])
