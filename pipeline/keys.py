"""The key of a request: what makes two requests the same.

A key that misses something hands out a wrong answer; a key that holds too much pays twice. So it
covers task, model identity, answer-affecting parameters and the rendered input, and nothing else:
not the URL, the endpoint's name, batch size, concurrency, price, route or the order of parameters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from pipeline.records import Endpoint

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


def keyed(endpoint: Endpoint) -> Callable[[str], bytes]:
    """The function from a rendered input to its key, 32 bytes of SHA-256.

    Invariant: equal for equal (task, model identity, parameters, input), else different: the first
    three stand length-prefixed before the input.
    Cost: O(len(input)); the common prefix is hashed once.
    """
    prefix = msgspec.json.encode(
        [REVISION, endpoint.task, endpoint.identity, endpoint.parameters], order="sorted"
    )
    common = hashlib.sha256(len(prefix).to_bytes(8, "big") + prefix)

    def key(rendered: str) -> bytes:
        hashed = common.copy()
        hashed.update(rendered.encode())
        return hashed.digest()

    return key
