"""Reads files of JSON lines, also after a crash of their writer.

A crash may cut the last line, and a later writer may append to it. Every reader of such a file
skips the lines that are not records and counts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class JsonLines(Generic[T]):
    """The records of a file, in order, as values of one type.

    `unreadable` counts the lines skipped so far, except blank ones. `containing` skips, without
    decoding, every line that does not contain these bytes.
    Raises: OSError, while it is read.
    Cost: memory for one line.
    """

    def __init__(self, path: Path, kind: type[T], *, containing: bytes = b"") -> None:
        self.unreadable = 0
        self._path = path
        self._decode = msgspec.json.Decoder(kind).decode
        self._containing = containing

    def __iter__(self) -> Iterator[T]:
        with self._path.open("rb") as file:
            for line in file:
                if self._containing not in line:
                    continue
                try:
                    record = self._decode(line)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    self.unreadable += bool(line.strip())
                    continue
                yield record
