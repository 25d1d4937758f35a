"""The tasks, and what each kind of endpoint serves."""

from __future__ import annotations

from msgspec import Struct

TASKS = ("feature-extraction", "summarization", "chat-completion")


class Kind(Struct, frozen=True):
    """What an endpoint kind serves, and its defaults."""

    tasks: tuple[str, ...]
    url: str | None = None
    provider: str | None = None
    concurrency: int = 16
    embedding_batch: int = 32


KINDS = {
    "local": Kind(("feature-extraction", "summarization"), concurrency=2, embedding_batch=64),
    "hf": Kind(
        ("feature-extraction", "summarization", "chat-completion"),
        url="https://router.huggingface.co",
        provider="hf-inference",
    ),
    "tei": Kind(("feature-extraction",)),
    "openai": Kind(("feature-extraction", "chat-completion"), url="https://api.openai.com/v1"),
}
