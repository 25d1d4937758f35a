"""The input's files, in order, with fingerprints that detect changes.

The survey and the run read the same files at different times. This module holds what must not
differ between the two passes: the order of the files and their fingerprints.
"""

from __future__ import annotations

import glob
import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from msgspec import Struct

from pipeline.disk.output_path import is_in_run_folder
from pipeline.errors import DescriptorError, InputError, TextmillError, UsageError
from pipeline.source.partitions import Partition, is_partition, partitions
from pipeline.text import reason, shown

_PACKED = ("", ".gz", ".zst")
_JSON = tuple(f".json{packed}" for packed in _PACKED)
JSONL = (
    *(f"{name}{packed}" for name in (".jsonl", ".ndjson", ".jsonlines") for packed in _PACKED),
    *_JSON,
)
PARQUET = (".parquet",)
TEXT = (".txt", ".md", ".markdown")
"""Files that are one text."""
READABLE = ".jsonl, .ndjson, .jsonlines, .json (plain, .gz or .zst) or .parquet"
_OTHER_PACKINGS = (".bz2", ".xz", ".zip", ".7z", ".lz4", ".br", ".snappy", ".tar", ".tgz")
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


class Fingerprint(NamedTuple):
    """The `stat` figures of a file; an edit changes at least one, so the file need not be read."""

    size: int
    mtime_ns: int
    ctime_ns: int = 0
    inode: int = 0
    etag: str = ""
    """Of an object in a bucket, which has neither ctime nor inode."""


class InputFile(NamedTuple):
    path: str
    fingerprint: Fingerprint
    partition: Partition = ()
    """Columns of all its rows, from the folders above it; a column of the file itself wins."""

    @property
    def name(self) -> str:
        return shown(self.path)


def family(path: str) -> str | None:
    """`jsonl` or `parquet`, by the name alone; None for any other name."""
    name = path.lower()
    return "jsonl" if name.endswith(JSONL) else "parquet" if name.endswith(PARQUET) else None


def find(path: str) -> tuple[InputFile, ...]:
    """The files that `path` names, sorted; it is a file, a folder or a glob, local or in a bucket.

    Invariant: at least one file, all of one family, every one a regular file.
    """
    paths, is_folder = _s3_module().list_objects(path) if is_s3(path) else _local_paths(path)
    if is_folder:
        paths = [path for path in paths if path.rpartition("/")[2][:1] not in ("", ".", "_")]
        # A .json file in a folder mostly describes the rows; it is read where it is named.
        paths = [path for path in paths if family(path) and not path.lower().endswith(_JSON)]
    if not paths:
        raise UsageError(f"{shown(path)}: no {READABLE} file found")
    families = {family(name) for name in paths}
    if None in families:
        unknown = next(name for name in paths if family(name) is None)
        raise UsageError(
            f"{shown(unknown)}: unknown kind of file, not {READABLE}",
            hint="decompress it first" if unknown.lower().endswith(_OTHER_PACKINGS) else None,
        )
    if len(families) > 1:
        raise UsageError(f"{shown(path)}: JSONL and Parquet files cannot be read as one input")
    found = partitions(path, paths, is_folder=is_folder)
    if not is_s3(path):
        return tuple(
            InputFile(name, fingerprint(name), columns)
            for name, columns in zip(paths, found, strict=True)
        )
    files = []
    for name, figures, columns in zip(paths, _s3_module().stats(paths), found, strict=True):
        if (current := _object_fingerprint(figures)) is None:
            raise UsageError(f"{shown(name)}: no such object")
        files.append(InputFile(name, current, columns))
    return tuple(files)


def _local_paths(path: str) -> tuple[list[str], bool]:
    """The paths, sorted, and whether they are the files of a folder."""
    local = Path(path)
    if local.is_dir():
        return sorted(f"{path.rstrip('/')}/{below}" for below in _below(local)), True
    if local.exists() or not glob.has_magic(path):
        return [path], False
    found = (name for name in _glob(path) if not Path(name).is_dir())
    if ".run/" not in path:  # what runs leave beside their outputs is no input, unless it is named
        found = (n for n in found if ".run/" not in n or not is_in_run_folder(Path(n)))
    return sorted(found), False


