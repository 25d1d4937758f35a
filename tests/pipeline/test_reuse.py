"""Parts and reuse by row: the same bytes for less work."""

import os
import random

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from pipeline import reuse as reuse_module
from reusing import Reused, small

WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen".split()


def text(number, random_=None):
    """Between no and about five chunks of 8 tokens; now and then poisoned or blank."""
    make = random_ or random.Random(number)
    words = make.choices(WORDS, k=make.choice([0, 3, 10, 20, 35]))
    if make.random() < 0.1:
        words.insert(len(words) // 2, "poison")
    return " ".join([str(number), *words]) if words else " "


def edited(rows, make, has_id):
    """The rows after a night: some changed, added, removed, moved, doubled, or broken."""
    rows = [dict(row) for row in rows]
    for _ in range(make.randint(0, 5)):
        at = make.randrange(len(rows)) if rows else 0
        match make.choice(["change", "add", "remove", "move", "kept", "unused", "double", "break"]):
            case "change" if rows:
                rows[at]["text"] = text(make.randrange(10**6))
            case "add":
                number = make.randrange(10**6, 10**9)
                rows.insert(at, {"id": number, "text": text(number), "kept": 1.5, "unused": 1})
            case "remove" if rows:
                del rows[at]
            case "move" if rows:
                rows.insert(make.randrange(len(rows)), rows.pop(at))
            case "kept" if rows:
                rows[at]["kept"] = make.choice([0.0, -0.0, 1.0, None, 2.5])
            case "unused" if rows:
                rows[at]["unused"] = make.choice([2, None, 3])
            case "double" if rows and not has_id:
                rows.insert(make.randrange(len(rows)), dict(rows[at]))
            case "break" if rows:
                rows[at]["text"] = None
    return rows


@pytest.fixture
def of(tmp_path_factory, monkeypatch):
    small(monkeypatch)
    monkeypatch.setattr(reuse_module, "MOST_SOURCES", 2)
    monkeypatch.setattr(reuse_module, "LEAST_COPIED", 2)

    def make(**given):
        folder = tmp_path_factory.mktemp("reuse")
        monkeypatch.setenv("TEXTMILL_HOME", str(folder / "home"))
        return Reused(folder, monkeypatch, **given)

    return make


SHAPES = st.sampled_from(
    [("embed", None, "o.parquet"), ("embed", None, "o.jsonl"), ("embed", None, "o"),
     ("embed", "mean", "o.parquet"), ("embed", "mean", "o"), ("embed", "mean", "o.jsonl"),
     ("ask", None, "o.parquet"), ("ask", None, "o.jsonl")]
)  # fmt: skip


@settings(max_examples=40)
@given(SHAPES, st.booleans(), st.sampled_from([".jsonl", ".parquet"]), st.integers(0, 10**9))
def test_a_run_that_reuses_writes_the_bytes_of_one_that_does_not(of, shape, has_id, suffix, seed):
    template, method, out = shape
    make = random.Random(seed)
    flags = {"input__id": "id" if has_id else None}
    if template == "ask":
        flags |= {"parameters__prompt": "{kept}: {chunk}"}
    if method:
        flags |= {"aggregate__method": method}
    if not (has_id and seed % 2):
        flags |= {"input__keep": ["kept"]}
    mill = of(template=template, out=out, name=f"in{suffix}", **flags)
    rows = [
        {"id": n, "text": text(n), "kept": make.choice([0.5, 1.0, None]), "unused": n % 3}
        for n in range(make.randint(1, 60))
    ]
    for night in range(4):
        # One vector there always is: of the dimension an earlier commit is asked, too.
        night_rows = [*rows, {"id": -1, "text": "here to stay", "kept": 0.5, "unused": 1}]
        mill.rows(night_rows)
        told = mill.run()
        assert told.added + told.changed + told.unchanged + told.retried == len(night_rows)
        if night:
            assert told.removed == before - told.changed - told.unchanged - told.retried
        before = len(night_rows)
        assert mill.content() == mill.anew()
        rows = edited(rows, make, has_id) or rows
