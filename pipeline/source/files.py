"""The input's files: which they are, and whether they are still the same.

Survey and source read the same files at different times. Everything that must not differ between
the two passes stands here: the order of the files and their fingerprints.
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

from pipeline.errors import InputError, TextmillError, UsageError
from pipeline.text import reason, shown

JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst")
PARQUET = (".parquet",)
PIECE_BYTES = 1 << 20


class InputSpec(Struct, frozen=True):
    """What to read: the job file's `[input]`, with paths resolved.

    `keep` None = every column, () = none; `fields` are the columns that prompts and rules read,
    `optional` those of them that the input need not have.
    """

    path: str
    text: str
    id: str | None = None
    keep: tuple[str, ...] | None = None
    fields: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    max_row_bytes: int = 1_000_000_000
    salvage: bool = False
    """Rows in a damaged part of a Parquet file are isolated, instead of the input refused."""


class Fingerprint(NamedTuple):
    """What `stat` says of a file; an edit changes at least one of these without reading it."""

    size: int
    mtime_ns: int
    ctime_ns: int = 0
    inode: int = 0
    etag: str = ""
    """Of an object in a bucket, which has neither of the two before."""


class InputFile(NamedTuple):
    path: str
    fingerprint: Fingerprint

    @property
    def name(self) -> str:
        return shown(self.path)


def family(path: str) -> str | None:
    """`jsonl` or `parquet`, by the name alone; None for any other name."""
    name = path.lower()
    return "jsonl" if name.endswith(JSONL) else "parquet" if name.endswith(PARQUET) else None


def find(path: str) -> tuple[InputFile, ...]:
    """The files that `path` (a file, a folder or a glob, here or in a bucket) stands for, sorted
    by name.

    Invariant: at least one file, all of one family, every one a regular file.
    """
    paths, is_folder = _s3_module().found(path) if is_s3(path) else _local_paths(path)
    if is_folder:
        paths = [each for each in paths if each.rpartition("/")[2][:1] not in ("", ".", "_")]
        paths = [each for each in paths if family(each)]
    if not paths:
        raise UsageError(f"{shown(path)}: no .jsonl, .jsonl.gz, .jsonl.zst or .parquet file there")
    families = {family(each) for each in paths}
    if None in families:
        odd = next(each for each in paths if family(each) is None)
        raise UsageError(
            f"{shown(odd)}: unknown kind of file, not .jsonl, .jsonl.gz, .jsonl.zst or .parquet"
        )
    if len(families) > 1:
        raise UsageError(f"{shown(path)}: JSONL and Parquet files cannot be read as one input")
    if not is_s3(path):
        return tuple(InputFile(each, fingerprint(each)) for each in paths)
    files = []
    for each, told in zip(paths, _s3_module().stats(paths), strict=True):
        if (now := _object_fingerprint(told)) is None:
            raise UsageError(f"{shown(each)}: no such object")
        files.append(InputFile(each, now))
    return tuple(files)


def _local_paths(path: str) -> tuple[list[str], bool]:
    """The paths, sorted, and whether they are those of a folder."""
    given = Path(path)
    if given.is_dir():
        return sorted(str(each) for each in given.iterdir()), True
    if given.exists() or not glob.has_magic(path):
        return [path], False
    return sorted(each for each in _glob(path) if not Path(each).is_dir()), False


def is_s3(path: str) -> bool:
    """Whether the path is that of an object in a bucket, or of several."""
    return path.startswith("s3://")


def _s3_module() -> Any:
    """`pipeline.source.s3`, which costs 15 ms and 9 MB, where a bucket is read."""
    from pipeline.source import s3

    return s3


def fingerprint(path: str) -> Fingerprint:
    """The file's fingerprint now. Raises: UsageError where there is no such regular file."""
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
    """The file, opened; checked against its fingerprint at once and after the last row.

    Raises: InputError where it is not the surveyed file any more, vanished, or cannot be read;
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
    """Raises: InputError where a file is not the surveyed one any more."""
    paths = [file.path for file in files]
    if paths and is_s3(paths[0]):
        now: Iterable[Fingerprint | None] = map(_object_fingerprint, _s3_module().stats(paths))
    else:
        now = map(_file_fingerprint, paths)
    for file, print_now in zip(files, now, strict=True):
        if print_now is None:
            raise _deleted(file)
        _check_fingerprint(file, print_now)


def unreadable(file: InputFile, error: BaseException, what: str = "") -> TextmillError:
    """Why the file, or `what` of it, could not be read: InputError, or OutageError of a bucket."""
    if is_s3(file.path):
        told: TextmillError = _s3_module().refusal(file.path, error, what)
        return told
    place = f"{file.name}: {what} " if what else f"{file.name}: "
    return InputError(f"{place}cannot be read ({reason(error)})")


def seekable(file: InputFile) -> Any:
    """What a Parquet reader opens: the path, or the object in its bucket."""
    return _s3_module().seekable(file.path) if is_s3(file.path) else file.path


def _deleted(file: InputFile) -> InputError:
    return InputError(f"{file.name}: changed while it was read (it is gone)")


def _file_fingerprint(path: str) -> Fingerprint | None:
    try:
        return _fingerprint_of(Path(path).stat())
    except OSError:
        return None


def _object_fingerprint(told: tuple[int, int, str] | None) -> Fingerprint | None:
    return told and Fingerprint(told[0], told[1], etag=told[2])


def buffered(raw: BinaryIO) -> BinaryIO:
    """`raw` with a buffer large enough that lines cost no call each."""
    return io.BufferedReader(cast("io.RawIOBase", raw), PIECE_BYTES)


def _glob(path: str) -> list[str]:
    return glob.glob(path, recursive=True)  # noqa: PTH207 (keeps the path as the user wrote it)


def _fingerprint_of(status: os.stat_result) -> Fingerprint:
    return Fingerprint(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _check_fingerprint(file: InputFile, now: Fingerprint) -> None:
    if now != file.fingerprint:
        raise InputError(
            f"{file.name}: changed while it was read",
            hint="run again once it is at rest: every answer so far is kept",
        )
