"""A small HTTP proxy on 127.0.0.1: absolute URLs and CONNECT, with a credential if it wants one."""

import asyncio
import base64
import contextlib
from typing import Self
from urllib.parse import urlsplit


class Proxy:
    """`heads` are the heads of the requests that arrived, `url` is its own URL.

    `refuses`: a status line with which it answers instead.
    """

    def __init__(self, user: str = "", refuses: str = "") -> None:
        self._credential = base64.b64encode(user.encode()).decode() if user else ""
        self._refuses = refuses
        self.heads: list[str] = []
        self._serving: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._serving:
            if task:
                task.cancel()
        await asyncio.gather(*(task for task in self._serving if task), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            method, target, _ = head.split(" ", 2)
            refusal = self._refuses
            if self._credential and f"proxy-authorization: basic {self._credential}".lower() not in head.lower():
                refusal = "407 Proxy Authentication Required"
            if refusal:
                writer.write(f"HTTP/1.1 {refusal}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
                await writer.drain()
                return
            host, _, port = (target if method == "CONNECT" else urlsplit(target).netloc).partition(":")
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            with contextlib.closing(far_writer):
                if method == "CONNECT":
                    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    lines = [each for each in head.split("\r\n") if not each.lower().startswith("proxy-")]
                    far_writer.write("\r\n".join(lines).encode())
                await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()
