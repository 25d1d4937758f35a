"""Makes text from outside safe for a terminal, a log or a report; counts nouns; finds placeholders.

Documents, servers and file names can hold control, ANSI and bidi characters that change what a
terminal shows; they appear as escapes instead.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

# Blanks of other scripts, and the joiners that Persian and emoji are written with.
_HARMLESS = {"\u200c", "\u200d"}
_SEPARATORS = re.compile(r"[\W_]+")


def printable(text: str, limit: int = 300) -> str:
    """`text` on one line, with terminal control characters escaped, cut after `limit`
    characters."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    if cut.isprintable():
        return cut
    return "".join(c if _is_safe(c) else ascii(c)[1:-1] for c in cut)


def _is_safe(character: str) -> bool:
    return (
        character.isprintable() or character in _HARMLESS or unicodedata.category(character) == "Zs"
    )


def shown(path: str) -> str:
    """The path, safe for a message."""
    return printable(path, 4096)


def reason(error: BaseException) -> str:
    """The message of a system error, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(text.splitlines()[0] if text else type(error).__name__, 200)


def many(number: int, noun: str, plural: str = "") -> str:
    """`1 request`, `2,000 requests`; `plural` for a noun that takes more than an `s`."""
    return f"{number:,} {inflect(number, noun, plural or f'{noun}s')}"


def inflect(number: int, one: str, several: str) -> str:
    """The form of a word that agrees with the number: `is` or `are`."""
    return one if number == 1 else several


def nearest(name: str, names: Iterable[str]) -> str:
    """The one of these names that was probably meant; empty: none is similar.

    Case and separators do not count (`ID`, `doc-id`); then letters decide, and at last a whole
    word (`id` for `doc_id`), if only one name has it.
    """
    # Truncated, because the comparison takes quadratic time.
    by_form: dict[str, str] = {}
    for each in names:
        by_form.setdefault(_SEPARATORS.sub("_", each[:64].casefold()), each)
    form = _SEPARATORS.sub("_", name[:64].casefold())
    if form in by_form:
        return by_form[form]
    plain = {each.replace("_", ""): value for each, value in by_form.items()}
    if near := difflib.get_close_matches(form.replace("_", ""), plain, 1):
        return plain[near[0]]
    having = [value for each, value in by_form.items() if form in each.split("_")]
    return having[0] if len(having) == 1 else ""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """` (did you mean `X`?)`, or nothing if no name is similar."""
    near = nearest(name, names)
    return f" (did you mean `{printable(near, 80)}`?)" if near else ""


PLACEHOLDER = re.compile(r"\{\{([^\W\d]\w*)\}\}|\{([^\W\d]\w*)\}")
"""A name in braces, the second group, or one that is meant literally, the first group."""


def placeholders_of(template: str) -> tuple[str, ...]:
    """The names that are filled in, in order, each once."""
    names = [match[2] for match in PLACEHOLDER.finditer(template) if match[2]]
    return tuple(dict.fromkeys(names))


_PORTS = {"http": 80, "https": 443}


def canonical_url(url: str) -> str:
    """The URL in one spelling: no credential, no query, no default port, no slash at its end."""
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    is_default = parts.port in (None, _PORTS.get(parts.scheme))
    port = "" if is_default else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"
