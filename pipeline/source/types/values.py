"""The values of Arrow columns as Python objects: for JSON and prompts, and for identities.

Both walk a column by its type alone, so that the form of a value never depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice, pairwise
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.source.identity import Moment

_decode_json = msgspec.json.Decoder().decode


def python_values(array: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The values as JSON can hold them, apart from NaN and infinity: times are ISO 8601 text in one
    form for every unit (with a zone: in UTC), maps with text keys are objects, other maps lists of
    `{"key", "value"}`, JSON columns are what their text says."""
    if isinstance(array, pa.ChunkedArray):
        return [value for chunk in array.chunks for value in python_values(chunk)]
    return _values(array, _iso)


def identity_values(array: pa.Array) -> list[Any]:
    """The values that identities are computed from: logical type and value, for any Arrow type.

    Text that is not UTF-8 becomes bytes, temporal values become nanoseconds.
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        return identity_values(array.dictionary_decode())
    if is_valid_utf8(array):
        return _values(array, _moments)
    if is_text(kind):
        raw = array.cast(pa.large_string()).cast(pa.large_binary()).to_pylist()
        return [value and _text_or_bytes(value) for value in raw]
    return [
        _values(value, _moments)[0] if is_valid_utf8(value) else b"not UTF-8"
        for value in (array.take(pa.array([at])) for at in range(len(array)))
    ]


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text, plain or dictionary-encoded."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_valid_utf8(array: pa.Array) -> bool:
    """Whether all text in it, at any depth, is UTF-8: Arrow does not check on reading."""
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def lost_in_json(array: pa.Array) -> npt.NDArray[np.bool_]:
    """The rows with a value that JSON lacks: NaN, infinity, a second value for a key of a map.
    Shape: (rows,)."""
    kind = array.type
    if not _may_be_lost(kind):
        return np.zeros(len(array), np.bool_)
    if pa.types.is_dictionary(kind):
        return lost_in_json(array.dictionary_decode())
    if pa.types.is_floating(kind):
        numbers = array.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
        return np.asarray(~np.isfinite(numbers))
    if pa.types.is_struct(kind):
        children = [lost_in_json(child) for child in array.flatten()]
        return np.asarray(np.logical_or.reduce(children))
    if pa.types.is_map(kind):
        offsets, keys, items = _map_parts(array)
        lost_items = lost_in_json(items)
        names = keys.to_pylist() if is_text(kind.key_type) else range(len(keys))
        rows = [
            lost_items[start:stop].any() or len(set(names[start:stop])) < stop - start
            for start, stop in pairwise(offsets)
        ]
        return np.array(rows, np.bool_)
    lost = np.zeros(len(array), np.bool_)
    parents = pc.list_parent_indices(array).to_numpy()
    lost[parents[lost_in_json(array.flatten())]] = True
    return lost


@lru_cache(1_024)
def _may_be_lost(kind: pa.DataType) -> bool:
    if pa.types.is_map(kind) or pa.types.is_floating(kind):
        return True
    return any(map(_may_be_lost, _children(kind)))


@lru_cache(1_024)
def _needs_a_walk(kind: pa.DataType) -> bool:
    """Whether `to_pylist` gives other values than JSON and identities need, or none."""
    own = isinstance(kind, pa.BaseExtensionType) or pa.types.is_map(kind)
    is_time = pa.types.is_temporal(kind) and not pa.types.is_interval(kind)
    return own or is_time or pa.types.is_float16(kind) or any(map(_needs_a_walk, _children(kind)))


def _children(kind: pa.DataType) -> list[pa.DataType]:
    if pa.types.is_dictionary(kind):
        return [kind.value_type]
    return [kind.field(at).type for at in range(kind.num_fields)]


Temporal = Callable[[pa.Array], list[Any]]


def _values(array: pa.Array, temporal: Temporal) -> list[Any]:
    kind, types = array.type, pa.types
    if not _needs_a_walk(kind):
        values: list[Any] = array.to_pylist()
        return values
    if isinstance(kind, pa.BaseExtensionType):
        read = _json_value if kind.extension_name == "arrow.json" else str
        return [None if value is None else read(value) for value in array.to_pylist()]
    if types.is_dictionary(kind):
        return _values(array.dictionary_decode(), temporal)
    if types.is_float16(kind):
        return _values(array.cast(pa.float32()), temporal)
    if types.is_struct(kind):
        names = [kind.field(at).name for at in range(kind.num_fields)]
        columns = [_values(array.field(at), temporal) for at in range(kind.num_fields)]
        rows: Iterator[Any] = (dict(zip(names, r, strict=True)) for r in zip(*columns, strict=True))
        return _masked(array, rows)
    if types.is_map(kind):
        return _masked(array, _maps(array, temporal))
    if types.is_nested(kind):
        items = iter(_values(array.flatten(), temporal))  # of the lists that are not null
        lengths = pc.list_value_length(array).to_pylist()
        is_valid = array.is_valid().to_pylist()
        return [
            list(islice(items, length)) if valid else None
            for length, valid in zip(lengths, is_valid, strict=True)
        ]
    return temporal(array)


def _masked(array: pa.Array, values: Iterator[Any]) -> list[Any]:
    is_valid = array.is_valid().to_pylist()
    return [value if valid else None for value, valid in zip(values, is_valid, strict=True)]


def _maps(array: pa.MapArray, temporal: Temporal) -> Iterator[Any]:
    offsets, *parts = _map_parts(array)
    keys, items = (_values(part, temporal) for part in parts)
    has_text_keys = is_text(array.type.key_type)
    for start, stop in pairwise(offsets):
        pairs = zip(keys[start:stop], items[start:stop], strict=True)
        yield dict(pairs) if has_text_keys else [{"key": k, "value": v} for k, v in pairs]


def _map_parts(array: pa.MapArray) -> tuple[list[int], pa.Array, pa.Array]:
    """Where each map begins and the last one ends, in its keys and items."""
    offsets = array.offsets.to_pylist()
    start, count = offsets[0], offsets[-1] - offsets[0]
    return (
        [offset - start for offset in offsets],
        array.keys.slice(start, count),
        array.items.slice(start, count),
    )


def _json_value(text: str) -> Any:
    try:
        return _decode_json(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def _text_or_bytes(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


# Temporal values

_TICKS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}


def _moments(array: pa.Array) -> list[Moment | None]:
    name, tick = _temporal_unit(array.type)
    return [None if v is None else Moment(name, v * tick) for v in _integers(array).to_pylist()]


def _temporal_unit(kind: pa.DataType) -> tuple[str, int]:
    """The name of a temporal type and its tick in nanoseconds."""
    if pa.types.is_date(kind):
        return "date", 86_400_000_000_000 if pa.types.is_date32(kind) else 1_000_000
    tick = _TICKS[kind.unit]
    if pa.types.is_timestamp(kind):
        return "timestamp" if kind.tz is None else "timestamp with zone", tick
    return "time" if pa.types.is_time(kind) else "duration", tick


def _integers(array: pa.Array) -> pa.Array:
    wide = array.cast(pa.int32()) if array.type.bit_width == 32 else array
    return wide.cast(pa.int64())


def _iso(array: pa.Array) -> list[str | None]:
    """ISO 8601, with as many digits of a second as the value needs."""
    kind, ticks = array.type, _integers(array)
    if pa.types.is_time(kind):
        return [text and _short(text) for text in array.cast(pa.string()).to_pylist()]
    if pa.types.is_duration(kind):
        tick = _TICKS[kind.unit]
        return [None if value is None else _duration(value * tick) for value in ticks.to_pylist()]
    unit = "D" if pa.types.is_date32(kind) else "ms" if pa.types.is_date(kind) else kind.unit
    moments = ticks.fill_null(0).to_numpy(zero_copy_only=False).view(f"datetime64[{unit}]")
    if pa.types.is_date(kind):
        moments = moments.astype("datetime64[D]")
    zone = "Z" if pa.types.is_timestamp(kind) and kind.tz is not None else ""
    texts = np.datetime_as_string(moments).tolist()
    return list(_masked(array, (_short(text) + zone for text in texts)))


def _short(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text


def _duration(nanoseconds: int) -> str:
    """`P1DT5.25S`"""
    sign, (days, rest) = "-" * (nanoseconds < 0), divmod(abs(nanoseconds), 86_400_000_000_000)
    seconds = _short(f"{rest // 1_000_000_000}.{rest % 1_000_000_000:09}")
    time = f"T{seconds}S" if rest or not days else ""
    return f"{sign}P{f'{days}D' if days else ''}{time}"
