"""Folders and globs of a store that can only list what is below a place."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from pipeline.disk.globbing import matches
from pipeline.source.partitions import is_partition


class Entry(NamedTuple):
    """A file or a folder of a store."""

    path: str
    is_file: bool

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


Entries = Callable[[str, bool], Iterable[Entry]]
"""The entries below a folder, and whether to list those of its folders, too."""


def files_below(entries: Entries, folder: str) -> Iterator[str]:
    """The files of a folder, and those of its partitions."""
    for entry in entries(folder, False):
        if entry.is_file:
            yield entry.path
        elif is_partition(entry.name):
            yield from files_below(entries, entry.path)


def glob_files(entries: Entries, base: str, pattern: Sequence[str]) -> Iterator[str]:
    """The files below `base` that match; folders that cannot hold a match are not listed."""
    fixed = 0
    while fixed < len(pattern) - 1 and not glob.has_magic(pattern[fixed]):
        fixed += 1
    base, pattern = "/".join([base, *pattern[:fixed]]), pattern[fixed:]
    part, rest = pattern[0], pattern[1:]
    if part == "**":
        for entry in entries(base, True):
            below = entry.path[len(base) + 1 :].split("/")
            if entry.is_file and matches(below, pattern):
                yield entry.path
        return
    for entry in entries(base, False):
        if not matches([entry.name], [part]):
            continue
        if not rest and entry.is_file:
            yield entry.path
        elif rest and not entry.is_file:
            yield from glob_files(entries, entry.path, rest)
