"""Checks vectors and texts and classifies errors, for the replies of every service.

The class of an error comes from the parsed body first, then from the status, because services
disagree: vLLM reports too long as 400, serverless rate limits may be 503, loading may be a 200.
Source: the wire reference of August 2026, see `docs/protocols.md`.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import EndpointError, ErrorKind
from pipeline.records import Answer, Failure
from pipeline.text import many, printable

_TOO_LONG = re.compile(
    r"context[ _]length|must have less than|too (long|large)|batch size|longer than the max"
    r"|maximum (input|sequence) length|inputs` tokens \+ `max_new_tokens|length limit exceeded",
    re.IGNORECASE,
)
_CONFIG = re.compile(
    r"model_not_found|model_not_supported|not supported by (any )?provider|does not exist"
    r"|model is not an? |no longer supported|try pulling it first|unsupported_parameter"
    r"|template not found|failed to deserialize|model_kwargs|unknown `?prompt_name",
    re.IGNORECASE,
)
_LOADING = re.compile(r"is currently loading|model is loading", re.IGNORECASE)
_STATUS_KINDS: dict[int, ErrorKind] = {
    400: "poison",
    401: "auth",
    402: "quota",
    403: "auth",
    404: "poison",
    408: "transient",
    409: "transient",
    410: "config",
    413: "too_long",
    415: "poison",
    422: "poison",
    424: "poison",
    425: "transient",
    429: "rate",
    503: "overload",
    529: "overload",
}


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> EndpointError:
    """The error for a reply other than 200."""
    message, words, seconds = _parse_error(body)
    if status in (301, 302, 303, 307, 308):
        return EndpointError(
            "config", "the server redirects; redirects are never followed", status=status
        )
    shown = f"{status} {printable(message)}".strip() if message else str(status)
    kind = _STATUS_KINDS.get(status, "transient" if status >= 500 else "poison")
    if "insufficient_quota" in words or "exceeded your monthly included credits" in message:
        kind = "quota"
    elif kind in ("poison", "config", "transient") and _CONFIG.search(words):
        kind = "config"
    elif kind in ("poison", "rate") and _TOO_LONG.search(words):
        # "Request too large" is a 429 that waiting does not cure.
        kind = "too_long" if kind == "poison" or "too large" in words.lower() else kind
    elif kind in ("overload", "transient") and (seconds is not None or _LOADING.search(words)):
        kind = "loading"
    wait = requested_wait(headers)
    return EndpointError(
        kind, shown, status=status, retry_after=wait if wait is not None else seconds
    )


def requested_wait(headers: Mapping[str, str]) -> float | None:
    """The wait that the server requests, in seconds, unchanged: the caller clamps it."""
    milliseconds = headers.get("retry-after-ms")
    if milliseconds is not None and (number := _number(milliseconds)) is not None:
        return number / 1000
    text = headers.get("retry-after")
    if text is None:
        return None
    if (number := _number(text)) is not None:
        return number
    try:
        until = parsedate_to_datetime(text).timestamp()
        date = headers.get("date")
        # The server's own clock if it sends the date: ours may be off by hours.
        return until - (parsedate_to_datetime(date).timestamp() if date else time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if number == number and abs(number) != float("inf") else None


def _parse_error(body: bytes) -> tuple[str, str, float | None]:
    """The message, all words that identify the error, and `estimated_time`; for every known
    shape."""
    try:
        parsed: Any = msgspec.json.decode(body[:1_000_000])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = body[:2_000].decode("utf-8", "replace").strip()
        title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        if title:
            text = title[1].strip()
        elif text[:1] == "<":
            text = "an HTML page"
        return text, text, None
    if isinstance(parsed, list) and parsed:
        parsed = parsed[0]
    if not isinstance(parsed, dict):
        return str(parsed), str(parsed), None
    inner = parsed.get("error")
    source = inner if isinstance(inner, dict) else parsed
    message: Any = (
        source.get("message")
        or (inner if not isinstance(inner, dict) else None)
        or source.get("detail")
        or source.get("title")
        or ""
    )
    if isinstance(message, list):
        message = "; ".join(
            str(part.get("msg", part)) if isinstance(part, dict) else str(part) for part in message
        )
    codes = [source.get(name) for name in ("code", "type", "error_type", "param")]
    seconds = parsed.get("estimated_time")
    words = " ".join([str(message), *(str(code) for code in codes if code is not None)])
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        seconds = None
    return str(message), words, seconds


def parsed(body: bytes, type_: Any = Any) -> Any:
    """The body of a 200 as JSON of this type.

    Raises: EndpointError `invalid` for anything else, `loading` for the loading body that some
    gateways send with status 200.
    """
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        message, words, seconds = _parse_error(body)
        if seconds is not None or _LOADING.search(words):
            raise EndpointError("loading", message, status=200, retry_after=seconds) from None
        text = message if b'"error"' in body[:200] else str(error)
        reason = "an HTML page" if body.lstrip()[:1] == b"<" else printable(text, 120)
        raise EndpointError("invalid", f"200 but not an answer: {reason}", status=200) from None


def token_count(tokens: object) -> int:
    """A token count reported by a server; 0 for a value that cannot be one."""
    is_count = isinstance(tokens, int | float) and not isinstance(tokens, bool)
    return int(tokens) if is_count and 0 <= tokens < 2**53 else 0  # type: ignore[operator,call-overload]


def wrong_count(got: int, noun: str, inputs: int) -> str:
    """The message for a reply with too few or too many values."""
    return f"{many(got, noun)} for {many(inputs, 'input')}"


def vector_answers(
    vectors: Sequence[Any], count: int, *, input_tokens: int = 0, model: str = ""
) -> list[Answer | Failure]:
    """One answer per vector; a vector with NaN, infinity, only zeros or another length than the
    others is a failure of that request.

    Shape: `vectors` is one list of floats or float32 bytes per request, in their order.
    Raises: EndpointError `invalid` if the count is wrong: answers are never shifted.
    """
    if len(vectors) != count:
        raise EndpointError("invalid", wrong_count(len(vectors), "vector", count), status=200)
    try:
        lengths = [len(vector) for vector in vectors]
        length, same_length = Counter(lengths).most_common(1)[0]
        fitting = [vector for vector in vectors if len(vector) == length]
        if isinstance(vectors[0], bytes):
            matrix = np.frombuffer(b"".join(fitting), dtype="<f4").reshape(same_length, -1)
        else:
            with np.errstate(over="ignore"):  # 1e300 becomes infinity, which fails below
                matrix = np.array(fitting, dtype="<f4")
        if not length or matrix.ndim != 2 or same_length * 2 <= count != 1:
            raise ValueError
    except (ValueError, TypeError):
        raise EndpointError(
            "invalid", "the vectors of one call differ in length or hold no numbers", status=200
        ) from None
    share = input_tokens // count
    rows = iter(zip(matrix, _problems(matrix), strict=True))
    answers: list[Answer | Failure] = []
    for own_length in lengths:
        if own_length != length:
            answers.append(Failure("invalid", "a vector of another length than its neighbours"))
            continue
        row, problem = next(rows)
        answers.append(
            Failure("invalid", problem)
            if problem
            else Answer(row.tobytes(), share, 0, False, model)
        )
    return answers


def _problems(matrix: NDArray[np.float32]) -> list[str | None]:
    # A finite squared length above 0 proves a valid vector, in a third of the time.
    squares = np.einsum("ij,ij->i", matrix, matrix).tolist()
    if all(0.0 < square < math.inf for square in squares):
        return [None] * len(matrix)
    finite = np.asarray(np.isfinite(matrix).all(axis=1))
    nonzero = np.asarray(matrix.any(axis=1))
    problems = {(True, False): "the vector is all zeros", (True, True): None}
    pairs = zip(finite.tolist(), nonzero.tolist(), strict=True)
    return [problems.get(pair, "the vector holds NaN or infinity") for pair in pairs]


def text_answer(
    text: Any, *, input_tokens: int = 0, output_tokens: int = 0, truncated: bool = False, model: str
) -> Answer | Failure:
    """The answer with this text; an empty or missing text is a failure, never a result."""
    if not isinstance(text, str) or not text.strip():
        return Failure("invalid", "200 with an empty text")
    try:
        text.encode()
    except UnicodeEncodeError:
        return Failure("invalid", "200 with a lone surrogate in the text")
    return Answer(text, input_tokens, output_tokens, truncated, model)
