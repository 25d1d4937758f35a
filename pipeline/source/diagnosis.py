"""What a file is that is not what its name says, found from its first bytes.

Where the first line of a file cannot be read, the fault is mostly not in that row: the whole file
is something else. So the errors of its rows say what it is; a table without a readable header, or
a Parquet file that is none, is refused with it. No message repeats the content.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

HEAD_BYTES = 4_096

_PACK = "unpack it, or compress it with gzip or zstd"
_MAGIC = {
    b"PAR1": ("a Parquet file", "name it .parquet"),
    b"ARROW1": ("an Arrow IPC file", "write it as Parquet"),
    b"\xff\xff\xff\xff": ("an Arrow IPC stream", "write it as Parquet"),
    b"FEA1": ("a Feather file", "write it as Parquet"),
    b"Obj\x01": ("an Avro file", "write it as Parquet"),
    b"ORC": ("an ORC file", "write it as Parquet"),
    b"SQLite format 3\0": ("an SQLite database", "export the table as JSON lines"),
    b"\x1f\x8b": ("data compressed with gzip", "add .gz to its name"),
    b"\x28\xb5\x2f\xfd": ("data compressed with zstd", "add .zst to its name"),
    b"BZh": ("data compressed with bzip2", _PACK),
    b"\xfd7zXZ\0": ("data compressed with xz", _PACK),
    b"\x04\x22\x4d\x18": ("data compressed with lz4", _PACK),
    b"\xff\x06\0\0sNaPpY": ("data compressed with snappy", _PACK),
    b"PK\x03\x04": ("a zip archive (or an office document)", "unpack it"),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", "unpack it"),
    b"%PDF": ("a PDF document", "extract its text first"),
    b"version https://git-lfs": ("a pointer of Git LFS, not the data", "git lfs pull"),
}

_UTF_8 = "iconv -f {} -t UTF-8 FILE > NEW_FILE"
_BOMS = {  # UTF-32 first: its mark begins with that of UTF-16
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_NULS: dict[tuple[bool, ...], str] = {
    (False, True, True, True): "UTF-32LE",
    (True, True, True, False): "UTF-32BE",
    (False, True, False, True): "UTF-16LE",
    (True, False, True, False): "UTF-16BE",
}
"""By whether the bytes at each position modulo 4 are NUL."""
_MARKUP = re.compile(rb"<(!doctype\s+html|html|head|body|\?xml|!--|[a-zA-Z])", re.IGNORECASE)
_PYTHON = re.compile(rb"\{\s*'|:\s*(True|False|None)\s*[,}]")
_TWO_OBJECTS = re.compile(rb"\}\s*\{")
_DELIMITERS = {b"\t": "TSV (tabs)", b";": "CSV (semicolons)", b",": "CSV", b"|": "a table with `|`"}


class Diagnosis(NamedTuple):
    """What a file is: `what` completes `the file is ...`."""

    what: str
    hint: str = ""
    expected: str = "JSONL"
    """What its name says."""

    def __str__(self) -> str:
        return f"the file is {self.what}, not {self.expected}"

    def line(self, file: str) -> str:
        """One line for a message about this file, with the command that converts it."""
        return f"{file}: {self}" + (f" ({self.hint})" if self.hint else "")


def diagnose(head: bytes) -> Diagnosis | None:
    """What a file of JSON lines is, from its first `HEAD_BYTES` or all of them; None where its
    first line is a JSON object, and where nothing tells."""
    if (found := _of_any(head)) is not None:
        return found
    body = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lines = body.split(b"\n")
    if len(head) >= HEAD_BYTES and len(lines) > 1:
        lines.pop()  # it may be cut
    first = lines[0].rstrip()
    if not first:
        return None
    row = _parsed(first)
    if isinstance(row, dict):
        return None
    if first.startswith(b"["):
        return _of_array(first, row, body)
    return _of_text(body, first, [line for line in map(bytes.strip, lines) if line])


def diagnose_parquet(head: bytes) -> str | None:
    """What a file is that is named .parquet; None where it begins like one."""
    if head[:4] == b"PAR1" or not head:
        return None
    found = diagnose(head)
    what = found.what if found is not None else "JSONL" if head.lstrip()[:1] == b"{" else None
    return what and f"the file is {what}, not Parquet"


def diagnose_table(head: bytes) -> Diagnosis | None:
    """What a file is that is named .csv or .tsv; None where it may be one."""
    found = _of_any(head)
    body = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    first = body.partition(b"\n")[0].rstrip()
    if found is None and b"\r" in first:
        found = Diagnosis("text with CR line ends", "tr '\\r' '\\n' < FILE > FILE.csv")
    if found is None and first[:1] in b"{[" and first:
        is_object = isinstance(_parsed(first), dict)
        found = Diagnosis("JSON Lines", "name it .jsonl") if is_object else diagnose(head)
        found = None if found and found.what in _DELIMITERS.values() else found
    if found is None and _MARKUP.match(body):
        found = _of_markup(body)
    if found is None and b"\0" in first:
        found = Diagnosis("binary data")
    return found


def diagnose_text(head: bytes) -> Diagnosis | None:
    """What a text file is whose bytes are not UTF-8; None where nothing tells."""
    found = _of_any(head)
    if found is None:
        what = "binary data" if b"\0" in head else "text in another encoding"
        found = Diagnosis(what, _UTF_8.format("ENCODING"))
    return found._replace(expected="UTF-8 text")


def _of_any(head: bytes) -> Diagnosis | None:
    """What a file is that is no UTF-8 text at all."""
    found = next((found for magic, found in _MAGIC.items() if head.startswith(magic)), None)
    if found is not None:
        return Diagnosis(*found)
    if (encoding := _wide_encoding(head)) is not None:
        return Diagnosis(f"{encoding} text", _UTF_8.format(encoding))
    return None


def _of_markup(body: bytes) -> Diagnosis:
    what = "an XML document" if body[:5] == b"<?xml" else "an HTML page"
    return Diagnosis(what, "extract its text first")


def _of_array(first: bytes, row: Any, body: bytes) -> Diagnosis | None:
    if isinstance(row, list) and row and not any(isinstance(each, dict) for each in row):
        return Diagnosis("lines of JSON arrays", "write each row as an object with named keys")
    if row is None and not re.match(rb"\[\s*(\{|\[|$|\")", body):
        return None
    return Diagnosis("a JSON array", "name it .json")


def _of_text(body: bytes, first: bytes, lines: list[bytes]) -> Diagnosis | None:
    try:
        body[: body.rfind(b"\n") + 1 or len(body)].decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return _of_other_encoding(body, first)
    if body.startswith((b"{", b"\x1e")):
        return _of_objects(body, first, lines)
    if _MARKUP.match(body):
        return _of_markup(body)
    for delimiter, what in _DELIMITERS.items():
        counts = {line.count(delimiter) for line in lines[:5]}
        if len(lines) > 1 and counts and min(counts) >= 1 and max(counts) <= 4 * min(counts):
            return Diagnosis(what, "name it .tsv" if delimiter == b"\t" else "name it .csv")
    if not any(line == b"null" or _parsed(line) is not None for line in lines):
        return Diagnosis("plain text", "name it .txt: one file is one document")
    return None


def _of_objects(body: bytes, first: bytes, lines: list[bytes]) -> Diagnosis | None:
    if body.startswith(b"\x1e"):
        return Diagnosis("a JSON text sequence", "tr -d '\\036' < FILE > FILE.jsonl")
    pieces = [line for line in first.split(b"\r") if line.strip()]
    if len(pieces) > 1 and isinstance(_parsed(pieces[0]), dict):
        return Diagnosis("text with CR line ends", "tr '\\r' '\\n' < FILE > FILE.jsonl")
    if first.endswith((b"},", b"};")) and isinstance(_parsed(first[:-1].rstrip()), dict):
        sign = chr(first[-1])
        command = f"sed 's/{sign}[[:space:]]*$//' FILE > FILE.jsonl"
        return Diagnosis(f"JSON objects with `{sign}` after each", command)
    if _PYTHON.search(first):
        return Diagnosis("objects in Python's notation", "write the rows with json.dumps")
    if _is_object_of_several_lines(lines):
        return Diagnosis("JSON objects of several lines each", "jq -c . FILE > FILE.jsonl")
    end = _TWO_OBJECTS.search(first)
    if end is not None and isinstance(_parsed(first[: end.start() + 1]), dict):
        return Diagnosis("several JSON objects on one line", "jq -c . FILE > FILE.jsonl")
    return None


def _is_object_of_several_lines(lines: list[bytes]) -> bool:
    """Whether the first line is the beginning of an object that the next line continues."""
    if len(lines) < 2 or not lines[1].startswith((b'"', b"}", b"{", b"[")):
        return False
    if lines[0] == b"{":
        return lines[1].startswith((b'"', b"}"))
    return lines[0].endswith((b",", b"{", b"[", b":")) and lines[1].startswith((b'"', b"{", b"["))


def _of_other_encoding(body: bytes, first: bytes) -> Diagnosis | None:
    """A file whose bytes are not UTF-8, or None where it is one bad row among others."""
    lines = body.split(b"\n")[:-1] or [first]
    if b"\0" in body:
        return Diagnosis("binary data", "write the rows as JSON lines or Parquet")
    if 2 * sum(map(_is_utf8, lines)) >= len(lines) > 1:
        return None
    return Diagnosis("text in another encoding than UTF-8", _UTF_8.format("ENCODING"))


def _wide_encoding(head: bytes) -> str | None:
    for mark, encoding in _BOMS.items():
        if head.startswith(mark):
            return encoding
    sample = head[: min(len(head), 64) // 4 * 4]
    if len(sample) < 8:
        return None
    nuls = tuple(all(byte == 0 for byte in sample[at::4]) for at in range(4))
    if nuls in _NULS:
        return _NULS[nuls]
    # Chinese text after `{"id": 1, "text": "`: only the first characters are ASCII.
    start = sample[:8]
    return _NULS.get(tuple(all(byte == 0 for byte in start[at::4]) for at in range(4)))


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parsed(raw: bytes) -> Any:
    """The JSON value of a line; None where it is not JSON."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None
