"""Does the window find the slots of a server that queues, where fixed numbers do not fit it?

The real `Dispatch` without `endpoint.concurrency`, the same with fixed numbers of calls in flight,
and an AIMD controller (+1 a round trip, half after a refusal), each against a simulated server that
works on some calls at once and lets the others wait. Each cell: the time for 40 calls per slot over
the best possible time / mean calls in flight in the second half, over the slots. The clock is
virtual.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from typing import Any

import anyio
from measure import machine, report
from msgspec.structs import replace
from saturation import Memory, Send, endpoint, request

sys.path.insert(0, str(Path(__file__).parent.parent))

from jobs.mock import SimulatedServer, clock
from pipeline.dispatch.dispatch import Dispatch
from pipeline.dispatch.queue import Group

SERVERS: dict[str, tuple[int, float, str]] = {
    # Name: slots at the end, best seconds of 40 calls per slot, words.
    "1 slot, 1 s": (1, 40.0, "workers=1 latency=1s"),
    "10 slots, 2 s": (10, 80.0, "workers=10 latency=2s"),
    "100 slots, 0.25 s": (100, 10.0, "workers=100 latency=250ms"),
    "200 slots, 0.05 s": (200, 2.0, "workers=200 latency=50ms"),
    # Log-normal with a mean of 0.25 s.
    "100 slots, varying": (100, 10.0, "workers=100 latency=220ms sigma=0.5"),
    "100, halved at 5 s": (50, 15.0, "workers=100 latency=250ms change=5s:0.5"),
}
FIXED = (16, 64, 100, 256, 512)
PER_SLOT = 40


class Aimd:
    """Additive increase, multiplicative decrease, as TCP does: a queue is no reason to stop."""

    def __init__(self, ceiling: int = 512) -> None:
        self.ceiling, self.size = ceiling, 8.0
        self.in_flight = 0

    async def run(self, send: Send, count: int) -> None:
        """Send this number of calls."""
        wake = anyio.Event()

        async def call(number: int) -> None:
            nonlocal wake
            await send([request(number)])
            self.in_flight -= 1
            self.size = min(self.ceiling, self.size + 1 / self.size)
            wake.set()
            wake = anyio.Event()

        async with anyio.create_task_group() as group:
            for number in range(count):
                while self.in_flight >= int(self.size):
                    await wake.wait()
                self.in_flight += 1
                group.start_soon(call, number)


def simulated(name: str, words: str, count: int) -> tuple[float, float]:
    """The seconds for this number of calls, and the mean number in flight in the second half."""

    async def main() -> tuple[float, float]:
        server = SimulatedServer(words, dimension=4)
        loads: list[int] = []

        async def watch() -> None:
            while True:
                loads.append(server.in_flight)
                await anyio.sleep(0.01)

        async with anyio.create_task_group() as watching:
            watching.start_soon(watch)
            if name == "AIMD":
                await Aimd().run(server.send, count)
            else:
                fixed = None if name == "textmill" else int(name.split()[-1])
                served = replace(
                    endpoint(None), concurrency=fixed or 256, is_adaptive=fixed is None
                )
                dispatch = Dispatch(
                    [(served, server.send)],
                    Memory(),  # type: ignore[arg-type]
                    lambda _: None,
                    free_bytes=lambda: 1 << 40,
                    clock=anyio.current_time,
                    uniform=random.Random(1).random,
                )
                async with anyio.create_task_group() as group:
                    group.start_soon(dispatch.run)
                    await dispatch.admit(Group(), [request(number) for number in range(count)])
                    dispatch.close()
            watching.cancel_scope.cancel()
        steady = loads[len(loads) // 2 : int(0.97 * len(loads))]
        return anyio.current_time(), sum(steady) / max(1, len(steady))

    return clock.run(main)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="three servers instead of six")
    options = parser.parse_args()
    servers = dict(list(SERVERS.items())[1:4] if options.quick else SERVERS.items())
    rows: list[dict[str, Any]] = []
    for name in ("textmill", "AIMD", *(f"fixed {size}" for size in FIXED)):
        started = time.process_time()
        row: dict[str, Any] = {"time / best, in flight / slots": name}
        for server, (slots, best, words) in servers.items():
            # Halved: 2,000 calls in the first 5 s, 2,000 in the next 10 s.
            count = 4_000 if "change" in words else PER_SLOT * slots
            seconds, load = simulated(name, words, count)
            row[server] = f"{seconds / best:.2f} / {load / slots:.1f}"
        row["CPU s"] = round(time.process_time() - started, 1)
        rows.append(row)
    environment = machine("textmill", "anyio") | {"clock": "virtual"}
    report(rows, environment, as_json=options.json)


if __name__ == "__main__":
    main()
