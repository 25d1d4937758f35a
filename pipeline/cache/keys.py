"""The key of a request: two requests are the same if their keys are equal.

A key that covers too little returns a wrong answer; one that covers too much pays twice. So it
covers task, model identity, answer-affecting parameters and the rendered input, and nothing else:
not the URL, the endpoint's name, batch size, concurrency, price, route or the order of parameters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pipeline.records import Endpoint, Request, Route
from pipeline.tasks import answer_parameters

_Prefix = tuple[int, str, list[str], dict[str, Any]]

_IDENTITIES = {
    2: ("kind", "model"),
    3: ("kind", "provider", "url"),  # only the URL identifies the model
    4: ("kind", "provider", "model", "revision"),
    5: ("kind", "provider", "model", "revision", "identity"),
}

REVISION = 1
"""Incremented when the meaning of a stored answer changes; every older answer is then a miss."""


def model_name(endpoint: Endpoint) -> str:
    """The name of the model in an output: kind, provider, model, and the revision unless it is
    main; then the declared identity.

    For a server that reports no model it is the kind alone, since an output holds no host.
    """
    kind, *fields = endpoint.identity
    declared = fields.pop() if len(fields) > 3 else ""
    *parts, revision = [*fields, ""] if len(fields) < 3 else fields
    name = "/".join([kind, *(part for part in parts if part and "://" not in part)])
    name += "" if revision in ("", "main") else f"@{revision}"
    return f"{name}#{declared}" if declared else name


def prefix(endpoint: Endpoint) -> bytes:
    """The part of the cache key that all requests of this endpoint share: JSON of key revision,
    task, model identity and parameters. It holds no secret, and a URL only if the identity does."""
    return msgspec.json.encode(
        [REVISION, endpoint.task, endpoint.identity, answer_parameters(endpoint.parameters)],
        order="sorted",
    )


def parts_of(prefix: bytes) -> dict[str, object] | None:
    """The parts of a prefix by their names in the job file; None where it is not a prefix.

    A nested parameter is named by its path: `parameters.response_format.type`.
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
        for name, item in value.items():
            _add_flattened(f"{path}.{name}", item, into)
    else:
        into[path] = value


def request_key(endpoint: Endpoint) -> Callable[[str], bytes]:
    """The function from a rendered input to its key, 32 bytes of SHA-256.

    Invariant: equal for equal (task, model identity, parameters, input), else different: the first
    three precede the input, with their length.
    Cost: O(len(input)); the common prefix is hashed once.
    """
    return key_function(prefix(endpoint))


def key_function(prefix: bytes) -> Callable[[str], bytes]:
    """The same for a prefix, also for one of an endpoint of an earlier run."""
    common = hashlib.sha256(len(prefix).to_bytes(8, "big") + prefix)

    def key(rendered: str) -> bytes:
        hashed = common.copy()
        hashed.update(rendered.encode())
        return hashed.digest()

    return key


class Keys:
    """The keys of a job's requests, under each of its endpoints.

    Endpoints with the same identity and parameters, such as replicas, share their keys.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        kinds: dict[bytes, Callable[[str], bytes]] = {}
        self._of = [kinds.setdefault((key := request_key(e))(""), key) for e in endpoints]
        self.endpoints = len(endpoints)
        self.is_one = len(kinds) == 1
        """Whether all endpoints share one key."""
        self._others: dict[Route, dict[Callable[[str], bytes], int]] = {}

    def first(self, route: Route) -> Callable[[str], bytes]:
        """The key function of the first endpoint of the route, in job-file order."""
        return self._of[route.positions[0]]

    def others(self, request: Request) -> list[bytes]:
        """The request's keys under the other models of its route, in job-file order.

        An answer under any of its keys settles the request; the first one counts.
        """
        return [key(request.input) for key in self._other_models(request.route)]

    def other_positions(self, route: Route) -> list[int]:
        """The first endpoint of each of these models."""
        return list(self._other_models(route).values())

    def _other_models(self, route: Route) -> dict[Callable[[str], bytes], int]:
        if (models := self._others.get(route)) is None:
            models = {}
            for position in route.positions:
                models.setdefault(self._of[position], position)
            del models[self.first(route)]
            self._others[route] = models
        return models

    def position(self, request: Request, key: bytes) -> int:
        """The first endpoint of the request's route under which it has this key."""
        positions = request.route.positions
        return next(at for at in positions if self.under(at, request) == key)

    def under(self, position: int, request: Request) -> bytes:
        """The request's key under the endpoint at this position."""
        key = self._of[position]
        is_first = self.is_one or key is self.first(request.route)
        return request.key if is_first else key(request.input)
