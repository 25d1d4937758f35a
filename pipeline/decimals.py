"""Float32 numbers as the shortest decimals that read back as the same numbers.

0.1 as float32 is 0.10000000149011612 as double; a JSON file of vectors is half as long without the
noise.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def shortest(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The doubles nearest to the shortest decimals that read back as these float32 values.

    A decimal of up to 9 digits over a power of ten up to 10^22 is one rounded division, hence the
    double that prints as this decimal; numpy's own printing takes ten times as long.
    """
    exact = numbers.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        exponent = np.floor(np.log10(np.abs(exact)))
        todo = (np.abs(exponent) <= 12) & (exact != 0)
        out = exact.copy()
        for digits in (6, 7, 8, 9):
            shift = np.where(todo, digits - 1 - exponent, 0)
            up, down = 10.0 ** np.maximum(shift, 0), 10.0 ** np.maximum(-shift, 0)
            near = np.rint(exact * up / down) / up * down
            good = todo & (near.astype(np.float32) == numbers)
            out[good] = near[good]
            todo &= ~good
    odd = np.flatnonzero((np.abs(exponent) > 12) & np.isfinite(exact) & (exact != 0))
    for at in odd.tolist():
        out[at] = float(str(numbers[at]))
    return out
