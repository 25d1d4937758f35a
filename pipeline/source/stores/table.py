"""Where input files can be: one store for each scheme of a path.

A store lists files, tells one version of a file from another, and opens it. Its module is imported
where a path has its scheme: those of other machines bring libraries of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from pipeline.errors import TextmillError


class Fingerprint(NamedTuple):
    """What tells a version of a file from another: the `stat` figures of a local file, size, time
    and ETag of another one. An edit changes at least one, so the file need not be read."""

    size: int
    mtime_ns: int
    ctime_ns: int = 0
    inode: int = 0
    etag: str = ""
    """Of a file on another machine, which has neither ctime nor inode."""


class Store(Protocol):
    """What a module of this folder offers."""

    @property
    def READ_AHEAD_BYTES(self) -> int:
        """Bytes of a Parquet column to read at once."""

    def fault_of(self, path: str) -> str | None:
        """Why no file can have this path; the message never repeats it, since it may hold a key."""

    def list_files(self, path: str) -> tuple[list[str], bool]:
        """The files that `path` (a file, a folder or a glob) names, sorted; and whether it is a
        folder, which may hold any kind of file. Raises: UsageError."""

    def fingerprints(self, paths: Sequence[str]) -> list[Fingerprint | None]:
        """The current fingerprint of each file; None where it does not exist."""

    def stream(self, path: str) -> AbstractContextManager[BinaryIO]:
        """The file's bytes from its beginning. Raises: FileNotFoundError."""

    def seekable(self, path: str) -> Any:
        """The file for a Parquet reader: its path, or a file object that the reader closes."""

    def raw_file(self, path: str) -> Any:
        """The file as a seekable stream of bytes."""

    def refusal(self, path: str, error: BaseException, section: str = "") -> TextmillError:
        """The error for a file, or the part `section` of it, that could not be read."""


STORES = {"s3://": "s3", "https://": "web", "http://": "web", "hf://": "hub"}
"""The module of each scheme."""


def scheme_of(path: str) -> str | None:
    """The scheme of a file on another machine, such as `s3://`; None for a local path."""
    return next((scheme for scheme in STORES if path.startswith(scheme)), None)


def is_remote(path: str) -> bool:
    """Whether the path names files of another machine."""
    return scheme_of(path) is not None


def store_of(path: str) -> Store:
    """The store that has this path."""
    scheme = scheme_of(path)
    name = "local_files" if scheme is None else STORES[scheme]
    return cast("Store", import_module(f"pipeline.source.stores.{name}"))
