"""The records of a call and its reply, shared by protocols, faults and the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct, field

from jobs.mock.protocols import texts, vectors

Service = Literal["openai", "hf", "tei", "tgi"]

Values = Sequence[tuple[int, bytes]]
"""One (index, JSON text) per input, in the order in which the answer lists them."""


class Settings(Struct, frozen=True):
    """The served models and their limits."""

    dimension: int = 384
    batch_limit: int | None = None
    """Inputs per call; None: the default of each service (TEI 32, OpenAI 2,048)."""
    max_input_tokens: int | None = None
    """None: inputs of any length; else a longer one is rejected with the message of the service."""
    max_body_bytes: int | None = None
    """None: 2,000,000 for TEI and TGI, like the servers, and 256 MiB for the others."""
    engine: Literal["tei", "tgi"] = "tei"
    """The server of `/` and `/info`: both engines have these routes."""
    models: tuple[str, ...] = ("mock-embedding", "mock-chat")
    tasks: Mapping[str, str] = {}
    """Model to pipeline tag, for `/hf-inference/models/{model}`; other models are guessed."""
    max_concurrent_requests: int | None = None
    """The value in `/info`; None: the default of the engine."""
    revision: str | None = None
    """The revision of the model in `/info`; None: not known, as for a model from a local folder."""
    default_prompt: str = ""
    """Of text-embeddings-inference: put before each input, and named in `/info`."""
    weights: str = ""
    """The model behind the names: other weights give other vectors under the same names."""


class Call(Struct, frozen=True):
    """One parsed call.

    Shape: `tokens` and `digests` are aligned with `inputs`.
    """

    service: Service
    task: str
    model: str
    inputs: tuple[str, ...]
    tokens: tuple[int, ...]
    digests: tuple[bytes, ...]
    single: bool = False
    """The input was one text, not a list."""
    indexed: bool = False
    """The rows of the answer carry the index of their input."""
    dimension: int | None = None
    base64: bool = False
    norm: float = 1.0
    max_tokens: int | None = None
    truncate: bool = False
    schema: Any = None
    parameters: dict[str, Any] = field(default_factory=dict)


class Reply(Struct, frozen=True):
    """One response, before any fault on the wire."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Refused(Exception):
    """The service rejects this call."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


class Route(Struct, frozen=True):
    """The protocol of a path: two pure functions."""

    service: Service
    read: Callable[[bytes, str, Settings], Call]
    """Body, model in the path, settings. Raises Refused."""
    write: Callable[[Call, Values], bytes]
    indexed: bool = False


def read_call(
    service: Service, task: str, model: str, inputs: Sequence[str], **fields: Any
) -> Call:
    """The call with its inputs measured and hashed, each once."""
    encoded = [one.encode("utf-8", "surrogatepass") for one in inputs]
    return Call(
        service,
        task,
        model,
        tuple(inputs),
        tuple(texts.tokens(len(one)) for one in encoded),
        tuple(vectors.digest(one) for one in encoded),
        **fields,
    )
