"""A file of a web server as a stream of bytes that can seek, and that survives a cut connection.

A connection of an hour is cut now and then. The next request asks for the bytes from the place that
was reached, and every reply must be of the same version: its ETag and its size are those of the
first one. So a reader sees the whole file, or an error; never the halves of two versions.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit

from pipeline.addresses import is_loopback
from pipeline.errors import InputError, OutageError, TextmillError
from pipeline.text import many, printable, reason, shown

ATTEMPTS = 4
"""Requests without a new byte after which a server counts as away."""
PAUSE_SECONDS = 1.0
"""Before the second attempt; then it doubles."""
MAX_PAUSE_SECONDS = 60.0
"""Upper bound of a wait that the server asks for."""
IDLE_SECONDS = 60.0
_AWAY = (408, 429, 500, 502, 503, 504)
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_KEPT = ("Range", "User-agent", "Accept-encoding")


class Source(NamedTuple):
    """A file to ask for; `address` is its name in messages."""

    url: str
    address: str
    headers: Mapping[str, str] = {}
    """Sent to the host of the URL only, to none that it redirects to."""


class Version(NamedTuple):
    """What a server says of a file: enough to know another version. `size` -1: unknown."""

    size: int
    modified: str = ""
    etag: str = ""
    has_ranges: bool = False


def is_allowed(url: str) -> bool:
    """Whether a URL is encrypted, or of this machine."""
    parts = urlsplit(url)
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = 5

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The request to the next place: without the credential where that is another host."""
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if not is_allowed(newurl) or (before.scheme, after.scheme) == ("https", "http"):
            raise URLError("it redirects to a place without encryption")
        is_same = (before.scheme, before.netloc) == (after.scheme, after.netloc)
        kept = {n: v for n, v in req.headers.items() if is_same or n in _KEPT}
        return urllib.request.Request(newurl, headers=kept)


@cache
def _opener() -> urllib.request.OpenerDirector:
    proxies = {s: url for s, url in urllib.request.getproxies().items() if s == "https"}
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(proxies),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def request(source: Source, start: int, end: int | None) -> tuple[Any, Version]:
    """The reply for the bytes from `start` to before `end` (None: all), and the version it is of.

    Raises: FileNotFoundError; InputError where access is denied; OutageError after `ATTEMPTS`.
    """
    last = "" if end is None else str(end - 1)
    headers = {
        "User-Agent": "textmill",
        "Accept-Encoding": "identity",
        "Range": f"bytes={start}-{last}",
        **source.headers,
    }
    url = quote(source.url, safe="%/:=&?~#+!$,;'@()*[]")
    outgoing = urllib.request.Request(url, headers=headers)
    problem, wait = "", PAUSE_SECONDS
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(wait)
            wait = PAUSE_SECONDS * 2**attempt
        try:
            reply = _opener().open(outgoing, timeout=IDLE_SECONDS)
            return reply, _version(reply)
        except HTTPError as error:
            error.close()
            if error.code == 416:  # an empty file has no first byte
                return io.BytesIO(), _version(error)
            if error.code in (404, 410):
                raise FileNotFoundError(source.address) from None
            if error.code not in _AWAY:
                raise _refused(source, error.code) from None
            problem = f"HTTP {error.code}"
            wait = max(wait, _retry_after(error.headers.get("Retry-After")))
        except (OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, URLError) else error
            if isinstance(cause, ssl.SSLCertVerificationError):
                problem = f"its certificate is not valid: {cause.verify_message}"
                raise InputError(f"{shown(source.address)}: {printable(problem)}") from None
            if isinstance(cause, str):
                raise InputError(f"{shown(source.address)}: {printable(cause)}") from None
            problem = _problem_of(cause)
    raise away(source, problem)


def away(source: Source, problem: str) -> OutageError:
    """The error for a server that gives no more bytes."""
    return OutageError(
        f"{shown(source.address)}: the server cannot be reached ({problem})",
        hint="answers so far are kept; run again when it is back",
    )


def changed(source: Source) -> InputError:
    """The error for a reply of another version."""
    return InputError(
        f"{shown(source.address)}: changed while it was read",
        hint="run again when the file no longer changes; every answer so far is kept",
    )


def place_of(offset: int, whence: int, at: int, size: int) -> int:
    """Where a `seek` leads in a file of this size that is read at `at`."""
    start = {io.SEEK_SET: 0, io.SEEK_CUR: at, io.SEEK_END: size}[whence]
    return max(0, start + offset)


class HttpFile(io.RawIOBase):
    """The file, version by version checked. `window`: bytes to ask for at once; None: all."""

    def __init__(self, source: Source, version: Version, window: int | None = None) -> None:
        super().__init__()
        self._source, self._version, self._window = source, version, window
        self._at = 0
        self._reply: Any = None
        self._reply_end = 0
        self._failures = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves; the next read asks for the bytes from there."""
        place = place_of(offset, whence, self._at, self._version.size)
        if place != self._at:
            self._drop()
            self._at = place
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """The next bytes. Raises: OutageError, InputError as `request`."""
        view = memoryview(buffer)[: max(0, self._version.size - self._at)]
        while len(view):
            problem = "the connection was cut"
            if self._reply is None:
                self._open(len(view))
            try:
                count = int(self._reply.readinto(view))
            except (OSError, http.client.HTTPException) as error:
                problem, count = _problem_of(error), 0
            if count:
                self._at += count
                self._failures = 0
                return count
            self._drop()
            if self._at < self._reply_end:
                self._failures += 1
                if self._failures == ATTEMPTS:
                    place = f"at byte {self._at:,} of {many(self._version.size, 'byte')}"
                    raise away(self._source, f"{problem} {place}")
                time.sleep(PAUSE_SECONDS * 2 ** (self._failures - 1))
        return 0

    def close(self) -> None:
        self._drop()
        super().close()

    def _open(self, wanted: int) -> None:
        size = self._version.size
        end = size if self._window is None else min(size, self._at + max(self._window, wanted))
        self._reply, version = request(self._source, self._at, None if end == size else end)
        self._reply_end = end
        is_other = self._version.etag and version.etag != self._version.etag
        if is_other or version.size != size or not version.has_ranges:
            self._drop()
            raise changed(self._source)

    def _drop(self) -> None:
        if self._reply is not None:
            self._reply.close()
            self._reply = None


def _version(reply: Any) -> Version:
    headers = reply.headers
    found = _RANGE.fullmatch(headers.get("Content-Range", ""))
    length = headers.get("Content-Length", "")
    size = int(found[2]) if found else int(length) if length.isdigit() else -1
    status = getattr(reply, "status", None) or reply.code
    if status == 416:
        size = 0
    return Version(
        size,
        headers.get("Last-Modified", ""),
        headers.get("ETag", ""),
        status in (206, 416),
    )


def _refused(source: Source, status: int) -> TextmillError:
    where = shown(source.address)
    if status in (401, 403):
        return InputError(f"{where}: the server denies access (HTTP {status})")
    return InputError(f"{where}: cannot be read (HTTP {status})")


def _retry_after(value: str | None) -> float:
    try:
        return min(MAX_PAUSE_SECONDS, max(0.0, float(value or 0)))
    except ValueError:
        return 0.0


def _problem_of(error: BaseException) -> str:
    if isinstance(error, socket.gaierror):
        return "its name does not resolve"
    if isinstance(error, TimeoutError):
        return f"no byte for {IDLE_SECONDS:g} s"
    if isinstance(error, http.client.HTTPException):
        return "the connection was cut"
    return reason(error)
