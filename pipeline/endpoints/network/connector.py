"""Connections to permitted addresses only, whatever a name resolves to at that moment."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

import aiohttp
from aiohttp.abc import ResolveResult

from pipeline.addresses import problem
from pipeline.text import printable


def connector(*, is_clear: bool) -> aiohttp.TCPConnector:
    """The connector of a session. `is_clear`: it sends texts or credentials without encryption.

    Its sockets raise `AddressError` for an address that is not permitted.
    """

    def open_socket(info: Any) -> socket.socket:
        family, type_, protocol, _, (address, *_) = info
        if error := problem(ip_address(address), is_clear=is_clear):
            raise error
        return socket.socket(family, type_, protocol)

    return aiohttp.TCPConnector(
        limit=0, ttl_dns_cache=60, resolver=_Resolver(is_clear), socket_factory=open_socket
    )


class _Resolver(aiohttp.ThreadedResolver):
    """The permitted addresses of a name, as the system resolves it. A machine of the own network
    often has a public address in addition, which is left out."""

    def __init__(self, is_clear: bool) -> None:
        super().__init__()
        self._is_clear = is_clear

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        errors = [
            problem(ip_address(each["host"]), is_clear=self._is_clear, host=printable(host, 100))
            for each in found
        ]
        permitted = [each for each, error in zip(found, errors, strict=True) if error is None]
        if not permitted and errors and errors[0] is not None:
            raise errors[0]
        return permitted
