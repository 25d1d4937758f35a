"""Writes a reply to the wire, correctly or with a fault."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web

from jobs.mock.faults import Fault
from jobs.mock.protocols.calls import Reply

Sleep = Callable[[float], Awaitable[object]]


def response(reply: Reply) -> web.Response:
    """The correct response for the reply."""
    return web.Response(status=reply.status, body=reply.body, headers=_headers(reply))


async def misbehave(
    request: web.BaseRequest, reply: Reply, fault: Fault, sleep: Sleep
) -> web.StreamResponse:
    """Play a fault on the wire: break the connection, or stall it."""
    transport = request.transport
    if fault.kind == "hang":
        await asyncio.Event().wait()
    if transport is None:
        return web.Response()
    if fault.kind == "reset":
        _reset(transport)
        return web.Response()
    if fault.kind == "cut":
        transport.write(_raw(reply)[: fault.bytes or 0])
        transport.close()
        return web.Response()
    stream = web.StreamResponse(status=reply.status, headers=_headers(reply))
    if fault.kind != "half_chunked":
        stream.content_length = len(reply.body)
    else:
        stream.enable_chunked_encoding()
    await stream.prepare(request)
    if fault.kind == "slow":
        for n in range(len(reply.body)):
            await stream.write(reply.body[n : n + 1])
            await sleep(1.0 if fault.seconds is None else fault.seconds)
        return stream
    sent = len(reply.body) // 2 if fault.bytes is None else fault.bytes
    if reply.body[:sent]:
        await stream.write(reply.body[:sent])
    transport.close()
    return stream


def _headers(reply: Reply) -> dict[str, str]:
    """The headers of the reply, each name once: a header of a fault replaces one of the service."""
    named = [("Content-Type", reply.content_type), *reply.headers]
    return dict({name.lower(): (name, value) for name, value in named}.values())


def _raw(reply: Reply) -> bytes:
    """The bytes of the whole response."""
    try:
        reason = HTTPStatus(reply.status).phrase
    except ValueError:
        reason = ""
    lines = [f"HTTP/1.1 {reply.status} {reason}", f"Content-Length: {len(reply.body)}"]
    lines += [f"{name}: {value}" for name, value in _headers(reply).items()]
    return "\r\n".join([*lines, "", ""]).encode() + reply.body


def _reset(transport: Any) -> None:
    """Close with a reset packet instead of an orderly end."""
    connection = transport.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
