"""The standard streams of the process: open, UTF-8 or escapes, write errors without a traceback.

Python raises at each write to a stream that is gone, and again when it ends (exit code 120). Here
stderr drops what it cannot write: it only reports, and a paid run continues without it. stdout
carries data: its first error ends the command, later writes are dropped, and `close` chooses the
exit code.
"""

from __future__ import annotations

import codecs
import errno
import io
import locale
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

READER_GONE = 141
"""The exit code that a shell reports for SIGPIPE."""
CANNOT_BE_WRITTEN = 13
"""`StorageError.exit_code`, here without the import of the engine (a test compares them)."""

BUSY_SECONDS = 1.0
"""How long stderr may refuse to take more, in non-blocking mode, until a message is dropped."""
_UTF8_MODE = ["-X", "utf8"]
_ESCAPE = "textmill.escape"


class Output(io.FileIO):
    """Standard output or standard error, with its first write error; later writes are dropped."""

    def __init__(self, descriptor: int, *, is_lossy: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.error: OSError | None = None
        self._is_lossy = is_lossy

    def write(self, data: ReadableBuffer, /) -> int:
        """Writes to the descriptor. Raises: OSError once, unless it is lossy."""
        size = memoryview(data).nbytes
        try:
            while self.error is None:
                if (written := super().write(data)) is not None:
                    return written
                # Another program may have made the descriptor non-blocking.
                seconds = BUSY_SECONDS if self._is_lossy else None
                if not select.select([], [self], [], seconds)[1]:
                    break
        except OSError as error:
            self.error = error
            if not self._is_lossy:
                raise
        return size


def open_streams() -> None:
    """Replaces the three streams of Python; none of them is None afterwards."""
    codecs.register_error(_ESCAPE, _escape)
    # A closed descriptor would be reused for the next opened file. It is opened for the other
    # direction, so that its use fails and no data is lost in silence.
    for descriptor, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _text(1, sys.stdout, is_lossy=False)
    sys.stderr = _text(2, sys.stderr, is_lossy=True)


def use_utf8() -> None:
    """Starts this process anew in Python's UTF-8 mode if the locale has another encoding.

    Job files are UTF-8, and so are the file names in them, whatever the locale; Python 3.15 makes
    this mode the default. It cannot be changed after the start.
    """
    arguments = sys.orig_argv[1:]
    is_our_process = arguments[len(arguments) - len(sys.argv) + 1 :] == sys.argv[1:]
    if sys.getfilesystemencoding() == "utf-8" or _is_restarted() or not is_our_process:
        return
    with suppress(OSError):
        os.execv(sys.executable, [sys.executable, *_UTF8_MODE, *arguments])


def close(code: int) -> int:
    """Writes what is buffered; the exit code, which also shows a failed write to stdout."""
    with suppress(OSError):
        sys.stdout.flush()
    error = stdout_error()
    if error is not None and error.errno == errno.EPIPE and code in (0, 1):
        code = READER_GONE  # click and rich end with 1
    elif error is not None and not code:
        code = CANNOT_BE_WRITTEN
    if error is not None and error.errno != errno.EPIPE:
        print(f"standard output: cannot be written ({error.strerror})", file=sys.stderr)
    sys.stderr.flush()
    return code


def json_line(record: object, stream: IO[str], enc_hook: Callable[[Any], Any] | None = None) -> str:
    """A record as one line of JSON for this stream: ASCII where the stream is not UTF-8, or where a
    text, such as the name of a file, has bytes that are not."""
    import msgspec

    try:
        line = msgspec.json.encode(record, enc_hook=enc_hook).decode()
        if (
            line.isascii()
            or (getattr(stream, "encoding", None) or "utf-8").replace("-", "").lower() == "utf8"
        ):
            return line
    except UnicodeEncodeError:  # half a surrogate pair stands for each such byte
        pass
    import json

    return json.dumps(msgspec.to_builtins(record, enc_hook=enc_hook), separators=(",", ":"))


def is_attended() -> bool:
    """True if a person reads the messages of this process: stderr is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def stdout_error() -> OSError | None:
    """The error that ended standard output, if any."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.error if isinstance(raw, Output) else None


def _text(descriptor: int, stream: TextIO | None, *, is_lossy: bool) -> TextIO:
    raw = Output(descriptor, is_lossy=is_lossy)
    is_immediate = is_lossy or raw.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=_encoding(stream),
        errors=_ESCAPE,
        line_buffering=is_immediate,
    )


def _encoding(stream: TextIO | None) -> str:
    """The encoding of the terminal, or what PYTHONIOENCODING names."""
    encoding = stream.encoding if stream is not None else "utf-8"
    if _is_restarted() and not os.environ.get("PYTHONIOENCODING"):
        encoding = locale.getencoding()
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        return "ascii"


def _is_restarted() -> bool:
    return sys.orig_argv[1:3] == _UTF8_MODE


def _escape(error: UnicodeError) -> tuple[str, int]:
    r"""`\u4e2d` for a character that a stream has no code for: JSON stays JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    pairs = zip(units[::2], units[1::2], strict=True)
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in pairs), error.end
