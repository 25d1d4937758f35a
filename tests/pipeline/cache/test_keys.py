from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline.cache.keys import key_function, parts_of, prefix, request_key
from pipeline.records import Deadline, Endpoint, Price

ENDPOINT = Endpoint(
    name="hub",
    kind="openai",
    task="feature-extraction",
    model="m",
    identity=("openai", "", "m", "main"),
    url="http://127.0.0.1:1/v1",
    parameters={"normalize": True, "dimensions": 256},
)


def test_the_key_of_a_known_request_never_changes():
    known = "27b1ddd8d7a55307c9d166146285a08d9e1a0dea3d3a36aa314a79968f5f18ad"
    assert request_key(ENDPOINT)("text").hex() == known


@given(st.text(), st.text())
def test_different_inputs_have_different_keys(one, other):
    key = request_key(ENDPOINT)
    encodable = all(not 0xD800 <= ord(c) <= 0xDFFF for c in one + other)
    if encodable:
        assert (key(one) == key(other)) == (one == other)


def test_what_matters_changes_the_key():
    base = request_key(ENDPOINT)("text")
    for changed in (
        {"task": "summarization"},
        {"identity": ("openai", "", "n", "main")},
        {"identity": ("openai", "", "m", "v2")},
        {"parameters": {"normalize": False, "dimensions": 256}},
        {"parameters": {"normalize": True}},
        {"parameters": {}},
    ):
        assert request_key(replace(ENDPOINT, **changed))("text") != base


def test_nothing_else_changes_the_key():
    base = request_key(ENDPOINT)("text")
    for changed in (
        {"name": "other"},
        {"url": "https://example.com"},
        {"parameters": {"dimensions": 256, "normalize": True}},
        {"concurrency": 1},
        {"batch_size": 1},
        {"batch_tokens": 1},
        {"price": Price(input=1.0)},
        {"deadline": Deadline(call_seconds=1.0)},
    ):
        assert request_key(replace(ENDPOINT, **changed))("text") == base


def test_input_and_parameters_cannot_be_mistaken_for_each_other():
    one = request_key(replace(ENDPOINT, parameters={"a": "b"}))("c")
    other = request_key(replace(ENDPOINT, parameters={"a": "bc"}))("")
    assert one != other


@given(st.binary(max_size=200))
def test_any_bytes_are_a_prefix_or_none(content):
    parts = parts_of(content)
    assert parts is None or {"keys", "task"} <= parts.keys()


def test_the_parts_of_a_prefix_have_the_names_of_the_job_file():
    nested = {"b": {"c": 1, "d": {}}, "a": [1, {"x": 2}]}
    endpoint = Endpoint("n", "openai", "t", "m", ("openai", "", "m", "v2"), parameters=nested)
    assert parts_of(prefix(endpoint)) == {
        "keys": 1, "task": "t", "endpoint.kind": "openai", "endpoint.provider": "",
        "endpoint.model": "m", "endpoint.revision": "v2", "parameters.a": [1, {"x": 2}],
        "parameters.b.c": 1, "parameters.b.d": {},
    }
    assert key_function(prefix(endpoint))("渡船") == request_key(endpoint)("渡船")
    url = Endpoint("n", "tei", "t", "", ("tei", "", "http://127.0.0.1:1"))
    assert parts_of(prefix(url))["endpoint.url"] == "http://127.0.0.1:1"
    local = Endpoint("n", "local", "t", "", ("local", "wordllama-256"))
    assert parts_of(prefix(local))["endpoint.model"] == "wordllama-256"
