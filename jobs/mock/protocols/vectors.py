"""Vectors for texts: the same text and model always give the same unit vector.

A mock must not be the bottleneck of the test that uses it. Most vectors are therefore put together
from 48-float blocks that a hash draws from a pool of 1,024, and the pool's JSON and base64 text is
written once: answering an input costs a hash and a join (about 3 µs), not 384 float conversions.
48 floats are 192 bytes, which base64 writes without padding, so blocks join in that form as well.
"""

from __future__ import annotations

from base64 import b64encode
from functools import lru_cache
from hashlib import blake2b, shake_256
from struct import Struct as Layout

import msgspec
import numpy as np
from numpy.typing import NDArray

BLOCK = 48
POOL = 1024
# Six blocks of ten bits make equal vectors of different texts improbable for 10^9 texts.
FEWEST_BLOCKS = 6
# JSON and base64 must carry the same float32; seven decimals are what f32 servers print.
DECIMALS = 7

_WORDS = Layout("<32H")


def digest(encoded: bytes) -> bytes:
    """The 64-byte hash of a text."""
    return blake2b(encoded).digest()


@lru_cache(maxsize=1)
def _pool() -> NDArray[np.float64]:
    rows = np.random.Generator(np.random.Philox(20_261)).standard_normal((POOL, BLOCK))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(unit, dtype=np.float64)


@lru_cache(maxsize=16)
def _rounded(blocks: int, norm: float) -> NDArray[np.float64]:
    return np.asarray(np.round(_pool() * (norm / blocks**0.5), DECIMALS))


@lru_cache(maxsize=16)
def _written(blocks: int, norm: float, base64: bool) -> list[bytes]:
    rows = _rounded(blocks, norm)
    if base64:
        return [b64encode(row.astype("<f4").tobytes()) for row in rows]
    return [msgspec.json.encode(row.tolist())[1:-1] for row in rows]


@lru_cache(maxsize=256)
def _model_words(model: str) -> tuple[int, ...]:
    return _WORDS.unpack(digest(model.encode("utf-8", "surrogatepass")))


def _drawn(text_digest: bytes, model: str, blocks: int) -> list[int]:
    """Which blocks of the pool: ten bits each of the text's hash, mixed with the model's."""
    words = [
        (a ^ b) & (POOL - 1)
        for a, b in zip(
            _WORDS.unpack(text_digest)[:blocks], _model_words(model)[:blocks], strict=True
        )
    ]
    return [words[n % 32] ^ (n // 32 * 341) & (POOL - 1) for n in range(blocks)]


def _in_blocks(dimension: int) -> bool:
    return dimension % BLOCK == 0 and dimension >= FEWEST_BLOCKS * BLOCK


def vector(
    text_digest: bytes, model: str, dimension: int, norm: float = 1.0
) -> NDArray[np.float64]:
    """The vector as numbers: what `written` writes.

    Invariant: its length is `norm`, within the rounding to seven decimals.
    """
    if _in_blocks(dimension):
        blocks = dimension // BLOCK
        return _rounded(blocks, norm)[_drawn(text_digest, model, blocks)].reshape(-1)
    seed = text_digest + model.encode("utf-8", "surrogatepass")
    raw = np.frombuffer(shake_256(seed).digest(4 * dimension), dtype="<i4").astype(np.float64)
    return np.asarray(np.round(raw * (norm / np.linalg.norm(raw)), DECIMALS))


def written(
    text_digest: bytes, model: str, dimension: int, *, base64: bool = False, norm: float = 1.0
) -> bytes:
    """The vector as JSON: a list of numbers, or a string of base64 little-endian float32.

    Cost: about 3 µs where the dimension is a multiple of 48 from 288 on, else 60 µs.
    """
    if _in_blocks(dimension):
        blocks = dimension // BLOCK
        pool = _written(blocks, norm, base64)
        drawn = [pool[n] for n in _drawn(text_digest, model, blocks)]
        return b'"%b"' % b"".join(drawn) if base64 else b"[%b]" % b",".join(drawn)
    return write_numbers(vector(text_digest, model, dimension, norm), base64=base64)


def write_numbers(numbers: NDArray[np.float64], *, base64: bool) -> bytes:
    """Any numbers as JSON; NaN and infinities become `null`, as text-embeddings-inference does."""
    if base64:
        return b'"%b"' % b64encode(numbers.astype("<f4").tobytes())
    return msgspec.json.encode(numbers.tolist())
