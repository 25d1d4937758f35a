"""Faults as data: the calls that get a wrong answer, and the kind of fault.

A script is a list of faults. Every fault counts the calls that it matches and is played when its
conditions hold. Of the faults that end a call the first in the list wins, and those after it do not
count the call: `429 x3`, `503 x2` is five calls. `delay` and `headers` are added to the reply that
follows. A GET matches only faults that name a `path`. On the command line a fault is a few words,
or a JSON object with the fields of `Fault`:

    429 x3                         the first three calls
    503 after=10 x5                five calls, after ten successful ones
    500 30%                        at random, the same ones for the same seed
    wrong_count every=7 count=1    each seventh call brings one vector too many
    422 match=poison               whenever an input contains this text
    429 x2 retry-after:2           with a header
    delay seconds=3 path=/embed    on one route
    redirect location=http://127.0.0.1:9/
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct

from pipeline.errors import UsageError

Kind = Literal[
    # Nothing is inferred, nothing is charged.
    "status",  # `status` with the body that the service gives with it, or with `body`
    "html",  # a page of a gateway, with 200 unless `status` says otherwise
    "garbage",  # 200 and half a JSON document, its length as announced
    "loading",  # 503 (or `status`) with `estimated_time` = `seconds`
    "insufficient_quota",  # 429 that will not pass
    "redirect",  # to `location`
    "reset",  # the connection is reset before any header
    "hang",  # accepts and never answers
    # Inferred and charged; the answer is useless or odd.
    "wrong_count",  # `count` rows more (or fewer, below 0)
    "wrong_dimension",  # `count` floats more (or fewer) in a vector
    "shuffled_index",  # right, in another order; only where rows carry an index
    "wrong_index",  # two rows claim the same index; only where rows carry one
    "null",  # null instead of one number; with base64, instead of the vector
    "nan",  # NaN instead of one number: the bare word in JSON
    "inf",  # Infinity instead of one number: 1e999 in JSON
    "zero",  # zeros only
    "empty",  # no rows at all
    "empty_text",  # "" instead of the text
    "other_model",  # the answer names another model (`body`)
    "half_body",  # Content-Length of the whole, but only `bytes` of the body (half), then closed
    "half_chunked",  # the same with a chunked body that is never ended
    "cut",  # closed after `bytes` bytes of the whole response, head included
    "slow",  # one byte every `seconds`
    # Added to what else happens.
    "delay",  # `seconds` before the answer
    "headers",  # these `headers` on the answer
]

ADDED = frozenset({"delay", "headers"})
UNCHARGED = frozenset(
    {"status", "html", "garbage", "loading", "insufficient_quota", "redirect", "reset", "hang"}
)
HARMLESS = frozenset({"shuffled_index", "other_model", "slow"})
ONLY_INDEXED = frozenset({"shuffled_index", "wrong_index"})
ONLY_VECTORS = frozenset({"wrong_dimension", "null", "nan", "inf", "zero"})
ONLY_TEXTS = frozenset({"empty_text"})

_HEADER = re.compile(r"([A-Za-z][A-Za-z0-9-]*):(.*)")


class Fault(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A fault and the conditions under which it is played.

    Units: `seconds`; `times`, `after` and `every` in calls that match, `probability` 0 to 1.
    """

    kind: Kind
    status: int | None = None
    body: Any = None
    """Text and bytes as they are, any other value as JSON; None: the body of the service."""
    headers: dict[str, str] = {}
    times: int | None = None
    """Maximal number of plays; None: unlimited."""
    after: int = 0
    """Number of matching calls to skip first."""
    every: int | None = None
    """Play at the first call after that, then at each n-th."""
    probability: float | None = None
    match: str | None = None
    """Only calls with an input that contains this text."""
    path: str | None = None
    """Only calls whose whole path matches this pattern; `*` matches anything."""
    seconds: float | None = None
    count: int = -1
    whole: bool = False
    """Corrupt every row; otherwise the rows that contain `match`, or one row."""
    bytes: int | None = None
    """Bytes to send before the end; with a larger number all are sent, but the answer counts as
    spoiled."""
    location: str | None = None


def check(fault: Fault) -> Fault:
    """The fault itself.

    Raises: UsageError, one line with the value and the bound.
    """
    name = f"fault `{fault.kind}`"
    bounds: list[tuple[str, float | None, float, float]] = [
        ("status", fault.status, 200, 599),
        ("times", fault.times, 0, 10**9),
        ("after", fault.after, 0, 10**9),
        ("every", fault.every, 1, 10**9),
        ("probability", fault.probability, 0, 1),
        ("seconds", fault.seconds, 0, 10**9),
        ("bytes", fault.bytes, 0, 10**9),
    ]
    for field, value, low, high in bounds:
        if value is not None and not low <= value <= high:
            raise UsageError(f"{name}: `{field}` = {value} must be from {low} to {high}")
    if fault.kind == "status" and fault.status is None:
        raise UsageError(f"{name}: `status` is missing", hint="429 x3")
    if fault.kind == "redirect" and not fault.location:
        raise UsageError(f"{name}: `location` is missing", hint="redirect location=http://…")
    if fault.kind == "delay" and fault.seconds is None:
        raise UsageError(f"{name}: `seconds` is missing", hint="delay seconds=3")
    if fault.kind in ("wrong_count", "wrong_dimension") and fault.count == 0:
        raise UsageError(f"{name}: `count` = 0 changes nothing")
    for header, content in fault.headers.items():
        if re.search(r"[\r\n\0]", header + content):
            raise UsageError(f"{name}: header `{header!r}` must be one line")
    return fault


