"""What a server replies, whatever it means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple


class Reply(NamedTuple):
    """The reply of a server, of any status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Get = Callable[[str], Awaitable[Reply]]
"""The reply to a GET of this URL. Raises: EndpointError if there is none."""
