"""The pass over the input before the first request.

Nothing may be paid for an input that turns out to be unusable at its last row, and a run must know
what it will write before it writes. So one pass counts the rows, names them, finds ids that are
not unique, learns the columns and draws the borders of the parts. Its memory does not grow with
the rows: hashes are packed and, above 100,000 rows, sorted into buckets of a temporary file.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import pyarrow as pa
from msgspec import Struct
from msgspec.structs import replace

from pipeline.errors import InputError, UsageError
from pipeline.escape import printable
from pipeline.files import InputFile, InputSpec, digest_of, family, find, reason, shown
from pipeline.jsontypes import MAX_KEYS, JsonType, Misfit, changed_fields, widens
from pipeline.parquet import open_parquet
from pipeline.schema import arrow_type, is_text
from pipeline.source import blocks
from pipeline.spill import PACKED_ROWS, Packed, Records, Spill
from pipeline.used import misfit, used_by, used_columns

__all__ = ["InputSpec", "Occurrences", "Survey", "survey"]

MIN_PART_ROWS = 250
MAX_PART_ROWS = 4_000
BORDER_ODDS = 750
"""One row in so many begins a part, which makes about 1,000 rows with the minimum before it."""


_MARK = np.dtype([("hash", "V16"), ("unique", "?"), ("used", "V16")])
ROW = np.dtype([("hash", "V16"), ("nth", "<u8"), ("unique", "?"), ("used", "V16")])
"""What a row is known by: the hash of its id (`unique`) or of its content, how often that content
came before, and the hash of the columns used."""


class Survey(Struct, frozen=True):
    """What is known of the input before the first request.

    Invariant: `sum(part_rows) == rows`; `pipeline.source.read` gives exactly these rows.
    """

    spec: InputSpec
    files: tuple[InputFile, ...]
    rows: int
    schema: Any
    """Arrow schema of the columns carried along: those kept, led by the id where it is not kept."""
    id_type: str
    """Logical type of the ids: string, integer, ...; `text` where identities serve as ids."""
    part_rows: Sequence[int]
    occurrences: Occurrences
    fingerprint: str
    types: Mapping[str, JsonType] | None
    """The types of JSON keys; None for Parquet, which brings its own."""
    marks: Packed
    """Name and hash of the columns used of each row, in order."""
    widened: frozenset[str] = frozenset()
    """JSON keys in which floats followed integers, which may isolate a row before them."""
    absent: tuple[str, ...] = ()
    """Columns of rules that no row has."""

    def rows_by_part(self) -> Iterator[Records]:
        """What each part's rows are known by, in order: one array of `ROW` for each part."""
        repeats = iter(self.occurrences)
        repeat = next(repeats, None)
        start = 0
        for count in self.part_rows:
            marks = self.marks.slice(start, start + count)
            rows = np.zeros(count, ROW)
            for name in ("hash", "used", "unique"):
                rows[name] = marks[name]
            while repeat is not None and repeat[0] < start + count:
                rows["nth"][repeat[0] - start] = repeat[1]
                repeat = next(repeats, None)
            start += count
            yield rows


def survey(spec: InputSpec) -> Survey:
    """Everything about the input that must stand before the first request.

    Raises: UsageError for a file or column that is not there; InputError for an input that cannot
    be read, changes meanwhile, or has an id twice.
    Cost: one pass; of Parquet with an id only the columns used are read.
    """
    files = find(spec.path)
    described = None if family(files[0].path) == "jsonl" else _parquet_schema(spec, files)
    types: dict[str, JsonType] = {}
    hashes = _Hashes()
    part_rows, size = array("I"), 0
    keys: set[str] = set()
    marks, widened, names = Packed(_MARK), set[str](), used_columns(spec)
    for block in blocks(spec, files, None if spec.id is None else names):
        uses = used_by(block, names, is_named=spec.id is not None)
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
                if not fits and unique and spec.id is not None:  # of an isolated row it stands
                    _learn(types, {spec.id: block.ids[at]}, widened)
                if not fits:
                    uses[at] = misfit(uses[at])
                del row  # it may be 200 MB
            marks.add(hashed + (b"\1" if unique else b"\0") + uses[at])
    if size:
        part_rows.append(size)
    occurrences, twice = hashes.occurrences()
    if twice is not None:
        raise _not_unique(spec, files, twice)
    if described is None:
        described = _json_schema(spec, types, keys)
    schema = _carried(spec, described)
    kind = "text" if spec.id is None else _logical(schema.field(spec.id).type)
    told = (f"{each.path.rpartition(os.sep)[2]}\n{tuple(each.fingerprint)}" for each in files)
    return Survey(
        spec=spec,
        files=files,
        rows=hashes.rows,
        schema=schema,
        id_type=kind,
        part_rows=part_rows,
        occurrences=occurrences,
        fingerprint=digest_of(told),
        types=types if family(files[0].path) == "jsonl" else None,
        marks=marks,
        widened=frozenset(widened),
        absent=tuple(name for name in spec.optional if name not in {*described.names, *keys}),
    )


