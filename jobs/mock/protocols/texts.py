"""Text answers, derived from the input alone.

An extract of the input suits a mock: it is stable, different inputs mostly give different answers,
it is in the language of the input, and a reader notices whether rows were mixed up.
"""

from __future__ import annotations

import re
from typing import Any

EXTRACT_CHARS = 320

_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|[。！？]")
_NAME = re.compile(r"[A-Z][a-z]+(?: [A-Z][a-z]+)*")


def tokens(encoded_bytes: int) -> int:
    """An estimate: four bytes of UTF-8 a token, which fits English prose and, roughly, Chinese."""
    return max(1, (encoded_bytes + 3) // 4)


def count(text: str) -> int:
    """The tokens of an answer; none for an empty one."""
    return tokens(len(text.encode("utf-8", "surrogatepass"))) if text else 0


def extract(text: str) -> str:
    """The first sentences, up to 320 characters; without a sentence end, the first 320
    characters."""
    text = text.strip()
    if len(text) <= EXTRACT_CHARS:
        return text
    head = text[:EXTRACT_CHARS]
    ends = [match.end() for match in _SENTENCE_END.finditer(head)]
    return head[: ends[-1]] if ends else head.rstrip()


def reply(prompt: str) -> str:
    """The extract of the prompt's longest paragraph: the document, not the instruction above it."""
    return extract(max(prompt.split("\n\n"), key=len))


def cut(text: str, max_tokens: int | None) -> tuple[str, bool]:
    """The text within a number of tokens, and whether something was cut."""
    encoded = text.encode("utf-8", "surrogatepass")
    if max_tokens is None or tokens(len(encoded)) <= max_tokens:
        return text, False
    return encoded[: 4 * max_tokens].decode("utf-8", "ignore"), True


def scores(text_digest: bytes, labels: list[str]) -> list[dict[str, Any]]:
    """The labels with scores that sum to 1, best first, drawn from the text's hash."""
    weights = [
        1 + int.from_bytes(text_digest[(2 * n) % 62 : (2 * n) % 62 + 2], "little") ** 2
        for n in range(len(labels))
    ]
    whole = sum(weights)
    scored = [
        {"label": label, "score": round(weight / whole, 6)}
        for label, weight in zip(labels, weights, strict=True)
    ]
    return sorted(scored, key=lambda one: -one["score"])


def entities(text: str, text_digest: bytes) -> list[dict[str, Any]]:
    """Capitalised words as names; `start` and `end` are code points, end exclusive."""
    return [
        {
            "entity_group": ("PER", "ORG", "LOC", "MISC")[sum(map(ord, match.group())) % 4],
            "score": round(0.9 + text_digest[n % 64] / 2560, 6),
            "word": match.group(),
            "start": match.start(),
            "end": match.end(),
        }
        for n, match in enumerate(_NAME.finditer(text))
    ]


def instance(schema: Any, text: str, text_digest: bytes, depth: int = 0) -> Any:
    """A value that fits a JSON schema, filled from the text (types, enum, items, properties)."""
    if not isinstance(schema, dict) or depth > 32:
        return None
    draw = text_digest[depth % 64]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][draw % len(schema["enum"])]
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next(iter(kind), None)
    if kind == "object" or "properties" in schema:
        inner = schema.get("properties")
        return {
            name: instance(one, text, text_digest, depth + 1)
            for name, one in (inner.items() if isinstance(inner, dict) else ())
        }
    if kind == "array":
        return [instance(schema.get("items"), text, text_digest, depth + 1)]
    if kind in ("integer", "number"):
        low, high = schema.get("minimum"), schema.get("maximum")
        low = low if isinstance(low, int) else 0
        return low + draw % (max(0, high - low) + 1 if isinstance(high, int) else 11)
    if kind == "boolean":
        return draw % 2 == 0
    return None if kind == "null" else extract(text)
