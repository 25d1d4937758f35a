"""The bill: what this server was asked and what it answered, as one record.

Crash and fault tests compare it with what the client's ledger says. An input is on the bill as
soon as its inference begins, also when the client leaves or the answer is then spoiled: that is
how real services charge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct, structs

from jobs.mock.protocols import vectors

# Of one header; a header that differs in every call must not push out the others.
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
    """Inputs that were answered, each as often as it was."""
    distinct_inputs: int
    """By task, model and text."""
    repeated_inputs: int
    spoiled_inputs: int
    """The part of `inputs` whose answer a fault made useless: good cause to ask again."""
    input_tokens: int
    output_tokens: int
    by_status: dict[str, int]
    """By HTTP status; `cut` and `reset` where a fault broke the connection, `left` where the
    client went away."""
    faults: dict[str, int]
    """How often each kind of fault was played."""
    in_flight: int
    max_in_flight: int


class RecordedCall(Struct, frozen=True):
    """One call as it came in, kept with `record=True`."""

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
        """Start again; calls in flight stay counted as in flight."""
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
        self.seen: list[RecordedCall] = []
        # name in lower case -> values; `:path` is the path with its query
        self.headers: dict[str, set[str]] = {}

    def begin(self, path: str, headers: Iterable[tuple[str, str]]) -> None:
        """A call has come in; its body is not read yet."""
        self.calls += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.look(path, headers)

    def look(self, path: str, headers: Iterable[tuple[str, str]]) -> None:
        """Keep the headers, so that a test can say which secrets came here."""
        for name, value in (*headers, (":path", path)):
            values = self.headers.setdefault(name, set())
            if len(values) < MAX_VALUES_KEPT:
                values.add(value)

    def keep(self, method: str, path: str, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """The call's bytes, where they are recorded."""
        if self.record:
            self.seen.append(RecordedCall(method, path, tuple(headers), body))

    def end(self, how: str) -> None:
        """A call is over: its status, or how its connection was lost."""
        self.by_status[how] += 1
        self.in_flight -= 1

    def charge(
        self, task: str, model: str, digests: Sequence[bytes], input_tokens: int, spoiled: bool
    ) -> None:
        """Inference on these inputs begins."""
        counts = self.answered.setdefault((task, model), Counter())
        counts.update(one[:16] for one in digests)
        self.spoiled_inputs += len(digests) if spoiled else 0
        self.input_tokens += input_tokens

    def times(self, text: str, *, task: str | None = None, model: str | None = None) -> int:
        """How often this text was answered, by any task and model unless they are named."""
        key = vectors.digest(text.encode("utf-8", "surrogatepass"))[:16]
        return sum(
            counts[key]
            for (of_task, of_model), counts in self.answered.copy().items()
            if task in (None, of_task) and model in (None, of_model)
        )

    def saw(self, secret: str) -> bool:
        """Whether this came here in a path or header, or in a body where bodies are recorded."""
        for values in self.headers.copy().values():
            if any(secret in value for value in values.copy()):
                return True
        return any(secret.encode() in one.body for one in self.seen.copy())

    def totals(self) -> Totals:
        """The figures as they stand."""
        counts = [one.copy() for one in self.answered.copy().values()]
        inputs = sum(one.total() for one in counts)
        distinct = sum(len(one) for one in counts)
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
                    "method": one.method,
                    "path": one.path,
                    "headers": [pair for pair in one.headers if pair[0] not in SECRET_HEADERS],
                    "body": one.body.decode("utf-8", "replace"),
                }
                for one in self.seen.copy()
            ]
        return document
