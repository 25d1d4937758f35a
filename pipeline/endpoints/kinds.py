"""The table of endpoint kinds: what each protocol can do and needs, as facts.

No other file compares the name of a kind: the job file's checks, the wiring and the engine read the
fact that they need from its row. So a new kind is one file with its protocol and one row of
`KINDS`. The protocol's file is imported when it is first used: `--help` and the check of a job file
read this table and must load neither numpy nor a client.

A kind is a protocol: a row holds what is true of every server that speaks it, wherever it runs.
What is true of one host (how many texts a call may carry, where a 429 says how long to wait, what
limits and prices there are) is a fact of a vendor. Vendors will have a table of their own beside
this one, found by the host of `endpoint.url`: the job file wins over it, and it over the kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, cast

from msgspec import Struct

from pipeline.records import Answer, Call, Endpoint, Failure, Request
from pipeline.tasks import TASKS

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


class WireProtocol(Protocol):
    """The file of a kind behind HTTP: two pure functions over the one client."""

    def encode(self, endpoint: Endpoint, requests: Sequence[Request]) -> Call:
        """The call that carries these requests."""

    def decode(
        self, endpoint: Endpoint, count: int, status: int, headers: Mapping[str, str], body: bytes
    ) -> Sequence[Answer | Failure]:
        """One answer or failure per request, in their order. Raises: EndpointError for the call."""


class EmbeddedModel(Protocol):
    """The file of a kind that runs in this process."""

    def answerer(
        self, endpoint: Endpoint, sentences: Callable[[str], Sequence[tuple[int, int]]]
    ) -> Callable[[Sequence[Request]], Sequence[Answer | Failure]]:
        """The function that answers requests in a worker thread; loads the model."""


class Kind(Struct, frozen=True, kw_only=True):
    """The facts of one kind.

    Invariant: an embedded kind uses neither URL nor key and costs nothing.
    """

    module: str
    """Its file, a `WireProtocol`, or an `EmbeddedModel` where `is_embedded`."""
    tasks: tuple[str, ...]
    """The tasks that it serves, by their names in `pipeline.tasks.TASKS`."""
    is_embedded: bool = False
    """True: it runs in this process."""
    models: dict[str, str] = {}
    """Task to model, of a kind that has models of its own: a job names none."""
    needs_model: bool = True
    """True: a job must name a model."""
    check_model: Callable[[str], str | None] | None = None
    """The problem with the form of a model's name; None: there is none."""
    names_itself: bool = False
    """True: the server serves one model, and `GET /info` names it."""
    url: str | None = None
    """Base URL where the job names none. None: it must name one."""
    providers: tuple[str, ...] = ()
    """Values of `endpoint.provider`, the default first."""
    accepts_prompt: bool = True
    default_parameters: dict[str, dict[str, Any]] = {}
    """Parameters by task that are sent, and are part of the key, unless the job sets them."""
    concurrency: int = 16
    """Calls in flight where the job sets no number."""
    is_adaptive: bool = True
    """True: fewer calls are in flight while latency shows that the endpoint has no more room."""
    embedding_batch: int = 32
    """Requests per call of a task whose answers are vectors, where the job sets no number."""
    dimension: int | None = None
    """Of its vectors, where it is known before the first one."""
    tokenizer: str | None = None
    """The tokenizer of its models, where it is known and built in."""
    tokens_per_second: int | None = None
    """Assumed speed, for a plan. None: calls are counted instead."""

    def protocol(self) -> WireProtocol:
        """Its protocol, imported at the first use."""
        return cast("WireProtocol", import_module(self.module))

    def embedded_model(self) -> EmbeddedModel:
        """Its model in this process, imported at the first use."""
        return cast("EmbeddedModel", import_module(self.module))

    def batch_size(self, task: str) -> int:
        """Requests per call where the job sets no number."""
        return self.embedding_batch if TASKS[task].value == "vector" else 1


def _check_repository(model: str) -> str | None:
    """For a model that becomes a part of the URL's path."""
    return None if _REPOSITORY.fullmatch(model) else "must be a name like owner/model"


# Newer servers cut a long input silently where nothing is said, and embed half a chunk.
_WHOLE_INPUTS = {"feature-extraction": {"truncate": False}}

KINDS: dict[str, Kind] = {
    "local": Kind(
        module="pipeline.endpoints.local",
        tasks=("feature-extraction", "summarization"),
        is_embedded=True,
        models={
            "feature-extraction": "wordllama-256",
            "summarization": "extractive-wordllama-256",
        },
        needs_model=False,
        accepts_prompt=False,
        concurrency=2,
        is_adaptive=False,  # it shares the machine with us: its latency says nothing of its room
        embedding_batch=64,
        dimension=256,
        tokenizer="wordllama",
        tokens_per_second=200_000,
    ),
    "hf": Kind(
        module="pipeline.endpoints.hf",
        tasks=("feature-extraction", "summarization", "chat-completion"),
        check_model=_check_repository,
        url="https://router.huggingface.co",
        providers=("hf-inference",),
        default_parameters=_WHOLE_INPUTS,
    ),
    "tei": Kind(
        module="pipeline.endpoints.tei",
        tasks=("feature-extraction",),
        needs_model=False,
        names_itself=True,
        default_parameters=_WHOLE_INPUTS,
    ),
    "openai": Kind(
        module="pipeline.endpoints.openai",
        tasks=("feature-extraction", "chat-completion"),
        url="https://api.openai.com/v1",
    ),
}
