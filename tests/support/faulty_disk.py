"""A disk that fails or a process that dies at the N-th operation, from inside the process.

Everything that changes a disk passes a boundary here: Python's own calls and the writes of its
files by wrappers, SQLite's by the methods of its files, which are replaced through ctypes where the
library can be reached. Only what lies in `roots` counts. pyarrow writes through Python's files.

A SIGKILL leaves what the kernel was told, so it is worth one boundary per operation, not per sync;
`tear` first writes half of what was to be written, as a power cut may.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import io
import os
import re
import shutil
import signal
import threading
import time
from pathlib import Path

from pipeline.limits import free_space

_SQLITE = {  # operation -> result code, for EIO; ENOSPC is SQLITE_FULL where something grows
    "write": 778, "truncate": 1546, "fsync": 1034, "open": 14, "unlink": 2570,
}  # fmt: skip
_FULL = 13
_RUN_ID = r"\d{8}T\d{6}Z-[0-9a-f]{6}"


class Disk:
    """Counts the boundaries of this process and strikes at number `at`, of those called `only`.

    Their total differs from run to run, because commits gather what comes in meanwhile; the n-th
    of a name is nearly always the same.
    """

    def __init__(self, roots, action="count", at=0, only=None, for_good=False, log=None):
        self.roots = [os.path.realpath(root) for root in roots]
        self.action, self.at, self.for_good, self.only = action, at, for_good, only
        self.count = 0
        self.struck = False
        self.log = log
        self._lock = threading.RLock()

    def passes(self, operation, path, half=None):
        """One boundary. Returns: None, or the number of the error that must be raised."""
        path = os.fspath(path) if not isinstance(path, int) else _named(path)
        path = os.fsdecode(path)
        if not any(os.path.realpath(path).startswith(root) for root in self.roots):
            return None
        name = f"{operation} {_label(path)}"
        with self._lock:
            if self.log is not None:
                os.write(self.log, f"{name}\n".encode())
            self.count += self.only in (None, name)
            is_it = self.only in (None, name) and self.count == self.at
            self.struck = self.struck or is_it
            if not is_it and not (self.struck and self.for_good):
                return None
            if self.action in ("kill", "tear"):
                if self.action == "tear" and half is not None:
                    half()
                os.kill(os.getpid(), signal.SIGKILL)
            return getattr(errno, self.action, None)

    def check(self, operation, path, half=None):
        if (number := self.passes(operation, path, half)) is not None:
            raise OSError(number, os.strerror(number), str(path))


def install(disk):
    """From now on this process works on that disk. Returns: whether SQLite does, too."""
    _wrap_os(disk)
    _wrap_files(disk)
    return _wrap_sqlite(disk)


def _named(descriptor):
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return ""


def _label(path):
    """The path without what differs between runs."""
    return re.sub(_RUN_ID, "RUN", "/".join(Path(path).parts[-3:]))


def _wrap_os(disk):
    def wrapped(name, operation, path_at=0):
        real = getattr(os, name)

        def call(*arguments, **named):
            path = arguments[path_at]
            folder = named.get("dir_fd", named.get("src_dir_fd"))
            if folder is not None:
                path = f"{_named(folder)}/{os.fsdecode(path)}"
            disk.check(operation, path)
            return real(*arguments, **named)

        setattr(os, name, call)

    for name, operation, at in (
        ("fsync", "fsync", 0), ("ftruncate", "truncate", 0), ("replace", "rename", 1),
        ("rename", "rename", 1), ("link", "link", 1), ("symlink", "symlink", 1),
        ("unlink", "unlink", 0), ("mkdir", "mkdir", 0), ("rmdir", "rmdir", 0),
    ):  # fmt: skip
        wrapped(name, operation, at)
    real_open, real_write, real_pwrite = os.open, os.write, os.pwrite
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def open_(path, flags, *more, **named):
        if flags & writing and named.get("dir_fd") is None:
            disk.check("open", path)
        return real_open(path, flags, *more, **named)

    def write(descriptor, data):
        if descriptor != disk.log:
            half = lambda: real_write(descriptor, bytes(data)[: len(data) // 2])  # noqa: E731
            disk.check("write", descriptor, half)
        return real_write(descriptor, data)

    def pwrite(descriptor, data, offset):
        disk.check("write", descriptor)
        return real_pwrite(descriptor, data, offset)

    os.open, os.write, os.pwrite = open_, write, pwrite


def _wrap_files(disk):
    real = io.open

    class Raw(io.FileIO):
        def write(self, data):
            half = lambda: super(Raw, self).write(bytes(data)[: len(data) // 2])  # noqa: E731
            disk.check("write", self.name, half)
            return super().write(data)

    def open_(file, mode="r", *arguments, **named):
        if isinstance(file, int) or "b" not in mode or not set(mode) & set("wax+"):
            return real(file, mode, *arguments, **named)
        disk.check("open", file)
        raw = Raw(os.fspath(file), mode.replace("b", ""))
        return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

    builtins.open = io.open = open_


# SQLite

# Names are passed on as the pointers that they are: SQLite keeps them.
_OPEN = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p,
                         ctypes.c_int, ctypes.c_void_p)  # fmt: skip
_DELETE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
_WRITE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int,
                          ctypes.c_int64)  # fmt: skip
_TRUNCATE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int64)
_SYNC = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_METHODS = 19  # words of sqlite3_io_methods, version 3
_alive = []  # what SQLite points to must not be collected


class _Vfs(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_int), ("size", ctypes.c_int), ("longest", ctypes.c_int),
        ("next", ctypes.c_void_p), ("name", ctypes.c_char_p), ("data", ctypes.c_void_p),
        ("open", ctypes.c_void_p), ("delete", ctypes.c_void_p),
    ]  # fmt: skip


def _library():
    import _sqlite3

    for name in (getattr(_sqlite3, "__file__", None), None):
        try:
            library = ctypes.CDLL(name)
            library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
            return library
        except (OSError, AttributeError):
            continue
    return None


def _wrap_sqlite(disk):
    library = _library()
    if library is None:
        return False
    vfs = library.sqlite3_vfs_find(None).contents
    real_open = _OPEN(vfs.open)
    real_delete = _DELETE(vfs.delete)
    names, tables = {}, {}

    def refused(operation, path, half=None):
        number = disk.passes(operation, path, half)
        if number is None:
            return 0
        grows = operation in ("write", "truncate")
        return _FULL if number == errno.ENOSPC and grows else _SQLITE[operation]

    def methods_of(original):
        if original in tables:
            return ctypes.addressof(tables[original])
        table = (ctypes.c_void_p * _METHODS).from_buffer_copy(
            ctypes.string_at(original, _METHODS * ctypes.sizeof(ctypes.c_void_p))
        )
        real_write, real_truncate, real_sync = (
            _WRITE(table[3]), _TRUNCATE(table[4]), _SYNC(table[5])
        )  # fmt: skip

        @_WRITE
        def write(file, data, size, offset):
            half = lambda: real_write(file, data, size // 2, offset)  # noqa: E731
            return refused("write", names[file], half) or real_write(file, data, size, offset)

        @_TRUNCATE
        def truncate(file, size):
            return refused("truncate", names[file]) or real_truncate(file, size)

        @_SYNC
        def sync(file, flags):
            return refused("fsync", names[file]) or real_sync(file, flags)

        for at, method in ((3, write), (4, truncate), (5, sync)):
            table[at] = ctypes.cast(method, ctypes.c_void_p).value
        _alive.extend((write, truncate, sync))
        tables[original] = table
        return ctypes.addressof(table)

    @_OPEN
    def open_(which, name, file, flags, out):
        path = os.fsdecode(ctypes.string_at(name) if name else b"")
        if code := refused("open", path):
            return code
        code = real_open(which, name, file, flags, out)
        pointer = ctypes.c_void_p.from_address(file)
        if code == 0 and pointer.value:
            names[file] = path
            pointer.value = methods_of(pointer.value)
        return code

    @_DELETE
    def delete(which, name, sync):
        return refused("unlink", os.fsdecode(ctypes.string_at(name))) or real_delete(which, name, sync)

    vfs.open = ctypes.cast(open_, ctypes.c_void_p).value
    vfs.delete = ctypes.cast(delete, ctypes.c_void_p).value
    _alive.extend((open_, delete, real_open, real_delete))
    return True


# What else may be wrong with a machine


def jump(after, seconds):
    """The wall clock jumps by so much, at the `after`-th time that anybody looks at it."""
    real, real_gmtime, real_localtime = time.time, time.gmtime, time.localtime
    looks = [0]

    def now():
        looks[0] += 1
        return real() + (seconds if looks[0] > after else 0)

    time.time = now
    time.gmtime = lambda at=None: real_gmtime(now() if at is None else at)
    time.localtime = lambda at=None: real_localtime(now() if at is None else at)


def end_the_night(signal_file):
    """The hour of `run.until` comes when this file appears, and is looked for often."""
    from pipeline.runs import interrupts

    real, path = interrupts.steady, Path(signal_file)
    interrupts.steady = lambda: real() + (2 * 86_400 if path.exists() else 0)
    interrupts.CLOCK_CHECK_SECONDS = 0.01


def fill_up(after):
    """From the `after`-th question on, no byte is free; each call asks, however fast they come."""
    free_space.EVERY_SECONDS = 0.0
    real = shutil.disk_usage
    asked = [0]

    def usage(path):
        asked[0] += 1
        found = real(path)
        return found if asked[0] <= after else type(found)(found.total, found.total, 0)

    shutil.disk_usage = usage