def _is_border(hashed: bytes) -> bool:
    return int.from_bytes(hashed[:4], "big") % BORDER_ODDS == 0


def _learn(types: dict[str, JsonType], row: dict[str, Any], widened: set[str]) -> bool:
    """Whether the row fits; the source isolates one that does not, for the same reason."""
    try:
        changes = changed_fields(types, row)
    except Misfit:
        return False
    if changes:
        widened.update(name for name, new in changes.items() if widens(types.get(name), new))
        types.update(changes)
    return True


def _json_schema(spec: InputSpec, types: dict[str, JsonType], keys: set[str]) -> pa.Schema:
    if keys:  # of a file without readable rows nothing can be missing
        _require(spec, shown(spec.path), [*types, *sorted(keys - types.keys())])
    needed = [name for name in spec.fields if name not in spec.optional]
    named = [spec.text, *([] if spec.id is None else [spec.id]), *needed, *(spec.keep or ())]
    for name in named:
        types.setdefault(name, None)
    return pa.schema([(name, arrow_type(each)) for name, each in types.items()])


def _parquet_schema(spec: InputSpec, files: tuple[InputFile, ...]) -> pa.Schema:
    schemas = []
    for file in files:
        with open_parquet(file) as parquet:
            schemas.append(parquet.schema_arrow)
        names = schemas[-1].names
        if len(set(names)) < len(names):
            again = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"{file.name}: two columns are called `{printable(again)}`")
        _require(spec if len(files) == 1 else replace(spec, keep=()), file.name, names)
    place = shown(spec.path)
    try:
        unified = pa.unify_schemas(_alike(schemas), promote_options="permissive")
    except pa.ArrowException as error:
        raise InputError(f"{place}: the files' columns differ ({reason(error)})") from None
    _require(spec, place, unified.names)
    text = unified.field(spec.text).type
    if not is_text(text) and not pa.types.is_null(text):
        raise UsageError(f"{place}: input.text = `{spec.text}` is {text}, not string")
    if spec.id is not None and pa.types.is_nested(unified.field(spec.id).type):
        kind = unified.field(spec.id).type
        raise UsageError(f"{place}: input.id = `{spec.id}` is {kind}, which names no row")
    return pa.schema([_steady(field) for field in unified])


def _alike(schemas: Sequence[pa.Schema]) -> list[pa.Schema]:
    """The schemas, with dictionaries decoded where files differ: Arrow does not unite those."""
    kinds: dict[str, set[pa.DataType]] = {}
    for schema in schemas:
        for field in schema:
            kinds.setdefault(field.name, set()).add(field.type)
    return [
        pa.schema(
            field.with_type(field.type.value_type)
            if pa.types.is_dictionary(field.type) and len(kinds[field.name]) > 1
            else field
            for field in schema
        )
        for schema in schemas
    ]


def _steady(field: pa.Field) -> pa.Field:
    """The field, with dictionary indices wide enough for the values of all files, and views as
    what they show: Arrow cannot take rows out of a view, and Parquet does not know them."""
    return field.with_type(_steady_type(field.type))


def _steady_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return pa.dictionary(pa.int32(), _steady_type(kind.value_type), kind.ordered)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(_steady(kind.value_field))
    if pa.types.is_struct(kind):
        return pa.struct([_steady(kind.field(at)) for at in range(kind.num_fields)])
    return kind


FLAGS = {"input.text": "--text COLUMN", "input.id": "--id COLUMN", "input.keep": "--keep COLUMN"}
"""What names another column, on the command line."""


