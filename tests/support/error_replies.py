"""Replies that are no answers, from a seed: every status, every shape of body, English and Chinese."""

import json
import random
from typing import Any, NamedTuple

STATUSES = (200, *range(300, 600))

SENTENCES = (
    "Model {name} is currently loading", "The model `{name}` does not exist.", "模型 {name} 不存在",
    "This model's maximum context length is {few} tokens. However, you requested {many} tokens.",
    "batch size {many} > maximum allowed batch size {few}", "输入长度 {many} 超过最大值 {few}",
    "max_tokens must be at most {few}", "Rate limit reached: {few} requests per minute",
    "请求过于频繁，请稍后再试", "Invalid API key provided", "账户余额不足", "insufficient_quota",
    "upstream request timeout exceeded", "The server is overloaded", "系统繁忙", "unknown error",
    "Input should be a valid string", "Not Found", "内容包含敏感词", "encoding_format is not supported",
    "Unexpected token '<'", "", " ", "\x00\x1b[31m", "𝔘𝔫𝔦 \u202e", "a" * 5_000,
)  # fmt: skip
CODES = (None, 0, 1, -1, 200, 400, 401, 404, 422, 429, 500, 503, 529, 1261, 20015, 1e300, True, "400", "429",
         "model_not_found", "context_length_exceeded", "server_error", "InvalidParameter", "", [], {})  # fmt: skip
PAGE = "<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1>{more}</body></html>"


class Reply(NamedTuple):
    """A status, and the bytes that come with it."""

    status: int
    body: bytes


def replies(count: int, seed: int) -> list[Reply]:
    """This number of replies; the same for the same seed."""
    draw = random.Random(seed)
    order = draw.sample(STATUSES, len(STATUSES))
    return [Reply(order[at % len(order)], _body(draw)) for at in range(count)]


def _sentence(draw: random.Random) -> str:
    few = draw.randrange(1, 1_000)
    return draw.choice(SENTENCES).format(name=draw.choice(("m", "org/m-1.5")), few=few, many=few + 99)


def _error(draw: random.Random) -> Any:
    """One error, in a shape of some service."""
    text, code, other = _sentence(draw), draw.choice(CODES), draw.choice(CODES)
    return draw.choice((
        {"error": text},
        {"error": [text, other]},
        {"error": text, "warnings": [text]},
        {"error": text, "estimated_time": draw.choice((20.0, -1, None, "soon", 1e300))},
        {"error": text, "error_type": draw.choice(("Validation", "overloaded", "Backend", code))},
        {"error": {"message": text, "type": code, "param": other, "code": code}},
        {"error": {"message": {"error": {"message": text}}, "code": code}},
        {"error": json.dumps({"error": {"message": text, "code": 429}})},
        {"message": text, "code": code, "type": "Validation"},
        {"object": "error", "message": text, "type": "BadRequestError", "param": other, "code": code},
        {"detail": text, "status": code},
        {"detail": [{"type": "missing", "loc": ["body", draw.choice(("input", "n", 0))], "msg": text, "input": other}]},
        {"message": text, "request_id": "7"},
        {"code": code, "msg": text, "data": None},
        {"base_resp": {"status_code": code, "status_msg": text}, "choices": None},
        {"error_code": code, "error_msg": text},
        [{"error": {"code": code, "message": text, "details": [{"retryDelay": draw.choice(("17s", "x", 3))}]}}],
        {"errors": [{"message": text, "code": code}, other]},
        {"model": "m", "choices": [{"finish_reason": "error", "message": {"content": text}, "error": {"code": code}}]},
        {"model": "m", "choices": [{"finish_reason": "length", "message": {"content": None}}]},
        {"model": "m", "choices": [], "error": other},
        {"n_prompt_tokens": 900, "n_ctx": code, "message": text},
    ))  # fmt: skip


def _nested(draw: random.Random, value: Any) -> Any:
    for _ in range(draw.randrange(1, 60)):
        value = draw.choice(({"error": value}, [value], {"detail": value}, {"message": value, "code": 1}))
    return value


def _body(draw: random.Random) -> bytes:
    error = _error(draw)
    whole = json.dumps(error, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    text = _sentence(draw)
    return draw.choice((
        lambda: whole,
        lambda: whole,
        lambda: whole,
        lambda: whole[: draw.randrange(len(whole))],
        lambda: json.dumps(_nested(draw, error)).encode(),
        lambda: PAGE.format(title=text, more=text).encode("utf-8", "surrogatepass"),
        lambda: text.encode("utf-8", "surrogatepass"),
        lambda: json.dumps(draw.choice((None, True, 0, -7, 1e300, text, [], {}, [[]], [None], [text, text]))).encode(),
        lambda: b"",
        lambda: draw.randbytes(draw.randrange(1, 80)),
        lambda: whole.replace(b'"', b"\xff", 2),
        lambda: b"data: " + whole + b"\n\ndata: [DONE]\n\n",
        lambda: (b"[" * 3_000) + whole,
        lambda: whole + b" " * draw.choice((0, 200_000)) + b"x",
    ))()  # fmt: skip
