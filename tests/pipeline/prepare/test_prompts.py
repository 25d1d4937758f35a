"""Prompts are filled in once, and only where they name something."""

import json
import re

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pipeline.prepare.prompts import columns_of, renderer
from pipeline.records import Chunk, Document, RowRef

NAMES = st.sampled_from(["title", "year", "标题", "chunk", "section"])
HOSTILE = st.text(st.sampled_from("{}ab \\\n标") | st.characters(codec="utf-8"), max_size=12) | (
    st.sampled_from(["{title}", "{{chunk}}", "{chunk}", "{section}", "\\1", "\\g<0>", "{", "}}"])
)
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="{}"), max_size=8)


def document(text, **fields):
    return Document(b"\0" * 16, "d", text, fields, "in.jsonl:1", 0, RowRef(None, 0))


def whole(text, section=None):
    return Chunk(0, len(text), 1, section)


@given(st.lists(st.tuples(PLAIN, NAMES)), PLAIN, HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_what_is_filled_in_is_never_filled_in_itself(parts, end, text, title, section, year):
    prompt = "".join(plain + "{" + name + "}" for plain, name in parts) + end
    values = {"title": title, "year": year, "标题": title, "chunk": text, "section": section}
    expected = "".join(plain + values[name] for plain, name in parts) + end
    fields = {name: values[name] for name in ("title", "year", "标题")}
    assert renderer(prompt)(document(text, **fields), whole(text, section)) == expected


@given(
    st.dictionaries(PLAIN, st.recursive(PLAIN | st.integers() | st.none(), lambda one: (
        st.lists(one, max_size=3) | st.dictionaries(PLAIN, one, max_size=3)), max_leaves=8)),
    st.sampled_from([None, 2]),
)
def test_json_in_a_prompt_stands_as_it_is(value, indent):
    prompt = json.dumps(value, ensure_ascii=False, indent=indent)
    assert columns_of(prompt) == ()
    assert renderer(prompt)(document("x"), whole("x")) == prompt


@given(st.text(st.sampled_from("{}ab 标"), max_size=20))
def test_columns_are_those_that_are_filled_in(prompt):
    names = columns_of(prompt)
    assert len(set(names)) == len(names)
    marks = {name: f"<{position}>" for position, name in enumerate(names)}
    told = renderer(prompt)(document("x", **marks), whole("x"))
    assert set(re.findall("<[0-9]+>", told)) == set(marks.values())


@pytest.mark.parametrize(("prompt", "told"), [
    ("Sum up: {chunk}", "Sum up: weir"),
    ("{title} ({year}): {chunk}", "Oxmead (1997): weir"),
    ("{section}|{chunk}", "Levels|weir"),
    ("{{chunk}} is {chunk}", "{chunk} is weir"),
    ('{"text": "{chunk}", "of": {}}', '{"text": "weir", "of": {}}'),
    ('{"a": {"b": "{chunk}"}}', '{"a": {"b": "weir"}}'),
    ("{ chunk } {chunk.text} {chunk!r} {a-b} {", "{ chunk } {chunk.text} {chunk!r} {a-b} {"),
    ("[{none}]", "[]"),
    ("标题：{标题}\n{chunk}", "标题：水位\nweir"),
])
def test_placeholders(prompt, told):
    fields = {"title": "Oxmead", "year": 1997, "标题": "水位", "none": None}
    assert renderer(prompt)(document("weir", **fields), whole("weir", "Levels")) == told


def test_a_chunk_without_a_section_has_an_empty_one():
    assert renderer("[{section}]")(document("weir"), whole("weir")) == "[]"


def test_columns_come_in_order_and_once_without_the_chunk_and_its_section():
    assert columns_of("{b} {a} {chunk} {b} {section} {{c}}") == ("b", "a")


def test_without_a_prompt_the_input_is_the_span():
    render = renderer("{chunk}")
    assert render(document("die {title} 水"), Chunk(4, 12, 3)) == "{title} "
