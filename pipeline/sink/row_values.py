"""Values of output rows: ids of chunks, and columns carried from the input."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa

from pipeline.records import RowRef
from pipeline.source import identity


def chunk_id_of(name: bytes, text: str, repeats: dict[int, int]) -> str:
    """The id of the next chunk with this text in a document; `repeats` counts the earlier ones."""
    raw = text.encode()
    # 64 bits suffice for counting: two texts that share them only skip a number.
    short = int.from_bytes(hashlib.sha256(raw).digest()[:8], "big")
    occurrence = repeats.get(short, 0)
    repeats[short] = occurrence + 1
    return identity.chunk_id(name, raw, occurrence)


def take_column(row_refs: Sequence[RowRef], name: str) -> pa.Array:
    """The kept column of these rows, of which neighbours share a batch; dictionaries decoded."""
    pieces, start = [], 0
    for at in range(1, len(row_refs) + 1):
        if at == len(row_refs) or row_refs[at].batch is not row_refs[start].batch:
            rows = pa.array([row_ref.row for row_ref in row_refs[start:at]], pa.int64())
            column = row_refs[start].batch.column(name)
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            pieces.append(column.take(rows))
            start = at
    return pa.concat_arrays(pieces)
