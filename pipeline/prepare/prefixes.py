"""The prefixes that embedding models want before a question and before a passage.

Many models are trained with a text before each input, and their vectors are worse without it. Few
services add it. `FAMILIES` is the one home of these texts: a job gets them by the name of its
model, unless it sets its own or the service adds one.
Source: model cards and `config_sentence_transformers.json` of each family, August 2026.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

from pipeline.records import Endpoint
from pipeline.tasks import TASKS
from pipeline.text import printable


class Prefixes(Struct, frozen=True):
    """The texts before a question and before a passage; empty: none."""

    query: str = ""
    passage: str = ""


class Embed(Struct, frozen=True):
    """The prefixes of a job; None: those that its model wants."""

    query_prefix: str | None = None
    passage_prefix: str | None = None


_SEARCH = Prefixes("Represent this sentence for searching relevant passages: ")
_WEB_SEARCH = "Instruct: Given a web search query, retrieve relevant passages that answer the query"
_INSTRUCT = Prefixes(f"{_WEB_SEARCH}\nQuery: ")
_E5 = Prefixes("query: ", "passage: ")
_NOMIC = Prefixes("search_query: ", "search_document: ")

FAMILIES: dict[str, Prefixes] = {
    r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised|-4k)?": _E5,
    r"(multilingual-)?e5-(large|mistral-7b)-instruct": _INSTRUCT,
    r"bge-(small|base|large)(-en)?(-v1\.5)?": _SEARCH,
    r"bge-(small|base|large)-zh(-v1\.5)?": Prefixes("为这个句子生成表示以用于检索相关文章："),
    r"bge-multilingual-gemma2": Prefixes(
        "<instruct>Given a web search query, retrieve relevant passages that answer the query."
        "\n<query>"
    ),
    r"nomic-embed-text(-v1|-v1\.5|-v2|-v2-moe)?": _NOMIC,
    r"nomic-embed-code": Prefixes("Represent this query for searching relevant code: "),
    r"modernbert-embed-(base|large)": _NOMIC,
    r"gte-qwen(1\.5|2)-(1\.5b|7b)-instruct": _INSTRUCT,
    r"qwen3-embedding(-[0-9.]+b)?": Prefixes(f"{_WEB_SEARCH}\nQuery:"),
    r"(snowflake-)?arctic-embed(-(xs|s|m|l|m-long|m-v1\.5))?": _SEARCH,
    r"(snowflake-)?arctic-embed(2|-(m|l)-v2\.0(-8k)?)": Prefixes("query: "),
    r"mxbai-embed-large(-v1)?": _SEARCH,
    r"deepset-mxbai-embed-de-large-v1": _E5,
    r"uae-large-v1": _SEARCH,
    r"stella-en-(400m|1\.5b)-v5": Prefixes(f"{_WEB_SEARCH}.\nQuery: "),
    r"embedding-?gemma(-300m)?(-qat)?": Prefixes(
        "task: search result | query: ", "title: none | text: "
    ),
    r"jina-embeddings-v4-(vllm|text)-retrieval": Prefixes("Query: ", "Passage: "),
    r"jina-embeddings-v5-text-(nano|small)-retrieval": Prefixes("Query: ", "Document: "),
    r"ruri-v3-[0-9]+m": Prefixes("検索クエリ: ", "検索文書: "),
}
"""By the name of the model without owner, tag and quantization, as a pattern of the whole name:
another model of the same makers, or one that somebody trained further, may want none."""

SERVICE_PARAMETERS = frozenset(
    {"prompt_name", "input_type", "task", "task_type", "instruction", "instruct"}
)
"""Parameters by which a service adds the text itself: none is added to it."""

_CACHED = re.compile(r"models--[^/]*?--([^/]+)")
"""A model in the cache folder of the Hub: `models--intfloat--e5-base-v2/snapshots/f52b...`."""
_PACKED = re.compile(
    r"[-.](gguf|ggml|onnx|mlx|openvino|awq|gptq|bnb|quantized|unquantized|latest|ud"
    r"|[if]?q[0-9](-[0-9a-z]+)*|b?f(p)?(8|16|32)|int[48]|[0-9]bit)$"
)
"""The end of a name that says how the same model is stored."""


def plain_name(model: str) -> str:
    """The name of a model as `FAMILIES` has it: `intfloat/E5-base-v2` is `e5-base-v2`."""
    name = model.strip().lower().rstrip("/")
    cached = _CACHED.search(name)
    name = cached[1] if cached else name.rpartition("/")[2]
    name = name.partition(":")[0].replace("_", "-").lstrip(".").removeprefix("text-embedding-")
    while (shorter := _PACKED.sub("", name)) != name:
        name = shorter
    return name


def prefixes_of(model: str) -> Prefixes:
    """What a model of this name wants; nothing where its family is unknown."""
    name = plain_name(model)
    found = (prefixes for family, prefixes in FAMILIES.items() if re.fullmatch(family, name))
    return next(found, Prefixes())


def prefixes_in_effect(embed: Embed, endpoints: Sequence[Endpoint]) -> Prefixes:
    """The prefixes of a job with these identified endpoints, which serve one model."""
    first = endpoints[0]
    if TASKS[first.task].value != "vector":
        return Prefixes()
    adds_one = not SERVICE_PARAMETERS.isdisjoint(first.parameters) or any(
        endpoint.adds_prompt for endpoint in endpoints
    )
    wanted = Prefixes() if adds_one else prefixes_of(_model(endpoints))
    return Prefixes(
        wanted.query if embed.query_prefix is None else embed.query_prefix,
        wanted.passage if embed.passage_prefix is None else embed.passage_prefix,
    )


def prefix_note(embed: Embed, endpoints: Sequence[Endpoint]) -> str:
    """A line that names the passage prefix which the job did not set; empty: there is none."""
    passage = prefixes_in_effect(embed, endpoints).passage
    if not passage or embed.passage_prefix is not None:
        return ""
    model = printable(_model(endpoints), 100)
    return f'prefix `{printable(passage)}` for {model}; embed.passage_prefix = "" turns it off'


def _model(endpoints: Sequence[Endpoint]) -> str:
    """The model of all of them; a replica may leave it to the other to name it."""
    return next((endpoint.model for endpoint in endpoints if endpoint.model), "")
