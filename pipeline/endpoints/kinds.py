"""The table of endpoint kinds: the capabilities and requirements of each protocol, as facts.

No other file compares the name of a kind: the checks of the job file, the wiring and the engine
read the fact that they need from its row. So a new kind is one file with its protocol and one row
of `KINDS`. The file of a protocol is imported at its first use: `--help` and the check of a job
file read this table and must load neither numpy nor a client.

A kind is a protocol: a row holds facts about every server that speaks it, wherever it runs. Facts
about one host (texts per call, the place of the wait in a 429, limits, prices) belong to a vendor.
Vendors will have a separate table beside this one, keyed by the host of `endpoint.url`: the job
file overrides it, and it overrides the kind.
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
    """The module of a kind behind HTTP: two pure functions over the one client."""

    def encode(self, endpoint: Endpoint, requests: Sequence[Request]) -> Call:
        """The call that carries these requests."""

    def decode(
        self, endpoint: Endpoint, count: int, status: int, headers: Mapping[str, str], body: bytes
    ) -> Sequence[Answer | Failure]:
        """One answer or failure per request, in their order. Raises: EndpointError for the call."""

    def served_models(self, body: bytes) -> tuple[str, ...] | None:
        """The models that the reply to the kind's lookup names; None: another kind of server sent
        it. Only called for a kind with a lookup."""


class EmbeddedModel(Protocol):
    """The module of a kind that runs in this process."""

    def answerer(
        self, endpoint: Endpoint, sentences: Callable[[str], Sequence[tuple[int, int]]]
    ) -> Callable[[Sequence[Request]], Sequence[Answer | Failure]]:
        """The function that answers requests in a worker thread; loads the model."""


class Kind(Struct, frozen=True, kw_only=True):
    """The facts of one kind.

    Invariant: an embedded kind uses neither URL nor key and costs nothing.
    """

    module: str
    """Its module, a `WireProtocol`, or an `EmbeddedModel` if `is_embedded`."""
    tasks: tuple[str, ...]
    """The tasks that it serves, by their names in `pipeline.tasks.TASKS`."""
    is_embedded: bool = False
    """True: it runs in this process."""
    models: dict[str, str] = {}
    """Task to model, for a kind with built-in models: a job names none."""
    needs_model: bool = True
    """True: a job must name a model."""
    check_model: Callable[[str], str | None] | None = None
    """Returns the problem with the form of a model name; None: there is none."""
    names_itself: bool = False
    """True: the server serves one model, and `GET /info` names it."""
    lists_models: bool = False
    """True: `GET /models` may name the input limit of a model."""
    lookup: str = ""
    """The path of a GET, below the base URL, that shows whether a server is of this kind."""
    service: str = ""
    """What such a server is called."""
    url_hint: str = ""
    """What is usually wrong with a URL at which the server has no route of this kind."""
    url: str | None = None
    """Base URL if the job names none. None: the job must name one."""
    providers: tuple[str, ...] = ()
    """Values of `endpoint.provider`, the default first."""
    accepts_prompt: bool = True
    default_parameters: dict[str, dict[str, Any]] = {}
    """Parameters by task that are sent, and are part of the key, unless the job sets them."""
    concurrency: int = 256
    """Calls in flight if the job sets no number."""
    is_adaptive: bool = True
    """True: the number of calls in flight is lowered while latency shows a full endpoint."""
    embedding_batch: int = 32
    """Requests per call of a task with vectors as answers, if the job sets no number."""
    dimension: int | None = None
    """Dimension of its vectors, if it is known before the first one."""
    tokenizer: str | None = None
    """The tokenizer of its models, if it is known and built in."""
    tokens_per_second: int | None = None
    """Assumed speed, for a plan. None: a plan counts calls instead."""

    def protocol(self) -> WireProtocol:
        """The protocol, imported at the first use."""
        return cast("WireProtocol", import_module(self.module))

    def embedded_model(self) -> EmbeddedModel:
        """The model in this process, imported at the first use."""
        return cast("EmbeddedModel", import_module(self.module))

    def batch_size(self, task: str) -> int:
        """Requests per call if the job sets no number."""
        return self.embedding_batch if TASKS[task].value == "vector" else 1


def _check_repository(model: str) -> str | None:
    """The problem with a model name that becomes a part of the URL's path."""
    return None if _REPOSITORY.fullmatch(model) else "must be a name like owner/model"


# Without the parameter, newer servers truncate a long input silently and embed half a chunk.
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
        is_adaptive=False,  # it shares this machine: its latency does not show its capacity
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
        url_hint="the page of `endpoint.model` must name hf-inference as a provider for this task",
        default_parameters=_WHOLE_INPUTS,
    ),
    "tei": Kind(
        module="pipeline.endpoints.tei",
        tasks=("feature-extraction",),
        needs_model=False,
        names_itself=True,
        lookup="/info",
        service="text-embeddings-inference",
        url_hint="endpoint.url is the root of the server, http://HOST:PORT without /embed or /v1",
        default_parameters=_WHOLE_INPUTS,
    ),
    "openai": Kind(
        module="pipeline.endpoints.openai",
        tasks=("feature-extraction", "chat-completion"),
        lists_models=True,
        lookup="/models",
        service="a server with the OpenAI API",
        url_hint="endpoint.url mostly ends with one /v1, as in http://HOST:PORT/v1; check its path",
        url="https://api.openai.com/v1",
    ),
}
