"""Who answers: one file per protocol, each a pair of pure functions over one HTTP client.

`encode(endpoint, requests)` gives the call; `decode(endpoint, count, status, headers, body)` gives
one answer or failure per request, in their order, or raises EndpointError for the whole call. The
client, the retries and the limits exist once, elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pipeline.endpoints import hf, openai, tei
from pipeline.records import Answer, Call, Endpoint, Failure, Request


class Protocol(NamedTuple):
    """How requests become bytes, and bytes answers."""

    encode: Callable[[Endpoint, Sequence[Request]], Call]
    decode: Callable[[Endpoint, int, int, Mapping[str, str], bytes], Sequence[Answer | Failure]]


PROTOCOLS: dict[str, Protocol] = {
    "hf": Protocol(hf.encode, hf.decode),
    "openai": Protocol(openai.encode, openai.decode),
    "tei": Protocol(tei.encode, tei.decode),
}
