"""Input files of web servers: `https://HOST/PATH`, one file each.

The input is read twice, so both passes must see the same bytes. A server that gives an ETag and
ranges is read in place. From another one the file is copied to disk first.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from pipeline.disk.durable import storage_errors
from pipeline.errors import InputError, TextmillError
from pipeline.source.stores import http_file
from pipeline.source.stores.http_file import (
    HttpFile,
    Source,
    Version,
    is_allowed,
    place_of,
    request,
)
from pipeline.source.stores.table import Fingerprint
from pipeline.text import reason, shown

READ_AHEAD_BYTES = 4 << 20
WINDOW_BYTES = 4 << 20
_PIECE_BYTES = 1 << 20

_copies: dict[str, _Copy] = {}
"""The files that were copied to disk, from when they are found until the process ends."""
_versions: dict[str, Version] = {}
"""What the servers said of the others."""


def fault_of(path: str) -> str | None:
    """Why no file can have this URL; the message never repeats it, since it may hold a key."""
    try:
        parts = urlsplit(path)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a URL"
    if not host:
        return "must be https://HOST/PATH"
    if "@" in parts.netloc:
        return "must not hold a user or a password"
    if not is_allowed(path):
        return "must begin with https://, http:// is for this machine only"
    if parts.query or parts.fragment or "?" in path:
        return "must not hold a query, which may hold a key: leave out `?` and what follows"
    if "*" in parts.path or parts.path.endswith("/") or not parts.path:
        return "must name one file, since a web server does not list its files"
    return None


def list_files(path: str) -> tuple[list[str], bool]:
    """The URL itself, whose version is asked for anew."""
    if path in _copies:
        _copies.pop(path).close()
    _versions.pop(path, None)
    return [path], False


def fingerprints(paths: Sequence[str]) -> list[Fingerprint | None]:
    """Size, time of change and ETag of each file, or size and SHA-256 of its copy; None where it
    does not exist."""
    return [_fingerprint(path) for path in paths]


@contextmanager
def stream(path: str) -> Iterator[BinaryIO]:
    """The file's bytes from its beginning."""
    with _opened(path, None) as raw:
        yield cast("BinaryIO", raw)


def seekable(path: str) -> Any:
    """The file as a seekable stream, for Parquet; the caller closes it."""
    return io.BufferedReader(_opened(path, WINDOW_BYTES), WINDOW_BYTES)


raw_file = seekable


def refusal(path: str, error: BaseException, section: str = "") -> TextmillError:
    """The error for a file whose content cannot be read; those of the server are raised where they
    are found."""
    place = f"{shown(path)}: {section} " if section else f"{shown(path)}: "
    return InputError(f"{place}cannot be read ({reason(error)})")


def _fingerprint(path: str) -> Fingerprint | None:
    if path in _copies:
        return _copies[path].fingerprint
    source = Source(path, path)
    try:
        reply, version = request(source, 0, 1)
        with reply:
            if version.has_ranges and version.etag:
                _versions[path] = version
                return Fingerprint(version.size, _nanoseconds(version.modified), etag=version.etag)
    except FileNotFoundError:
        return None
    if path in _versions:  # it had both when it was found
        raise http_file.changed(source)
    _copies[path] = _Copy(source)
    return _copies[path].fingerprint


def _opened(path: str, window: int | None) -> io.RawIOBase:
    if path in _copies:
        return _copies[path].open()
    return HttpFile(Source(path, path), _versions[path], window)


def _nanoseconds(modified: str) -> int:
    try:
        return int(parsedate_to_datetime(modified).timestamp()) * 1_000_000_000
    except ValueError:
        return 0


class _Copy:
    """A copy on disk without a name: nothing is left of it, whatever ends the process."""

    def __init__(self, source: Source) -> None:
        folder = Path(tempfile.gettempdir())
        with storage_errors(folder):
            self._file = tempfile.TemporaryFile(prefix="textmill-")  # noqa: SIM115
        try:
            digest, size = self._download(source, folder)
        except BaseException:
            self.close()
            raise
        self.fingerprint = Fingerprint(size, 0, etag=f"sha256:{digest}")

    def close(self) -> None:
        """Removes the copy."""
        self._file.close()

    def open(self) -> _CopyReader:
        """A reader with a position of its own."""
        return _CopyReader(self._file.fileno(), self.fingerprint.size)

    def _download(self, source: Source, folder: Path) -> tuple[str, int]:
        """SHA-256 and size. A download that is cut begins anew: only an ETag could tell whether the
        rest is of the same version."""
        for attempt in range(http_file.ATTEMPTS):
            if attempt:
                time.sleep(http_file.PAUSE_SECONDS * 2 ** (attempt - 1))
            reply, version = request(source, 0, None)
            with storage_errors(folder):
                self._file.seek(0)
                self._file.truncate()
            digest, size = hashlib.sha256(), 0
            with reply:
                while True:
                    try:
                        piece = reply.read(_PIECE_BYTES)
                    except (OSError, http.client.HTTPException):
                        size = -1
                        break
                    if not piece:
                        break
                    digest.update(piece)
                    size += len(piece)
                    with storage_errors(folder):
                        self._file.write(piece)
            if size >= 0 and version.size in (-1, size):
                with storage_errors(folder):
                    self._file.flush()
                return digest.hexdigest(), size
        raise http_file.away(source, "the connection was cut each time, and it gives no ETag")


class _CopyReader(io.RawIOBase):
    def __init__(self, descriptor: int, size: int) -> None:
        super().__init__()
        self._descriptor, self._size, self._at = descriptor, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = place_of(offset, whence, self._at, self._size)
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        piece = os.pread(self._descriptor, len(buffer), self._at)
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
