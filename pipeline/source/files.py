"""The input's files, in order, with fingerprints that detect changes.

The survey and the run read the same files at different times. This module holds what must not
differ between the two passes: the order of the files and their fingerprints.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple, cast

from msgspec import Struct

from pipeline.errors import InputError, TextmillError, UsageError
from pipeline.source.formats.table import (
    PACKABLE,
    SUFFIXES,
    Format,
    format_of,
    is_documentation,
)
from pipeline.source.partitions import Partition, fixed_parts, partitions
from pipeline.source.stores.table import Fingerprint, scheme_of, store_of
from pipeline.text import many, shown

_OTHER_PACKINGS = (".bz2", ".xz", ".zip", ".7z", ".lz4", ".br", ".snappy", ".tar", ".tgz")
MAX_HINTS = 4
PIECE_BYTES = 1 << 20


class InputSpec(Struct, frozen=True):
    """What to read: the job file's `[input]`, with paths resolved.

    `keep` None keeps every column, () none. `fields` are the columns that prompts and rules read,
    `optional` those of them that may be missing.
    """

    path: str
    text: str
    id: str | None = None
    keep: tuple[str, ...] | None = None
    fields: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    max_row_bytes: int = 1_000_000_000
    salvage: bool = False
    """Isolate the rows in a damaged part of a Parquet file instead of rejecting the input."""
    for_json: bool = False
    """The output is JSON: nested JSON values come out as they came in, and what JSON lacks is
    counted."""


class InputFile(NamedTuple):
    path: str
    fingerprint: Fingerprint
    partition: Partition = ()
    """Columns of all its rows, from the folders above it; a column of the file itself wins."""
    relative: str = ""
    """Its path below the folder that the input names, or below where its glob begins to vary."""

    @property
    def name(self) -> str:
        return shown(self.path)

    @property
    def format(self) -> Format:
        """The format of its name, which `find` has checked."""
        found = format_of(self.path)
        assert found is not None
        return found


def find(path: str) -> tuple[InputFile, ...]:
    """The files that `path` names, sorted; it is a file, a folder or a glob, of this machine or
    another one.

    Invariant: at least one file, all of one family, every one a regular file.
    """
    store = store_of(path)
    if (fault := store.fault_of(path)) is not None:
        raise UsageError(f"{scheme_of(path)}...: input.path {fault}")
    listed, is_folder = store.list_files(path)
    paths = _rows_of_folder(listed) if is_folder else listed
    if not paths:
        kinds = f"{SUFFIXES} (.gz and .zst of {PACKABLE}, too)"
        hint = f"{path.rstrip('/')}/**/*.md names files of its subfolders" if is_folder else None
        raise UsageError(f"{shown(path)}: no file found that can be read: {kinds}", hint=hint)
    formats = {name: format_of(name) for name in paths}
    for name, found in formats.items():
        if found is None:
            raise UsageError(
                f"{shown(name)}: unknown kind of file, not {SUFFIXES}",
                hint="decompress it first" if name.lower().endswith(_OTHER_PACKINGS) else None,
            )
    if len({found.family for found in formats.values() if found}) > 1:
        raise _mixed(path, paths, is_folder=is_folder)
    above = len("/".join([*fixed_parts(path, paths, is_folder=is_folder), ""]))
    found_partitions = partitions(path, paths, is_folder=is_folder)
    files = []
    for name, figures, columns in zip(
        paths, store.fingerprints(paths), found_partitions, strict=True
    ):
        if figures is None:
            raise UsageError(f"{shown(name)}: no such file")
        files.append(InputFile(name, figures, columns, name[above:]))
    return tuple(files)


def _rows_of_folder(paths: Sequence[str]) -> list[str]:
    """The files of a folder to read, without what only describes them: README.md, a .json file."""
    by_rank: dict[int, list[str]] = {}
    for path in paths:
        name = path.rpartition("/")[2]
        found = format_of(name)
        if found is not None and name[0] not in "._":
            rank = 2 if is_documentation(name) else 1 if found.describes else 0
            by_rank.setdefault(rank, []).append(path)
    if 0 in by_rank and all(format_of(path) is _TEXT for path in by_rank[0]):
        by_rank[0] += by_rank.pop(2, [])  # among texts, README.md is one of them
    return sorted(by_rank[min(by_rank)]) if by_rank else []


_TEXT = format_of(".txt")


def _mixed(path: str, paths: Sequence[str], *, is_folder: bool) -> UsageError:
    """The error for files of several families, with a glob for each kind."""
    counts: dict[str, int] = {}
    globs: dict[str, None] = {}
    above = "/".join([*fixed_parts(path, paths, is_folder=is_folder), ""])
    for name in paths:
        found = format_of(name)
        assert found is not None
        counts[found.name] = counts.get(found.name, 0) + 1
        suffix = next(each for each in found.endings[::-1] if name.lower().endswith(each))
        deep = "**/" if "/" in name[len(above) :] else ""
        globs[f"{above}{deep}*{suffix}"] = None
    kinds = [many(counts[name], f"{name} file") for name in sorted(counts)]
    picks = [f"-i '{shown(each)}'" for each in globs][:MAX_HINTS]
    return UsageError(
        f"{shown(path)}: {_listed(kinds, 'and')} cannot be read as one input",
        hint=f"name one kind: {_listed(picks, 'or')}",
    )


def _listed(words: Sequence[str], last: str) -> str:
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else words[0]


@contextmanager
def unchanged(file: InputFile) -> Iterator[BinaryIO]:
    """The open file, checked against its fingerprint at the start and after the last row.

    Raises: InputError where the file has changed since the survey, was deleted, or is unreadable;
    OutageError where its bucket cannot be reached.
    """
    try:
        with _open_checked(file) as stream:
            try:
                yield stream
            except InputError:
                recheck([file])
                raise
            recheck([file])
    except FileNotFoundError:
        raise _deleted(file) from None
    except OSError as error:
        raise unreadable(file, error) from None


@contextmanager
def _open_checked(file: InputFile) -> Iterator[BinaryIO]:
    recheck([file])
    with store_of(file.path).stream(file.path) as stream:
        yield stream


def recheck(files: Sequence[InputFile]) -> None:
    """Checks the files against their fingerprints. Raises: InputError where one has changed."""
    if not files:
        return
    current = store_of(files[0].path).fingerprints([file.path for file in files])
    for file, fingerprint_now in zip(files, current, strict=True):
        if fingerprint_now is None:
            raise _deleted(file)
        if fingerprint_now != file.fingerprint:
            raise InputError(
                f"{file.name}: changed while it was read",
                hint="run again when the file no longer changes; every answer so far is kept",
            )


def unreadable(file: InputFile, error: BaseException, section: str = "") -> TextmillError:
    """The error for a file, or the part `section` of it, that could not be read; where it is on
    another machine it may be an OutageError."""
    return store_of(file.path).refusal(file.path, error, section)


def _deleted(file: InputFile) -> InputError:
    return InputError(f"{file.name}: changed while it was read (deleted)")


def buffered(raw: BinaryIO) -> io.BufferedReader:
    """`raw` with a buffer, so that reading a line costs no system call."""
    return io.BufferedReader(cast("io.RawIOBase", raw), PIECE_BYTES)
