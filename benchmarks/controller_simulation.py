"""Which controller fills a limit and breaches none? Six kinds of limit, without a socket.

A discrete-event simulation: calls take log-normal time (median 0.4 s, mean 0.45 s), travel 5 to
15 ms to the server, timers are up to 1 ms late, and there is always more work. Goodput is in
percent of what the limit allows over the whole run (a server that lets calls be saved up can give
more), rejects in percent of the sends. After the table: recovery from a limit that was halved and
restored, the server's own count in any window, and twenty restarts in a minute.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from measure import machine, report

sys.path.insert(0, str(Path(__file__).parent.parent))

from pipeline.limits import concurrency
from pipeline.limits import rate as limits

PER_SECOND = 50.0
SLOTS = 32
IN_FLIGHT = 64
"""The ceiling of every controller that has one."""
MEDIAN_SECONDS, SIGMA = 0.4, 0.5
MEAN_SECONDS = MEDIAN_SECONDS * math.exp(SIGMA**2 / 2)


# --- servers: `arrive` returns None (admitted) or the seconds to wait; NaN is a refusal without a
# header ---


class ServerBucket:
    """A bucket that refills continuously and holds `seconds` of the limit."""

    def __init__(self, per_second: Callable[[float], float], depth_seconds: float) -> None:
        self.per_second, self.depth_seconds = per_second, depth_seconds
        self.level, self.at = per_second(0.0) * depth_seconds, 0.0

    def arrive(self, now: float) -> float | None:
        rate = self.per_second(now)
        self.level = min(rate * self.depth_seconds, self.level + rate * (now - self.at))
        self.at = now
        if self.level >= 1:
            self.level -= 1
            return None
        return (1 - self.level) / rate

    def done(self) -> None:
        pass


class SlidingSecond(ServerBucket):
    """Counts every send of the last second, the refused ones as well."""

    def __init__(self) -> None:
        self.sends: deque[float] = deque()

    def arrive(self, now: float) -> float | None:
        while self.sends and self.sends[0] <= now - 1:
            self.sends.popleft()
        self.sends.append(now)
        if len(self.sends) <= PER_SECOND:
            return None
        return self.sends[-int(PER_SECOND)] + 1 - now


class FixedMinute(ServerBucket):
    """So many in every minute of the clock."""

    def __init__(self) -> None:
        self.minute, self.count = 0, 0

    def arrive(self, now: float) -> float | None:
        if int(now // 60) != self.minute:
            self.minute, self.count = int(now // 60), 0
        if self.count < PER_SECOND * 60:
            self.count += 1
            return None
        return (self.minute + 1) * 60 - now


class Slots(ServerBucket):
    """Works on 32 calls at once, refuses the others and names no time."""

    def __init__(self) -> None:
        self.busy = 0

    def arrive(self, now: float) -> float | None:
        if self.busy >= SLOTS:
            return math.nan
        self.busy += 1
        return None

    def done(self) -> None:
        self.busy -= 1


class Kind(NamedTuple):
    name: str
    server: Callable[[float], ServerBucket]
    """Of the run's length."""
    allowed: Callable[[float], float]
    """Calls that the limit allows in a run of this length."""


def halved(seconds: float) -> Callable[[float], float]:
    """Half the limit in the middle third of the run."""
    return lambda now: PER_SECOND / (2 if seconds / 3 <= now < seconds * 2 / 3 else 1)


KINDS = (
    Kind("bucket 1 s", lambda _: ServerBucket(lambda _: PER_SECOND, 1), lambda t: PER_SECOND * t),
    Kind("bucket 60 s", lambda _: ServerBucket(lambda _: PER_SECOND, 60), lambda t: PER_SECOND * t),
    Kind("429s count", lambda _: SlidingSecond(), lambda t: PER_SECOND * t),
    Kind("fixed window", lambda _: FixedMinute(), lambda t: PER_SECOND * t),
    Kind("32 slots", lambda _: Slots(), lambda t: SLOTS / MEAN_SECONDS * t),
    Kind("halves", lambda t: ServerBucket(halved(t), 1), lambda t: PER_SECOND * t * 5 / 6),
)


# --- controllers ---------------------------------------------------------------------------------


class Cookbook:
    """The script of OpenAI's cookbook: a minute deep, full at the start, 15 s after a 429."""

    def __init__(self, draw: random.Random) -> None:
        self.level, self.at, self.until = PER_SECOND * 60, 0.0, 0.0

    def wait(self, now: float) -> float:
        self.level = min(PER_SECOND * 60, self.level + PER_SECOND * (now - self.at))
        self.at = now
        return max(self.until - now, (1 - self.level) / PER_SECOND, 0.0)

    def sent(self, now: float) -> Any:
        self.level -= 1

    def back(self, now: float, note: Any, started: float, refused: float | None) -> None:
        if refused is not None:
            self.until = now + 15