def parse(text: str) -> tuple[Fault, ...]:
    """The faults of a few words, a JSON object or a JSON list.

    Raises: UsageError for text that cannot be parsed.
    """
    stripped = text.strip()
    if stripped.startswith(("{", "[")):
        try:
            return from_json(msgspec.json.decode(stripped))
        except msgspec.DecodeError as error:
            raise UsageError(f"fault `{text}`: {error}") from None
    try:
        first, *rest = shlex.split(stripped)
    except ValueError as error:
        raise UsageError(f"fault `{text}`: {error or 'no words'}", hint="429 x3") from None
    fields: dict[str, Any] = {"kind": first}
    if first.isascii() and first.isdigit():
        fields = {"kind": "status", "status": int(first)}
    elif first not in get_args(Kind):
        raise UsageError(f"fault `{text}`: unknown kind `{first}`", hint=", ".join(get_args(Kind)))
    for word in rest:
        name, equals, value = word.partition("=")
        header = _HEADER.fullmatch(word)
        if equals and name in Fault.__struct_fields__ and name not in ("kind", "headers"):
            fields[name] = value
        elif re.fullmatch(r"x\d+", word, re.ASCII):
            fields["times"] = word[1:]
        elif re.fullmatch(r"\d+(\.\d+)?%", word, re.ASCII):
            fields["probability"] = float(word[:-1]) / 100
        elif header:
            fields.setdefault("headers", {})[header[1]] = header[2].strip()
        else:
            raise UsageError(f"fault `{text}`: cannot read `{word}`", hint="429 x3 retry-after:2")
    return (_convert(fields, text, strict=False),)


def from_json(value: Any) -> tuple[Fault, ...]:
    """The faults of a decoded JSON value: an object, a text, or a list of them.

    Raises: UsageError for a value that is no fault.
    """
    if isinstance(value, str):
        return parse(value)
    if isinstance(value, list):
        return tuple(fault for one in value for fault in from_json(one))
    return (_convert(value, msgspec.json.encode(value).decode(), strict=True),)


def _convert(fields: Any, text: str, *, strict: bool) -> Fault:
    try:
        return check(msgspec.convert(fields, Fault, strict=strict))
    except msgspec.ValidationError as error:
        raise UsageError(f"fault `{text}`: {error}") from None


class Script:
    """The faults, with the number of calls that each matched and of its plays."""

    def __init__(self, faults: Sequence[Fault | str] = (), *, seed: int = 0) -> None:
        self.faults = tuple(
            fault
            for one in faults
            for fault in (parse(one) if isinstance(one, str) else (check(one),))
        )
        self.seed = seed
        self.rewind()

    def rewind(self) -> None:
        """Reset the counts: the script starts again."""
        self.matched = [0] * len(self.faults)
        self.fired = [0] * len(self.faults)
        self._tries: Counter[bytes] = Counter()

    def play(
        self,
        path: str,
        inputs: Sequence[str],
        body: bytes,
        *,
        indexed: bool = False,
        vectors: bool = False,
        lookup: bool = False,
    ) -> list[Fault]:
        """The faults of this call: any number that add something, then at most one that ends it.

        Invariant: chance depends on the seed, the body and the number of calls with this body, not
        on the order in which concurrent calls arrive.
        """
        played: list[Fault] = []
        chance: bytes | None = None
        for n, fault in enumerate(self.faults):
            if (
                (lookup and (fault.path is None or fault.kind not in UNCHARGED | ADDED))
                or (fault.path is not None and not fnmatchcase(path, fault.path))
                or (fault.match is not None and not any(fault.match in one for one in inputs))
                or (fault.kind in ONLY_INDEXED and not indexed)
                or (fault.kind in ONLY_VECTORS and not vectors)
                or (fault.kind in ONLY_TEXTS and vectors)
            ):
                continue
            self.matched[n] += 1
            past = self.matched[n] - fault.after - 1
            if past < 0 or (fault.every is not None and past % fault.every):
                continue
            if fault.times is not None and self.fired[n] >= fault.times:
                continue
            if fault.probability is not None:
                chance = chance or self._chance(body)
                drawn = blake2b(chance + n.to_bytes(4, "little"), digest_size=7).digest()
                if int.from_bytes(drawn, "little") >= fault.probability * 2**56:
                    continue
            self.fired[n] += 1
            played.append(fault)
            if fault.kind not in ADDED:
                break
        return played

    def _chance(self, body: bytes) -> bytes:
        key = blake2b(body, digest_size=16).digest()
        self._tries[key] += 1
        return b"%b %d %d" % (key, self._tries[key], self.seed)
