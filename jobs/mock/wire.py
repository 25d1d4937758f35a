"""Bytes out: a reply as it should cross the wire, and the ways in which it does not."""

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
    """The reply as it should go out."""
    return web.Response(status=reply.status, body=reply.body, headers=_headers(reply))


async def misbehave(
    request: web.BaseRequest, reply: Reply, fault: Fault, sleep: Sleep
) -> web.StreamResponse:
    """Break the connection, or the client's patience."""
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
    """The reply's headers, each name once: what a fault adds replaces what the service says."""
    named = [("Content-Type", reply.content_type), *reply.headers]
    return dict({name.lower(): (name, value) for name, value in named}.values())


def _raw(reply: Reply) -> bytes:
    """The whole response as it would cross the wire."""
    try:
        reason = HTTPStatus(reply.status).phrase
    except ValueError:
        reason = ""
    lines = [f"HTTP/1.1 {reply.status} {reason}", f"Content-Length: {len(reply.body)}"]
    lines += [f"{name}: {value}" for name, value in _headers(reply).items()]
    return "\r\n".join([*lines, "", ""]).encode() + reply.body


def _reset(transport: Any) -> None:
    """Close with a reset packet instead of an orderly end."""
    plug = transport.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
