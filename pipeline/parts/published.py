"""What the published output itself says about the last commit: identities, model, dimension.

The snapshot says the same and more, in less time. But it can be lost, damaged or of another version
of the program, and a guard that then knows nothing would let everything pass. So it reads the
output in its place.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from pipeline.disk.output_path import output_suffix
from pipeline.disk.spill import Packed
from pipeline.errors import GuardError
from pipeline.parts.layout import OutputLayout
from pipeline.parts.schema import dimension_of
from pipeline.source.identity import of_id
from pipeline.source.survey import Survey
from pipeline.source.types.values import identity_values, is_text
from pipeline.text import many, reason, shown

HASH = np.dtype([("hash", "V16")])
NO_ID = bytes(16)
"""Of a row whose id was unreadable: it failed, and nothing is lost with it."""
_BATCH_ROWS = 10_000
_OWN_COLUMNS = {"_status", "_error"}


class UnreadableOutputError(Exception):
    """The output does not show the rows of the last commit. The message says why."""


class Published(Struct, frozen=True):
    """The published output.

    `id_field` is the id column of the input, None where rows are identified by their content.
    """

    files: tuple[Path, ...]
    id_field: Any
    documents: int
    identities: Packed
    """Of its documents with readable ids, in order; as in the input where it has ids. Shape:
    (documents,) of `HASH`."""
    readable: int
    """Number of `identities`."""
    dimension: int | None
    made_by: tuple[str, str] | None
    """The model, and the fingerprint of the keys that affect answers; None: not recorded."""

    @property
    def stamp(self) -> str:
        """A name of this output, until it is replaced."""
        return " ".join(f"{file.name} {file.stat().st_mtime_ns}" for file in self.files[:1])

    def row_identities(self, path: Path) -> list[bytes]:
        """The identity of each row of this file."""
        return [
            bytes(hashed) for batch in _identities(path, self.id_field) for hashed in batch.tolist()
        ]


def read_output(
    survey: Survey, layout: OutputLayout, fault: str, *, accept: bool
) -> tuple[Published | None, str]:
    """The published output, whose snapshot has this fault, and a note about it.

    Raises: GuardError where it does not show its rows, unless that is accepted.
    """
    output = shown(str(layout.path))
    try:
        published = published_output(survey, layout)
    except UnreadableOutputError as error:
        if accept:
            return None, f"{output}: {fault}, and {error}: nothing was compared (--accept-unknown)"
        raise unknown_rows(output, f"{fault}, and {error}") from None
    return published, (
        f"{output}: {fault}; the guards read the output itself: they know its "
        f"{many(published.documents, 'row')}, but not which texts changed"
    )


def published_output(survey: Survey, layout: OutputLayout) -> Published:
    """What the published output itself shows. Raises: UnreadableOutputError."""
    files = layout.published()
    if not files or any(file.stat().st_size == 0 for file in files):
        raise UnreadableOutputError("the output is empty" if files else "there is no output")
    name = survey.spec.id
    has_id = name is not None and name in survey.schema.names
    return read_published(files, survey.schema.field(name) if has_id else None)


def unknown_rows(output: str, reason: str) -> GuardError:
    """The error where nothing shows the rows of the last commit."""
    return GuardError(
        f"{output}: {reason}: the rows of the last commit are unknown, and nothing was published",
        hint="another output keeps this one; --accept-unknown replaces it, without the guards that "
        "compare with it",
    )


def read_published(files: Sequence[Path], id_field: Any) -> Published:
    """Reads the ids of these files of one output, and their metadata.

    Raises: UnreadableOutputError where they are damaged, were not written by textmill, or do not
    hold the ids of the input.
    Cost: reads the id column of Parquet, and each line of JSONL.
    """
    identities, documents, readable, last = Packed(HASH), 0, 0, None
    dimension: int | None = None
    made_by: tuple[str, str] | None = None
    for path in files:
        try:
            found, made_by = _described(path)
            dimension = dimension or found
            for batch in _identities(path, id_field):
                for hashed in batch.tolist():
                    if hashed == NO_ID or hashed != last:  # the chunks of a document are adjacent
                        documents += 1
                        if hashed != NO_ID:
                            identities.add(hashed)
                            readable += 1
                    last = hashed
        except (OSError, pa.ArrowException, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UnreadableOutputError(f"{path.name} is unreadable ({reason(error)})") from None
    return Published(tuple(files), id_field, documents, identities, readable, dimension, made_by)


def _described(path: Path) -> tuple[int | None, tuple[str, str] | None]:
    """The dimension of its vectors and what made it. Raises: UnreadableOutputError."""
    if output_suffix(path) == ".jsonl":
        return _dimension_of_lines(path), None
    schema = pq.read_schema(path)
    metadata = schema.metadata or {}
    model, job = metadata.get(b"textmill.model"), metadata.get(b"textmill.job")
    if model is None or job is None:
        raise UnreadableOutputError(f"{path.name} was not written by textmill")
    return dimension_of(schema), (model.decode(), job.decode())


def _dimension_of_lines(path: Path) -> int | None:
    with path.open("rb") as file:
        for number, line in enumerate(file):
            row = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
            if not number and not row.keys() >= _OWN_COLUMNS:
                raise UnreadableOutputError(f"{path.name} was not written by textmill")
            vector = bytes(row.get("vector", b""))
            if vector.startswith(b"["):
                return len(msgspec.json.decode(vector, type=list[float]))
            if not vector:  # a task without vectors
                return None
    return None


def _identities(path: Path, id_field: Any) -> Iterator[npt.NDArray[Any]]:
    """The identity of each row, in batches."""
    name = "id" if id_field is None else id_field.name
    for values in _values(path, name, id_field):
        if id_field is None:
            raw = b"".join(map(_of_hash, values))
        else:
            raw = b"".join(NO_ID if value is None else of_id(value) for value in values)
        yield np.frombuffer(raw, HASH)["hash"]


def _of_hash(value: Any) -> bytes:
    """The identity that an output without id column holds in hex; of any other, a hash of it."""
    try:
        identity = bytes.fromhex(value)
    except (TypeError, ValueError):
        identity = b""
    return identity if len(identity) == 16 else of_id(value)


def _values(path: Path, name: str, id_field: Any) -> Iterator[list[Any]]:
    """The values of the id column, in batches, as identities are computed from them."""
    missing = UnreadableOutputError(f"{path.name} has no column `{name}`")
    if output_suffix(path) != ".jsonl":
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if name not in file.schema_arrow.names:
                raise missing
            for batch in file.iter_batches(_BATCH_ROWS, columns=[name]):
                yield identity_values(batch.column(0))
        return
    decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    with path.open("rb") as file:
        while lines := list(islice(file, _BATCH_ROWS)):
            if not lines[-1].endswith(b"\n"):
                raise UnreadableOutputError(f"{path.name} ends within a line")
            rows = [decode(line) for line in lines]
            if any(name not in row for row in rows):
                raise missing
            values = [msgspec.json.decode(row[name]) for row in rows]
            yield values if id_field is None else _typed(values, id_field, path)


def _typed(values: list[Any], id_field: Any, path: Path) -> list[Any]:
    """Values from JSON in the type of the input's id column: JSON holds times as text."""
    kind = id_field.type.value_type if pa.types.is_dictionary(id_field.type) else id_field.type
    if is_text(kind) or (pa.types.is_primitive(kind) and not pa.types.is_temporal(kind)):
        return values
    try:
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return [None if v is None else base64.b64decode(v, validate=True) for v in values]
        if pa.types.is_nested(kind):
            return identity_values(pa.array(values, kind))
        return identity_values(pa.array(values, pa.string()).cast(kind))
    except (pa.ArrowException, binascii.Error, TypeError, ValueError):
        raise UnreadableOutputError(
            f"the ids in {path.name} are not of the input's type {kind}"
        ) from None
