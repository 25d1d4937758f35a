"""Recognises an error about size: one input, or all inputs of a call, are too many for the server.

There is no common code and no common status for it, so the text decides, clause by clause: a clause
is about size if it names something that has a size (tokens, context, batch, 长度) and compares it
(exceeds, too long, at most, 超过), or gives its maximum as a number. Clauses about time, rates,
queues and parameters use the same words and are left out. `max_tokens` is a parameter of the job;
with the prompt beside it, it is a part of the size.
"""

from __future__ import annotations

import re


def _any(*words: str) -> re.Pattern[str]:
    return re.compile("|".join(words), re.IGNORECASE)


_SIZED = _any(
    r"\btokens?\b", r"\blength\b", r"\bcontext\b", r"\bsequences?\b", r"\bprompts?\b",
    r"\binputs?\b", r"\bbatch(es)?\b", r"\btexts\b", r"\bcharacters\b", r"\barray\b",
    r"\bn ctx", r"\bkv size\b", r"\bitems\b", r"\bdocuments\b", r"\bsentences\b",
    "长度", "上下文", "字符", "输入", "文本", "批", "条", "提示词", "请求体", "token",
    r"eingaben?\b", r"länge", r"kontext", r"zeichen", r"\bentrées?\b", r"longueur", r"contexte",
    r"jetons", "トークン", "コンテキスト", "長さ", "入力", "文字", "토큰", "입력",
)  # fmt: skip
_SIZED_IF_COMPARED = _any(
    r"\brequest\b", r"\bpayload\b", r"\bbody\b", r"\bentity\b", r"\bmessages?\b", r"\bstring\b",
    r"\btext\b", r"\bdocument\b", r"\blist\b", r"\bchunk\b", "请求", "内容", r"anfrage", r"requête",
    "リクエスト",
)  # fmt: skip
_COMPARED = _any(
    r"\bexceed", r"\btoo (large|long|big|many)\b", r"(larg|long|great|bigg)er than\b",
    r"\bmore than\b", r"\boverflow", r"\babove (the )?max", r"\bover (the |its )?(max|limit)",
    r"\bat most\b", r"\b(less|fewer|shorter) than\b", r"<=|≤", r"[0-9]\)? > \w",
    r"\bnot enough\b", r"\breduce (the|your) (length|number|size|batch|input|prompt)",
    r"\btoolarge|toolong",
    "超过", "超出", "超长", "超限", "过长", "过大", "过多", "太长", "太大", "太多",
    "大于", "不得超",
    r"\bzu (lang|groß|viele)", r"überschreit", r"höchstens", r"\btrop (long|grand|de)", r"dépass",
    "超え", "長すぎ", "大きすぎ", "超過", "초과",
)  # fmt: skip
_BOUND = _any(
    r"\bmax(imum|imal\w*)?\b", r"\blimit(ed|s|e)?\b", r"\bup to\b", r"\brange\b", r"\ballowed\b",
    r"\bonly\b", r"\bfull\b",
    "最大", "最多", "上限", "限制", "范围", "최대",
)  # fmt: skip
_OTHER_BOUND = _any(
    r"time[ -]?out", r"timed out", r"deadline", r"\bseconds?\b", r"\btime limit", r"execution time",
    "超时", "时间", "タイムアウト",
    r"\bper (second|minute|min|hour|day|month)\b", r"/ ?min\b", r"\b[tr]p[mds]\b", r"\bqps\b",
    r"\brate[ -]?limit", r"\bquota\b", r"\bcredits?\b", r"\bbalance\b",
    "每分钟", "每秒", "每天", "频率", "速率", "频繁", "额度", "配额", "余额", "限流",
    r"\bqueued?\b", r"concurren", r"in flight", r"\bpending\b", r"connections?\b", r"\bbusy\b",
    r"overload", r"\bretries\b", r"\bmemory\b", r"open files", "并发", "队列", "排队", "繁忙",
    r"\bheaders?\b", r"\bcookie", r"\bur[il]\b", r"stop sequences?", r"\bdimensions?\b",
    r"\btop [knp]\b", r"temperature", r"log ?probs", r"\bbest of\b", r"penalty", r"\bmin length\b",
    r"truncate prompt", r"than (or equal to )?(0|1|zero|one)\b(?!,)", r"\bat least\b",
    r"\bempty\b", r"too (short|small)", "不能为空",
)  # fmt: skip
_BUDGET = _any(
    r"(?<![a-z])max (new |completion |output |gen |generated )?tokens(?![a-z]| per| in| allowed)",
    r"\b(completion|output|generated|generation) tokens\b", r"\bnum predict\b",
    r"\bbudget tokens\b", r"\bthinking budget\b",
)  # fmt: skip
_INPUT = _any(r"\bprompts?\b", r"\binputs?\b", r"\bmessages?\b", r"\bcontext\b", "输入", "上下文")
_CLAIM = re.compile(r"\b(invalid|bad) (inputs?|request)\b:?|\binput validation error:?", re.I)
_CLAUSE = re.compile(r"(?<=[.!?;])\s+|[。；！？\n]")
_WORDS_OF_NAME = re.compile(r"(?<=[a-z])(?=[A-Z])|_")

