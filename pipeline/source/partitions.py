"""Hive partitions: folders named `name=value` are columns of the rows below them.

The folders count from where `input.path` begins to vary, and so do those directly above that place:
`in/lang=en/*.jsonl`, `in/*/*.jsonl` and the folder `in` give the same rows the same columns, and
where the input lies on the machine gives none.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from urllib.parse import unquote

from pipeline.errors import InputError
from pipeline.text import printable

Partition = tuple[tuple[str, str | None], ...]
"""Names and values, in the order of the folders; values are text, null for Hive's default."""

_NULL = "__HIVE_DEFAULT_PARTITION__"


def is_partition(folder: str) -> bool:
    """Whether a folder's name is `name=value`."""
    return folder.find("=") > 0


def fixed_parts(path: str, files: Sequence[str], *, is_folder: bool) -> list[str]:
    """The parts of the path that all files have in common: those before its glob or file name."""
    parts = path.rstrip("/").split("/") if is_folder else path.split("/")
    fixed = len(parts) if is_folder else len(parts) - 1
    if path not in files:  # else it names this one file, whatever characters it has
        fixed = next((at for at, part in enumerate(parts) if glob.has_magic(part)), fixed)
    return parts[:fixed]


def partitions(path: str, files: Sequence[str], *, is_folder: bool) -> list[Partition]:
    """The partition of each file that the input path names. Raises: InputError for one that is not
    text."""
    parts = fixed_parts(path, files, is_folder=is_folder)
    fixed = len(parts)
    while fixed and is_partition(parts[fixed - 1]):
        fixed -= 1
    return [_partition(file, file.split("/")[fixed:-1]) for file in files]


def _partition(file: str, folders: Sequence[str]) -> Partition:
    pairs = (folder.split("=", 1) for folder in folders if is_partition(folder))
    found = {_decoded(name): None if value == _NULL else _decoded(value) for name, value in pairs}
    for text in (*found, *found.values()):
        if text is not None and not text.isascii() and _is_broken(text):
            raise InputError(f"{printable(file, 4096)}: the name of a partition is not UTF-8")
    return tuple(found.items())


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        return text


def _is_broken(text: str) -> bool:
    """Whether it holds bytes of a file name that are no characters."""
    return any("\ud800" <= character <= "\udfff" for character in text)
