"""Cuts inside a sentence: at a clause, else between words, else between grapheme clusters.

They are needed only where no sentence end fits, in one window at a time, so they may cost more per
character than the scan.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from zlib import crc32

# Each pattern begins with one set of characters: the engine skips to the next member of it.
_CLAUSE = re.compile(r"[,;:–—،؛，、：；](?:(?=\s)|(?<=[，、：；—])(?=[^\s\"'”’」』）]))")
_GAP = re.compile(r"\s+")
# In rows and lists without blanks; not inside `1,000`.
_SEPARATOR = re.compile(r"[,;|}\]>](?!(?<=\d,)\d{3}(?!\d))(?=[^\s,;|}\])])")

TOKENS_BACK = 32
"""Token ends to try for the end of a word; if none is one, the text has no words."""

_JOINER = "\u200d"


def is_break(text: str, position: int) -> bool:
    """Whether a cut here splits no grapheme cluster.

    Invariant: false wherever Unicode's rules forbid a break (UAX 29, revision 45); slightly
        stricter after a joiner or a virama.
    """
    if position <= 0 or position >= len(text):
        return True
    before, after = text[position - 1], text[position]
    if before < "\u0300" and after < "\u0300":
        return before != "\r" or after != "\n"
    between = _pair_rule(before, after)
    if between == _FLAGS:
        return _flags_before(text, position) % 2 == 0
    if between == _CONJUNCT:
        place = position - 1
        while place >= 0 and position - place < 8 and _extends(text[place]):
            if unicodedata.combining(text[place]) == 9:
                return False
            place -= 1
        return True
    return between == _BREAK


_JOINED, _BREAK, _FLAGS, _CONJUNCT = range(4)


@lru_cache(maxsize=4096)
def _pair_rule(before: str, after: str) -> int:
    """The rule for these two characters; between flag letters and before the consonant of a
    conjunct the result depends on the characters before them."""
    if before in "\r\n" or after in "\r\n":
        return _BREAK
    if unicodedata.category(before) == "Cc" or before in "\u2028\u2029":
        return _BREAK
    if _extends(after) or before == _JOINER or _prepends(before):
        return _JOINED
    point, next_point = ord(before), ord(after)
    if 0x1F1E6 <= next_point <= 0x1F1FF and 0x1F1E6 <= point <= 0x1F1FF:
        return _FLAGS
    if _hangul(next_point) and _hangul(point):
        return _JOINED if _joins_hangul(point, next_point) else _BREAK
    # After a virama (with marks after it).
    return _CONJUNCT if _extends(before) and unicodedata.category(after) == "Lo" else _BREAK


_FLAG_LETTERS = "".join(map(chr, range(0x1F1E6, 0x1F200)))
_BLOCK, _STRIDE = 128, 64


def _flags_before(text: str, position: int) -> int:
    """The number of consecutive flag letters before this place."""
    block = (position - 1) // _BLOCK
    begin = block * _BLOCK
    rest = len(text[begin:position].rstrip(_FLAG_LETTERS))
    return position - begin - rest if rest else position - begin + _flags_before_block(text, block)


@lru_cache(maxsize=4)
def _flags_before_block(text: str, block: int) -> int:
    """The same as `_flags_before`, cached so that a long run of flags is read once, not for every
    cut."""
    if block <= 0:
        return 0
    count = 0
    for number in range(block - 1, (block - 1) // _STRIDE * _STRIDE - 1, -1):
        rest = len(text[number * _BLOCK : (number + 1) * _BLOCK].rstrip(_FLAG_LETTERS))
        count += _BLOCK - rest
        if rest:
            return count
    stop = (block - 1) // _STRIDE * _STRIDE
    return count + (_flags_before_block(text, stop) if stop > 0 else 0)


def _extends(character: str) -> bool:
    point = ord(character)
    if point < 0x300:
        return False
    # Cn: marks newer than this Python's tables.
    if unicodedata.category(character) in ("Mn", "Me", "Mc", "Cn"):
        return True
    return (
        character in "\u200c\u200d\u0e33\u0eb3\uff9e\uff9f"
        or 0x1F3FB <= point <= 0x1F3FF
        or 0xE0020 <= point <= 0xE007F
    )


def _prepends(character: str) -> bool:
    point = ord(character)
    return (
        0x0600 <= point <= 0x0605
        or point
        in (0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x0D4E, 0x1CF5, 0x1CF6, 0x110BD, 0x110CD)
        or 0x111C2 <= point <= 0x111C3
        or point in (0x113D1, 0x1193F, 0x11941, 0x11A3A, 0x11D46, 0x11F02)
        or 0x11A84 <= point <= 0x11A89
    )


def _hangul(point: int) -> bool:
    return 0x1100 <= point <= 0x11FF or 0xA960 <= point <= 0xA97C or 0xAC00 <= point <= 0xD7FB


def _joins_hangul(before: int, after: int) -> bool:
    """Whether both are jamo of one syllable, so that there is no break between them."""
    leading = 0x1100 <= before <= 0x115F or 0xA960 <= before <= 0xA97C
    vowel_after = 0x1160 <= after <= 0x11A7 or 0xD7B0 <= after <= 0xD7C6
    trail_after = 0x11A8 <= after <= 0x11FF or 0xD7CB <= after <= 0xD7FB
    syllable_after = 0xAC00 <= after <= 0xD7A3
    if leading:
        return (
            vowel_after or syllable_after or 0x1100 <= after <= 0x115F or 0xA960 <= after <= 0xA97C
        )
    return vowel_after or trail_after


def in_word(text: str, position: int) -> bool:
    """Whether a cut here splits a word, in a script that separates words by blanks."""
    if position <= 0 or position >= len(text):
        return False
    before, after = text[position - 1], text[position]
    if not (_is_word_character(before) and _is_word_character(after)):
        return False
    return not (_is_unspaced(before) or _is_unspaced(after))


LONGEST_WORD = 64
"""A longer run of letters and digits is no word that a reader would miss."""


def in_short_word(text: str, position: int) -> bool:
    """The same as `in_word`, for words of at most `LONGEST_WORD` characters."""
    if not in_word(text, position):
        return False
    low, high = position, position
    while position - low <= LONGEST_WORD and in_word(text, low):
        low -= 1
    while high - low <= LONGEST_WORD and in_word(text, high):
        high += 1
    return high - low <= LONGEST_WORD


def begins_word(text: str, position: int) -> bool:
    """True if a text may begin here: at a grapheme cluster, and not inside a word."""
    return is_break(text, position) and not in_short_word(text, position)


def _is_word_character(character: str) -> bool:
    return character.isalnum() or character in "_'’" or unicodedata.category(character)[0] == "M"


def _is_unspaced(character: str) -> bool:
    """Chinese and Japanese, and Thai, Lao, Burmese and Khmer."""
    point = ord(character)
    return (
        0x0E00 <= point <= 0x0EFF
        or 0x1000 <= point <= 0x109F
        or 0x1780 <= point <= 0x17FF
        or 0x2E80 <= point <= 0x31FF
        or 0x3400 <= point <= 0x9FFF
        or 0xF900 <= point <= 0xFAFF
        or 0xFF66 <= point <= 0xFF9D
        or 0x20000 <= point <= 0x3FFFF
    )


def _clauses(text: str, low: int, high: int) -> Iterator[int]:
    return (match.end() for match in _CLAUSE.finditer(text, low, high))


def _words(text: str, low: int, high: int) -> Iterator[int]:
    """The places before the blanks between two words, or after them at a line end."""
    for match in _GAP.finditer(text, low, high):
        yield match.end() if "\n" in match[0] else match.start()


def _separators(text: str, low: int, high: int) -> Iterator[int]:
    return (match.end() for match in _SEPARATOR.finditer(text, low, high))


Clean = Callable[[int], bool]
"""Whether a text that starts at a place is encoded alone as in place; such cuts cost nothing."""


def last_cut(text: str, low: int, high: int, ends: list[int], clean: Clean) -> int:
    """The best place in (low, high] to end a chunk inside a sentence.

    The end of a clause in the upper half, else of a word, both chosen by the characters there, so
    that an earlier edit does not move them; else a late token end that splits no grapheme cluster.
    """
    middle = low + (high - low) // 2
    for places in (_clauses, _separators, _words):
        candidates = [
            place
            for place in places(text, middle, high)
            if low < place < high and is_break(text, place)
        ]
        if candidates:
            return min(candidates, key=lambda place: _mark(text, place))
    return cluster_cut(text, low, high, ends, clean)


def _mark(text: str, place: int) -> int:
    return crc32(text[max(0, place - 6) : place + 6].encode("utf-8", "surrogatepass"))


def cluster_cut(text: str, low: int, high: int, ends: list[int], clean: Clean) -> int:
    """A late token end in (low, high]: a clean one outside words, else outside clusters, else
    any."""
    whole = outside = 0
    for place in reversed(ends):
        if low < place <= high and is_break(text, place):
            if not in_word(text, place):
                if place == len(text) or clean(place):
                    return place
                outside = outside or place
            whole = whole or place
    if outside or whole:
        return outside or whole
    for place in range(high, low, -1):
        if is_break(text, place):
            return place
    return high


def first_cut(text: str, low: int, high: int, clean: Clean) -> int:
    """The best place in [low, high) to begin an overlap: a clause, a word, else a cluster that is
    not inside a word; or `high`."""
    for places in (_clauses, _words):
        for place in places(text, max(low - 1, 0), high):
            if low <= place < high and is_break(text, place) and not text[place:high].isspace():
                return place
    whole = high
    for place in range(low, high):
        if begins_word(text, place):
            if clean(place):
                return place
            whole = min(whole, place)
        if place - low > _CHARS_ON and whole < high:
            break
    return whole


_CHARS_ON = 32
