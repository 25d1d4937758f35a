"""The table of tasks: the input and output of each Hugging Face pipeline tag, as facts.

No other file of the engine compares the name of a task: it reads the fact that it needs from this
table. A new task is one row of `TASKS`, its name in the rows of the kinds that serve it
(`pipeline/endpoints/kinds.py`), and its handling in their protocols.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from pipeline.records import Column

Value = Literal["vector", "text"]

WIRE_PARAMETERS = frozenset({"encoding_format", "stream"})
"""Parameters that change how an answer is written, not the answer: no part of a key."""


OUTPUT_LIMITS = ("max_completion_tokens", "max_tokens", "max_new_tokens", "max_length")
"""Parameters that bound the tokens of an answer; the first that is set counts."""


def answer_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that may change an answer."""
    return {name: value for name, value in parameters.items() if name not in WIRE_PARAMETERS}


class Task(Struct, frozen=True, kw_only=True):
    """The facts of one task.

    Invariant: `default_aggregate` is one of `aggregates`.
    """

    value: Value
    """The content of `Answer.value`. Protocols branch on it, so that another task with the same
    value needs no change in a protocol."""
    column: Column
    """The column that an aggregator adds."""
    aggregates: tuple[str, ...]
    """Names of the aggregators that can read the value."""
    default_aggregate: str
    accepts_prompt: bool = True
    needs_prompt: bool = False
    one_per_call: bool = False
    """True: a call carries exactly one request."""
    output_tokens: int = 512
    """Assumed tokens of one answer if the job sets no limit: a plan must not underestimate the
    cost. 0: an answer has no tokens."""


TASKS: dict[str, Task] = {
    "feature-extraction": Task(
        value="vector",
        column=Column("vector", "vector"),
        aggregates=("rows", "mean"),
        default_aggregate="rows",
        accepts_prompt=False,
        output_tokens=0,
    ),
    "summarization": Task(
        value="text",
        column=Column("summary", "string"),
        aggregates=("rows", "text"),
        default_aggregate="text",
    ),
    "chat-completion": Task(
        value="text",
        column=Column("answer", "string"),
        aggregates=("rows", "text"),
        default_aggregate="text",
        needs_prompt=True,
        one_per_call=True,
    ),
}
