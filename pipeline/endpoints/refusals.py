"""The class of an error, from what its body says and from its status.

Services disagree about statuses: vLLM reports too long as 400 and llama.cpp as 500, rate limits may
be 503, loading may be a 200, a proxy may answer 403 for the service. So the words decide first, by
the rules below, in their order; the status decides if no rule holds. A rule knows the words of a
kind of refusal, English and Chinese, not the sentence of one service.
Source: the wire reference of August 2026, see `docs/protocols.md`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, NamedTuple

from pipeline.endpoints.error_bodies import ErrorBody, read_body, read_value
from pipeline.endpoints.sizes import is_larger_than_rate, is_output_budget, is_too_large
from pipeline.errors import EndpointError, ErrorKind
from pipeline.text import printable

_STATUS_KINDS: dict[int, ErrorKind] = {
    200: "invalid",
    401: "auth",
    402: "quota",
    403: "auth",
    404: "config",
    405: "config",
    406: "config",
    407: "auth",
    408: "transient",
    409: "transient",
    410: "config",
    411: "config",
    413: "too_long",
    414: "config",
    415: "config",
    421: "config",
    425: "transient",
    426: "config",
    429: "rate",
    431: "config",
    498: "overload",
    499: "transient",
    501: "config",
    503: "overload",
    505: "config",
    529: "overload",
}
"""Other 3xx are `config`, other 4xx `poison`, other 5xx `transient`."""

_PASSING = frozenset({408, 429, *range(500, 600)}) - {501, 505}
"""Statuses inside a body that a proxy hides behind a 500."""


def _words(*patterns: str) -> Callable[[ErrorBody], bool]:
    pattern = re.compile("|".join(patterns), re.IGNORECASE)
    return lambda body: pattern.search(body.words) is not None


_NOUN = (
    r"(?:\bmodels?\b|\bdeployments?\b|\bengine\b|\badapters?\b|\blora\b|\btasks?\b|\bpipelines?\b"
    r"|\bendpoints?\b|\broutes?\b|\bpath\b|\burl\b|\bmethod\b|\boperation\b|\bapi\b|\bmodell\b"
    r"|\bmodèle\b|模型|任务|路径|接口|方法|モデル|タスク)"
)
_NEAR = r"(?:[^.。;；\n]|\.(?=\S)){0,120}?"
_MISSING = (
    r"(?:not (?:be |currently )?(?:found|exist|supported|available|allowed|implemented|deployed"
    r"|recogni[sz]ed|served|known|loaded|support|configured|enabled)\b"
    r"|(?:does|do|did)(?: not|n't|n’t) (?:exist|support)\b|\bunsupported\b|\bno longer\b"
    r"|\bdeprecated\b|\bdecommissioned\b|\bretired\b|不存在|未找到|找不到|不支持|未开通|下线|未部署"
    r"|nicht gefunden|existiert nicht|n'existe pas|introuvable|見つかりません|存在しません"
    r"|サポートされていません)"
)
_names_job = _words(
    _NOUN + _NEAR + _MISSING,
    r"(?:\binvalid|\bunknown|\bunsupported|\bno such|\bunrecogni[sz]ed|\bno|not a valid"
    r"|不支持的?|不存在的?|无效的?|未知的?|找不到|未找到|没有找到|没有可用的|没有)"
    r"[ `'\"_-]{0,2}(?:the )?"
    + _NOUN.replace(r"|\bapi\b", "")
    + r"(?!\s+(?:output|response|answer|result|reply))",
    r"(?:not (?:available|supported)|does not support|unsupported) (?:for|by|with|on)\b"
    + _NEAR
    + _NOUN,
    r"\bmodel [`'\"\w./:-]{0,80} is (?:unknown|invalid)",
    r"模型(?:名称?|编码|代码)?[ :：]?[`'\"\w./:-]{0,80} ?(?:无效|错误)",
    r"\b(?:is|are) not an? [\w -]{1,30} model\b|\bunexpected (?:endpoint|path|url|method)",
    r"does(?: not|n't) support (?:the )?(?:embedding|chat|completion|pooling|generat|feature)",
    r"\bmodel is required|\bprovide a (?:valid )?model\b|\bmissing (?:the )?model\b",
    r"\bcannot (?:get|post) /",
    r"model[_ ]?not[_ ]?(?:found|supported|exist)",
    r"unsupported_parameter|failed to deserialize|model_kwargs|prompt_name|chat template",
    r"template not found|plain http request was sent to https|request header or cookie",
)
_is_unavailable = _words(r"not (?:be |currently )?(?:available|loaded)\b", r"unavailable")
_is_temporary = _words(
    r"temporar", r"try again (?:later|in|soon|after)", r"\bretry (?:later|after|in)", r"right now",
    r"at the moment", r"稍后", r"暂时", r"しばらく",
)  # fmt: skip
_is_loading = _words(
    r"(?:\bmodel|\bserver|\bengine|\bdeployment|\binstance|\bendpoint|\breplica|模型)[^.\n]{0,80}?"
    r"(?:\b(?:is|are|still|currently|being)\s+(?:(?:still|currently|being)\s+)*"
    r"(?:loading|starting|warming|initiali[sz]ing|deploying|scaling|downloading)|being loaded"
    r"|not (?:yet )?ready|not yet loaded|not loaded yet"
    r"|加载中|正在加载|启动中|正在启动|初始化|预热|正在部署)",
    r"\bloading (?:the )?model\b|\bwarming up\b|\bcold start|正在加载",
)
_is_quota = _words(
    r"insufficient[_ ](?:quota|balance|credit|fund)", r"out of credits", r"arrearage",
    r"(?:exceeded|depleted) your monthly", r"credit balance is too low", r"payment required",
    r"billing hard limit", r"余额不足", r"欠费", r"额度(?:不足|已用尽|已用完|用尽)", r"账户余额",
)  # fmt: skip
_KEY = r"(?:api[ _-]?key|access[ _-]?token)"
_is_bad_key = _words(
    r"(?:invalid|incorrect|missing|expired|wrong|no)[ _-]?(?:\w+ ){0,2}" + _KEY,
    _KEY + r"[^.\n]{0,30}(?:not valid|not found|invalid|missing|expired|无效|错误|过期)",
    r"(?:无效|错误|过期)的?(?:令牌|密钥)|(?:令牌|密钥)(?:无效|错误|已?过期)|invalidapikey",
)  # fmt: skip
_is_moderated = _words(
    r"\bflagged\b", r"moderation", r"content[ _](?:policy|filter|management)", r"inappropriate",
    r"data_?inspection", r"敏感", r"违规", r"审核", r"不合规",
)  # fmt: skip
_is_rate = _words(
    r"rate[ _-]?limit", r"too many requests", r"throttl", r"requests per", r"resource_exhausted",
    r"\bqps\b", "限流", "频率", "速率", "频繁", "每分钟", "并发数?(?:超|过)", "レート制限",
)  # fmt: skip
_is_busy = _words(
    r"overload", r"\bbusy\b", r"queue (?:is )?(?:full|too long)", r"queue.{0,30}(?:full|exceed)",
    r"(?:no|insufficient|out of) capacity", r"capacity exceeded",
    r"no available (?:server|worker|channel)",
    r"pending requests", r"slow[ _]down", "繁忙", "过载", "负载", "混雑",
)  # fmt: skip
_names_input = _words(
    r"\b(?:input|text|prompt|document|passage)s?\b", "输入", "文本", "文档", "提示词"
)  # fmt: skip


class _Rule(NamedTuple):
    """Errors of this class, if the body says so and the status is one of those it may have."""

    kind: ErrorKind
    says: Callable[[ErrorBody], bool]
    may_have: Callable[[int], bool]


def _is_open(status: int) -> bool:
    """The status alone says little: other than a refused credential, a rate or a redirect."""
    return status == 200 or (status >= 400 and status not in (401, 402, 403, 407, 429))


def _is_wrong(body: ErrorBody) -> bool:
    """The body names model, task, path or a parameter of the job as the fault."""
    if body.param or is_output_budget(body.words):
        return True
    return _names_job(body) and not _is_temporary(body)


_RULES: tuple[_Rule, ...] = (
    _Rule(
        "quota",
        lambda body: _is_quota(body) and body.wait_seconds is None,
        lambda status: status not in (401, 404, 407),
    ),
    _Rule("auth", _is_bad_key, lambda status: _is_open(status) and status not in (404, 503)),
    _Rule("poison", _is_moderated, lambda status: status in (200, 400, 403, 422, 451)),
    _Rule("rate", _is_rate, lambda status: status == 403),
    _Rule("too_long", lambda body: is_larger_than_rate(body.words), lambda status: status == 429),
    _Rule(
        "loading",
        lambda body: body.loading_seconds is not None or _is_loading(body),
        lambda status: _is_open(status) and status not in (413, 424),
    ),
    _Rule("too_long", lambda body: is_too_large(body.words), _is_open),
    _Rule("loading", _is_temporary, lambda status: status == 404),
    _Rule("config", _is_wrong, lambda status: 400 <= status < 500 and _is_open(status)),
    _Rule(
        "config",
        lambda body: _is_wrong(body) and not _is_unavailable(body),
        lambda status: status in (200, 500, 501),
    ),
    _Rule("config", _words(r"model[_ ]not[_ ](?:found|supported)"), lambda status: status == 503),
    _Rule("overload", _is_busy, lambda status: status in (200, 400, 500, 502)),
    _Rule("rate", _is_rate, lambda status: status in (200, 400, 500, 502)),
    _Rule("poison", _names_input, lambda status: status == 404),
)
"""The first one that holds decides."""


def refusal(status: int, headers: Mapping[str, str], raw: bytes) -> EndpointError:
    """The error for a reply other than 200."""
    if 300 <= status < 400:
        return EndpointError(
            "config", "the server redirects, which is never followed", status=status
        )
    body = read_body(raw)
    says = printable(body.message)
    kind = _class(status, body)
    if body.is_page and status in (401, 403, 407):
        # It says nothing about our credential: the service itself was not reached.
        server = printable(headers.get("server", ""), 60)
        by = f" (server: {server})" if server else ""
        return EndpointError(
            "poison", f"{status} a web page of a proxy{by} blocks this call: {says}", status=status
        )
    shown = f"{status} {says}".strip() if says else str(status)
    wait = requested_wait(headers)
    seconds = body.wait_seconds if body.wait_seconds is not None else body.loading_seconds
    return EndpointError(
        kind, shown, status=status, retry_after=wait if wait is not None else seconds
    )


def embedded_error(value: Any) -> EndpointError:
    """The error inside a 200, as decoded JSON or as bytes; `invalid` if nothing tells its class."""
    body = read_body(value) if isinstance(value, bytes) else read_value(value)
    kind = _class(body.status or 200, body)
    code = f"{body.status} " if body.status and str(body.status) not in body.message else ""
    return EndpointError(
        kind,
        f"200 with an error: {code}{printable(body.message or 'without a text', 200)}",
        status=200,
        retry_after=body.wait_seconds if body.wait_seconds is not None else body.loading_seconds,
    )


@lru_cache(maxsize=256)
def _class(status: int, body: ErrorBody) -> ErrorKind:
    if status == 500 and body.status is not None and body.status in _PASSING:
        status = body.status
    for rule in () if body.is_page and status != 400 else _RULES:
        if rule.may_have(status) and rule.says(body):
            return rule.kind
    return _STATUS_KINDS.get(status, "transient" if status >= 500 else "poison")


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
