"""Which servers gave the answers that are kept under one key prefix.

A model name is no identity: `emb`, `default` or the alias of a proxy may name another model at
another URL. So each answer holds the number of its origin, and the cache holds the name of each
origin and the pairs of origins whose answers were compared and are equal. All of it is data of the
cache and no part of a key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from pipeline.cache.entry import LINK, ORIGIN, PREFIX, Entry
from pipeline.cache.keys import parts_of, prefix
from pipeline.cache.store import AnswerCache, digest
from pipeline.records import Endpoint
from pipeline.text import canonical_url

_decode = msgspec.json.Decoder(tuple[str, str]).decode


class Origin(Struct, frozen=True):
    """A server: its URL in canonical form, and its model with the revision, if the server itself
    names both."""

    url: str
    model: str = ""

    @property
    def number(self) -> int:
        """Its number in an answer, 48 bits. Equal for two servers that name an equal model and
        revision: that is evidence, and a URL is none."""
        return origin_number(self.model or self.url)

    def __str__(self) -> str:
        return f"{self.url} ({self.model})" if self.model else self.url


def origin_number(name: str) -> int:
    """The number of an origin by the URL or the model that identifies it; 0 for none: the key says
    it all."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6]) if name else 0


def origin_of(endpoint: Endpoint) -> Origin | None:
    """The origin of the answers of this endpoint; None if its identity says it all."""
    name = endpoint.origin
    if not name:
        return None
    return Origin(name) if "://" in name else Origin(canonical_url(endpoint.url), name)


class KnownOrigins:
    """The origins of the answers under one prefix, and which of them serve one model.

    Invariant: `are_same` is an equivalence, the smallest one with all pairs that were joined.
    """

    def __init__(self, cache: AnswerCache | None, prefix: bytes) -> None:
        self._cache, self._prefix = cache, prefix
        self._names: dict[int, Origin] = {}
        self._class: dict[int, int] = {}
        self.read()

    def read(self) -> None:
        """Read what the cache holds now; other runs may have added to it. Blocks."""
        if self._cache is None:
            return
        rows = [
            Entry(0, key, 0.0, value)
            for start in (_origin_key(self._prefix), _link_key(self._prefix))
            for key, value in self._cache.names(start)
        ]
        for entry in filter(is_readable, rows):
            *_, one, other = entry.key.split()
            if origin := _named(entry.encoded or b""):
                self._names[int(other, 16)] = origin
            else:
                self.join(int(one, 16), int(other, 16))

    @property
    def origins(self) -> list[Origin]:
        """All of them, the oldest first."""
        return list(self._names.values())

    def name(self, number: int) -> str:
        """The origin as shown to users."""
        return str(self._names.get(number, "an unknown server"))

    def are_same(self, one: int, other: int) -> bool:
        """True if both serve one model; 0 is of the model that the key names."""
        return not (one and other) or self._find(one) == self._find(other)

    def has_others(self, number: int) -> bool:
        """True if answers are kept of an origin that is not known to serve this one's model."""
        return any(not self.are_same(number, other) for other in self._names)

    def join(self, one: int, other: int) -> None:
        """Both serve one model, for this run."""
        self._class[self._find(one)] = self._find(other)

    def record(self, origin: Origin) -> None:
        """Keep the name of an origin, durably, no later than its first answer. Blocks."""
        if self._cache is not None and origin.number not in self._names:
            value = msgspec.json.encode((origin.url, origin.model))
            self._cache.remember_name(_origin_key(self._prefix) + b"%012x" % origin.number, value)
            self._names[origin.number] = origin

    def confirm(self, one: int, other: int) -> None:
        """Both serve one model: their vectors were compared. Durable. Blocks."""
        if self._cache is not None:
            self._cache.remember_name(
                _link_key(self._prefix) + b"%012x %012x" % (one, other), b"[]"
            )
        self.join(one, other)

    def _find(self, number: int) -> int:
        while (parent := self._class.get(number, number)) != number:
            number = parent
        return number


def known_origins(cache: AnswerCache | None, endpoints: Sequence[Endpoint]) -> list[KnownOrigins]:
    """The known origins of each endpoint, in job-file order; endpoints with one prefix share them,
    and a replica serves the model of its origin. Blocks."""
    by_prefix: dict[bytes, KnownOrigins] = {}
    found: list[KnownOrigins] = []
    numbers = {endpoint.name: origin_number(endpoint.origin) for endpoint in endpoints}
    for endpoint in endpoints:
        key = prefix(endpoint)
        if key not in by_prefix:
            by_prefix[key] = KnownOrigins(cache if endpoint.origin else None, key)
        if (own := numbers[endpoint.name]) and (origin := numbers.get(endpoint.replica_of)):
            by_prefix[key].join(own, origin)
        found.append(by_prefix[key])
    return found


_NUMBER = b"[0-9a-f]{12}"
_SHAPES = {
    ORIGIN: re.compile(ORIGIN + b"[0-9a-f]{32} " + _NUMBER),
    LINK: re.compile(LINK + b"[0-9a-f]{32} " + _NUMBER + b" " + _NUMBER),
}


def is_readable(entry: Entry) -> bool:
    """Whether a name and its value are ones that a run may have stored."""
    key, value = entry.key, entry.encoded or b""
    if key.startswith(PREFIX):
        return bool(parts_of(value)) and key == PREFIX + digest(value)
    for start, shape in _SHAPES.items():
        if key.startswith(start) and not shape.fullmatch(key):
            return False
    return _named(value) is not None if key.startswith(ORIGIN) else _is_json(value)


def _is_json(value: bytes) -> bool:
    try:
        msgspec.json.decode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _origin_key(prefix: bytes) -> bytes:
    return ORIGIN + digest(prefix) + b" "


def _link_key(prefix: bytes) -> bytes:
    return LINK + digest(prefix) + b" "


def _named(value: bytes) -> Origin | None:
    try:
        return Origin(*_decode(value))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
