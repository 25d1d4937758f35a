"""Standard streams that fail, and texts that their encoding does not have."""

import errno
import io
import json
import os
import sys

import hypothesis.strategies as st
import pytest
from hypothesis import given
from msgspec import Struct

from jobs import stdio
from jobs.stdio import Output, close, json_line, stdout_error


class Named(Struct):
    name: str


def stream(encoding):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=stdio._ESCAPE)


@pytest.fixture(autouse=True)
def open_streams(monkeypatch):
    """The error handler is registered, and the streams of the test are as before afterwards."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    stdio.open_streams()


def full(*, is_lossy):
    return Output(os.open("/dev/full", os.O_WRONLY), is_lossy=is_lossy)


def test_a_lossy_stream_drops_what_it_cannot_write_and_keeps_the_first_error():
    out = full(is_lossy=True)
    assert out.write(b"one") == 3
    assert out.error.errno == errno.ENOSPC
    assert out.write(b"three") == 5


def test_any_other_stream_raises_once():
    out = full(is_lossy=False)
    with pytest.raises(OSError, match="No space left"):
        out.write(b"one")
    assert out.write(b"one") == 3


def test_a_non_blocking_stderr_that_nobody_reads_holds_nothing_up(monkeypatch):
    monkeypatch.setattr(stdio, "BUSY_SECONDS", 0.01)
    _, writer = os.pipe()
    os.set_blocking(writer, False)
    out = Output(writer, is_lossy=True)
    for _ in range(40):  # a pipe takes 64 KB
        assert out.write(b"x" * 4096) == 4096
    assert out.error is None


def test_a_non_blocking_stdout_waits_for_its_reader():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    text = io.BufferedWriter(Output(writer, is_lossy=False))
    text.write(b"x" * 65_536)
    text.flush()
    os.read(reader, 65_536)
    text.write(b"y" * 10)
    text.flush()
    assert os.read(reader, 100) == b"y" * 10


@pytest.mark.parametrize(("number", "code", "expected"), [
    (None, 0, 0), (None, 3, 3),
    (errno.EPIPE, 0, 141), (errno.EPIPE, 1, 141), (errno.EPIPE, 5, 5),
    (errno.ENOSPC, 0, 13), (errno.ENOSPC, 2, 2),
])  # fmt: skip
def test_the_exit_code_shows_a_failed_write_only_of_what_was_well(number, code, expected):
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(Output(1, is_lossy=False)))
    sys.stdout.buffer.raw.error = OSError(number, "gone") if number else None
    assert (stdout_error() is None) == (number is None)
    assert close(code) == expected


@given(st.text(st.characters(codec="utf-8")))
def test_an_escaped_text_is_a_text_of_json(text):
    out = stream("ascii")
    out.write(json.dumps(text, ensure_ascii=False))
    out.flush()
    assert json.loads(out.buffer.getvalue()) == text


@given(st.text())
def test_a_line_of_json_is_read_back_whatever_the_stream(text):
    for encoding in ("utf-8", "ascii", "latin-1", "gb18030"):
        out = stream(encoding)
        out.write(json_line(Named(text), out))
        out.flush()
        assert json.loads(out.buffer.getvalue().decode(encoding)) == {"name": text}


def test_json_is_plain_utf_8_where_the_stream_is():
    assert json_line(Named("\u4e2d"), stream("utf-8")) == '{"name":"\u4e2d"}'
    assert json_line(Named("\u4e2d"), stream("gb18030")) == '{"name":"\\u4e2d"}'
