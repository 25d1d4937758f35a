"""Which lines belong to the line above them: deeper lines, closing brackets, answers."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from chunkers.boundaries.characters import (
    BLANK,
    CJK,
    NEWLINE,
    PAD,
    UPPER,
    Array,
    Characters,
    Flags,
)
from chunkers.boundaries.levels import DEEPEST, nested

TAB = 4
"""Columns of a tab."""
STEP = 2
"""Columns of one depth. A single column is none: some exports begin every line with it."""
MAX_STEP = 8
"""A line after a blank one that is deeper by more than this is centred, not nested."""
PROSE_CHARS = 40
"""A line this long, after a blank one and before a shallower line, opens a paragraph whose first
line is indented."""
LABEL_CHARS = 32
"""Longest name of a speaker or of a field before its colon."""

CLOSING = "}])"
BODY, SECONDS = ":|<{", (" \t", "-:", "/", " \t\n\r")
"""Begin a line that may belong to the one above it if one of these follows; `joins` decides."""
CLOSING_WORDS = re.compile(
    r"(?:end|fi|done|esac|else|elif|elsif|except|catch|finally|rescue|ensure|then|do)\b"
)
_RULE = re.compile(r"\|[ \t]*:?-")
"""The line under the header of a table."""
ANSWERS = frozenset(
    "a answer antwort réponse respuesta risposta resposta antwoord odpowiedź odpověď svar vastaus "  # noqa: SIM905
    "válasz cevap ответ відповідь απάντηση 答 答案 回答 답 대답".split()
)
"""Labels of answers, which stay with their question. Source: the word `answer` in the languages of
`abbreviations`, and in Chinese, Japanese and Korean."""


@lru_cache(maxsize=1)
def strengths() -> NDArray[np.uint8]:
    """By depth and whether a blank line precedes: the strength of a line break. Shape: (9, 2)."""
    rows = [[nested(depth, blank=blank) for blank in (False, True)] for depth in range(DEEPEST + 1)]
    return np.array(rows, np.uint8)


def joins(body: str, before: str) -> bool:
    """Whether a line belongs to the line above it, by its text from its first visible character and
    the last character of that line."""
    lead = body[:1]
    if lead in CLOSING:
        return True
    if lead == ":":
        return body[1:2] in (" ", "\t")
    if lead == "|":
        return bool(_RULE.match(body))
    if lead == "<":
        return body[1:2] == "/"
    # An opening bracket alone on its line, after the head of a function.
    return lead == "{" and not body[1:].strip() and (before.isalnum() or before in ")>")


def is_answer(label: str) -> bool:
    """Whether this label, before a colon, is that of an answer."""
    return label.strip("*_ \t#0123456789.").lower() in ANSWERS


def depths(indent: Array, opens: Array, empty: Flags, soft: Flags) -> Array:
    """The depth of each line, from its indent. `soft`: whether the break after each line but the
    last was inserted only because the line was full."""
    deep = indent >= STEP
    deep &= ~empty
    if not deep.any():
        return np.zeros(len(opens), np.int64)
    filled = np.maximum.accumulate(np.where(empty, 0, np.arange(len(empty))))
    after_blank = np.zeros(len(opens), bool)
    after_blank[1:] = empty[:-1]
    above = np.zeros(len(opens), np.int64)
    above[1:] = indent.take(filled[:-1])
    deep &= ~(after_blank & (indent - above > MAX_STEP))
    # The first line of an indented paragraph is no deeper than the following ones.
    shallower = np.zeros(len(opens), bool)
    shallower[:-1] = (indent[1:] < indent[:-1]) & ~empty[1:]
    long = np.zeros(len(opens), bool)
    long[:-1] = np.diff(opens) > PROSE_CHARS
    long &= after_blank
    long[:-1] |= soft
    deep &= ~(shallower & long)
    return np.minimum(np.where(deep, indent // STEP, 0), DEEPEST)


def columns(characters: Characters, opens: Array, first: Array) -> Array:
    """The indent of each line in columns; an ideographic blank is none."""
    indent: Array = first - PAD - opens
    some = np.flatnonzero(indent)
    lead = characters.points.take(opens.take(some) + PAD)
    indent[some[lead == 9]] *= TAB
    indent[some[lead == 0x3000]] = 0
    return indent


def joined(
    text: str, low: int, characters: Characters, opens: Array, first: Array, lead: Array,
    empty: Flags, indent: Array,
) -> Flags:  # fmt: skip
    """Which lines belong to the line above them by how they begin."""
    kind = _lead_table().take(lead, mode="clip")
    flags: Flags = kind == _CLOSING
    shallower = np.zeros(len(opens), bool)
    shallower[1:] = (kind[1:] == _LETTER) & (indent[1:] < indent[:-1]) & ~empty[:-1]
    for index in np.flatnonzero(shallower).tolist():
        flags[index] = bool(CLOSING_WORDS.match(text, low + int(first[index]) - PAD))
    candidates = np.flatnonzero(kind >= _BODY)
    if len(candidates):
        kinds = kind.take(candidates).astype(np.int64)
        second = characters.points.take(first.take(candidates) + 1)
        third = characters.points.take(first.take(candidates) + 2)
        needed = _seconds().take(kinds * 128 + np.minimum(second, 127))
        needed |= (kinds == _RULE_LEAD) & (second <= 32) & (third == ord("-"))
        for index in candidates[needed & (candidates > 0)].tolist():
            at = low + int(first[index]) - PAD
            stop = low + int(opens[index])
            before = text[max(0, stop - 8) : stop].rstrip()[-1:]
            flags[index] = joins(text[at : at + 40].splitlines()[0], before)
    return flags


_CLOSING, _LETTER, _BODY, _RULE_LEAD = 1, 2, 3, 4


@lru_cache(maxsize=1)
def _lead_table() -> NDArray[np.uint8]:
    table = np.zeros(0x80, np.uint8)
    table[[ord(mark) for mark in CLOSING]] = _CLOSING
    table[ord("a") : ord("z") + 1] = _LETTER
    for kind, mark in enumerate(BODY, _BODY):
        table[ord(mark)] = kind
    return table


@lru_cache(maxsize=1)
def _seconds() -> Flags:
    """By the kind of a lead of `BODY` and the next character: whether `joins` must decide."""
    table = np.zeros((_BODY + len(BODY), 128), bool)
    for kind, seconds in enumerate(SECONDS, _BODY):
        table[kind, [ord(mark) for mark in seconds]] = True
    return table.ravel()


def turns(
    text: str, low: int, characters: Characters, breaks: Array, first: Array
) -> tuple[Array, Array]:
    """The lines that begin with a short name and a colon, such as the turns of a dialogue, and
    those of them that are answers."""
    points, classes, _ = characters
    colons = np.flatnonzero((points == ord(":")) | (points == 0xFF1A))
    owner = breaks.searchsorted(colons - PAD)
    offset = colons - first.take(owner)
    following = classes.take(colons + 1)
    is_label = (offset > 0) & (offset <= LABEL_CHARS)
    is_label &= (following == BLANK) | (following == NEWLINE) | (points.take(colons) == 0xFF1A)
    lead = classes.take(first.take(owner))
    is_label &= (lead >= UPPER) & (lead <= CJK)
    chosen = np.flatnonzero(is_label)
    turn, kept = np.unique(owner[chosen], return_index=True)
    answers = [
        line
        for line, colon in zip(turn.tolist(), colons[chosen[kept]].tolist(), strict=True)
        if is_answer(text[low + int(first[line]) - PAD : low + colon - PAD])
    ]
    return turn, np.array(answers, np.int64)


def after_page(characters: Characters, breaks: Array, opens: Array, empty: Flags) -> Flags:
    """Which lines are the first visible ones after a form feed."""
    feeds = np.zeros(len(opens), np.int64)
    feeds[1:] = characters.points.take(breaks + PAD) == 12
    feeds = feeds.cumsum()
    filled = np.maximum.accumulate(np.where(empty, 0, np.arange(len(empty))))
    flags = np.zeros(len(opens), bool)
    flags[1:] = (feeds[1:] > feeds.take(filled[:-1])) & ~empty[1:]
    return flags
