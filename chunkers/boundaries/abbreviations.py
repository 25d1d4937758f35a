"""Points that do not end a sentence: after abbreviations, initials, ordinals and list numbers.

Rules come first: a lower-case word goes on, a single letter is an initial, a number after an
article is an ordinal. The tables hold only what no rule knows.
"""

from __future__ import annotations

import re
from functools import lru_cache
from unicodedata import category

CASED_CHARS = 200
"""A text whose last characters, this many, have a capital distinguishes cases: there a lower-case
letter begins no sentence."""
NEAR = 1024
"""Characters in which the list item before is looked for: fewer than the context of a segment."""
TAIL_CHARS = 16
"""Characters after a point that decide."""

# At most six letters each, chosen by hand: only those that stand before a name (first table) or a
# number (second table).
TITLES = {
    "en": "mr mrs ms dr prof st rev hon gov sen rep capt lt col gen sgt messrs vs cf viz approx mt",
    "de": "nr hr fr bzw vgl ca dipl ing hrsg lt ggf evtl zzgl inkl abb s u v",
    "fr": "mme mlle mm mgr av bd éd vve",
    "es": "sr sra srta dra ud uds vd vds lic dª avda excmo ee admón",
    "it": "sig sigg dott avv geom",
    "pt": "exmo exma eng",
    "nl": "dhr mevr mw drs",
    "pl": "inż np tzw tj ul św prof ks mgr",
    "cs": "např tzv judr mudr tzn resp pí",
    "sv da no": "bl kl",
    "fi": "esim mm ns nk",
    "hu": "ifj özv dr pl",
    "tr": "doç yrd sn bkz cad",
    "ru uk": "ул проф акад св просп см ср тов вул",
    "el": "κ κα δρ καθ αρ βλ",
}
BEFORE_NUMBER = {
    "en": "no nos fig figs vol vols p pp sec ch chap art eq ed para tab ex",
    "months": "jan feb mar apr jun jul aug sep sept oct nov dec",
    "de": "gem abs ziff rn bd kap tel str anm art jg bl okt dez mär mai",
    "fr": "tél fig env art chap févr avr juil déc",
    "es": "núm nro pág págs cap apdo aprox tel ene abr ago dic",
    "it": "n c pag pagg cap fig circa sec",
    "pt": "pág cap fig art set out dez",
    "nl": "blz hfst afb mrt okt",
    "pl": "rys rozdz ust pkt poz str tel tys",
    "cs": "čl str obr odst tab kap č",
    "sv da no": "mom kap fig nr ca",
    "fi": "nro luku s",
    "hu": "old sz kb",
    "tr": "sf sok no",
    "ru uk": "стр ст гл п пп т рис табл тел д кв оф ч кн с",
    "el": "σελ αρ κεφ τηλ άρθ",
}
BEFORE_LOWER = (
    "etc inc ltd co corp jr sr al est dept esp incl excl min max avg bros ed eds pl usw std resp"
)
# A number after one of these words is an ordinal if a capital follows.
_ARTICLES = frozenset(
    "der die das den dem des am im vom zum zur beim ab bis seit nach vor und oder jeder jede jedes "  # noqa: SIM905
    "ein eine einer einem einen unser unsere ihr ihre sein seine det de az".split()
)
_UNITS = frozenset(("mm", "ns", "st", "см", "bl", "kl", "mt"))
"""Words of the tables that after a number are units or counts."""
STREET = "str"
"""The end of a German street's name."""
_AFTER_ORDINALS = re.compile(
    r"(?:Jan(?:uar)?|Jänner|Feb(?:ruar)?|März|Apr(?:il)?|Mai|Juni?|Juli?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Okt(?:ober)?|Nov(?:ember)?|Dez(?:ember)?|Jh|Jhd?t?|Jahrhunderts?"
    r"|Jahrtausends?)\b"
)
_BREAK = re.compile(r"\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")
_WORD = re.compile(r"(?:[^\W\d_]{1,12}|\d{1,9})\Z")
_LINE_START = re.compile(r"(?:\A|[\n\r\x0b\x0c\x85\u2028\u2029])[ \t\u00a0\u3000]*(?:\d{1,3}\.)*\Z")
_LETTER_BEFORE = re.compile(r"(?:\A|[^\w])[^\W\d_]\.\s{0,4}\Z")
_SHORT_DOTTED = re.compile(r"(?:\A|[^\w])[^\W\d_]{1,2}\.\Z")
_LAST_WORD = re.compile(r"([^\W\d_]+)\s{1,4}\Z")
_ROMAN = re.compile(r"[IVXLC]{2,7}\Z")
_ROMAN_NEXT = re.compile(r"[IVXLC]+\b")
_HEAD_CHARS = 24

