"""A mock server without sockets: the same gate, refusals and latency, on the clock of the loop.

On a virtual clock (`jobs.mock.clock`) hours of traffic take seconds, so that every test run
measures a controller over whole minutes, halved limits and outages. The replies are those of the
mock, parsed by the same code as replies from a socket.

    async def main() -> Figures:
        server = SimulatedServer("bucket calls=50/s latency=200ms sigma=0.5")
        dispatch = Dispatch([(endpoint, server.send)], ..., clock=anyio.current_time)
        ...
        return server.gate.figures()

    clock.run(main)
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from email.utils import formatdate
from functools import lru_cache

import anyio
import numpy as np

from jobs.mock.faults import ADDED, UNCHARGED, Fault, Script
from jobs.mock.limits import limits
from jobs.mock.limits import parse as words
from jobs.mock.limits.gate import Gate, GateResult
from jobs.mock.limits.limits import Limit
from jobs.mock.plan import fault_reply
from jobs.mock.protocols import texts, vectors
from jobs.mock.protocols.calls import Reply, Service
from pipeline.endpoints.kinds import KINDS
from pipeline.endpoints.refusals import refusal
from pipeline.errors import EndpointError, UsageError
from pipeline.records import Answer, Answered, Endpoint, Request

# 1 January 2026: the date at time 0 of the virtual clock.
EPOCH = 1_767_225_600.0
JSON = Reply(200).content_type
REFUSAL_SECONDS = 0.01


class SimulatedServer:
    """Answers requests like a service behind this limit; `gate` counts the traffic that passed.

    Create it inside the loop whose clock it uses. It supports the faults of the mock that end a
    call before inference (`500 30%`, `422 match=poison`, `hang`, ...), `delay` and `headers`; a
    body with status 200 is decoded as one of the OpenAI protocol. All others corrupt bytes, and
    there are none here.

    Raises: UsageError for an invalid limit or an unsupported fault.
    Units: `refusal_seconds` is the latency of a refusal; with 0, a client that retries at once
    would do so for ever in the same instant.
    """

    def __init__(
        self,
        limit: Limit | str,
        *,
        script: Sequence[Fault | str] = (),
        service: Service = "openai",
        dimension: int | None = None,
        seed: int = 0,
        refusal_seconds: float = REFUSAL_SECONDS,
    ) -> None:
        self.limit = words.parse(limit) if isinstance(limit, str) else limit
        self.gate = Gate(self.limit, clock=anyio.current_time, wall=self._wall)
        self.script = Script(script, seed=seed)
        for fault in self.script.faults:
            if fault.kind not in UNCHARGED | ADDED:
                raise UsageError(f"simulated: fault `{fault.kind}` breaks bytes: use the mock")
        self.answered: Counter[str] = Counter()
        """The number of answers by input."""
        self.calls = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self._service = service
        self._dimension = dimension
        task = "chat-completion" if dimension is None else "feature-extraction"
        self._endpoint = Endpoint("mock", "openai", task, "mock", ("mock",))
        self._random = random.Random(seed)
        self._latency = limits.latency(self.limit)
        self._refusal_seconds = refusal_seconds

    async def send(self, requests: Sequence[Request]) -> Answered:
        """One answer per request, a vector if a dimension was given, else a text; and the headers
        of the reply, in lower case.

        Raises: EndpointError, with the class that the client derives from the refusal.
        """
        reply = await self.reply(
            [request.input for request in requests],
            sum(request.tokens for request in requests),
        )
        headers = {name.lower(): value for name, value in reply.headers}
        if reply.status != 200:
            refused = refusal(reply.status, headers, reply.body)
            refused.headers = headers
            raise refused
        if reply.body or reply.content_type != JSON:  # of a fault: the protocol decides
            protocol = KINDS[self._endpoint.kind].protocol()
            settled = protocol.decode(self._endpoint, len(requests), 200, headers, reply.body)
            return Answered(settled, headers)
        return Answered([self._answer(request) for request in requests], headers)

    async def reply(self, inputs: Sequence[str], tokens: float) -> Reply:
        """The reply to a call, without a body if it succeeds.

        Raises: EndpointError if the connection is reset.
        """
        self.calls += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            result = self.gate.enter(self._service, "mock", tokens, len(inputs))
            if result.refused is None:
                return await self._serve(result, inputs)
            await anyio.sleep(self._refusal_seconds)
            if result.reset:
                raise EndpointError("ambiguous", "the connection was reset")
            return self._finish(result.refused)
        finally:
            self.in_flight -= 1

    async def _serve(self, result: GateResult, inputs: Sequence[str]) -> Reply:
        """The reply to an admitted call."""
        extra = result.headers
        try:
            body = "\0".join(inputs).encode("utf-8", "surrogatepass")
            for fault in self.script.play("/", inputs, body, vectors=self._dimension is not None):
                extra += tuple(fault.headers.items())
                if fault.kind == "delay":
                    await anyio.sleep(fault.seconds or 0.0)
                elif fault.kind == "hang":
                    await anyio.sleep_forever()
                elif fault.kind == "reset":
                    await anyio.sleep(self._refusal_seconds)
                    raise EndpointError("ambiguous", "the connection was reset")
                elif fault.kind != "headers":
                    await anyio.sleep(self._refusal_seconds)
                    reply = fault_reply(fault, self._service, "mock")
                    return self._finish(
                        Reply(
                            reply.status,
                            reply.body,
                            reply.content_type,
                            (*reply.headers, *extra),
                        )
                    )
            async with self.gate.workers.turn():
                await anyio.sleep(self._latency(self._random))
            self.answered.update(inputs)
            return self._finish(Reply(200, headers=extra))
        finally:
            self.gate.leave(result)

    def _finish(self, reply: Reply) -> Reply:
        """The reply with its date."""
        headers = (("date", _date(int(self._wall()))), *reply.headers)
        return Reply(reply.status, reply.body, reply.content_type, headers)

    def _answer(self, request: Request) -> Answer:
        if self._dimension is None:
            text = texts.extract(request.input)
            return Answer(text, request.tokens, texts.count(text), model="mock")
        digest = vectors.digest(request.input.encode("utf-8", "surrogatepass"))
        numbers = vectors.vector(digest, "mock", self._dimension)
        return Answer(numbers.astype(np.dtype("<f4")).tobytes(), request.tokens, model="mock")

    def _wall(self) -> float:
        return EPOCH + anyio.current_time()


@lru_cache(maxsize=1)
def _date(wall: int) -> str:
    return formatdate(wall, usegmt=True)
