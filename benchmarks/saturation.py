"""Does the whole dispatcher fill a limit and breach none, where other clients do not?

The real `Dispatch` (workers, retries, breaker, limits, adaptive concurrency) and the decisions of
three others, each against the mock's own server behind six kinds of limit, 50 calls a second each.
Goodput is in percent of what the server could let through, rejects in percent of all calls, both by
the server's own count; after the table, the most that it let in within any second and any minute.
The clock is virtual; `--socket` runs some of it once more in real time against the aiohttp mock.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
from controller_simulation import Adaptive, Cookbook, FixedSemaphore
from measure import machine, report

sys.path.insert(0, str(Path(__file__).parent.parent))

from jobs.mock import Mock, SimulatedServer, clock
from jobs.mock.limits.figures import Figures
from jobs.mock.limits.gate import Gate
from jobs.mock.limits.parse import TABLE
from pipeline.dispatch.dispatch import Dispatch
from pipeline.dispatch.queue import Group
from pipeline.endpoints.http import HttpEndpoint
from pipeline.errors import EndpointError, TextmillError
from pipeline.records import Answer, Answered, Chunk, Endpoint, Request

PER_MINUTE = 3_000.0
IN_FLIGHT = 64
LATENCY = "latency=400ms sigma=0.5"
SOCKET_KINDS = ("bucket 1 s", "32 slots, no header")

Send = Callable[[Sequence[Request]], Awaitable[Answered]]

PEERS: dict[str, Callable[[random.Random], Any]] = {
    "cookbook limiter": Cookbook,
    f"semaphore of {IN_FLIGHT}": FixedSemaphore,
    "botocore adaptive": Adaptive,
}
OURS: dict[str, float | None] = {
    "textmill, limit known": PER_MINUTE,
    "textmill, limit unknown": None,
    "textmill, declared 2x": 2 * PER_MINUTE,
}


class Memory:
    """Answers in a dict: here nothing is measured but the dispatch."""

    folder = "memory"

    def __init__(self) -> None:
        self.answers: dict[bytes, Answer] = {}

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Answer]:
        return {key: self.answers[key] for key in keys if key in self.answers}

    def put_many(
        self, answers: Sequence[tuple[bytes, Answer]], can_use: object
    ) -> dict[bytes, Answer]:
        self.answers.update(answers)
        return {}


def request(number: int) -> Request:
    return Request(number.to_bytes(32, "big"), f"text {number}", 10, Chunk(0, 9, 10))


def endpoint(per_minute: float | None, url: str = "") -> Endpoint:
    return Endpoint(
        name="mock",
        kind="openai",
        task="feature-extraction",
        model="m",
        identity=("openai", "", "m", ""),
        url=url,
        concurrency=IN_FLIGHT,
        batch_size=1,
        requests_per_minute=per_minute,
    )


async def textmill(dispatch: Dispatch, seconds: float) -> None:
    """More work than can be done, for so long."""
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(dispatch.run)
            await dispatch.admit(Group(), [request(n) for n in range(int(120 * seconds))])
            await anyio.sleep(seconds)
            dispatch.stop(TextmillError("time is up"), 0.0)
    except* TextmillError:
        pass


async def other(controller: Any, send: Send, seconds: float) -> None:
    """The same for a controller that returns the seconds to wait and receives the results."""
    wake = anyio.Event()

    async def call(note: Any, started: float, number: int) -> None:
        refused = None
        try:
            await send([request(number)])
        except EndpointError as error:
            refused = math.nan if error.retry_after is None else error.retry_after
        controller.back(anyio.current_time() - began, note, started, refused)
        wake.set()

    began = anyio.current_time()
    number = 0
    with anyio.move_on_after(seconds):
        async with anyio.create_task_group() as group:
            while True:
                now = anyio.current_time() - began
                if wait := controller.wait(now):
                    wake = anyio.Event()
                    # Less than the clock can tell would be no wait, for ever.
                    with anyio.move_on_after(max(wait, 1e-6)):
                        await wake.wait()
                    continue
                number += 1
                group.start_soon(call, controller.sent(now), now, number)


def words(kind: str, seconds: float) -> str:
    """The limit of the table, halved in the middle third, with the time that a call takes."""
    limit = TABLE[kind]
    if kind == "limit halves":
        limit = f"bucket calls=50/s change={seconds / 3:g}s:0.5,{seconds * 2 / 3:g}s:1"
    return limit if "latency" in limit else f"{limit} {LATENCY}"


def simulated(name: str, limit: str, seconds: float) -> Figures:
    """On the virtual clock."""

    async def main() -> Figures:
        server = SimulatedServer(limit, dimension=4)
        draw = random.Random(1)
        if name in OURS:
            dispatch = Dispatch(
                [(endpoint(OURS[name]), server.send)],
                Memory(),  # type: ignore[arg-type]
                lambda _: None,
                free_bytes=lambda: 1 << 40,
                clock=anyio.current_time,
                uniform=draw.random,
            )
            await textmill(dispatch, seconds)
        else:
            await other(PEERS[name](draw), server.send, seconds)
        return server.gate.figures()

    return clock.run(main)


async def on_socket(name: str, limit: str, seconds: float) -> Figures:
    """In real time, over HTTP."""
    async with Mock(limit=limit, dimension=4) as mock:
        spoken = endpoint(OURS.get(name), f"{mock.url}/v1")
        async with HttpEndpoint(spoken) as client:
            if name in OURS:
                dispatch = Dispatch(
                    [(spoken, client.answer)],
                    Memory(),  # type: ignore[arg-type]
                    lambda _: None,
                    free_bytes=lambda: 1 << 40,
                )
                await textmill(dispatch, seconds)
            else:
                await other(PEERS[name](random.Random(1)), client.answer, seconds)
            gate: Gate | None = mock.gate
            assert gate is not None
            return gate.figures()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="30 virtual seconds instead of 600")
    parser.add_argument("--seconds", type=float, help="how long each lasts")
    parser.add_argument("--socket", action="store_true", help="in real time, over HTTP")
    options = parser.parse_args()
    seconds = options.seconds or (30.0 if options.quick else 600.0)
    kinds: Sequence[str] = tuple(TABLE)
    if options.socket:
        seconds = options.seconds or (4.0 if options.quick else 30.0)
        kinds = SOCKET_KINDS
    rows: list[dict[str, Any]] = []
    peaks: list[dict[str, Any]] = []
    names = [*PEERS, *OURS]
    if options.socket:
        # It counts the calls before its first 429 as a debt: after 64 at once it hardly wakes.
        names.remove("botocore adaptive")
    for name in names:
        started = time.process_time()
        row: dict[str, Any] = {"goodput % / rejects %": name}
        peak: dict[str, Any] = {"most calls in 1 s / 60 s": name}
        for kind in kinds:
            limit = words(kind, seconds)
            if options.socket:
                found = anyio.run(on_socket, name, limit, seconds)
            else:
                found = simulated(name, limit, seconds)
            row[kind] = f"{100 * (found.goodput or 0):.1f} / {100 * found.rejects_share:.2f}"
            peak[kind] = f"{found.peak_calls['1']:g} / {found.peak_calls['60']:g}"
        row["CPU s"] = round(time.process_time() - started, 1)
        rows.append(row)
        peaks.append(peak)
    environment = machine("textmill", "aiohttp", "anyio")
    environment["clock"] = f"{'real' if options.socket else 'virtual'}, {seconds:g} s each"
    if options.json:
        report(rows + peaks, environment, as_json=True)
    else:
        report(rows, environment, as_json=False)
        print()
        report(peaks, {}, as_json=False)


if __name__ == "__main__":
    main()
