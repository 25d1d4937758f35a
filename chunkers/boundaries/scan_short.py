"""The boundaries of a short text in plain Python, equal to those of `boundaries.scan`.

Each numpy call costs a microsecond, and the scan for boundaries has hundreds of them: for a text of
a few hundred characters that is ten times the cost of encoding. Here a line costs a microsecond and
a sentence two. Hard-wrapped text is left to numpy. A property test holds the two equal.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from itertools import pairwise

from chunkers.boundaries.abbreviations import NEAR
from chunkers.boundaries.characters import (
    BLANK,
    CJK,
    CLASSES,
    DIGIT,
    LOWER,
    NAMED,
    NEWLINE,
    UPPER,
)
from chunkers.boundaries.levels import (
    BLANK_LINE,
    DEEPEST,
    HEADING,
    JOINED,
    LINE,
    PARAGRAPH,
    PARAGRAPH_CHARS,
    ROW,
    SENTENCE,
    nested,
)
from chunkers.boundaries.lines import NUMBERED, SETEXT, WIKI
from chunkers.boundaries.nesting import (
    BODY,
    CLOSING,
    CLOSING_WORDS,
    LABEL_CHARS,
    MAX_STEP,
    PROSE_CHARS,
    SECONDS,
    STEP,
    TAB,
    is_answer,
    joins,
)
from chunkers.boundaries.packed import MIN_CHARS, kind_of
from chunkers.boundaries.short_sentences import sentence_ends, tables
from chunkers.boundaries.wrapping import NARROWEST

SHORT_CHARS, SHORT_LINES = 4096, 64
"""Above either of these numpy is faster."""

_DEEP = 200
_TITLE_CHARS, _UNDER_CHARS = 40, 100
_BREAK = re.compile(f"\r\n|[{NAMED[NEWLINE]}]")
_HEADING = re.compile(f"#{{1,6}}(?:[{NAMED[BLANK]}{NAMED[NEWLINE]}]|\\Z)")
_BULLETS, _NUMERALS, _CIRCLED = "-*+•·‣◦>", "一二三四五六七八九十", "①②③④⑤⑥⑦⑧⑨⑩"
_AFTER_NUMBER = ".)、）．"
_LABEL = re.compile(rf"([\s\S]{{1,{LABEL_CHARS}}}?)(?:：|:(?=[{NAMED[BLANK]}{NAMED[NEWLINE]}]|\Z))")
_LEADS = frozenset("#第`~=-(（" + _BULLETS + _NUMERALS + _CIRCLED)


class Line:
    """A line with its break, and its kind."""

    __slots__ = (
        "at", "body", "depth", "empty", "fence", "heading", "indent", "item", "joined", "marked",
        "row", "stop", "under",
    )  # fmt: skip

    def __init__(self, at: int, stop: int, body: str, empty: bool, fence: bool) -> None:
        self.at, self.stop = at, stop
        self.body = body
        """The line from its first character that is not a blank."""
        self.empty, self.fence = empty, fence
        self.heading = self.under = self.marked = self.row = self.item = self.joined = False
        self.indent = self.depth = 0


ShortBoundaries = tuple[list[int], bytes, list[int]]


def scan_short(text: str, *, with_sentences: bool) -> ShortBoundaries | None:
    """The places, their strengths, and the starts of headings, as from `scan` of the whole text.

    Without sentences it omits the places inside paragraphs. None for a text that needs `scan`.
    """
    lines = _lines(text)
    if lines is None:
        return None
    strength = _levels(text, lines)
    ends = sentence_ends(text) if with_sentences or len(lines) > 1 else []
    if _may_run_on(text, lines, ends):
        return None
    if with_sentences:
        if any(line.fence for line in lines):
            ends = [end for end in ends if not lines[_owner(lines, end)].fence]
        strength |= dict.fromkeys(ends, SENTENCE)
    strength[len(text)] = BLANK_LINE
    places = sorted(strength)
    for one, two in pairwise(places):
        if strength[one] < strength[two] and text[one:two].isspace():
            del strength[one]  # no unit is blank
    if places[0] < len(text) and text[: places[0]].isspace():
        strength.pop(places[0], None)
    places = sorted(strength)
    headings = [line.at for line in lines if line.heading and not line.fence]
    return places, bytes(map(strength.__getitem__, places)), headings


def _lines(text: str) -> list[Line] | None:
    """The lines of a text; None if there are too many, or they look hard-wrapped."""
    opens = [0, *(match.end() for match in _BREAK.finditer(text))]
    if len(opens) > SHORT_LINES:
        return None
    kinds = tables()[0]
    blanks = NAMED[BLANK]
    if "\f" in text:
        return None
    lines: list[Line] = []
    inside = False
    number = (0, -1)
    for at, stop in zip(opens, [*opens[1:], len(text)], strict=True):
        body = text[at:stop].lstrip(blanks)
        kind = kinds[ord(body[0])] if body else NEWLINE
        if stop - at - len(body) > _DEEP:
            return None
        line = Line(at, stop, body, kind == NEWLINE, inside)
        lines.append(line)
        if kind == NEWLINE:
            continue
        if stop - at >= MIN_CHARS and kind_of(text, at, stop):
            return None
        line.indent = _columns(text[at], stop - at - len(body))
        if body[0] in _LEADS or kind == DIGIT:
            if body[0] in "`~" and body.startswith(body[0] * 3):
                has_language = len(body) > 3 and LOWER <= kinds[ord(body[3])] <= UPPER
                inside = not inside or has_language
                line.fence = True
            elif not _is_heading(text, lines, line, len(opens)):
                line.marked = _is_item(body, kinds)
                if kind == DIGIT and body[0] not in _CIRCLED:
                    line.marked, number = _is_numbered(lines, kinds, number)
        line.row = "|" in body and body.count("|") > 1
    if len(lines) > 2 and _is_wrapped(text, lines, kinds):
        return None
    return lines


def _is_heading(text: str, lines: list[Line], line: Line, count: int) -> bool:
    lead, first = line.body[0], line.stop - len(line.body)
    if lead == "#":
        line.heading = line.indent < STEP and bool(_HEADING.match(line.body))
    elif lead == "第":
        is_short = len(lines) < count and line.stop - line.at <= _TITLE_CHARS
        line.heading = is_short and bool(NUMBERED.match(text, first))
    elif lead in "=-" and SETEXT.match(text, first):
        above = lines[-2] if len(lines) > 1 else line
        if not above.empty and above is not line and above.stop - above.at <= _UNDER_CHARS:
            above.heading = line.under = True
    elif lead == "=":
        line.heading = bool(WIKI.match(text, first, first + 200))
    return line.heading


def _columns(lead: str, blanks: int) -> int:
    return 0 if lead == "\u3000" else blanks * TAB if lead == "\t" else blanks


def _levels(text: str, lines: list[Line]) -> dict[int, int]:
    """The strength at each line end that has one."""
    strength: dict[int, int] = {}
    _nest(text, lines)
    filled = last = lines[0]
    for line in lines[1:]:
        if not last.empty:
            filled = last
        if not line.empty:
            level = nested(line.depth, blank=last.empty)
            if line.fence and last.fence:
                strength[line.at] = level
            elif line.row and last.row and not line.joined:
                strength[line.at] = ROW
            elif not (filled.heading or filled.under) or line.fence:
                if line.heading and not line.fence:
                    level = HEADING
                elif line.joined:
                    level = JOINED
                elif not line.depth:
                    long = last.stop - last.at >= PARAGRAPH_CHARS
                    level = BLANK_LINE if last.empty else PARAGRAPH if long else LINE + line.item
                strength[line.at] = level
        last = line
    return strength


def _nest(text: str, lines: list[Line]) -> None:
    """The same as `nesting.depths`, `joined` and `turns`, and which lines begin an item."""
    kinds = tables()[0]
    filled = lines[0]
    for last, line, after in zip([None, *lines], lines, [*lines[1:], None], strict=False):
        if line.empty:
            continue
        line.item = line.marked and line.body[0] != ">"
        after_blank = last is not None and last.empty
        if line.indent >= STEP and not (after_blank and line.indent - filled.indent > MAX_STEP):
            shallower = after is not None and not after.empty and after.indent < line.indent
            opens = after_blank and line.stop - line.at > PROSE_CHARS
            line.depth = 0 if shallower and opens else min(line.indent // STEP, DEEPEST)
        filled = line
        if last is None:
            continue
        lead, second = line.body[0], line.body[1:2]
        if lead in CLOSING:
            line.joined = True
        elif (place := BODY.find(lead)) >= 0:
            ruled = lead == "|" and line.body[2:3] == "-" and second <= " "
            if (second and second in SECONDS[place]) or ruled:
                before = text[max(0, line.at - 8) : line.at].rstrip()[-1:]
                line.joined = joins(line.body[:40].splitlines()[0], before)
        elif "a" <= lead <= "z" and not last.empty and line.indent < last.indent:
            line.joined = bool(CLOSING_WORDS.match(line.body))
        if UPPER <= kinds[ord(lead)] <= CJK:
            label = _LABEL.match(line.body)
            if label:
                line.item = True
                line.joined |= is_answer(label[1])


def _may_run_on(text: str, lines: list[Line], ends: list[int]) -> bool:
    """Whether a sentence that runs over a line break might be in a block with other sentences."""
    if not ends:
        return False
    kinds, *_, inside = tables()
    for line, after in pairwise(lines):
        if line.empty or after.empty or line.stop - line.at <= NARROWEST:
            continue
        stop = line.stop - 1
        if inside[kinds[ord(text[stop - 1])] * CLASSES + kinds[ord(after.body[0])]]:
            return True
    return False


def _owner(lines: list[Line], place: int) -> int:
    """The line that ends at this place or after it."""
    return bisect_left(lines, place, key=lambda line: line.stop)


def _is_item(body: str, kinds: bytes) -> bool:
    """Whether a line begins a list item, a quotation, or a numbered paragraph."""
    lead, second = body[0], body[1:2] or "\n"
    if lead in _BULLETS:
        return kinds[ord(second)] == BLANK
    if lead in "(（":
        place = 1
        while place < 4 and (kinds[ord(body[place : place + 1] or "\n")] == DIGIT
                             or body[place : place + 1] in tuple(_NUMERALS)):  # fmt: skip
            place += 1
        closing, following = body[place : place + 1], body[place + 1 : place + 2] or "\n"
        blank = kinds[ord(following)] in (BLANK, NEWLINE)
        return place > 1 and (closing == "）" or (closing == ")" and blank))
    if lead in _NUMERALS:
        return second == "、"
    return lead in _CIRCLED


def _is_numbered(
    lines: list[Line], kinds: bytes, before: tuple[int, int]
) -> tuple[bool, tuple[int, int]]:
    """The same as `lines._numbered`, for the last line. `before`, and the second value: the number
    and the place of the last item."""
    line, body = lines[-1], lines[-1].body
    value, place = 0, 0
    while place < 3 and kinds[ord(body[place : place + 1] or "\n")] == DIGIT:
        value = value * 10 + (ord(body[place]) & 0xFF) - ord("0")
        place += 1
    mark, following = body[place : place + 1], body[place + 1 : place + 2] or "\n"
    blank = kinds[ord(following)] in (BLANK, NEWLINE)
    if not (mark in _AFTER_NUMBER and mark) or not (blank or ord(mark) > 0x7F):
        return False, before
    follows = value - before[0] == 1 and before[1] >= 0 and line.at - before[1] <= NEAR
    fresh = len(lines) == 1 or lines[-2].empty
    return value == 1 or follows or fresh, (value, line.at)


def _is_wrapped(text: str, lines: list[Line], kinds: bytes) -> bool:
    """Whether `wrapping.soft_breaks` would examine a block of these lines."""
    block: list[Line] = []
    is_first = True
    for line in [*lines, Line(len(text), len(text), "", True, False)]:
        fresh = line.empty or line.marked or line.row or line.fence or line.heading or is_first
        if fresh:
            if len(block) > 2 and _may_be_wrapped(text, block, kinds):
                return True
            block = []
        if not line.empty:
            block.append(line)
        is_first = line.empty
    return False


def _may_be_wrapped(text: str, block: list[Line], kinds: bytes) -> bool:
    stops = [line.stop - (line.body[-1] in NAMED[NEWLINE]) for line in block]
    if max(stop - line.at for line, stop in zip(block, stops, strict=True)) < NARROWEST:
        return False
    table = tables()[3]
    runs_over = steady = 0
    for line, following, stop in zip(block, block[1:], stops, strict=False):
        last = kinds[ord(text[stop - 1])]
        runs_over += table[last * CLASSES + kinds[ord(following.body[0])]]
        indent = line.stop - line.at - len(line.body)
        steady += indent == following.stop - following.at - len(following.body)
    inner = len(block) - 1
    return runs_over >= 0.3 * inner and steady >= 0.6 * inner
