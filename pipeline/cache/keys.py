"""The key of a request: what makes two requests the same.

A key that misses something hands out a wrong answer; a key that holds too much pays twice. So it
covers task, model identity, answer-affecting parameters and the rendered input, and nothing else:
not the URL, the endpoint's name, batch size, concurrency, price, route or the order of parameters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pipeline.records import Endpoint, Request, Route

_Prefix = tuple[int, str, list[str], dict[str, Any]]

_IDENTITIES = {
    2: ("kind", "model"),
    3: ("kind", "provider", "url"),  # nothing names the model but where it is
    4: ("kind", "provider", "model", "revision"),
}

REVISION = 1
"""Raised when the meaning of a stored answer changes; every older answer is then a miss."""


def model_name(endpoint: Endpoint) -> str:
    """The model as an output names it: kind, provider, model, and the revision if it is not main.

    A server that names no model gives only its kind: an output holds no host.
    """
    kind, *named = endpoint.identity
    *parts, revision = [*named, ""] if len(named) < 3 else named
    told = "/".join([kind, *(part for part in parts if part and "://" not in part)])
    return told if revision in ("", "main") else f"{told}@{revision}"


def prefix(endpoint: Endpoint) -> bytes:
    """What stands before the input in every key of this endpoint: JSON of the revision of keys,
    task, model identity and parameters. It holds no secret, and a URL only as the identity does."""
    return msgspec.json.encode(
        [REVISION, endpoint.task, endpoint.identity, endpoint.parameters], order="sorted"
    )


def parts_of(prefix: bytes) -> dict[str, object] | None:
    """The parts of a prefix by the names that the job file has for them; None: it is none.

    A nested parameter stands under its path: `parameters.response_format.type`.
    """
    try:
        revision, task, identity, parameters = msgspec.json.decode(prefix, type=_Prefix)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    parts: dict[str, object] = {"keys": revision, "task": task}
    names = _IDENTITIES.get(len(identity), ())
    parts |= {f"endpoint.{name}": part for name, part in zip(names, identity, strict=False)}
    for name, value in parameters.items():
        _add_flattened(f"parameters.{name}", value, parts)
    return parts


def _add_flattened(path: str, value: object, into: dict[str, object]) -> None:
    if isinstance(value, dict) and value:
        for name, each in value.items():
            _add_flattened(f"{path}.{name}", each, into)
    else:
        into[path] = value


def request_key(endpoint: Endpoint) -> Callable[[str], bytes]:
    """The function from a rendered input to its key, 32 bytes of SHA-256.

    Invariant: equal for equal (task, model identity, parameters, input), else different: the first
    three stand length-prefixed before the input.
    Cost: O(len(input)); the common prefix is hashed once.
    """
    return key_function(prefix(endpoint))


def key_function(prefix: bytes) -> Callable[[str], bytes]:
    """The same for a prefix, of this endpoint or of one that was asked long ago."""
    common = hashlib.sha256(len(prefix).to_bytes(8, "big") + prefix)

    def key(rendered: str) -> bytes:
        hashed = common.copy()
        hashed.update(rendered.encode())
        return hashed.digest()

    return key


class Keys:
    """The keys of a job's requests, under each of its endpoints.

    Endpoints of one identity and the same parameters, such as replicas, share their keys.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        kinds: dict[bytes, Callable[[str], bytes]] = {}
        self._of = [kinds.setdefault((key := request_key(each))(""), key) for each in endpoints]
        self.is_one = len(kinds) == 1
        """All endpoints answer under one key."""
        self._others: dict[Route, tuple[Callable[[str], bytes], ...]] = {}

    def first(self, route: Route) -> Callable[[str], bytes]:
        """The key under the first endpoint, in job-file order, that may answer."""
        return self._of[route.positions[0]]

    def others(self, request: Request) -> list[bytes]:
        """Its keys under the other models that may answer it, in job-file order.

        An answer under any of its keys is an answer to it; the first one counts.
        """
        route = request.route
        if (keys := self._others.get(route)) is None:
            all_keys = dict.fromkeys(self._of[position] for position in route.positions)
            keys = self._others[route] = tuple(all_keys)[1:]
        return [key(request.input) for key in keys]

    def under(self, position: int, request: Request) -> bytes:
        """Its key under the endpoint at this position."""
        key = self._of[position]
        is_first = self.is_one or key is self.first(request.route)
        return request.key if is_first else key(request.input)