_BUDGET_ALONE = re.compile(
    r"\bmax (?:\w+ )?tokens\b(?:[^0-9.<≤]{0,60}?too large:?|[`'\" ]{0,3}[=:(])\s*([0-9]+)"
    r"|([0-9]+) (?:tokens )?(?:in|for|from) the completion"
    r"|([0-9]+) `?(?:max new|max|completion|output) tokens",
    re.IGNORECASE,
)
_CONTEXT = re.compile(
    r"(?:context (?:length|window|size|limit)|<=|≤|\bmaximum|\blimit)\D{0,40}?([0-9]+)", re.I
)
_LIMIT_REQUESTED = re.compile(r"\blimit:? ([0-9]+), requested:? ([0-9]+)", re.IGNORECASE)


def is_too_large(words: str) -> bool:
    """True if the words say that an input, or the batch, is larger than the server takes."""
    text = _plain(words)
    return any(map(_is_about_size, _clauses(text))) and not _is_budget_beyond_context(text)


def is_output_budget(words: str) -> bool:
    """True if the words say that the answer may not be as long as the job wants it: a parameter of
    the job, whatever the input."""
    text = _plain(words)
    if any(map(_is_about_size, _clauses(text))):
        return _is_budget_beyond_context(text)
    return any(
        _BUDGET.search(clause) and (_COMPARED.search(clause) or _BOUND.search(clause))
        for clause in _clauses(text)
    )


def is_larger_than_rate(words: str) -> bool:
    """True if a single call is over the limit of a whole window: no wait makes it fit."""
    found = _LIMIT_REQUESTED.search(_plain(words))
    if found:
        return int(found[2]) > int(found[1])
    return re.search(r"\brequest too large\b", words, re.IGNORECASE) is not None


def _plain(words: str) -> str:
    """The words with the parts of names apart and without digit groups: `n_ctx` and
    `PromptTooLong` read like text."""
    text = _WORDS_OF_NAME.sub(" ", words)
    text = re.sub(r"(?<=[0-9]),(?=[0-9]{3})", "", text)
    text = re.sub(r"context deadline", "deadline", text, flags=re.IGNORECASE)
    return _CLAIM.sub(" ", text)


def _clauses(text: str) -> list[str]:
    return [clause for clause in _CLAUSE.split(text) if clause.strip()]


def _is_about_size(clause: str) -> bool:
    if _OTHER_BOUND.search(clause):
        return False
    if _BUDGET.search(clause) and not _INPUT.search(_BUDGET.sub(" ", clause)):
        return False
    is_sized = _SIZED.search(clause) is not None
    if _COMPARED.search(clause):
        return is_sized or _SIZED_IF_COMPARED.search(clause) is not None
    return is_sized and _BOUND.search(clause) is not None and re.search("[0-9]", clause) is not None


def _is_budget_beyond_context(text: str) -> bool:
    """True if the output alone is longer than the context: no shorter input would fit."""
    budget, context = _BUDGET_ALONE.search(text), _CONTEXT.search(text)
    if budget is None or context is None:
        return False
    tokens = next(int(group) for group in budget.groups() if group)
    return tokens >= int(context[1])