ANY, NUMBER, LOWER_CASE = 1, 2, 4
"""What an abbreviation stands before: anything, a number, a lower-case letter."""


@lru_cache(maxsize=1)
def abbreviations() -> dict[str, int]:
    """By abbreviation in lower case: before what it does not end a sentence."""
    bits: dict[str, int] = {}
    groups = (
        (TITLES.values(), ANY | NUMBER | LOWER_CASE),
        (BEFORE_NUMBER.values(), NUMBER | LOWER_CASE),
        ((BEFORE_LOWER,), NUMBER | LOWER_CASE),
    )
    for words, bit in groups:
        for word in " ".join(words).split():
            bits[word] = bits.get(word, 0) | bit
    return bits


def ends_sentence(text: str, stop: int, after: int) -> bool:
    """Whether the single point at `stop` ends a sentence; `after`: the place behind its quotes.

    A lower-case letter that follows counts as the beginning of a sentence: the caller knows
    whether this text has capitals.
    """
    head = text[max(0, stop - _HEAD_CHARS) : stop]
    tail = text[after : after + TAIL_CHARS].lstrip()
    match = _WORD.search(head)
    if match is None or category(match[0][-1]) not in ("Ll", "Lu", "Lt", "Nd"):
        return True  # a script without capitals has no points within a sentence
    word, before = match[0], head[: match.start()]
    if word.isdecimal():
        return _number_ends(word, before, tail, text[max(0, stop - NEAR) : stop])
    if before[-1:] == "." and (len(word) == 1 or (len(word) <= 3 and _SHORT_DOTTED.search(before))):
        return False
    if len(word) == 1:
        return _letter_ends(word, before, tail)
    if _ROMAN.match(word) and (_LINE_START.search(before) or _after_article(before)):
        return False
    if word in _UNITS and before.rstrip()[-1:].isdigit():
        return True
    if word.endswith(STREET) and tail[:1].isdigit():
        return False
    return not _allowed(word, tail)


def _allowed(word: str, tail: str) -> bool:
    bits = abbreviations().get(word.lower(), 0)
    first = tail[:1]
    if first.isdigit() or (first and first in "§№#") or _ROMAN_NEXT.match(tail):
        return bool(bits & NUMBER)
    return bool(bits & (LOWER_CASE if first.islower() else ANY))


def _number_ends(number: str, before: str, tail: str, near: str) -> bool:
    at_start = _LINE_START.search(before) is not None
    if len(number) > 3 or (before[-1:] in (".", ",") and not at_start):
        return True
    if at_start and _begins_item(number, near):
        return False
    if tail[:1].isdigit():
        return len(number) > 2  # else a date: 3. 5. 2020
    if _AFTER_ORDINALS.match(tail):
        return False
    return not (tail[:1].isupper() and _after_article(before))


def _begins_item(number: str, near: str) -> bool:
    """Whether this number, at the start of a line and the end of `near`, is that of a list: the
    first one, one after a blank line, or one after its predecessor."""
    lines = _BREAK.split(near)
    if int(number) <= 1 or len(lines) < 2 or not lines[-2].strip():
        return True
    item = re.compile(rf"\s*(?:\d+\.)*{int(number) - 1}[.)、）．]")
    return any(map(item.match, lines[:-1]))


def _after_article(before: str) -> bool:
    match = _LAST_WORD.search(before)
    return match is not None and match[1].lower() in _ARTICLES


def _letter_ends(letter: str, before: str, tail: str) -> bool:
    if letter.isupper():
        return letter == "I"  # a word, all others are initials
    if _LETTER_BEFORE.search(before):
        return False  # u. a.
    if tail[:1].islower():
        return not _allowed(letter, tail)
    if ord(letter) > 0x24F:  # Cyrillic and Greek: a unit after a number, else an abbreviation
        return before.rstrip()[-1:].isdigit() and not tail[:1].isdigit()
    return not (re.match(r"[^\W\d_]{1,4}\.", tail) or _allowed(letter, tail))
