"""Rows as JSON lines, with float32 numbers as the shortest decimals that read back unchanged.

0.1 as float32 is 0.10000000149011612 as double; a JSON file of vectors is half as long without the
extra digits.
"""

from __future__ import annotations

from itertools import islice

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.source.types.values import python_values

_POWERS = np.array([float(f"1e{n}") for n in range(23)])  # all exact


def shortest(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The doubles nearest to the shortest decimals that read back as these float32 values.

    Dividing an integer of up to 9 digits by a power of ten up to 10^22 rounds once, and so gives
    the double that prints as this decimal. numpy's own printing takes several times as long.
    """
    out = numbers.astype(np.float64)
    todo = np.flatnonzero(np.isfinite(out) & (out != 0))
    exponents = np.floor(np.log10(np.abs(out[todo]))).astype(np.int64)
    far = np.abs(exponents) > 12
    for at in todo[far].tolist():
        out[at] = float(str(numbers[at]))
    todo, exponents = todo[~far], exponents[~far]
    for digits in (6, 7, 8, 9):
        exact, shift = out[todo], digits - 1 - exponents
        up, down = _POWERS[np.maximum(shift, 0)], _POWERS[np.maximum(-shift, 0)]
        near = np.rint(exact * up / down) / up * down
        matches = near.astype(np.float32) == numbers[todo]
        out[todo[matches]] = near[matches]
        todo, exponents = todo[~matches], exponents[~matches]
    return out


PIECE_ROWS = 256

_encoder = msgspec.json.Encoder()


def json_lines(table: pa.Table) -> bytes:
    """The rows as lines of JSON: vectors as shortest decimals, times as ISO 8601, decimals as
    strings, bytes in base64; NaN, which JSON lacks, as null."""
    columns = []
    for column in table.columns:
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        is_vector = pa.types.is_fixed_size_list(array.type) and pa.types.is_float32(
            array.type.value_type
        )
        columns.append(_vectors(array) if is_vector else python_values(array))
    names = table.schema.names
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return _encoder.encode_lines(rows)


def _vectors(array: pa.FixedSizeListArray) -> list[list[float] | None]:
    """Python floats whose shortest decimals are those of the float32 values."""
    flat = array.flatten()  # of the vectors that are not null
    numbers = iter(shortest(flat.to_numpy(zero_copy_only=False)).tolist())
    size = array.type.list_size
    return [
        list(islice(numbers, size)) if valid else None for valid in array.is_valid().to_pylist()
    ]
