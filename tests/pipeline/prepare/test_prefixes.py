"""Which models want a prefix, and when none is added."""

import re

import pytest

from pipeline.prepare.prefixes import (
    FAMILIES,
    Embed,
    Prefixes,
    plain_name,
    prefix_note,
    prefixes_in_effect,
    prefixes_of,
)
from pipeline.records import Endpoint

SEARCH = "Represent this sentence for searching relevant passages: "
WEB = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


@pytest.mark.parametrize(("model", "query", "passage"), [
    ("intfloat/e5-small-v2", "query: ", "passage: "),
    ("intfloat/multilingual-e5-large", "query: ", "passage: "),
    ("INTFLOAT/E5-Base", "query: ", "passage: "),
    (".multilingual-e5-small", "query: ", "passage: "),
    ("/data/models--intfloat--e5-base-v2/snapshots/f52bf8ec8c7124536f0efb74aca902b2995e5bcd",
     "query: ", "passage: "),
    ("/models/e5-base-v2/", "query: ", "passage: "),
    ("intfloat/multilingual-e5-large-instruct", WEB + " ", ""),
    ("intfloat/e5-mistral-7b-instruct", WEB + " ", ""),
    ("BAAI/bge-large-en-v1.5", SEARCH, ""),
    ("@cf/baai/bge-base-en-v1.5", SEARCH, ""),
    ("bge-large", SEARCH, ""),
    ("text-embedding-bge-large-en-v1.5", SEARCH, ""),
    ("BAAI/bge-small-zh-v1.5", "为这个句子生成表示以用于检索相关文章：", ""),
    ("nomic-embed-text", "search_query: ", "search_document: "),
    ("nomic-embed-text:v1.5", "search_query: ", "search_document: "),
    ("nomic-embed-text-v1.5.Q8_0.gguf", "search_query: ", "search_document: "),
    ("nomic-ai/nomic-embed-text-v2-moe-GGUF", "search_query: ", "search_document: "),
    ("nomic-ai/modernbert-embed-base", "search_query: ", "search_document: "),
    ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", WEB + " ", ""),
    ("Qwen/Qwen3-Embedding-0.6B", WEB, ""),
    ("qwen3-embedding:0.6b", WEB, ""),
    ("Qwen3-Embedding-4B-Q4_K_M.gguf", WEB, ""),
    ("Snowflake/snowflake-arctic-embed-m-long", SEARCH, ""),
    ("snowflake-arctic-embed:335m", SEARCH, ""),
    ("Snowflake/snowflake-arctic-embed-l-v2.0", "query: ", ""),
    ("snowflake-arctic-embed2:latest", "query: ", ""),
    ("mixedbread-ai/mxbai-embed-large-v1", SEARCH, ""),
    ("mxbai-embed-large", SEARCH, ""),
    ("WhereIsAI/UAE-Large-V1", SEARCH, ""),
    ("google/embeddinggemma-300m", "task: search result | query: ", "title: none | text: "),
    ("embeddinggemma:300m-qat-q4_0", "task: search result | query: ", "title: none | text: "),
    ("embeddinggemma-300m-qat-Q8_0", "task: search result | query: ", "title: none | text: "),
    ("NovaSearch/stella_en_400M_v5", WEB.replace("\n", ".\n") + " ", ""),
    ("jinaai/jina-embeddings-v5-text-small-retrieval", "Query: ", "Document: "),
])
def test_a_family_is_known_by_the_name_of_the_model(model, query, passage):
    assert prefixes_of(model) == Prefixes(query, passage)


@pytest.mark.parametrize("model", [
    "", "m", "default", "BAAI/bge-m3", "bge-m3:latest", "BAAI/bge-en-icl", "BAAI/bge-reranker-large",
    "thenlper/gte-base", "Alibaba-NLP/gte-large-en-v1.5", "Alibaba-NLP/gte-multilingual-base",
    "Alibaba-NLP/gte-modernbert-base", "text-embedding-3-small", "text-embedding-ada-002",
    "embed-english-v3.0", "voyage-3-large", "jinaai/jina-embeddings-v3", "jina-embeddings-v4",
    "sentence-transformers/all-MiniLM-L6-v2", "all-minilm", "ibm-granite/granite-embedding-125m-english",
    "nvidia/nv-embedqa-e5-v5", "someone/e5-base-v2-finetuned-legal", "my-bge-small-en", "e5",
    "mixedbread-ai/mxbai-embed-xsmall-v1", "nomic-ai/nomic-embed-vision-v1.5", "intfloat/e5-v",
    "gemini-embedding-001", "mistral-embed", "Qwen/Qwen3-VL-Embedding-2B", "Qwen/Qwen3-Reranker-0.6B",
])
def test_a_model_of_no_known_family_gets_none(model):
    assert prefixes_of(model) == Prefixes()


def test_a_name_is_of_one_family_and_a_prefix_names_no_column():
    names = ["e5-base", "bge-large", "bge-large-zh", "arctic-embed", "arctic-embed2", "qwen3-embedding"]
    for name in names:
        assert len([family for family in FAMILIES if re.fullmatch(family, name)]) == 1, name
    assert not [each for each in FAMILIES.values() if {*"{}"} & {*each.query, *each.passage}]


@pytest.mark.parametrize(("model", "name"), [
    ("a/B_c-GGUF:Q4_K_M", "b-c"), ("x.f16.gguf", "x"), ("x-q8-0", "x"), ("x-IQ4_XS", "x"),
    ("x-v1.5-int8-onnx", "x-v1.5"), ("gte-q", "gte-q"), ("a-v2.0", "a-v2.0"), ("/", ""),
])
def test_a_plain_name_has_no_owner_tag_or_quantization(model, name):
    assert plain_name(model) == name


def endpoint(model="intfloat/e5-base-v2", task="feature-extraction", **others):
    return Endpoint("a", "openai", task, model, ("openai", "", model, "main"), **others)


E5 = Prefixes("query: ", "passage: ")


@pytest.mark.parametrize(("embed", "endpoints", "expected"), [
    (Embed(), [endpoint()], E5),
    (Embed(passage_prefix=""), [endpoint()], Prefixes("query: ", "")),
    (Embed(query_prefix="q "), [endpoint("m")], Prefixes("q ", "")),
    (Embed(), [endpoint(parameters={"prompt_name": "passage"})], Prefixes()),
    (Embed(), [endpoint(parameters={"input_type": "passage"})], Prefixes()),
    (Embed(), [endpoint(parameters={"dimensions": 64})], E5),
    (Embed(), [endpoint(adds_prompt=True)], Prefixes()),
    (Embed(), [endpoint(), endpoint(adds_prompt=True)], Prefixes()),
    (Embed(), [endpoint(""), endpoint()], E5),
    (Embed(passage_prefix="p "), [endpoint(adds_prompt=True)], Prefixes("", "p ")),
    (Embed(), [endpoint(task="chat-completion")], Prefixes()),
])
def test_a_prefix_of_the_job_wins_and_none_is_added_where_the_service_adds_one(embed, endpoints, expected):
    assert prefixes_in_effect(embed, endpoints) == expected


def test_only_a_prefix_that_the_job_did_not_set_is_named():
    assert prefix_note(Embed(), [endpoint()]) == (
        'prefix `passage: ` for intfloat/e5-base-v2; embed.passage_prefix = "" turns it off'
    )
    assert prefix_note(Embed(passage_prefix="p "), [endpoint()]) == ""
    assert prefix_note(Embed(), [endpoint("BAAI/bge-large-en-v1.5")]) == ""  # of questions only