def _require(spec: InputSpec, place: str, names: Sequence[str]) -> None:
    """Raises: UsageError for a column that the job names and the input has not."""
    wanted = [("input.text", spec.text), *(("input.keep", name) for name in spec.keep or ())]
    if spec.id is not None:
        wanted.insert(0, ("input.id", spec.id))
    wanted += [("the job", name) for name in spec.fields if name not in spec.optional]
    for key, name in wanted:
        if name not in names:
            near = get_close_matches(name, names, 1)
            guess = f" (did you mean `{printable(near[0])}`?)" if near else ""
            listed = ", ".join(f"`{printable(each, 60)}`" for each in names[:50]) or "none"
            raise UsageError(
                f"{place}: {key} names the column `{printable(name)}`, which is not there{guess};"
                f" columns: {listed}",
                hint=FLAGS.get(key),
            )


def _carried(spec: InputSpec, described: pa.Schema) -> pa.Schema:
    kept = [field for field in described if spec.keep is None or field.name in spec.keep]
    if spec.id is not None and all(field.name != spec.id for field in kept):
        kept.insert(0, described.field(spec.id))
    return pa.schema(kept)


def _logical(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _logical(kind.value_type)
    if is_text(kind):
        return "string"
    tests = {
        "integer": pa.types.is_integer,
        "float": pa.types.is_floating,
        "boolean": pa.types.is_boolean,
        "decimal": pa.types.is_decimal,
    }
    return next((name for name, test in tests.items() if test(kind)), str(kind))


def _not_unique(spec: InputSpec, files: tuple[InputFile, ...], twice: bytes) -> InputError:
    """Names the first two rows with this hash, which takes another pass up to the second."""
    places: list[str] = []
    value: Any = None
    for block in blocks(spec, files, [spec.id] if spec.id else None):
        for at, hashed in enumerate(block.hashes):
            if block.unique[at] and _packed(hashed, True) == twice:
                places.append(block.address(at))
                value = block.ids[at]
        if len(places) > 1:
            break
    return InputError(
        f"{' and '.join(places[:2])}: id `{printable(str(value), 80)}` is not unique",
        hint="--id with another column, or none: then a row is named by its content",
    )


# Hashes that came before


_HASH = np.dtype([("hash", "V16"), ("row", "<u8")])
_REPEAT = np.dtype([("row", "<u8"), ("nth", "<u8")])


class Occurrences:
    """The rows whose content came before, with how often: pairs (row, nth), sorted by row."""

    def __init__(self) -> None:
        self._spill = Spill(_REPEAT)

    def add(self, rows: list[int], counts: list[int]) -> None:
        records = np.empty(len(rows), _REPEAT)
        records["row"], records["nth"] = rows, counts
        self._spill.add(records["row"] // PACKED_ROWS, records)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for bucket in self._spill.buckets():
            block = self._spill.bucket(bucket)
            yield from block[np.argsort(block["row"])].tolist()


def _packed(hashed: bytes, unique: bool) -> bytes:
    """The hash with its last bit telling whether it must be unique."""
    return hashed[:15] + bytes([hashed[15] & 0xFE | unique])


class _Hashes:
    """The hashes of all rows, 16 bytes each, in 256 buckets once they are many."""

    def __init__(self) -> None:
        self.rows = 0
        self._pending = bytearray()
        self._spill = Spill(_HASH)

    def add(self, hashed: bytes, unique: bool) -> None:
        self._pending += _packed(hashed, unique)
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
        """How often each row's content came before, and the first id that came twice.

        Cost: memory for the different hashes of one bucket, also if all rows are equal.
        """
        self._flush()
        repeats, first, twice = Occurrences(), self.rows, None
        for bucket in self._spill.buckets():
            seen: dict[bytes, int] = {}
            for segment in self._spill.segments(bucket):
                rows: list[int] = []
                counts: list[int] = []
                for hashed, row in zip(
                    segment["hash"].tolist(), segment["row"].tolist(), strict=True
                ):
                    nth = seen.get(hashed, 0)
                    seen[hashed] = nth + 1
                    if nth and hashed[15] & 1:
                        if row < first:
                            first, twice = row, hashed
                    elif nth:
                        rows.append(row)
                        counts.append(nth)
                repeats.add(rows, counts)
        return repeats, twice
