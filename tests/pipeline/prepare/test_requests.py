"""From rows to requests, in order."""

import json

from msgspec.structs import replace

from jobs.build import build
from jobs.spec.load import load
from pipeline.cache.keys import request_key
from pipeline.prepare.factory import RequestFactory
from pipeline.prepare.requests import prepare
from pipeline.source.scan import survey


def pipeline(tmp_path, rows, **flags):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"input.path": str(path), "chunk.method": "fixed", "chunk.size": 8,
                "endpoint.model": "m", "parameters.prompt": "{title}: {chunk}"}
    return build(load("ask", flags=settings | flags, needs_output=False), with_secret=False)


def opened(made):
    return [each for group in groups(made) for each in group]


def groups(made):
    return list(prepare(RequestFactory(made, made.endpoints), survey(made.input)))


def test_requests_are_the_rendered_chunks_in_span_order_with_their_keys(tmp_path):
    text = "one two three four five six seven eight nine ten eleven twelve"
    made = pipeline(tmp_path, [{"title": "Numbers", "text": text}])
    (each,) = opened(made)
    assert [request.input for request in each.requests] == [
        "Numbers: one two three four five six seven eight",
        "Numbers:  nine ten eleven twelve",
    ]
    assert [request.tokens for request in each.requests] == [10, 7]
    assert [request.chunk.tokens for request in each.requests] == [8, 4]
    key = request_key(made.endpoints[0])
    assert [request.key for request in each.requests] == [
        key(request.input) for request in each.requests
    ]


def test_without_a_prompt_tokens_are_those_of_the_chunk(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "one two three"}\n')
    made = build(load("embed", flags={"input.path": str(path)}, needs_output=False))
    (each,) = opened(made)
    assert [(r.input, r.tokens, r.chunk.tokens) for r in each.requests] == [
        ("one two three", *(each.requests[0].chunk.tokens,) * 2)
    ]


def test_every_row_comes_once_and_in_order_also_blank_and_unreadable_ones(tmp_path):
    rows = [{"title": n, "text": "" if n % 3 else f"text {n}"} for n in range(600)]
    rows[7] = {"title": 7, "text": ["no", "text"]}
    found = opened(pipeline(tmp_path, rows))
    assert [each.document.address.rpartition(":")[2] for each in found] == [
        str(n) for n in range(1, 601)
    ]
    assert [len(each.requests) for each in found] == [int(n % 3 == 0) for n in range(600)]
    assert found[7].document.error == "`text` must be a string, got array"
    assert found[7].document.text is None


def test_groups_are_bounded(tmp_path):
    rows = [{"title": n, "text": f"text {n}"} for n in range(600)]
    made = pipeline(tmp_path, rows)
    sizes = [len(group) for group in groups(made)]
    assert sum(sizes) == 600
    assert max(sizes) <= 256


def test_equal_chunks_have_equal_keys_and_another_prompt_another_key(tmp_path):
    rows = [{"title": "a", "text": "same"}, {"title": "a", "text": "same"},
            {"title": "b", "text": "same"}]
    keys = [each.requests[0].key for each in opened(pipeline(tmp_path, rows))]
    assert keys[0] == keys[1] != keys[2]


def bounded(made, max_chunks):
    return replace(made, guard=replace(made.guard, max_chunks=max_chunks))


def test_a_document_of_too_many_chunks_is_isolated_and_its_neighbours_are_not(tmp_path):
    long = " ".join(["word"] * 41)
    rows = [{"title": "a", "text": "one"}, {"title": "b", "text": long},
            {"title": "c", "text": "two"}]
    made = pipeline(tmp_path, rows, **{"guard.max_chunks": 5})
    before, isolated, after = opened(made)
    assert isolated.requests == []
    assert isolated.document.text is None
    assert isolated.document.error == "more than guard.max_chunks = 5 chunks"
    assert (len(before.requests), len(after.requests)) == (1, 1)
    assert [len(each.requests) for each in opened(bounded(made, 6))] == [1, 6, 1]


def test_a_chunker_is_not_asked_for_more_than_the_bound(tmp_path):
    made = pipeline(tmp_path, [{"title": "a", "text": "word " * 5_000}])
    taken = []

    def counted(text, size):
        for chunk in made.chunking.cut(text, size):
            taken.append(chunk)
            yield chunk

    counting = replace(made, chunking=replace(made.chunking, cut=counted))
    (each,) = opened(bounded(counting, 3))
    assert each.document.error is not None
    assert len(taken) == 4


def test_a_document_that_names_a_column_is_sent_as_it_stands(tmp_path):
    (each,) = opened(pipeline(tmp_path, [{"title": "{chunk}", "text": "{title} {{x}}"}]))
    assert [request.input for request in each.requests] == ["{chunk}: {title} {{x}}"]
