"""Every character as a class number, in arrays padded at both ends.

A plain-Python scan of a text costs three to four encode passes; with one number per character the
scans for sentences and lines are a few passes of numpy over bytes.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

(
    OTHER,
    BLANK,
    NEWLINE,
    POINT,
    STOP,
    STOP_CJK,
    ELLIPSIS,
    CLOSER,
    COMMA,
    COMMA_CJK,
    DIGIT,
    LOWER,
    UPPER,
    LETTER,
    CJK,
    MARK,
    PIPE,
) = range(17)
CLASSES = 17

Array = NDArray[Any]
Flags = NDArray[np.bool_]


class Characters(NamedTuple):
    """A window of a text, with `PAD` zeros (class NEWLINE) before and after it.

    The padding makes bounds checks unnecessary for the few characters before and after a place.
    """

    points: Array
    """Code points: uint8 for ASCII, else uint32."""
    classes: NDArray[np.uint8]
    low: NDArray[np.uint8]
    """The low byte of each code point."""


PAD = 16

NAMED = {
    BLANK: "\t\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f"
    "\u205f\u3000 ",
    NEWLINE: "\n\r\x0b\x0c\x85\u2028\u2029",
    POINT: ".",
    STOP: "!?‽؟۔।॥։።။៕",
    STOP_CJK: "。！？；｡",
    ELLIPSIS: "…",
    CLOSER: "\"'”’」』）】》〉〕］｝)]}»›＂＇｣",
    COMMA: ",;:–—،؛",
    COMMA_CJK: "，、：､",
    PIPE: "|",
}
_BY_CATEGORY = {
    "Lu": UPPER, "Lt": UPPER, "Ll": LOWER, "Lm": LETTER, "Lo": LETTER,
    "Mn": MARK, "Mc": MARK, "Me": MARK, "Nd": DIGIT, "Nl": DIGIT, "No": DIGIT,
}  # fmt: skip
_CJK_RANGES = (
    (0x2E80, 0x3000), (0x3005, 0x3008), (0x3021, 0x302A), (0x3031, 0x3100), (0x31C0, 0x3200),
    (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0xFF66, 0xFF9E),
)  # fmt: skip


_PADDING = "\0" * PAD
_MOSTLY = 8


def classify(text: str) -> Characters:
    """The characters of a text."""
    padded = f"{_PADDING}{text}{_PADDING}"
    if padded.isascii():
        raw = bytearray(padded, "ascii")
        points: Array = np.frombuffer(raw, np.uint8)
        low = points
        classes = np.frombuffer(raw.translate(_latin_table()), np.uint8)
    else:
        points = np.frombuffer(padded.encode("utf-32-le", "surrogatepass"), np.uint32)
        low = points.astype(np.uint8)
        wide = points > 0xFF
        if np.count_nonzero(wide) * _MOSTLY < len(points):
            # A table of bytes is twice as fast, and few characters need correction.
            classes = np.frombuffer(bytearray(low).translate(_latin_table()), np.uint8)
            place = np.flatnonzero(wide)
            classes[place] = class_table().take(points.take(place))
        else:
            classes = class_table().take(points)
    classes[:PAD] = classes[-PAD:] = NEWLINE
    return Characters(points, classes, low)


def eight_byte_windows(values: Array) -> NDArray[np.uint64]:
    """The eight bytes from each byte on as one little-endian number.

    Index it with brackets: `take` would copy all of it.
    """
    return np.ndarray(len(values) - 7, "<u8", values.data, strides=(1,))


def repeat_byte(byte: int) -> np.uint64:
    """A number made of this byte eight times."""
    return np.uint64(byte * 0x0101010101010101)


def leading_false_counts(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The number of false flags before the first true one, in each row of eight."""
    row = flags.view(np.uint64).ravel()
    below = (row & (~row + np.uint64(1))) - np.uint64(1)  # all bits set where no flag is true
    return (((below & repeat_byte(1)) * repeat_byte(1)) >> np.uint64(56)).astype(np.int64)


@lru_cache(maxsize=1)
def class_table() -> NDArray[np.uint8]:
    """Class of each code point."""
    get = _BY_CATEGORY.get
    category = unicodedata.category
    table = np.full(0x110000, OTHER, np.uint8)
    table[:0x10000] = np.fromiter(
        (get(category(chr(point)), OTHER) for point in range(0x10000)), np.uint8, 0x10000
    )
    table[0x20000:0x40000] = CJK
    for low, high in _CJK_RANGES:
        window = table[low:high]
        window[(window == LETTER) | (window == OTHER) | (window == DIGIT)] = CJK
    for number, characters in NAMED.items():
        table[[ord(character) for character in characters]] = number
    return table


@lru_cache(maxsize=1)
def _latin_table() -> bytes:
    return class_table()[:256].tobytes()


def is_clean(characters: Characters, place: Array) -> Flags:
    """Whether a text that starts at each place is encoded alone as in place, if a token ends there.

    The same rule as `encoded.CLEAN`, for many places, which are indices into the arrays.
    """
    following, before = characters.classes.take(place), characters.classes.take(place - 1)
    next_point, point = characters.points.take(place), characters.points.take(place - 1)
    letter = ((following == LOWER) | (following == UPPER)) & (next_point < 0x250)
    letter |= (following == CJK) & (next_point >= 0x3041) & (next_point < 0xA000)
    letter &= before != CLOSER  # an apostrophe would join the letter to its token
    new_line = ((point == 10) | (point == 13)) & (following != NEWLINE) & (next_point != ord("/"))
    blank = (following == BLANK) & (before != BLANK) & (before != NEWLINE)
    clean: Flags = letter | new_line | blank
    return clean


MARK_OFFSETS = (-13, -9, -6, -4, -3, -2, 1, 2, 3, 4, 6, 9)


def marks(points: Array, place: Array) -> NDArray[np.uint32]:
    """A hash of only the characters around each place."""
    mark = np.zeros(len(place), np.uint32)
    for offset in MARK_OFFSETS:
        mark += points.take(place + offset)
        mark *= np.uint32(0x9E3779B1)
        mark ^= mark >> np.uint32(15)
    return mark
