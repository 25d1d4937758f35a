"""The survey: one pass over the input before the first request.

No request may be paid for an input that is unusable at its last row, and a run must know what it
will write before it writes. So one pass counts the rows, hashes them, finds duplicate ids, infers
the columns and chooses the part boundaries. Its memory does not grow with the rows: hashes are
packed and, above 100,000 rows, sorted into buckets of a temporary file.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace

from pipeline.disk.spill import PACKED_ROWS, Packed, Spill
from pipeline.errors import InputError
from pipeline.source.blocks import Block
from pipeline.source.columns import (
    carried_schema,
    json_schema,
    parquet_schema,
    require_columns,
)
from pipeline.source.files import InputFile, InputSpec, find
from pipeline.source.identity import digest_of, encode
from pipeline.source.readers import blocks
from pipeline.source.survey import MARK, Occurrences, Survey
from pipeline.source.types.json_types import MAX_KEYS, JsonType, Misfit, type_changes, widens
from pipeline.source.types.values import identity_values, lost_in_json
from pipeline.text import many, printable, shown

__all__ = ["InputSpec", "Occurrences", "Peek", "Survey", "peek", "survey"]

MIN_PART_ROWS = 250
MAX_PART_ROWS = 4_000
MEAN_ROWS_TO_BORDER = 750
"""One row in 750 begins a part: with the minimum before it, a part has about 1,000 rows."""


def survey(spec: InputSpec) -> Survey:
    """Everything about the input that must be known before the first request.

    Raises: UsageError for a missing file or column; InputError for an input that cannot be read,
    changes meanwhile, or has a duplicate id.
    Cost: one pass; of Parquet with an id it reads only the columns used.
    """
    files = find(spec.path)
    kind = files[0].format
    spec = _with_id(spec, files)
    described = parquet_schema(spec, files) if kind.declares_types else None
    types: dict[str, JsonType] = {}
    hashes = _Hashes()
    part_rows, size = array("I"), 0
    keys: set[str] = set()
    marks, widened, names = Packed(MARK), set[str](), used_columns(spec)
    warnings: dict[str, str] = {}
    lost: Counter[str] = Counter()
    for block in blocks(spec, files, None if spec.id is None else names):
        for name in block.columns:
            types.setdefault(name, "string")
        if block.diagnosis is not None:
            warnings[block.file.path] = block.diagnosis.line(block.file.name)
        uses = used_hashes(block, names, has_id=spec.id is not None)
        if spec.for_json and described is not None:
            _count_lost(spec, block, lost)
        for at, (hashed, unique) in enumerate(zip(block.hashes, block.unique, strict=True)):
            if size == MAX_PART_ROWS or (size >= MIN_PART_ROWS and _is_border(hashed)):
                part_rows.append(size)
                size = 0
            size += 1
            hashes.add(hashed, unique)
            if described is None and (row := block.rows[at]) is not None:
                if len(keys) < MAX_KEYS and not keys >= row.keys():
                    keys.update(row)
                fits = block.errors[at] is None and _learn(types, row, widened)
                if (
                    not fits and unique and spec.id is not None
                ):  # the id of an isolated row is still written
                    _learn(types, {spec.id: block.ids[at]}, widened)
                if not fits:
                    uses[at] = misfit_hash(uses[at])
                del row  # it may have 200 MB
            marks.add(hashed + (b"\1" if unique else b"\0") + uses[at])
    if size:
        part_rows.append(size)
    occurrences, duplicate = hashes.occurrences()
    if duplicate is not None:
        raise _not_unique(spec, files, duplicate)
    if described is None:
        described = json_schema(spec, types, keys)
    schema = carried_schema(spec, described)
    stamps = (
        f"{file.path.rpartition(os.sep)[2]}\n{tuple(file.fingerprint)}\n{file.partition}"
        for file in files
    )
    return Survey(
        spec=spec,
        files=files,
        rows=hashes.rows,
        schema=schema,
        part_rows=part_rows,
        occurrences=occurrences,
        fingerprint=digest_of(stamps),
        types=None if kind.declares_types else types,
        marks=marks,
        widened=frozenset(widened),
        warnings=(*warnings.values(), *(_lost_line(spec, each, lost[each]) for each in lost)),
        absent=tuple(name for name in spec.optional if name not in {*described.names, *keys}),
        columns=tuple(dict.fromkeys((*described.names, *sorted(keys)))),
    )


class Peek(NamedTuple):
    """What the begin of an input shows. `columns` and `absent` are of its first rows."""

    files: int
    columns: tuple[str, ...]
    absent: tuple[str, ...]
    """Columns of rules that these rows do not have."""
    warning: str
    """About the first file or row; empty: it can be read."""


def peek(spec: InputSpec) -> Peek:
    """Checks the files, the columns and the first rows. Raises: as `survey`, for these.

    Cost: the first block of the first file.
    """
    files = find(spec.path)
    first = files[:1]
    spec = _with_id(spec, first)
    has_types = first[0].format.declares_types
    columns = dict.fromkeys(parquet_schema(spec, first).names) if has_types else {}
    block = next(blocks(spec, first, None if spec.id is None else used_columns(spec)), None)
    warning = f"{first[0].name}: has no rows" if block is None or not block.hashes else ""
    if block is not None and block.hashes:
        if not has_types:
            columns = {name: None for row in block.rows if row is not None for name in row}
            if columns:
                require_columns(spec, shown(spec.path), list(columns))
        if block.diagnosis is not None:
            warning = block.diagnosis.line(first[0].name)
        elif block.errors[0] is not None:
            warning = f"{block.address(0)}: {block.errors[0]}"
    absent = tuple(name for name in spec.optional if columns and name not in columns)
    return Peek(len(files), tuple(columns), absent, warning)


def _with_id(spec: InputSpec, files: tuple[InputFile, ...]) -> InputSpec:
    """The spec with the column that identifies rows of this format, unless the job names one."""
    default = files[0].format.id
    return spec if spec.id is not None or default is None else replace(spec, id=default)


def _count_lost(spec: InputSpec, block: Block, lost: Counter[str]) -> None:
    """Counts, for each column that is carried, the rows with a value that JSON lacks."""
    for name in block.rows.schema.names:
        is_carried = spec.keep is None or name in spec.keep or name == spec.id
        rows = int(lost_in_json(block.rows.column(name)).sum()) if is_carried else 0
        if rows:
            lost[name] += rows


def _lost_line(spec: InputSpec, column: str, rows: int) -> str:
    return (
        f"{shown(spec.path)}: `{printable(column)}` holds values in {many(rows, 'row')} that JSON "
        "lacks: NaN and infinity become null, of a repeated key of a map the last value stays"
    )


def _is_border(hashed: bytes) -> bool:
    return int.from_bytes(hashed[:4], "big") % MEAN_ROWS_TO_BORDER == 0


def _learn(types: dict[str, JsonType], row: dict[str, Any], widened: set[str]) -> bool:
    """Whether the row fits the types, which it then widens; `read` isolates one that does not."""
    try:
        changes = type_changes(types, row)
    except Misfit:
        return False
    if changes:
        widened.update(name for name, new in changes.items() if widens(types.get(name), new))
        types.update(changes)
    return True


def _not_unique(spec: InputSpec, files: tuple[InputFile, ...], duplicate: bytes) -> InputError:
    """The error that names the first two rows with this hash; reads the input up to the second."""
    places: list[str] = []
    value: Any = None
    for block in blocks(spec, files, [spec.id] if spec.id else None):
        for at, hashed in enumerate(block.hashes):
            if block.unique[at] and _tagged(hashed, True) == duplicate:
                places.append(block.address(at))
                value = block.ids[at]
        if len(places) > 1:
            break
    return InputError(
        f"{' and '.join(places[:2])}: id `{printable(str(value), 80)}` is not unique",
        hint="--id with another column, or none: then a row is identified by its content",
    )


# Occurrences


_HASH = np.dtype([("hash", "V16"), ("row", "<u8")])


def _tagged(hashed: bytes, unique: bool) -> bytes:
    """The hash with its last bit set if it must be unique."""
    return hashed[:15] + bytes([hashed[15] & 0xFE | unique])


class _Hashes:
    """The hashes of all rows, 16 bytes each, in 256 buckets above 100,000 rows."""

    def __init__(self) -> None:
        self.rows = 0
        self._pending = bytearray()
        self._spill = Spill(_HASH)

    def add(self, hashed: bytes, unique: bool) -> None:
        self._pending += _tagged(hashed, unique)
        self.rows += 1
        if len(self._pending) == 16 * PACKED_ROWS:
            self._flush()

    def _flush(self) -> None:
        records = np.empty(len(self._pending) // 16, _HASH)
        records["hash"] = np.frombuffer(bytes(self._pending), "V16")
        records["row"] = np.arange(self.rows - len(records), self.rows)
        self._spill.add(np.frombuffer(bytes(self._pending), np.uint8)[::16], records)
        self._pending.clear()

    def occurrences(self) -> tuple[Occurrences, bytes | None]:
        """The earlier occurrences of each row's content, and the first duplicate id.

        Cost: memory for the distinct hashes of one bucket.
        """
        self._flush()
        repeats, first, duplicate = Occurrences(), self.rows, None
        for bucket in self._spill.buckets():
            counts_by_hash: dict[bytes, int] = {}
            for segment in self._spill.segments(bucket):
                rows: list[int] = []
                counts: list[int] = []
                for hashed, row in zip(
                    segment["hash"].tolist(), segment["row"].tolist(), strict=True
                ):
                    nth = counts_by_hash.get(hashed, 0)
                    counts_by_hash[hashed] = nth + 1
                    if nth and hashed[15] & 1:
                        if row < first:
                            first, duplicate = row, hashed
                    elif nth:
                        rows.append(row)
                        counts.append(nth)
                repeats.add(rows, counts)
        return repeats, duplicate


PIECE_CHARS = 1 << 20
MISFIT = b"textmill:misfit:"


def used_columns(spec: InputSpec) -> tuple[str, ...] | None:
    """The names of the columns used, sorted; None: all. The id is always used: its type is in the
    output, and a row without a readable id is still a row."""
    if spec.keep is None:
        return None
    names = {spec.text, *spec.keep, *spec.fields, *(() if spec.id is None else (spec.id,))}
    return tuple(sorted(names))


def used_hashes(block: Block, names: Sequence[str] | None, *, has_id: bool) -> list[bytes]:
    """The hash of the columns used, for each row of the block. Shape: 16 bytes.

    Where rows are identified by their content (not `has_id`), it is the content hash.
    """
    if not has_id:
        return list(block.hashes)
    if isinstance(block.rows, list):
        return [
            hashed
            if row is None
            else _hash_of_pairs(
                (name, row.get(name)) for name in (sorted(row) if names is None else names)
            )
            for hashed, row in zip(block.hashes, block.rows, strict=True)
        ]
    present = block.rows.schema.names
    used = sorted(present) if names is None else [name for name in names if name in present]
    columns = [identity_values(block.rows.column(name)) for name in used]
    return [_hash_of_pairs(zip(used, row, strict=True)) for row in zip(*columns, strict=True)]


def misfit_hash(used: bytes) -> bytes:
    """The hash of a row that does not fit its columns. Such a row counts as unchanged only if it
    still does not fit, which depends on the rows before it."""
    return sha256(MISFIT + used).digest()[:16]


def _hash_of_pairs(pairs: Iterable[tuple[str, Any]]) -> bytes:
    total = sha256()
    for name, value in pairs:
        if type(value) is str:  # without a copy: a text may have 200 MB
            total.update(_encode_name(name) + b"s" + len(value).to_bytes(8, "big"))
            for start in range(0, len(value), PIECE_CHARS):
                piece = value if len(value) <= PIECE_CHARS else value[start : start + PIECE_CHARS]
                total.update(piece.encode("utf-8", "surrogatepass"))
        elif value is not None:
            total.update(_encode_name(name) + encode(value))
    return total.digest()[:16]


_encode_name = lru_cache(1_024)(encode)
