"""Keys are declared at the fields of records: the table of keys, and records made from values."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from msgspec import Struct

from jobs.secrets import Reference
from jobs.spec.job import KEY, KEYS, LISTS, Job
from jobs.spec.table import Key, Table, assemble, flag_of, keys_of, lists_of


class Engine(Struct, frozen=True):
    """As a record of the engine: it knows of no job file."""

    value: bool | int | str
    seconds: float = 2.0


class Shelf(Struct, frozen=True):
    label: Annotated[str, Key("is on it", type="slug", is_filled_in=True)]
    books: Annotated[int, Key("how many", least=1)]
    lent: Annotated[float | None, Key("a share of them", most=1)] = None


class Room(Struct, frozen=True, kw_only=True):
    name: Annotated[str | None, Key("of the room", name="sign.name")] = None
    use: Annotated[Literal["read", "talk"], Key("what for")] = "read"
    shelves: Annotated[tuple[Shelf, ...], Table("shelf", max_tables=3)]
    lamp: Annotated[Engine | None, Table(keys={
        "value": Key("how bright", name="equals"), "seconds": Key("to light up", above=0)})] = None
    best: Shelf
    rows: Annotated[tuple[str, ...] | None, Key("of seats")] = None
    key: Annotated[Reference | None, Key("where it lies")] = None
    open: Annotated[bool, Key("now")] = True
    address: str = "here"


def test_every_field_with_a_key_is_a_line_of_the_table_in_the_order_of_the_fields():
    assert [(key.name, key.type, key.default, key.is_required) for key in keys_of(Room)] == [
        ("sign.name", "string", None, False),
        ("use", "string", "read", False),
        ("shelf.label", "slug", None, False),
        ("shelf.books", "integer", None, True),
        ("shelf.lent", "number", None, False),
        ("lamp.equals", "scalar", None, True),
        ("lamp.seconds", "number", 2.0, False),
        ("best.label", "slug", None, False),
        ("best.books", "integer", None, True),
        ("best.lent", "number", None, False),
        ("rows", "strings", None, False),
        ("key", "reference", None, False),
        ("open", "boolean", True, False),
    ]
    table = {key.name: key for key in keys_of(Room)}
    assert (table["use"].choices, table["use"].takes()) == (("read", "talk"), "read, talk")
    assert table["lamp.seconds"].takes() == "number, more than 0"
    assert (table["lamp.equals"].section, table["open"].section) == ("lamp", "")
    assert lists_of(Room) == {"shelf": 3}


def test_a_record_is_made_of_the_values_and_of_its_own_defaults():
    lists = {"shelf": ["shelf.a", "shelf.b"]}
    values = {"best.label": "x", "best.books": 7, "shelf.a.label": "a", "shelf.a.books": 1,
              "shelf.b.label": "b", "shelf.b.books": 2, "shelf.b.lent": 0.5}
    plain = Room(shelves=(Shelf("a", 1), Shelf("b", 2, 0.5)), best=Shelf("x", 7))
    assert assemble(Room, values, lists) == plain
    more = {"sign.name": "N", "use": "talk", "lamp.equals": 3, "rows": ("r",), "open": False,
            "key": Reference(env="K"), "address": "there"}
    assert assemble(Room, values | more, lists | {"shelf": []}) == Room(
        name="N", use="talk", shelves=(), lamp=Engine(3), best=Shelf("x", 7), rows=("r",),
        key=Reference(env="K"), open=False, address="there")  # fmt: skip


def test_a_field_of_a_type_that_no_key_has_is_a_mistake_of_ours():
    class Wrong(Struct):
        when: Annotated[bytes, Key("of no type")]

    with pytest.raises(KeyError):
        list(keys_of(Wrong))


SHORT = {"input.path": "-i", "output.path": "-o"}
OTHER = {"input.path": "--input", "output.path": "--output", "aggregate.method": "--aggregate"}
"""The flags that are not called by the last part of their key."""


def test_a_flag_is_the_last_part_of_its_key_without_the_unit_of_time():
    named = {key.name: key.flag for key in KEYS if key.flag}
    assert named == {name: OTHER.get(name, flag_of(name)) for name in named}
    assert len(set(named.values())) == len(named) == 25
    assert (named["run.grace_seconds"], named["run.max_outage_seconds"]) == (
        "--grace", "--max-outage")  # fmt: skip
    assert {key.name: key.short for key in KEYS if key.short} == SHORT


def test_every_flag_says_what_it_takes_and_what_for():
    for key in KEYS:
        if key.flag:
            assert (key.metavar is None) == (key.type == "boolean"), key.name
            assert key.help and key.help.endswith(".") != bool(key.choices), key.name
        else:
            assert not (key.short or key.metavar or key.help), key.name


def test_every_key_is_in_the_table_once_and_says_what_it_means():
    assert len(KEY) == len(KEYS) == len(list(keys_of(Job)))
    assert all(key.meaning for key in KEYS)
    assert {key.section for key in KEYS} == {
        "", "input", "chunk", "embed", "parameters", "endpoint", "rule", "aggregate", "output", "budget",
        "guard", "run"}  # fmt: skip
    assert LISTS == {"endpoint": 100, "rule": 1_000}
    assert [key.name for key in KEYS if key.is_required] == [
        "task", "input.path", "endpoint.kind", "rule.column", "rule.equals", "rule.endpoints",
        "output.path"]  # fmt: skip


def test_nothing_has_to_be_given_but_what_is_required():
    values = {"task": "summarization", "input.path": "i", "output.path": "o", "name": "n",
              "aggregate.method": "text", "parameters": {}, "address": "a", "folder": ""}
    job = assemble(Job, values, {"endpoint": [], "rule": []})
    assert (job.chunk.size, job.guard.drift_texts, job.run.grace_seconds) == (256, 3, 30.0)
    assert (job.endpoints, job.rules, job.prompt) == ((), (), None)