def _below(folder: Path) -> Iterator[str]:
    """The names in a folder, and those in its partitions."""
    for entry in folder.iterdir():
        if is_partition(entry.name) and entry.is_dir():
            yield from (f"{entry.name}/{below}" for below in _below(entry))
        else:
            yield entry.name


def is_s3(path: str) -> bool:
    """Whether the path names one or more objects in an S3 bucket."""
    return path.startswith("s3://")


def _s3_module() -> Any:
    """`pipeline.source.s3`, imported only where a bucket is read: it costs 15 ms and 9 MB."""
    from pipeline.source import s3

    return s3


def fingerprint(path: str) -> Fingerprint:
    """The file's current fingerprint. Raises: UsageError where there is no such regular file."""
    try:
        status = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{shown(path)}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(path)}: cannot be read ({reason(error)})") from None
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{shown(path)}: not a regular file", hint="pipe it in and read `-`")
    return _fingerprint_of(status)


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
    if is_s3(file.path):
        recheck([file])
        with _s3_module().stream(file.path) as stream:
            yield stream
        return
    with Path(file.path).open("rb", buffering=0) as stream:
        _check_fingerprint(file, _fingerprint_of(os.fstat(stream.fileno())))
        yield stream


def recheck(files: Sequence[InputFile]) -> None:
    """Checks the files against their fingerprints. Raises: InputError where one has changed."""
    paths = [file.path for file in files]
    if paths and is_s3(paths[0]):
        current: Iterable[Fingerprint | None] = map(_object_fingerprint, _s3_module().stats(paths))
    else:
        current = map(_file_fingerprint, paths)
    for file, fingerprint_now in zip(files, current, strict=True):
        if fingerprint_now is None:
            raise _deleted(file)
        _check_fingerprint(file, fingerprint_now)


def unreadable(file: InputFile, error: BaseException, section: str = "") -> TextmillError:
    """The error for a file, or the part `section` of it, that could not be read; for a bucket it
    may be an OutageError."""
    if is_s3(file.path):
        refusal: TextmillError = _s3_module().refusal(file.path, error, section)
        return refusal
    if isinstance(error, OSError) and error.errno in DescriptorError.errnos:
        return DescriptorError(file.name)
    place = f"{file.name}: {section} " if section else f"{file.name}: "
    return InputError(f"{place}cannot be read ({reason(error)})")


def seekable(file: InputFile) -> Any:
    """The argument for a Parquet reader: the path, or the object in its bucket."""
    return _s3_module().seekable(file.path) if is_s3(file.path) else file.path


def raw_file(file: InputFile) -> Any:
    """The file, or the object in its bucket, as a seekable stream of bytes."""
    return _s3_module().seekable(file.path) if is_s3(file.path) else Path(file.path).open("rb")


def _deleted(file: InputFile) -> InputError:
    return InputError(f"{file.name}: changed while it was read (deleted)")


def _file_fingerprint(path: str) -> Fingerprint | None:
    try:
        return _fingerprint_of(Path(path).stat())
    except OSError:
        return None


def _object_fingerprint(figures: tuple[int, int, str] | None) -> Fingerprint | None:
    return figures and Fingerprint(figures[0], figures[1], etag=figures[2])


def buffered(raw: BinaryIO) -> io.BufferedReader:
    """`raw` with a buffer, so that reading a line costs no system call."""
    return io.BufferedReader(cast("io.RawIOBase", raw), PIECE_BYTES)


def _glob(path: str) -> list[str]:
    return glob.glob(path, recursive=True)  # noqa: PTH207 (keeps the path as the user wrote it)


def _fingerprint_of(status: os.stat_result) -> Fingerprint:
    return Fingerprint(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _check_fingerprint(file: InputFile, now: Fingerprint) -> None:
    if now != file.fingerprint:
        raise InputError(
            f"{file.name}: changed while it was read",
            hint="run again when the file no longer changes; every answer so far is kept",
        )