class FixedSemaphore:
    """So many at once; a refused one keeps its slot and backs off from 0.5 s, doubling to 8 s."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.free: list[tuple[float, int]] = [(0.0, 0)] * IN_FLIGHT
        self.tries: list[int] = []

    def wait(self, now: float) -> float:
        return max(0.0, self.free[0][0] - now) if self.free else math.inf

    def sent(self, now: float) -> Any:
        return heapq.heappop(self.free)[1]

    def back(self, now: float, note: Any, started: float, refused: float | None) -> None:
        if refused is None:
            heapq.heappush(self.free, (now, 0))
        else:
            delay = min(8.0, 0.5 * 2**note) * self.draw.uniform(0.75, 1)
            heapq.heappush(self.free, (now + delay, note + 1))


class Adaptive:
    """As botocore's adaptive mode: CUBIC on the measured rate of sending, after the first 429."""

    def __init__(self, draw: random.Random) -> None:
        self.in_flight = 0
        self.level = self.fill = self.most = self.at = 0.0
        self.is_on = False
        self.measured, self.count, self.bin = 0.0, 0, 0.0
        self.last_max = self.last_refusal = 0.0

    def wait(self, now: float) -> float:
        if self.in_flight >= IN_FLIGHT:
            return math.inf
        if not self.is_on:
            return 0.0
        self.level = min(self.most, self.level + self.fill * (now - self.at))
        self.at = now
        return max(0.0, (1 - self.level) / self.fill)

    def sent(self, now: float) -> Any:
        self.in_flight += 1
        self.level -= self.is_on  # off, it asks no bucket

    def back(self, now: float, note: Any, started: float, refused: float | None) -> None:
        self.in_flight -= 1
        self.count += 1
        half = math.floor(now * 2) / 2
        if half > self.bin:
            self.measured = 0.8 * self.count / (half - self.bin) + 0.2 * self.measured
            self.count, self.bin = 0, half
        if refused is not None:
            rate = min(self.measured, self.fill) if self.is_on else self.measured
            self.last_max, self.last_refusal, self.is_on = rate, now, True
            wanted = rate * 0.7
        else:
            turn = (self.last_max * 0.3 / 0.4) ** (1 / 3)
            wanted = 0.4 * (now - self.last_refusal - turn) ** 3 + self.last_max
        self.level = min(self.most, self.level + self.fill * (now - self.at))
        self.at = now
        self.fill = max(0.5, min(wanted, 2 * self.measured))
        self.most = max(1.0, self.fill)
        self.level = min(self.level, self.most)


class Ours:
    """textmill: paced buckets where a limit is known, adaptive concurrency in any case."""

    def __init__(
        self, draw: random.Random, per_second: float | None, header: float | None = None
    ) -> None:
        self.draw, self.header = draw, header
        calls = None if per_second is None else limits.bucket(per_second * 60, 0.0)
        self.limits = limits.Limits(calls)
        self.room = concurrency.concurrency(IN_FLIGHT)

    def wait(self, now: float) -> float:
        self.room = concurrency.at(self.room, now)
        if not concurrency.has_room(self.room):
            return concurrency.release_seconds(self.room, now)
        # Asked and not yet taken: `sent` takes.
        self.leased, wait = limits.lease_all(self.limits, now, 0)
        if wait:
            self.limits = self.leased
        return wait

    def sent(self, now: float) -> Any:
        self.limits = self.leased
        self.room = concurrency.sent(self.room)
        return self.room.calls, self.room.in_flight

    def back(self, now: float, note: Any, started: float, refused: float | None) -> None:
        came: concurrency.CallResult = "answered"
        if self.header is not None:
            calls = limits.learn(self.limits.calls, now, self.header)
            self.limits = self.limits._replace(calls=calls)
        if refused is not None:
            self.limits, is_explained = limits.refused(
                self.limits,
                now,
                started,
                names_wait=not math.isnan(refused),
                calls_per_second=concurrency.calls_per_second(self.room),
            )
            came = "limited" if is_explained else "refused"
            # Every wait that is named is honoured, up to 10 % longer; none named is no pause.
            self.limits = limits.pause(self.limits, now, refused * self.draw.uniform(1, 1.1))
        self.room = concurrency.returned(self.room, now, *note, now - started, came)


CONTROLLERS: dict[str, Callable[[random.Random], Any]] = {
    "cookbook limiter": Cookbook,
    f"semaphore of {IN_FLIGHT}": FixedSemaphore,
    "botocore adaptive": Adaptive,
    "ours, limit known": lambda draw: Ours(draw, PER_SECOND),
    "ours, limit unknown": lambda draw: Ours(draw, None),
    "ours, declared 2x": lambda draw: Ours(draw, PER_SECOND * 2),
    "ours, header names 1e9": lambda draw: Ours(draw, None, 1e9),
}


# --- the simulation ------------------------------------------------------------------------------


class Ran(NamedTuple):
    sends: list[float]
    """When each send reached the server."""
    taken: list[float]
    """The sends that were not refused."""


