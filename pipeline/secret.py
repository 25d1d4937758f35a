"""Credentials that cannot be printed.

A key in a job file ends up in a repository, a key in an error in a log. So a job file names the
location of a key, the key is read only when a run starts, and no text that is derived from a
`Secret` shows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NoReturn
from urllib.parse import quote, quote_plus

from msgspec import Struct


class Secret:
    """A credential; only `reveal()` gives its text, and only the HTTP client calls it.

    Invariant: no repr, str, format, pickle, copy or hash of it depends on the text.
    """

    __slots__ = ("_text",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __format__(self, form: str) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        """Equality in constant time: the duration does not reveal how much of the text matches."""
        if not isinstance(other, Secret):
            return NotImplemented
        import hmac  # loads OpenSSL, which most commands do not need

        return hmac.compare_digest(
            *(s._text.encode("utf-8", "surrogatepass") for s in (self, other))
        )

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret cannot be copied or pickled")


class Mask:
    """Replaces texts in messages by `***`: a server may repeat what it rejects, as it is, in JSON,
    percent-encoded, or without a word before it such as `Bearer`."""

    def __init__(self, texts: Iterable[str]) -> None:
        whole = [text for text in texts if text]
        words = {*whole, *(last for t in whole if len(last := t.rpartition(" ")[2]) >= 4)}
        forms = {
            form
            for word in words
            for form in (word, json.dumps(word)[1:-1], quote(word, safe=""), quote_plus(word))
        }
        self._forms = sorted(forms, key=lambda form: (-len(form), form))

    def __call__(self, message: str) -> str:
        for form in self._forms:
            message = message.replace(form, "***")
        return message


class Addition(Struct, frozen=True):
    """A header, or a part of the query, that a job adds to every call."""

    name: str
    value: str | Secret
    """A `Secret` if the job only names its place."""

    @property
    def text(self) -> str:
        """The value itself; only the HTTP client reads it."""
        return self.value.reveal() if isinstance(self.value, Secret) else self.value

    def __repr__(self) -> str:
        return f"{self.name}=***"
