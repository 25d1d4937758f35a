"""Texts: each file is one document, with the columns `path` and `text`.

`path` is relative to the folder that the input names, or to where its glob begins to vary, so that
a corpus keeps its ids where it is moved as a whole.
"""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Iterator, Sequence

from pipeline.errors import InputError
from pipeline.source.blocks import Block, RowSelection
from pipeline.source.diagnosis import HEAD_BYTES, diagnose_text
from pipeline.source.files import InputFile, InputSpec, unchanged
from pipeline.source.rows import BlockBuilder, Decoded, RawRow, RawRows, batches

COLUMNS = ("path", "text")
_PIECE_BYTES = 1 << 20
_Decoder = getincrementaldecoder("utf-8-sig")


def text_blocks(
    spec: InputSpec,
    files: Sequence[InputFile],
    selection: RowSelection | None = None,
    id_kind: type | None = None,
) -> Iterator[Block]:
    """The documents of all files, or only those of `selection`."""
    builder = BlockBuilder(spec, id_kind)
    builder.begin(files[0], RawRows(iter(()), _decode, "", COLUMNS), ())
    selected = (file for file in files if selection is None or selection.take_row())
    for group in batches(_read(file, spec) for file in selected):
        block = builder.block(group)
        yield block
        block.rows.clear()


def _read(file: InputFile, spec: InputSpec) -> RawRow:
    """The file as a row; `parsed` is its object and the error."""
    if any("\ud800" <= character <= "\udfff" for character in file.relative):
        raise InputError(f"{file.name}: the name of the file is not UTF-8, so it can be no id")
    text, error = _text(file, spec.max_row_bytes)
    row: dict[str, str | None] = {"path": file.relative, "text": text}
    for name, value in file.partition:
        row.setdefault(name, value)
    return RawRow(file.name, b"", parsed=(row, error), size=file.fingerprint.size)


def _decode(raw: RawRow) -> Decoded:
    row, error = raw.parsed
    return row, error


def _text(file: InputFile, max_row_bytes: int) -> tuple[str | None, str | None]:
    """The text of a file, or why it has none. The bytes are never held whole beside the text."""
    if file.fingerprint.size > max_row_bytes:
        return None, f"the file is longer than guard.max_row_bytes = {max_row_bytes:,} bytes"
    decoder, text, head = _Decoder(), "", b""
    with unchanged(file) as stream:
        try:
            while piece := stream.read(_PIECE_BYTES):
                head = head or piece[:HEAD_BYTES]
                text += decoder.decode(piece)
            text += decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            found = diagnose_text(head)
            return None, "the file is not valid UTF-8" if found is None else str(found)
    return text, None
