"""The server: connections in, `plan` asked, bytes out, the bill kept.

Everything that decides is in `plan`; this file only waits, writes, and breaks connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
from aiohttp import web

from jobs.mock import refusals, routes, texts, vectors
from jobs.mock.asked import Reply, Settings
from jobs.mock.bill import Bill
from jobs.mock.faults import Fault, Script, from_json
from jobs.mock.plan import Plan, plan, plan_lookup
from pipeline.errors import UsageError

Latency = float | Callable[[random.Random], float]

CONTROL = "/_mock/"
# More connections than that wait in line when a test opens hundreds at once.
BACKLOG = 1024


class Mock:
    """A server that speaks every protocol, can misbehave, and keeps the bill.

    `async with Mock(...) as mock` serves in the running loop under `mock.url`. `script`, `key`,
    `latency` and `settings` may be replaced while it runs.

    Units: `latency` in seconds, or a function that draws them; it is waited before every answer
    that is inferred, and `sleep` is what waits.
    """

    def __init__(
        self,
        script: Sequence[Fault | str] = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        key: str | None = None,
        latency: Latency = 0.0,
        dimension: int = 384,
        batch_limit: int | None = None,
        max_input_tokens: int | None = None,
        max_body_bytes: int | None = None,
        engine: Literal["tei", "tgi"] = "tei",
        models: Sequence[str] = ("mock-embedding", "mock-chat"),
        tasks: Mapping[str, str] | None = None,
        shuffle: bool = False,
        record: bool = False,
        seed: int = 0,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        for name, bound in (
            ("dimension", dimension),
            ("batch_limit", batch_limit),
            ("max_input_tokens", max_input_tokens),
            ("max_body_bytes", max_body_bytes),
        ):
            if bound is not None and bound < 1:
                raise UsageError(f"mock: `{name}` = {bound} must be at least 1")
        if not models:
            raise UsageError("mock: `models` must name at least one model")
        self.host = host
        self.port = port
        self.key = key
        self.latency = latency
        self.sleep = sleep
        self.seed = seed
        self.settings = Settings(
            dimension,
            batch_limit,
            max_input_tokens,
            max_body_bytes,
            engine,
            tuple(models),
            dict(tasks or {}),
        )
        self._always = (Fault("shuffled_index"),) if shuffle else ()
        self.play(*script)
        self.bill = Bill(record=record)
        self._random = random.Random(seed)
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        """The address without a path, `http://127.0.0.1:40123`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def vector(self, text: str, model: str, dimension: int | None = None) -> list[float]:
        """The vector that this server gives for the text."""
        digest = vectors.digest(text.encode("utf-8", "surrogatepass"))
        found: list[float] = vectors.vector(
            digest, model, dimension or self.settings.dimension
        ).tolist()
        return found

    def summary(self, text: str) -> str:
        """The summary that this server gives for the text."""
        return texts.extract(text)

    def play(self, *faults: Fault | str) -> None:
        """Replace the script; its counts start again."""
        self.script = Script((*faults, *self._always), seed=self.seed)

    def reset(self) -> None:
        """A new bill, and the script from its start."""
        self.bill.clear()
        self.script.rewind()

    async def start(self) -> None:
        """Listen.

        Raises: UsageError where the address is not to be had.
        """
        server = web.Server(self._serve, handler_cancellation=True, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=0.05)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.port, backlog=BACKLOG).start()
        except OSError as error:
            await runner.cleanup()
            reason = error.strerror or str(error)
            raise UsageError(f"mock: cannot listen on {self.url}: {reason}") from None
        self.port = runner.addresses[0][1]
        self._runner = runner

    async def stop(self) -> None:
        """Stop listening; calls in flight are cut off."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        path, method = request.path, request.method
        if path.startswith(CONTROL):
            return _response(await self._control(request))
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        if method in ("GET", "HEAD"):
            self.bill.lookups += 1
            self.bill.look(request.path_qs, headers)
            decided = plan_lookup(path, dict(headers), self.key, self.script, self.settings)
            return (await self._act(request, decided))[0]
        self.bill.begin(request.path_qs, headers)
        how = "left"
        try:
            body = await request.content.read()
            self.bill.keep(method, request.path_qs, headers, body)
            if method != "POST":
                how = "405"
                return _response(refusals.not_allowed())
            decided = plan(
                routes.find(path, self.settings),
                path=path,
                headers=dict(headers),
                body=body,
                key=self.key,
                script=self.script,
                settings=self.settings,
            )
            response, how = await self._act(request, decided)
            return response
        except (ConnectionError, web.RequestPayloadError):
            return web.Response()  # the client went away: there is nobody to tell
        finally:
            self.bill.end(how)

    async def _act(self, request: web.BaseRequest, decided: Plan) -> tuple[web.StreamResponse, str]:
        """The response, and the word for it on the bill."""
        self._charge(decided)
        seconds = decided.delay + (self._draw() if decided.charged is not None else 0.0)
        if seconds > 0:
            await self.sleep(seconds)
        status = str(decided.reply.status)
        if decided.wire is None:
            return _response(decided.reply), status
        response = await self._misbehave(request, decided.reply, decided.wire)
        return response, {"reset": "reset", "slow": status}.get(decided.wire.kind, "cut")

    def _draw(self) -> float:
        return self.latency(self._random) if callable(self.latency) else self.latency

    def _charge(self, decided: Plan) -> None:
        self.bill.faults.update(decided.faults)
        call = decided.charged
        if call is not None:
            self.bill.charge(call.task, call.model, call.digests, sum(call.tokens), decided.spoiled)
            self.bill.output_tokens += decided.output_tokens

    async def _control(self, request: web.BaseRequest) -> Reply:
        """The mock's own routes: `bill`, `reset`, `script`."""
        asked = (request.method, request.path.removeprefix(CONTROL))
        if asked == ("GET", "bill"):
            full = request.query.get("full") in ("1", "true")
            return refusals.json(200, self.bill.document(full=full))
        if asked == ("POST", "reset"):
            self.reset()
            return refusals.json(200, {})
        if asked == ("POST", "script"):
            try:
                found = msgspec.json.decode(await request.content.read())
                self.play(*from_json(found))
            except (msgspec.DecodeError, UnicodeError, RecursionError, UsageError) as error:
                return refusals.json(400, {"error": str(error)})
        if asked in (("POST", "script"), ("GET", "script")):
            rows = zip(self.script.faults, self.script.met, self.script.played, strict=True)
            return refusals.json(
                200, [{"fault": one, "met": met, "played": played} for one, met, played in rows]
            )
        return refusals.not_found(request.path, request.method)

    async def _misbehave(
        self, request: web.BaseRequest, reply: Reply, fault: Fault
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
        response = web.StreamResponse(status=reply.status, headers=_headers(reply))
        if fault.kind != "half_chunked":
            response.content_length = len(reply.body)
        else:
            response.enable_chunked_encoding()
        await response.prepare(request)
        if fault.kind == "slow":
            for n in range(len(reply.body)):
                await response.write(reply.body[n : n + 1])
                await self.sleep(1.0 if fault.seconds is None else fault.seconds)
            return response
        sent = len(reply.body) // 2 if fault.bytes is None else fault.bytes
        if reply.body[:sent]:
            await response.write(reply.body[:sent])
        transport.close()
        return response


def _headers(reply: Reply) -> dict[str, str]:
    """The reply's headers, each name once: what a fault adds replaces what the service says."""
    named = [("Content-Type", reply.content_type), *reply.headers]
    return dict({name.lower(): (name, value) for name, value in named}.values())


def _response(reply: Reply) -> web.Response:
    return web.Response(status=reply.status, body=reply.body, headers=_headers(reply))


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
