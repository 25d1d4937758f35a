"""Reads an answer that came as an event stream, or with the end of one glued to it.

`stream: false` is always sent, but some proxies answer with events all the same. A whole stream is
as good as a document: its deltas are joined. A stream that was cut is no answer.
Source: OpenAI's API description of August 2026, "Streaming"; docs/protocols.md.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

_END = "[DONE]"
_GLUED = re.compile(rb"\s*data:\s*\[DONE\]\s*$")
_FIELD = re.compile(r"(data|event|id|retry)?:")


def document_of(body: bytes) -> bytes | None:
    """The one JSON document that these bytes carry; None if they carry none.

    Shape: a document with a byte order mark, comments before it or `data: [DONE]` after it; one
    event with a document; or the chunks of a chat completion, joined.
    """
    text = body.removeprefix(b"\xef\xbb\xbf")
    ended = _GLUED.sub(b"", text)
    lines = text.decode("utf-8", "replace").splitlines()
    while lines and (not lines[0].strip() or lines[0].startswith(":")):
        lines.pop(0)
    if not lines or not _FIELD.match(lines[0]):
        rest = "\n".join(lines).encode() if text[:1] == b":" else ended
        return rest if rest != body and _value(rest) is not None else None
    payloads = [line[5:].strip() for line in lines if line.startswith("data:")]
    values = [_value(payload.encode()) for payload in payloads if payload and payload != _END]
    if not values or None in values:
        return None
    if len(values) == 1 and not _has_deltas(values[0]):
        return msgspec.json.encode(values[0])
    return _joined(values, _END in payloads)


def _joined(chunks: list[Any], is_ended: bool) -> bytes | None:
    """A completion from its chunks; None unless the stream came to its end."""
    whole: dict[str, Any] = {}
    texts: dict[str, list[str]] = {"content": [], "reasoning_content": [], "refusal": []}
    choice: dict[str, Any] = {"index": 0}
    for chunk in chunks:
        if not isinstance(chunk, dict):
            return None
        whole |= {name: item for name, item in chunk.items() if item is not None}
        for part in chunk.get("choices") or []:
            if not isinstance(part, dict) or part.get("index") not in (None, 0):
                continue
            delta = part.pop("delta", None) or part.pop("message", None) or {}
            for name, pieces in texts.items():
                if isinstance(piece := delta.get(name), str):
                    pieces.append(piece)
            choice |= {name: item for name, item in part.items() if item is not None}
    if not is_ended and not choice.get("finish_reason") and not whole.get("error"):
        return None
    message = {name: "".join(pieces) for name, pieces in texts.items() if pieces}
    return msgspec.json.encode(whole | {"choices": [choice | {"message": message}]})


def _has_deltas(value: Any) -> bool:
    choices = value.get("choices") if isinstance(value, dict) else None
    return isinstance(choices, list) and any(isinstance(c, dict) and "delta" in c for c in choices)


def _value(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