def simulate(
    server: Any, controller: Any, seconds: float, draw: random.Random, start: float = 0.0
) -> Ran:
    """Run to `start + seconds`."""
    sends: list[float] = []
    taken: list[float] = []
    order = itertools.count()
    events: list[tuple[float, int, str, Any]] = [(start, 0, "wake", None)]
    wakes_at = start
    end = start + seconds
    while events and events[0][0] < end:
        now, _, what, payload = heapq.heappop(events)
        if what == "wake":
            if now != wakes_at:
                continue  # an earlier one came instead
            wakes_at = math.inf
        elif what == "arrives":
            refused = server.arrive(now)
            sends.append(now)
            takes = draw.uniform(0.005, 0.015)
            if refused is None:
                taken.append(now)
                takes += draw.lognormvariate(math.log(MEDIAN_SECONDS), SIGMA)
            heapq.heappush(events, (now + takes, next(order), "back", (*payload, refused)))
            continue
        else:
            note, started, refused = payload
            if refused is None:
                server.done()
            controller.back(now, note, started, refused)
        while (wait := controller.wait(now)) == 0:
            arrives = now + draw.uniform(0.005, 0.015)
            heapq.heappush(events, (arrives, next(order), "arrives", (controller.sent(now), now)))
        if now + wait < wakes_at and wait != math.inf:
            wakes_at = now + wait + draw.uniform(0, 0.001)
            heapq.heappush(events, (wakes_at, next(order), "wake", None))
    return Ran(sends, taken)


def most_in(times: list[float], window: float) -> int:
    """The most of these in any closed window of this length."""
    most = first = 0
    for last, time in enumerate(times):
        while times[first] < time - window:
            first += 1
        most = max(most, last - first + 1)
    return most


def recovery(seconds: float) -> dict[str, Any]:
    """Seconds after the limit halved, and after it came back, until 90 % of it is used for 10 s."""
    row: dict[str, Any] = {"what": "seconds to 90 % after the limit"}
    for name in ("ours, limit known", "ours, limit unknown"):
        draw = random.Random(3)
        server = ServerBucket(halved(seconds), 1)
        taken = simulate(server, CONTROLLERS[name](draw), seconds, draw).taken
        for what, since, limit in (
            ("halved", seconds / 3, PER_SECOND / 2),
            ("came back", seconds * 2 / 3, PER_SECOND),
        ):
            after = 0
            while sum(since + after <= t < since + after + 10 for t in taken) < 9 * limit:
                after += 1
            row[f"{what} ({name[6:]})"] = after
    return row


def bound(seconds: float) -> Iterator[dict[str, Any]]:
    """The server's own count in any window against 0.985 L (W + 0.1) + 1."""
    draw = random.Random(2)
    sends = simulate(ServerBucket(lambda _: math.inf, 1), Ours(draw, PER_SECOND), seconds, draw)
    for window in (0.1, 1.0, 10.0, 60.0):
        yield {
            "what": f"limit {PER_SECOND:g}/s, any {window:g} s",
            "most": most_in(sends.sends, window),
            "bound": round(0.985 * PER_SECOND * (window + limits.BURST_SECONDS) + 1, 1),
        }


def restarts(per_minute: float) -> dict[str, Any]:
    """Twenty processes, killed after 3 s each: what reaches the server in any minute."""
    draw = random.Random(4)
    sends: list[float] = []
    for cycle in range(60):
        controller = Ours(draw, per_minute / 60)
        controller.limits = limits.Limits(limits.bucket(per_minute, 3.0 * cycle))
        server = ServerBucket(lambda _: math.inf, 1)
        sends += simulate(server, controller, 3.0, draw, 3.0 * cycle).sends
    return {
        "what": f"20 restarts a minute, limit {per_minute:g} a minute",
        "most in 60 s": most_in(sends, 60),
        "allowed": per_minute,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="under 60 seconds")
    options = parser.parse_args()
    seconds = 300.0 if options.quick else 1_800.0
    rows: list[dict[str, Any]] = []
    for name, make in CONTROLLERS.items():
        row: dict[str, Any] = {"goodput % / rejects %": name}
        for kind in KINDS:
            draw = random.Random(1)
            ran = simulate(kind.server(seconds), make(draw), seconds, draw)
            goodput = 100 * len(ran.taken) / kind.allowed(seconds)
            rejects = 100 * (1 - len(ran.taken) / len(ran.sends))
            row[kind.name] = f"{goodput:.1f} / {rejects:.2f}"
        rows.append(row)
    laws = [recovery(max(seconds, 600.0)), *bound(seconds)]
    laws += [restarts(n) for n in (10, 60, 600, 3_000)]
    if options.json:
        report(rows + laws, machine(), as_json=True)
    else:
        report(rows, machine(), as_json=False)
        for law in laws:
            figures = [f"{key} {value}" for key, value in law.items() if key != "what"]
            print(f"{law['what']}: {', '.join(figures)}")


if __name__ == "__main__":
    main()
