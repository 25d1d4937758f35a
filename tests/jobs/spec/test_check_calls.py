"""Headers, query and proxy of an endpoint: what is accepted, and what is a secret."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.build import build
from jobs.secrets import Reference, looks_random
from jobs.spec.check_calls import names_secret
from jobs.spec.load import load
from pipeline.errors import UsageError
from pipeline.secret import Secret
from tests.support import ROOT

RANDOM = "9f3bA71c2eD84f60a5B7c91d3E2f8a46"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def loaded(*lines, overrides=()):
    """The endpoint of a job file whose endpoint has these lines, too."""
    text = ['task = "feature-extraction"', '[input]\npath = "in.jsonl"', '[output]\npath = "o.parquet"',
            '[[endpoint]]\nkind = "openai"\nmodel = "m"', *lines]  # fmt: skip
    Path("job.toml").write_text("\n".join(text), "utf-8")
    return load("job.toml", overrides).endpoints[0]


def refused(*lines, overrides=()):
    with pytest.raises(UsageError) as raised:
        loaded(*lines, overrides=overrides)
    assert "\n" not in str(raised.value)
    return str(raised.value), raised.value.hint


def test_headers_and_query_are_read_as_text_or_as_references():
    endpoint = loaded(
        'headers = { X-Team = "research", X-Scale-Up-Timeout = 600, api-key = { env = "AZURE" } }',
        "query = { api-version = 2024-10-21, raw = true }",
        'proxy = { file = "proxy" }',
    )
    assert endpoint.headers == {
        "X-Team": "research", "X-Scale-Up-Timeout": "600", "api-key": Reference(env="AZURE"),
    }  # fmt: skip
    assert endpoint.query == {"api-version": "2024-10-21", "raw": "true"}
    assert endpoint.references == [Reference(file="proxy"), Reference(env="AZURE")]


def test_a_query_in_the_url_is_merged_and_the_key_wins():
    url = 'url = "https://a.example.com/v1/?api-version=1&x=a%20b"'
    endpoint = loaded(url, 'query = { api-version = "2" }')
    assert endpoint.url == "https://a.example.com/v1"
    assert endpoint.query == {"api-version": "2", "x": "a b"}


def test_the_command_line_sets_one_of_them():
    endpoint = loaded(
        'headers = { X-Team = "research" }',
        overrides=[("endpoint.headers.X-Key.env", "A"), ("endpoint.query.v", "1.10"),
                   ("endpoint.proxy", "http://proxy:3128")],
    )  # fmt: skip
    assert endpoint.headers == {"X-Team": "research", "X-Key": Reference(env="A")}
    assert (endpoint.query, endpoint.proxy) == ({"v": "1.10"}, "http://proxy:3128")
    problem, hint = refused(overrides=[("endpoint.headers.X-Team", "research")])
    assert problem == (
        "--set endpoint.headers.X-Team: the value of a header must be in the job file, or a reference"
    )
    assert hint == 'X-Team = { env = "X_TEAM" }'


@pytest.mark.parametrize(("name", "value"), [
    ("X-Api-Key", "short"), ("api-key", "a"), ("Cookie", "a=b"), ("X-Trace", RANDOM),
    ("Authorization", "Bearer abc"), ("X-Session-Token", "1234"), ("subscriptionKey", "x"),
    ("X-A", "Bearer canary-7f3a9c51d2"), ("X-A", "hf_CanaryCanaryCanaryCanary0123"),
])  # fmt: skip
@pytest.mark.parametrize("table", ["headers", "query"])
def test_a_text_that_looks_like_a_secret_is_refused_with_the_reference_to_use(table, name, value):
    problem, hint = refused(f'{table} = {{ "{name}" = "{value}" }}')
    assert problem == (
        f"job.toml: endpoint.{table}.{name} looks like a secret, which a job must not hold"
    ) or problem == f"job.toml: `endpoint.{table}.{name}` looks like a secret, which a job must not hold"
    assert hint.startswith(f'{name} = {{ env = "')
    assert value not in f"{problem} {hint}" or len(value) < 3


@pytest.mark.parametrize(("name", "value"), [
    ("OpenAI-Organization", "org-AbCdEf0123456789AbCdEf01"), ("X-HF-Bill-To", "my-org"),
    ("X-Model-Route", "meta-llama/Llama-3.3-70B-Instruct-Turbo"), ("X-Token-Limit", "512"),
    ("X-Tenant", "3f2504e0-4f89-41d3-9a0c-0305e82c3301"), ("User-Agent", "night run 7"),
    ("X-Deployment", "embeddings-production-eu-west-1-2026-11"), ("Accept", "application/json"),
])  # fmt: skip
def test_a_name_a_route_or_a_number_is_no_secret(name, value):
    assert loaded(f'headers = {{ {name} = "{value}" }}').headers == {name: value}


@given(st.text("0123456789abcdef", min_size=40, max_size=64))
def test_a_key_of_hexadecimal_digits_is_random_and_words_are_not(text):
    mixed = sum(a.isdigit() != b.isdigit() for a, b in pairwise(text))
    assert looks_random(text) == (mixed * 5 >= len(text))
    assert not looks_random("-".join(["embedding", "production", "europe", text[:3]]))


def test_a_name_is_judged_by_its_last_word():
    assert all(map(names_secret, ["X-API-KEY", "authToken", "X-Secret-Value", "sig", "X-Key-2"]))
    assert not any(map(names_secret, ["X-Key-Id", "max_tokens", "X-Keyboard", "author", "deployment"]))


@pytest.mark.parametrize(("line", "problem"), [
    (r'headers = { X-A = "a\r\nHost: b" }', "endpoint.headers.X-A must be one line without control characters"),
    (r'headers = { "X-A\nHost" = "a" }', r"endpoint.headers.X-A\nHost is not the name of a header"),
    ('headers = { "X A" = "a" }', "endpoint.headers.X A is not the name of a header"),
    ('headers = { X-A = "水" }', "endpoint.headers.X-A must be ASCII"),
    ('headers = { X-A = " " }', "endpoint.headers.X-A must not be empty, begin or end with a blank"),
    ('headers = { X-A = "a", x-a = "b" }',
     "endpoint.headers.x-a is set twice: case does not count in names of headers"),
    ('headers = { Host = "a" }', "endpoint.headers.Host is set by textmill itself"),
    ('headers = { Transfer-Encoding = "chunked" }', "endpoint.headers.Transfer-Encoding is set by textmill itself"),
    ('headers = { content-length = 5 }', "endpoint.headers.content-length is set by textmill itself"),
    ('headers = { authorization = { env = "A" } }\napi_key = { env = "B" }',
     "endpoint.headers.authorization is set by endpoint.api_key, use one"),
    ('headers = { X-A = { env = "A", file = "b" } }', "endpoint.headers.X-A must hold exactly one of `env` and `file`"),
    ('headers = { X-A = 1.5 }', "endpoint.headers.X-A must be a string in quotes, or a reference"),
    ('headers = "X-A: b"', "endpoint.headers must be a table of names and values"),
    ('query = { "" = "a" }', "endpoint.query. is not a name of a query"),
    ('proxy = "socks5://127.0.0.1:9"',
     "endpoint.proxy must be the URL of an HTTP proxy, http://HOST:PORT (https:// is tunnelled through it)"),
    ('proxy = "http://me:hunter2@127.0.0.1:9"', "endpoint.proxy must not hold a user or password"),
    ('proxy = "http://127.0.0.1:9/pac"', "endpoint.proxy must be http://HOST:PORT without a path"),
    ('proxy = "proxy:3128"',
     "endpoint.proxy must be the URL of an HTTP proxy, http://HOST:PORT (https:// is tunnelled through it)"),
    ('url = "http://box/v1"\nproxy = "http://proxy:3128"',
     "endpoint.url must start with https://: a proxy looks up the address of `box`"),
])  # fmt: skip
def test_what_no_call_can_carry_is_refused_in_one_line(line, problem):
    assert refused(line)[0] == f"job.toml: {problem}"


@pytest.mark.parametrize("line", ['headers = { X-A = "b" }', 'query = { a = "b" }',
                                  'proxy = "http://p:1"', "allow_http = true"])  # fmt: skip
def test_an_embedded_model_uses_none_of_them(line):
    overrides = [("endpoint.kind", "local")]
    text = ['task = "feature-extraction"', '[input]\npath = "in.jsonl"', '[output]\npath = "o.parquet"',
            f'[[endpoint]]\nkind = "local"\n{line}']  # fmt: skip
    Path("job.toml").write_text("\n".join(text), "utf-8")
    with pytest.raises(UsageError, match="is not used by kind local"):
        load("job.toml", overrides)


def test_the_endpoints_of_the_page_are_endpoints():
    page = (ROOT / "docs" / "endpoints.md").read_text("utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        own = block.replace("[[endpoint]]\n", "").splitlines()
        given = {line.partition(" ")[0] for line in own}
        default = {"kind": 'kind = "openai"', "model": 'model = "m"'}
        lines = [line for key, line in default.items() if key not in given]
        Path("job.toml").write_text("\n".join([
            'task = "feature-extraction"', '[input]\npath = "in.jsonl"', '[output]\npath = "o.parquet"',
            "[[endpoint]]", *lines, *own,
        ]), "utf-8")  # fmt: skip
        load("job.toml")


def test_references_are_read_when_the_run_starts_and_not_for_a_plan(monkeypatch, tmp_path):
    loaded('headers = { X-Auth = { env = "MY_AUTH" }, X-Team = "a" }', 'proxy = { env = "MY_PROXY" }')
    job = load("job.toml")
    (planned,) = build(job, with_secret=False).endpoints
    assert [each.name for each in planned.headers] == ["X-Team"] and planned.proxy is None
    with pytest.raises(UsageError, match=r"endpoint\.headers\.X-Auth: .*`MY_AUTH` is not set"):
        build(job)
    monkeypatch.setenv("MY_AUTH", "Basic a b\n")
    monkeypatch.setenv("MY_PROXY", "ftp://me:hunter2@proxy")
    with pytest.raises(UsageError, match=r"endpoint\.proxy must be the URL") as raised:
        build(job)
    assert "hunter2" not in str(raised.value)
    monkeypatch.setenv("MY_PROXY", "http://me:hunter2@127.0.0.1:3128")
    (built,) = build(job).endpoints
    assert built.headers[0].value == Secret("Basic a b")
    assert "hunter2" not in repr(built) and "Basic" not in repr(built)
