"""The server: accepts connections, calls `plan`, writes bytes, keeps the bill.

All decisions are in `plan`; this file only waits, writes, and breaks connections.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import msgspec
from aiohttp import web

from jobs.mock.bill import Bill
from jobs.mock.faults import Fault, Script, from_json
from jobs.mock.limits import limits
from jobs.mock.limits import parse as words
from jobs.mock.limits.gate import Gate
from jobs.mock.limits.limits import Limit
from jobs.mock.plan import Plan, plan, plan_lookup
from jobs.mock.protocols import refusals, routes, texts, vectors
from jobs.mock.protocols.calls import Reply, Settings
from jobs.mock.wire import misbehave, response
from pipeline.errors import UsageError

Latency = float | Callable[[random.Random], float]

CONTROL = "/_mock/"
# The default is too small for a test that opens hundreds of connections at once.
BACKLOG = 1024


class Mock:
    """A server that speaks every protocol, plays faults, and keeps the bill.

    `async with Mock(...) as mock` serves in the running loop under `mock.url`. `script`, `key`,
    `latency`, `sleep` and `settings` may be replaced while it runs.

    Units: `latency` in seconds, or a function that draws them; the server waits for it with `sleep`
    before every inferred answer. A `limit` (see `jobs.mock.limits.parse`) with its own latency
    replaces it; the limit counts by `clock` and writes dates by `wall`.
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
        revision: str | None = None,
        weights: str = "",
        shuffle: bool = False,
        record: bool = False,
        seed: int = 0,
        limit: Limit | str | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
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
            revision=revision,
            weights=weights,
        )
        self._permanent_faults = (Fault("shuffled_index"),) if shuffle else ()
        self.play(*script)
        self.bill = Bill(record=record)
        self._random = random.Random(seed)
        self._clock = clock
        self._wall = wall
        self.restrict(limit)
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        """The address without a path, `http://127.0.0.1:40123`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def vector(self, text: str, model: str, dimension: int | None = None) -> list[float]:
        """The vector that this server gives for the text."""
        digest = vectors.digest(text.encode("utf-8", "surrogatepass"))
        numbers: list[float] = vectors.vector(
            digest, model + self.settings.weights, dimension or self.settings.dimension
        ).tolist()
        return numbers

    def summary(self, text: str) -> str:
        """The summary that this server gives for the text."""
        return texts.extract(text)

    def play(self, *faults: Fault | str) -> None:
        """Replace the script; its counts start at 0."""
        self.script = Script((*faults, *self._permanent_faults), seed=self.seed)

    def restrict(self, limit: Limit | str | None) -> None:
        """Replace the limit; its state starts anew.

        Raises: UsageError for words that cannot be parsed.
        """
        parsed = words.parse(limit) if isinstance(limit, str) else limit
        self.gate = Gate(parsed, clock=self._clock, wall=self._wall) if parsed else None
        max_requests = (parsed.permits or parsed.slots) if parsed else None
        self.settings = msgspec.structs.replace(self.settings, max_concurrent_requests=max_requests)

    def document(self, *, full: bool = False) -> dict[str, Any]:
        """The bill as JSON, with the traffic that passed the limit, if there is one."""
        traffic = {"limit": self.gate.figures()} if self.gate else {}
        return self.bill.document(full=full) | traffic

    def reset(self) -> None:
        """Clear the bill, rewind the script, and reset the limit."""
        self.bill.clear()
        self.script.rewind()
        if self.gate is not None:
            self.restrict(self.gate.limit)

    async def start(self) -> None:
        """Listen.

        Raises: UsageError if the address cannot be bound.
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
            return response(await self._control(request))
        headers = [(name.lower(), value) for name, value in request.headers.items()]
        if method in ("GET", "HEAD"):
            self.bill.lookups += 1
            self.bill.keep_headers(request.path_qs, headers)
            decided = plan_lookup(path, dict(headers), self.key, self.script, self.settings)
            return (await self._respond(request, decided))[0]
        self.bill.begin(request.path_qs, headers)
        result = "left"
        gate = self.gate
        planned: Plan | None = None
        try:
            body = await request.content.read()
            self.bill.keep(method, request.path_qs, headers, body)
            if method != "POST":
                result = "405"
                return response(refusals.not_allowed())
            planned = plan(
                routes.find(path, self.settings, request.query.get("api-version", "")),
                path=path,
                headers=dict(headers),
                body=body,
                key=self.key,
                script=self.script,
                settings=self.settings,
                gate=gate,
            )
            sent, result = await self._respond(request, planned)
            return sent
        except (ConnectionError, web.RequestPayloadError):
            return web.Response()  # the client disconnected: no response arrives
        finally:
            if gate is not None and planned is not None and planned.gate_result is not None:
                gate.leave(planned.gate_result)
            self.bill.end(result)

    async def _respond(
        self, request: web.BaseRequest, decided: Plan
    ) -> tuple[web.StreamResponse, str]:
        """The response, and its word on the bill."""
        self._charge(decided)
        seconds = decided.delay + (self._draw_latency() if decided.charged is not None else 0.0)
        if decided.charged is not None and self.gate is not None:
            async with self.gate.workers.turn():
                if seconds > 0:
                    await self.sleep(seconds)
        elif seconds > 0:
            await self.sleep(seconds)
        status = str(decided.reply.status)
        if decided.wire is None:
            return response(decided.reply), status
        sent = await misbehave(request, decided.reply, decided.wire, self.sleep)
        return sent, {"reset": "reset", "slow": status}.get(decided.wire.kind, "cut")

    def _draw_latency(self) -> float:
        if self.gate is not None and self.gate.limit.latency_seconds:
            return limits.latency(self.gate.limit)(self._random)
        return self.latency(self._random) if callable(self.latency) else self.latency

    def _charge(self, decided: Plan) -> None:
        self.bill.faults.update(decided.faults)
        call = decided.charged
        if call is not None:
            self.bill.charge(call.task, call.model, call.digests, sum(call.tokens), decided.spoiled)
            self.bill.output_tokens += decided.output_tokens

    async def _control(self, request: web.BaseRequest) -> Reply:
        """The mock's own routes: `bill`, `limit`, `reset`, `script`."""
        command = (request.method, request.path.removeprefix(CONTROL))
        if command == ("GET", "bill"):
            full = request.query.get("full") in ("1", "true")
            return refusals.json(200, self.document(full=full))
        if command == ("POST", "reset"):
            self.reset()
            return refusals.json(200, {})
        if command == ("POST", "script"):
            try:
                faults = msgspec.json.decode(await request.content.read())
                self.play(*from_json(faults))
            except (msgspec.DecodeError, UnicodeError, RecursionError, UsageError) as error:
                return refusals.json(400, {"error": str(error)})
        if command == ("POST", "limit"):
            try:
                self.restrict(msgspec.json.decode(await request.content.read(), type=str | None))
            except (msgspec.DecodeError, UnicodeError, UsageError) as error:
                return refusals.json(400, {"error": str(error)})
        if command in (("POST", "limit"), ("GET", "limit")):
            return refusals.json(200, self.gate.figures() if self.gate else None)
        if command in (("POST", "script"), ("GET", "script")):
            rows = zip(self.script.faults, self.script.matched, self.script.fired, strict=True)
            return refusals.json(
                200,
                [
                    {"fault": fault, "met": matched, "played": fired}
                    for fault, matched, fired in rows
                ],
            )
        return refusals.not_found(request.path, request.method)
