"""Checks the vectors and texts of a 200, for the replies of every service.

A 200 is an answer only if what it holds is one: services report errors, loading models and broken
generations with a 200, too. `refusals.py` finds the class of such an error.
Source: the wire reference of August 2026, see `docs/protocols.md`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.endpoints.error_bodies import first_said, read_body
from pipeline.endpoints.refusals import embedded_error
from pipeline.endpoints.streams import document_of
from pipeline.errors import EndpointError
from pipeline.records import Answer, Failure
from pipeline.tasks import OUTPUT_LIMITS
from pipeline.text import many, printable

_LONGEST_NOTE = 500
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def parsed(body: bytes, type_: Any = Any) -> Any:
    """The body of a 200 as JSON of this type; an event stream is read as what it carries.

    Raises: EndpointError of the class that the body names, else `invalid`.
    """
    try:
        return msgspec.json.decode(body, type=type_)
    except _UNREADABLE as error:
        reason = printable(str(error), 120)
    try:
        value = msgspec.json.decode(body)
    except _UNREADABLE:
        document = document_of(body)
        if document is not None:
            return parsed(document, type_)
        said = read_body(body)
        # The text of a document that was cut is no evidence: it may be the answer.
        if body[:1] not in (b"{", b"[") and not said.is_page and 0 < len(body) < _LONGEST_NOTE:
            raise embedded_error(body) from None
        reason = "an HTML page" if said.is_page else reason
    else:
        if isinstance(value, dict | list) and read_body(body).words.strip():
            raise embedded_error(value) from None
    raise EndpointError("invalid", f"200 but not an answer: {reason}", status=200) from None


class Envelope(msgspec.Struct):
    """The fields of any answer with which a service says that it is none."""

    error: Any = None
    errors: Any = None
    status: Any = None
    success: Any = None
    base_resp: Any = None
    """MiniMax: 0 in `status_code` is a success."""

    def check(self) -> None:
        """Raises: EndpointError if one of them says so, though values are beside it."""
        inner = self.base_resp if isinstance(self.base_resp, dict) else {}
        stated = first_said([self.error, self.errors])
        if stated is None and inner.get("status_code") not in (None, 0, "0"):
            stated = inner
        is_failed = self.success is False or ends_as(self.status) == "failed"
        if stated is not None or is_failed:
            raise embedded_error(stated if stated is not None else {"message": str(self.status)})


def ends_as(reason: Any) -> str | None:
    """`failed`, `refused` or `truncated` for a reason that says so; else None: a whole answer."""
    text = str(reason).lower() if isinstance(reason, str) else ""
    for words, end in _ENDS.items():
        if any(word in text for word in words):
            return end
    return None


_ENDS = {
    ("filter", "safety", "sensitive", "prohibited", "recitation", "blocklist", "moderation",
     "refus"): "refused",
    ("length", "max_tokens", "max_output", "context_window"): "truncated",
    ("error", "fail", "abort", "cancel", "insufficient", "interrupt", "timeout", "malformed"):
        "failed",
}  # fmt: skip


_MOST_TOKENS = 2**53 - 1


def token_count(tokens: object) -> int:
    """A token count reported by a server; 0 for a value that cannot be one."""
    if isinstance(tokens, bool) or not isinstance(tokens, int | float) or not tokens >= 0:
        return 0
    return int(min(tokens, _MOST_TOKENS))


def wrong_count(got: int, noun: str, inputs: int) -> str:
    """The message for a reply with too few or too many values."""
    return f"{many(got, noun)} for {many(inputs, 'input')}"


class NoVectors(EndpointError):
    """A 200 with no vectors at all, or with bytes that are none."""


def as_failure(error: EndpointError) -> Failure:
    """The failure of one item of an answer. Its neighbours have answers, so the endpoint does not
    wait: the item is sent again."""
    return Failure("transient" if error.facts.is_pausing else error.kind, str(error))


_DIMENSIONS = ("dimensions", "output_dimension", "output_dimensionality", "dimension")


def vector_answers(
    vectors: Sequence[Any],
    count: int,
    *,
    input_tokens: int = 0,
    model: str = "",
    parameters: Mapping[str, Any] = {},
) -> list[Answer | Failure]:
    """One answer per vector; a vector with NaN, infinity, only zeros or another length than the
    others is a failure of that request.

    Shape: `vectors` is one list of floats or float32 bytes per request, in their order.
    Raises: EndpointError `invalid` if the count is wrong: answers are never shifted; `config` if
    the server ignores the dimension that `parameters` asks for.
    """
    if len(vectors) != count:
        raise EndpointError("invalid", wrong_count(len(vectors), "vector", count), status=200)
    torn = next((v for v in vectors if isinstance(v, bytes) and len(v) % 4), None)
    if torn is not None:
        text = f"a vector of {many(len(torn), 'byte')}, not a multiple of 4"
        raise NoVectors("invalid", text, status=200)
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
    if same_length == count:
        _check_dimension(parameters, matrix.shape[1])
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


def _check_dimension(parameters: Mapping[str, Any], dimension: int) -> None:
    name = next((name for name in _DIMENSIONS if isinstance(parameters.get(name), int)), None)
    if name is not None and parameters[name] != dimension:
        raise EndpointError(
            "config",
            f"parameters.{name} = {parameters[name]}, but the server gives vectors of"
            f" {dimension} dimensions",
            status=200,
        )


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


def out_of_budget(parameters: Mapping[str, Any], reason: Any, reasoning: str = "") -> Failure:
    """The failure of a text whose budget ran out before it began: another try costs the same."""
    name = next((name for name in OUTPUT_LIMITS if name in parameters), None)
    budget = f"{name} = {parameters[name]}" if name else "the token limit (max_tokens)"
    return Failure(
        "truncated",
        f"200 without a text: {budget} ran out first (finish_reason: "
        f"{printable(str(reason), 40)}){reasoning}",
    )
