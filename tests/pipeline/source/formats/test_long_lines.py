"""A line that is read in pieces gives what it gives when it is read at once."""

import io
import json

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from pipeline.source import identity
from pipeline.source.formats import jsonl
from pipeline.source.formats import long_lines as longlines
from pipeline.source.formats.jsonl import decode_object, lines

TEXT = st.text(st.characters(codec="utf-8"), max_size=40) | st.text('\\"u\ud7ff😀é\n', max_size=30)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ROW = st.dictionaries(TEXT, VALUE, min_size=1, max_size=4)


def read(raw, max_bytes=10_000):
    return [(line.number, *decode_object(line, "line", max_bytes)) for line in lines(io.BytesIO(raw), max_bytes)]


@pytest.fixture
def in_pieces(monkeypatch):
    def read_so(raw, at_once, piece, max_bytes=10_000):
        with monkeypatch.context() as patched:
            patched.setattr(jsonl, "LONG_BYTES", at_once)
            patched.setattr(longlines, "PIECE_BYTES", piece)
            return read(raw, max_bytes)

    return read_so


@given(
    rows=st.lists(ROW, min_size=1, max_size=3),
    ascii=st.booleans(),
    end=st.sampled_from([b"\n", b"\r\n"]),
    at_once=st.integers(3, 30),
    piece=st.integers(1, 40),
)
@example([{"text": "\U0001f600" * 9}], True, b"\n", 5, 4)
@example([{"text": "\\\\\\" * 9 + '"'}], True, b"\n", 5, 3)
def test_pieces_give_the_same_rows(in_pieces, rows, ascii, end, at_once, piece):
    raw = end.join(json.dumps(row, ensure_ascii=ascii).encode() for row in rows) + end
    assert in_pieces(raw, at_once, piece) == read(raw)
    assert [row for _, row, _ in read(raw)] == rows


@given(
    row=ROW, at=st.integers(0, 200), byte=st.integers(0, 255), at_once=st.integers(3, 30),
    piece=st.integers(1, 40), cut=st.booleans(),
)  # fmt: skip
def test_pieces_reject_the_same_lines(in_pieces, row, at, byte, at_once, piece, cut):
    raw = bytearray(json.dumps(row, ensure_ascii=False).encode())
    raw[at % len(raw)] = byte
    whole = bytes(raw[: at % len(raw)] if cut else raw) + b'\n{"text": "next"}\n'
    pieced, plain = in_pieces(whole, at_once, piece), read(whole)
    assert [(n, row) for n, row, _ in pieced] == [(n, row) for n, row, _ in plain]
    assert [error is None for *_, error in pieced] == [error is None for *_, error in plain]


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b'{"text": "%s\xff"}' % (b"x" * 50), "malformed JSON: invalid UTF-8 at byte 61"),
        (b'{"text": "%s\\ud800 "}' % (b"x" * 50), "malformed JSON: lone surrogate"),
        (b'{"text": "%s' % (b"x" * 50), "malformed JSON: Input data was truncated"),
        (b'{"text": "%s"' % (b"x" * 50), "malformed JSON: Input data was truncated"),
        (b'{"text": "%s" NaN}' % (b"x" * 50), "malformed JSON: expected ',' or '}'"),
        (b'{"text": "%s", "text": 1}' % (b"x" * 50), "malformed JSON: duplicate key `text`"),
    ],
)
def test_faults_have_the_same_messages_as_in_a_short_line(in_pieces, raw, error):
    ((number, row, problem),) = in_pieces(raw + b"\n", 16, 8)
    assert (number, row, problem) == (1, None, error)


def test_a_line_above_the_bound_is_only_hashed(in_pieces):
    raw = b'{"text": "%s"}\n{"text": "b"}\n' % (b"x" * 5_000)
    expected = [(1, None, "the line is longer than guard.max_row_bytes = 1,000 bytes"),
                (2, {"text": "b"}, None)]
    assert in_pieces(raw, 64, 16, max_bytes=1_000) == read(raw, 1_000) == expected


@given(row=ROW, piece=st.integers(1, 9))
def test_content_hashes_do_not_depend_on_pieces(monkeypatch, row, piece):
    whole = identity.of_content(row)
    with monkeypatch.context() as patched:
        patched.setattr(identity, "_PIECE_CHARS", piece)
        assert identity.of_content(row) == whole
