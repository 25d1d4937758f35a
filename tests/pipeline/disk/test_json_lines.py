"""What a crash cuts costs one record, never its neighbours."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.disk.json_lines import JsonLines

RECORDS = st.lists(
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3)
)


class Point(msgspec.Struct):
    x: int


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("lines") / "lines.jsonl"


def read(path, raw, kind=dict, **more):
    path.write_bytes(raw)
    lines = JsonLines(path, kind, **more)
    return list(lines), lines.unreadable


@given(records=RECORDS)
def test_every_record_is_read_back_in_order(path, records):
    raw = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    assert read(path, raw) == (records, 0)


@given(records=RECORDS, data=st.data())
def test_a_file_cut_anywhere_gives_the_records_before_the_cut(path, records, data):
    lines = [json.dumps(record).encode() + b"\n" for record in records]
    raw = b"".join(lines)
    cut = data.draw(st.integers(0, len(raw)))
    found, unreadable = read(path, raw[:cut])
    whole = raw[:cut].count(b"\n")
    is_only_the_break_gone = raw[cut : cut + 1] == b"\n"
    assert found == records[: whole + is_only_the_break_gone]
    assert unreadable == (not is_only_the_break_gone and not raw[:cut].endswith(b"\n") and cut > 0)


@pytest.mark.parametrize(
    ("raw", "unreadable"),
    [
        (b'{"x": 1}\n{"x": \n{"x": 2}', 1),
        (b'{"x": 1}\n\n  \n{"x": 2}\n', 0),
        (b'{"x": 1}\n{"x": "\xff"}\n[]\n{"x": 2}\n', 2),
        (b'{"x": 1}\n{"x": "not a number"}\n{}\n{"x": 2}\n', 2),
        (b'{"x": 1}\n\x00\x00\x00\n{"x": 2}\n', 1),
    ],
)
def test_lines_that_are_not_records_are_counted_and_their_neighbours_kept(path, raw, unreadable):
    assert read(path, raw, Point) == ([Point(1), Point(2)], unreadable)


def test_lines_without_the_bytes_are_left_out_and_not_counted(path):
    raw = b'{"x": 1}\ncut\n{"x": 21}\n'
    assert read(path, raw, Point, containing=b"21") == ([Point(21)], 0)


def test_a_file_that_is_not_there_is_for_the_caller(path):
    with pytest.raises(FileNotFoundError):
        list(JsonLines(path.with_name("none"), dict))
