"""Every character as a class number, in arrays that can be looked into a little past both ends.

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

Array = NDArray[Any]
Flags = NDArray[np.bool_]


class Characters(NamedTuple):
    """A window of a text, with `PAD` zeros (class NEWLINE) before and after it.

    Looking a few characters back or ahead needs no bounds check.
    """

    points: Array
    """Code points: uint8 for ASCII, else uint32."""
    classes: NDArray[np.uint8]


PAD = 16

_NAMED = {
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


def classify(text: str) -> Characters:
    """The characters of a text."""
    size = len(text)
    classes = np.full(size + 2 * PAD, NEWLINE, np.uint8)
    inner = classes[PAD : PAD + size]
    if text.isascii():
        raw = text.encode("ascii")
        points: Array = np.zeros(size + 2 * PAD, np.uint8)
        points[PAD : PAD + size] = np.frombuffer(raw, np.uint8)
        inner[:] = np.frombuffer(raw.translate(_ascii_table()), np.uint8)
        return Characters(points, classes)
    points = np.zeros(size + 2 * PAD, np.uint32)
    body = points[PAD : PAD + size]
    body[:] = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    is_wide = body > 0x7F
    # Above the basic plane "clip" takes the last entry of the table.
    if np.count_nonzero(is_wide) * 4 > size:
        inner[:] = _class_table().take(body, mode="clip")
    else:
        # The low bytes by a table of bytes, then what is not ASCII again.
        low = body.astype(np.uint8).tobytes()
        inner[:] = np.frombuffer(low.translate(_ascii_table()), np.uint8)
        wide = np.flatnonzero(is_wide)
        inner[wide] = _class_table().take(body[wide], mode="clip")
    astral = np.flatnonzero(body > 0xFFFF)
    if len(astral):
        planes = body[astral] >> 16
        inner[astral] = np.where((planes == 2) | (planes == 3), CJK, OTHER)
    return Characters(points, classes)


@lru_cache(maxsize=1)
def _class_table() -> NDArray[np.uint8]:
    """Class of each code point of the basic plane."""
    get = _BY_CATEGORY.get
    category = unicodedata.category
    table = np.fromiter(
        (get(category(chr(point)), OTHER) for point in range(0x10000)), np.uint8, 0x10000
    )
    for low, high in _CJK_RANGES:
        window = table[low:high]
        window[(window == LETTER) | (window == OTHER) | (window == DIGIT)] = CJK
    for number, characters in _NAMED.items():
        table[[ord(character) for character in characters]] = number
    return table


@lru_cache(maxsize=1)
def _ascii_table() -> bytes:
    return _class_table()[:256].tobytes()


def among(values: Array, choices: Array) -> Flags:
    """`np.isin` for few sorted choices; that one sorts."""
    found: Flags = choices[choices.searchsorted(values) % len(choices)] == values
    return found


def is_clean(characters: Characters, place: Array) -> Flags:
    """Whether a text that starts here is encoded as it is in place, if a token ends here.

    The same rule as `encoded.CLEAN`, for many places; these are indices into the arrays.
    """
    points, classes = characters
    following, before = classes[place], classes[place - 1]
    next_point, point = points[place], points[place - 1]
    letter = ((following == LOWER) | (following == UPPER)) & (next_point < 0x250)
    letter |= (following == CJK) & (next_point >= 0x3041) & (next_point < 0xA000)
    letter &= before != CLOSER  # an apostrophe would take the letter with it
    new_line = ((point == 10) | (point == 13)) & (following != NEWLINE) & (next_point != ord("/"))
    blank = (following == BLANK) & (before != BLANK) & (before != NEWLINE)
    clean: Flags = letter | new_line | blank
    return clean


_MARK_OFFSETS = (-13, -9, -6, -4, -3, -2, 1, 2, 3, 4, 6, 9)


def marks(points: Array, place: Array) -> NDArray[np.uint32]:
    """A number made of the characters around each place and of nothing else."""
    mark = np.zeros(len(place), np.uint32)
    for offset in _MARK_OFFSETS:
        mark += points[place + offset]
        mark *= np.uint32(0x9E3779B1)
        mark ^= mark >> np.uint32(15)
    return mark
