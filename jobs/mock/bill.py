"""The bill: the requests and answers of this server, as one record.

Crash and fault tests compare it with the ledger of the client. An input is on the bill as soon as
its inference begins, even if the client disconnects or a fault corrupts the answer: real services
charge like that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct, structs

from jobs.mock.protocols import vectors

# Per header; a header that differs in every call must not displace the others.
MAX_VALUES_KEPT = 10_000
SECRET_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})


class Totals(Struct, frozen=True):
    """The bill in figures.

    Invariant: `inputs = distinct_inputs + repeated_inputs`, and once nothing is in flight
    `calls = sum(by_status.values())`.
    """

    calls: int
    """POSTs that came in, refused ones included; `/_mock/` is not counted."""
    lookups: int
    """GETs: models, info, health."""
    inputs: int
    """Answered inputs, repetitions included."""
    distinct_inputs: int
    """By task, model and text."""
    repeated_inputs: int
    spoiled_inputs: int
    """The part of `inputs` whose answer a fault made useless: a client must send them again."""
    input_tokens: int
    output_tokens: int
    by_status: dict[str, int]
    """By HTTP status; `cut` and `reset` if a fault broke the connection, `left` if the client
    disconnected."""
    faults: dict[str, int]
    """The number of times that each kind of fault was played."""
    in_flight: int
    max_in_flight: int


class RecordedCall(Struct, frozen=True):
    """One received call, kept with `record=True`."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Bill:
    """Counts while the server runs. Only the server's loop writes; any thread may read."""

    def __init__(self, *, record: bool = False) -> None:
        self.record = record
        self.clear()

    def clear(self) -> None:
        """Reset the counts; calls in flight stay counted as in flight."""
        self.calls = 0
        self.lookups = 0
        self.by_status: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        # (task, model) -> first 16 bytes of the text's hash -> times answered
        self.answered: dict[tuple[str, str], Counter[bytes]] = {}
        self.spoiled_inputs = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self.in_flight: int = getattr(self, "in_flight", 0)
        self.max_in_flight = self.in_flight
        self.recorded: list[RecordedCall] = []
        # name in lower case -> values; `:path` is the path with its query
        self.headers: dict[str, set[str]] = {}

    def begin(self, path: str, headers: Iterable[tuple[str, str]]) -> None:
        """Count a received call; its body is not read yet."""
        self.calls += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.keep_headers(path, headers)

    def keep_headers(self, path: str, headers: Iterable[tuple[str, str]]) -> None:
        """Keep the headers, so that a test can check which secrets arrived."""
        for name, value in (*headers, (":path", path)):
            values = self.headers.setdefault(name, set())
            if len(values) < MAX_VALUES_KEPT:
                values.add(value)

    def keep(self, method: str, path: str, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """Keep the bytes of the call, if calls are recorded."""
        if self.record:
            self.recorded.append(RecordedCall(method, path, tuple(headers), body))

    def end(self, result: str) -> None:
        """Count the end of a call: by its status, or by the way its connection was lost."""
        self.by_status[result] += 1
        self.in_flight -= 1

    def charge(
        self, task: str, model: str, digests: Sequence[bytes], input_tokens: int, spoiled: bool
    ) -> None:
        """Charge these inputs: their inference begins."""
        counts = self.answered.setdefault((task, model), Counter())
        counts.update(digest[:16] for digest in digests)
        self.spoiled_inputs += len(digests) if spoiled else 0
        self.input_tokens += input_tokens

    def times(self, text: str, *, task: str | None = None, model: str | None = None) -> int:
        """The number of answers to this text, over all tasks and models unless they are named."""
        key = vectors.digest(text.encode("utf-8", "surrogatepass"))[:16]
        return sum(
            counts[key]
            for (of_task, of_model), counts in self.answered.copy().items()
            if task in (None, of_task) and model in (None, of_model)
        )

    def has_received(self, secret: str) -> bool:
        """True if the secret arrived in a path, a header or a recorded body."""
        for values in self.headers.copy().values():
            if any(secret in value for value in values.copy()):
                return True
        return any(secret.encode() in call.body for call in self.recorded.copy())

    def totals(self) -> Totals:
        """The current figures."""
        counts = [counter.copy() for counter in self.answered.copy().values()]
        inputs = sum(counter.total() for counter in counts)
        distinct = sum(len(counter) for counter in counts)
        return Totals(
            calls=self.calls,
            lookups=self.lookups,
            inputs=inputs,
            distinct_inputs=distinct,
            repeated_inputs=inputs - distinct,
            spoiled_inputs=self.spoiled_inputs,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            by_status=dict(self.by_status.copy()),
            faults=dict(self.faults.copy()),
            in_flight=self.in_flight,
            max_in_flight=self.max_in_flight,
        )

    def document(self, *, full: bool = False) -> dict[str, Any]:
        """The bill as JSON; `full` adds the count per input and the recorded calls.

        Invariant: no credential is in it, though the headers in memory hold them.
        """
        document = structs.asdict(self.totals())
        if full:
            document["answered"] = [
                {"task": task, "model": model, "input": key.hex(), "times": times}
                for (task, model), counts in self.answered.copy().items()
                for key, times in counts.copy().items()
            ]
            document["recorded"] = [
                {
                    "method": call.method,
                    "path": call.path,
                    "headers": [pair for pair in call.headers if pair[0] not in SECRET_HEADERS],
                    "body": call.body.decode("utf-8", "replace"),
                }
                for call in self.recorded.copy()
            ]
        return document
