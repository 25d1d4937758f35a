"""Reads the body of an error: what it says, its codes, and the time that it names.

No two services agree on a shape: texts, lists, objects in objects, JSON inside a text, web pages.
So a body is walked by the names of its fields. Fields that repeat the request (`input`) are not
read: a text of the user is not evidence.
Source: the wire reference of August 2026, see `docs/protocols.md`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

_TEXTS = (
    "error", "errors", "base_resp", "message", "msg", "detail", "details", "title", "reason",
    "description", "error_description", "error_msg", "error_message", "errmsg", "err_msg",
    "errormessage", "status_msg",
)  # fmt: skip
_CODES = ("code", "type", "error_type", "error_code", "errcode", "__type", "status", "param")
_STATUSES = ("code", "status", "status_code", "statuscode", "http_status_code", "error_code")
_WAITS = ("retry_after", "retry_after_seconds", "retrydelay")
_INPUT_FIELDS = re.compile(r"inputs?|messages?|contents?|prompts?|texts?|documents?|body|none|null")
_DEEPEST = 6
_LONGEST_TEXT = 1_000
_LONGEST_JSON = 1_000_000
_ECHO_CHARS = 16


class ErrorBody(NamedTuple):
    """What a body says about an error."""

    message: str = ""
    """For people; may be empty."""
    words: str = ""
    """The message and every code, for the rules."""
    status: int | None = None
    """A status from 400 to 599 inside the body."""
    param: str = ""
    """The parameter of the job at fault; empty if none is named, or if it is the input."""
    loading_seconds: float | None = None
    wait_seconds: float | None = None
    is_page: bool = False
    """A web page: a proxy wrote it, not the service."""


def read_body(raw: bytes) -> ErrorBody:
    """What these bytes say; never raises."""
    try:
        value: Any = msgspec.json.decode(raw[:_LONGEST_JSON])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_text(raw[:_LONGEST_TEXT].decode("utf-8", "replace").strip("\ufeff \r\n\t"))
    return read_value(value)


def read_value(value: Any) -> ErrorBody:
    """What a decoded body, or an error inside an answer, says."""
    fields = list(_fields(value, _DEEPEST))
    texts = list(dict.fromkeys(text for text in _texts(value, _DEEPEST) if text))
    if not texts and not isinstance(value, dict | list) and value is not None:
        texts = [str(value)]
    codes = [str(item) for name, item in fields if name in _CODES and _is_code(item)]
    numbers = {name: item for name, item in fields if _is_number(item)}
    if numbers.get("n_prompt_tokens", 0) > numbers.get("n_ctx", float("inf")):
        codes.append("prompt exceeds the context size")
    message = "; ".join(texts)[:_LONGEST_TEXT]
    return ErrorBody(
        message or "; ".join(codes[:2]),
        "\n".join([message, *codes])[: 2 * _LONGEST_TEXT],
        next(filter(None, (_status(*field) for field in fields)), None),
        next(filter(None, (_param(*field) for field in fields)), ""),
        numbers.get("estimated_time"),
        next((wait for field in fields if (wait := _wait(*field)) is not None), None),
    )


def without_echoes(raw: bytes, inputs: Sequence[str]) -> bytes:
    """The body without the parts of these inputs that its texts repeat.

    A text of the user that speaks of a missing model must not look like the word of the service.
    """
    try:
        value: Any = msgspec.json.decode(raw[:_LONGEST_JSON])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _without(raw[:_LONGEST_JSON].decode("utf-8", "replace"), inputs).encode()

    def cleared(item: Any, depth: int) -> Any:
        if isinstance(item, str):
            return _without(item, inputs)
        if isinstance(item, list) and depth:
            return [cleared(each, depth - 1) for each in item]
        if isinstance(item, dict) and depth:
            return {name: cleared(each, depth - 1) for name, each in item.items()}
        return item

    try:
        return msgspec.json.encode(cleared(value, _DEEPEST))
    except (UnicodeEncodeError, RecursionError):
        return raw


def _without(text: str, inputs: Sequence[str]) -> str:
    if " " not in text[:_LONGEST_TEXT].strip():  # a code
        return text
    for each in inputs:
        for form in (each, json.dumps(each)[1:-1]):
            if len(form) >= _ECHO_CHARS // 2:
                text = text.replace(form, "…")
    start = 0
    while start + _ECHO_CHARS <= min(len(text), _LONGEST_TEXT):
        piece = text[start : start + _ECHO_CHARS]
        source = next((each for each in inputs if piece in each), None)
        if source is None:
            start += _ECHO_CHARS
            continue
        first, last = start, start + _ECHO_CHARS
        while first and text[first - 1 : last] in source:
            first -= 1
        while last < len(text) and text[first : last + 1] in source:
            last += 1
        # A short agreement is chance: both speak one language.
        if last - first >= 2 * _ECHO_CHARS:
            text, start = f"{text[:first]}…{text[last:]}", first + 1
        else:
            start = last
    return text


def _read_text(text: str) -> ErrorBody:
    if text[:1] != "<":
        return ErrorBody(text, text)
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    seen = re.sub(r"<(script|style)\b.*?(</\1>|$)|<[^>]*>", " ", text, flags=re.I | re.S)
    message = " ".join((title[1] if title else "").split()) or "an HTML page"
    return ErrorBody(message, f"{message} {' '.join(seen.split())}", is_page=True)


def _fields(value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """The fields of all objects in a body, those of an `error` first."""
    if depth and isinstance(value, list):
        for item in value[:20]:
            yield from _fields(item, depth - 1)
    elif depth and isinstance(value, dict):
        named = {str(name).lower(): item for name, item in list(value.items())[:100]}
        for name in _TEXTS:
            if isinstance(named.get(name), dict | list):
                yield from _fields(named[name], depth - 1)
            elif (inner := _json_in(named.get(name))) is not None:
                yield from _fields(inner, depth - 1)
        yield from named.items()


def _texts(value: Any, depth: int) -> Iterator[str]:
    """The sentences of a body, most telling first."""
    if isinstance(value, str):
        inner = _json_in(value) if depth else None
        found = list(_texts(inner, depth - 1)) if inner is not None else []
        yield from found or [value.strip()]
    elif depth and isinstance(value, list):
        for item in value[:20]:
            yield from _texts(item, depth - 1)
    elif depth and isinstance(value, dict):
        named = {str(name).lower(): item for name, item in list(value.items())[:100]}
        place = named.get("loc")
        if isinstance(place, list) and isinstance(named.get("msg"), str):
            where = ".".join(str(part) for part in place[1:6])
            said = named["msg"].replace("Input should", "must")
            yield f"{where}: {said}" if where else named["msg"]
            return
        for name in _TEXTS:
            if name in named:
                yield from _texts(named[name], depth - 1)


def _json_in(text: Any) -> Any:
    """The object inside a text, as proxies quote the error of the service behind them."""
    if isinstance(text, str) and text.lstrip()[:1] in ("{", "["):
        try:
            return msgspec.json.decode(text)
        except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
            return None
    return None


def _is_code(item: Any) -> bool:
    return isinstance(item, str | int) and not isinstance(item, bool) and len(str(item)) <= 200


def _is_number(item: Any) -> bool:
    return isinstance(item, int | float) and not isinstance(item, bool) and abs(item) < 1e15


def _status(name: str, item: Any) -> int | None:
    text = str(item) if name in _STATUSES and _is_code(item) else ""
    return int(text) if re.fullmatch(r"[45][0-9][0-9]", text, re.ASCII) else None


def _param(name: str, item: Any) -> str:
    """The parameter that a `param` of OpenAI or a `loc` of FastAPI names."""
    if name == "loc" and isinstance(item, list) and len(item) > 1 and item[0] == "body":
        item = item[1]
    elif name != "param":
        return ""
    is_name = isinstance(item, str) and re.fullmatch(r"[a-z][\w.]*", item, re.ASCII)
    return item if is_name and not _INPUT_FIELDS.match(item) else ""


def _wait(name: str, item: Any) -> float | None:
    if name not in _WAITS:
        return None
    if _is_number(item):
        return float(item)
    seconds = (
        re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)s?", item) if isinstance(item, str) else None
    )
    return float(seconds[1]) if seconds else None


def first_said(values: Iterable[Any]) -> Any:
    """The first value that says something: not null, false, 0, empty, or a success."""
    for value in values:
        if isinstance(value, dict):
            if any(first_said([item]) is not None for item in value.values()):
                return value
        elif isinstance(value, list):
            if first_said(value) is not None:
                return value
        elif value and str(value).lower() not in ("0", "200", "ok", "success", "none", "null"):
            return value
    return None
