"""The hash of the columns that a job uses: what must be equal for a row to count as unchanged.

A column that no output, prompt or rule reads may change every night without a row being done again;
a kept column is in the output, so it counts. Logical types and values are hashed, as in an
identity, so that the same rows in Parquet are still the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any

from pipeline.files import Block, InputSpec
from pipeline.identity import encode
from pipeline.schema import hashable

PIECE_CHARS = 1 << 20
MISFIT = b"textmill:misfit:"


def used_columns(spec: InputSpec) -> tuple[str, ...] | None:
    """The names of the columns used, sorted; None: all. The id is one: its type is in the output,
    and a row without a readable id is still a row."""
    if spec.keep is None:
        return None
    named = {spec.text, *spec.keep, *spec.fields, *(() if spec.id is None else (spec.id,))}
    return tuple(sorted(named))


def used_by(block: Block, names: Sequence[str] | None, *, is_named: bool) -> list[bytes]:
    """One hash for each row of the block. Shape: 16 bytes.

    Where rows are named by their content (not `is_named`) that hash says enough.
    """
    if not is_named:
        return list(block.hashes)
    if isinstance(block.rows, list):
        return [
            hashed
            if row is None
            else _of((name, row.get(name)) for name in (sorted(row) if names is None else names))
            for hashed, row in zip(block.hashes, block.rows, strict=True)
        ]
    present = block.rows.schema.names
    wanted = sorted(present) if names is None else [name for name in names if name in present]
    columns = [hashable(block.rows.column(name)) for name in wanted]
    return [_of(zip(wanted, row, strict=True)) for row in zip(*columns, strict=True)]


def misfit(used: bytes) -> bytes:
    """The hash of a row that does not fit its columns: it is unchanged only if it still does not,
    which depends on the rows before it."""
    return sha256(MISFIT + used).digest()[:16]


def _of(pairs: Iterable[tuple[str, Any]]) -> bytes:
    total = sha256()
    for name, value in pairs:
        if type(value) is str:  # without copies: a text may have 200 MB
            total.update(_named(name) + b"s" + len(value).to_bytes(8, "big"))
            for start in range(0, len(value), PIECE_CHARS):
                piece = value if len(value) <= PIECE_CHARS else value[start : start + PIECE_CHARS]
                total.update(piece.encode("utf-8", "surrogatepass"))
        elif value is not None:
            total.update(_named(name) + encode(value))
    return total.digest()[:16]


_named = lru_cache(1_024)(encode)
