"""The job file: what it becomes, and every line that refuses one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.secrets import Reference
from jobs.spec import job as records
from jobs.spec.fingerprint import fingerprint
from jobs.spec.job import KEYS, LATER
from jobs.spec.load import load, reference, templates
from pipeline.errors import UsageError
from pipeline.records import Deadline, Price
from pipeline.text import printable

IN_ONE_FOLDER = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

EMBED = {
    "task": "feature-extraction",
    "input.path": "in.jsonl",
    "output.path": "out.parquet",
    "endpoint.kind": "openai",
    "endpoint.model": "small",
}
CHAT = EMBED | {"task": "chat-completion", "parameters.prompt": "Say {chunk}"}
LOCAL = {k: v for k, v in EMBED.items() if k != "endpoint.model"} | {"endpoint.kind": "local"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def written(keys: dict[str, Any], path: str = "job.toml") -> str:
    lines = [f"{k} = {toml(v)}" for k, v in keys.items() if "." not in k]
    for section in dict.fromkeys(k.split(".")[0] for k in keys if "." in k):
        lines.append(f"[[{section}]]" if section in ("endpoint", "rule") else f"[{section}]")
        own = {k: v for k, v in keys.items() if k.split(".")[0] == section and "." in k}
        lines += [f"{k.partition('.')[2]} = {toml(v)}" for k, v in own.items()]
    Path(path).write_text("\n".join(lines), "utf-8")
    return path


def refusal(path: str, *overrides: tuple[str, str], **flags: object) -> str:
    with pytest.raises(UsageError) as raised:
        load(path, overrides, flags)
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Laws


ANY_KEY = st.sampled_from([key.name for key in KEYS if key.name != "parameters.prompt"])


@IN_ONE_FOLDER
@given(ANY_KEY, st.sampled_from("sxz_"), st.booleans())
def test_a_misspelt_key_is_refused_with_the_nearest_name(
    key: str, more: str, on_command_line: bool
) -> None:
    misspelt, right = key + more, key.rpartition(".")[2]
    if on_command_line:
        address = f"--set {misspelt}"
        text = refusal(written(EMBED), (misspelt, "1"))
    else:
        address = "job.toml"
        text = refusal(written({misspelt: 1}))
    assert text == f"{address}: unknown key `{misspelt}` (did you mean `{right}`?)"


TOKENS = st.from_regex(
    r"(hf_[A-Za-z0-9]{20,34}|sk-(proj-)?[A-Za-z0-9_]{20,40}|gsk_[A-Za-z0-9]{40})", fullmatch=True
)


@IN_ONE_FOLDER
@given(TOKENS, ANY_KEY, st.integers(0, 11))
def test_nothing_that_looks_like_a_secret_is_ever_echoed(token: str, key: str, way: int) -> None:
    section = key.rpartition(".")[0]
    named = f"{section}.{token}" if section else token
    with pytest.raises(UsageError) as raised:
        match way:
            case 0:
                load(written(EMBED | {key: token}))
            case 1:
                load(written(EMBED | {key: f"see {token}, or: {token}"}))
            case 2:
                load(written(EMBED | {named: 1}))
            case 3:
                load(written(EMBED), [(key, token)])
            case 4:
                load(written(EMBED), [(named, "1")])
            case 5:
                load(written(EMBED), (), {key: token})
            case 6:
                load(token)
            case 7:
                Path("job.toml").write_text(f"name = {token}\n")
                load("job.toml")
            case 8:
                Path("job.toml").write_text(f"{token} = 1\n{token} = 2\n[{token}]\n[{token}]")
                load("job.toml")
            case 9:
                load(written(EMBED | {"parameters.a": {"b": [{"c": [token]}]}}))
            case 10:
                load(written(EMBED | {"endpoint.url": f"https://me:{token}@example.com/v1"}))
            case _:
                load(written(EMBED), [(f"endpoint.{token}.model", token), (token, token)])
    assert token not in f"{raised.value} {raised.value.hint} {raised.value.__cause__}"


@IN_ONE_FOLDER
@given(st.from_regex(r"Zq[a-z0-9 {}=.:]{4,30}", fullmatch=True), st.integers(0, 8))
def test_a_literal_where_a_reference_belongs_is_never_echoed(literal: str, way: int) -> None:
    api_key: Any = [
        literal,
        {"value": literal},
        {literal: "A"},
        {"env": literal + "-"},
        {"env": "A", "file": literal},
        [literal],
        {"env": [literal]},
        literal,
        literal,
    ][way]
    with pytest.raises(UsageError) as raised:
        if way == 7:
            load(written(EMBED), [("endpoint.api_key", literal)])
        elif way == 8:
            load(written(EMBED | {"endpoint.url": f"me:{literal}@example.com"}))
        else:
            load(written(EMBED | {"endpoint.api_key": api_key}))
    assert literal not in f"{raised.value} {raised.value.hint}"


NAMES = st.text(st.characters(categories=["L", "Nd"]), min_size=1, max_size=12)
GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "input.text": NAMES,
        "input.id": NAMES,
        "input.keep": st.lists(NAMES, unique=True, min_size=1, max_size=4),
        "chunk.size": st.integers(100, 5000),
        "chunk.overlap": st.integers(0, 99),
        "chunk.method": st.sampled_from(["structure", "fixed", "markdown"]),
        "endpoint.concurrency": st.integers(1, 500),
        "endpoint.price.input": st.floats(0, 100),
        "endpoint.deadline.call_seconds": st.integers(1, 900),
        "endpoint.api_key.env": st.just("SOME_KEY"),
        "budget.max_cost_usd": st.floats(0.01, 1e6),
        "budget.stop_at_cap": st.booleans(),
        "guard.max_failed": st.floats(0, 1),
        "parameters.dimensions": st.integers(1, 1000),
        "parameters.labels": st.lists(NAMES, max_size=3),
        "parameters.normalize": st.booleans(),
    },
)


@IN_ONE_FOLDER
@given(GIVEN)
def test_file_flags_and_set_say_the_same(keys: dict[str, Any]) -> None:
    if "budget.max_cost_usd" in keys:
        keys["endpoint.price.input"] = 1.5
    by_file = load(written(EMBED | keys))
    by_flags = load(written(EMBED), (), keys)
    by_set = load(written(EMBED), [(key, toml(value)) for key, value in keys.items()])
    assert by_file == by_flags == by_set
    assert fingerprint(by_file) == fingerprint(by_set)


@IN_ONE_FOLDER
@given(st.binary(max_size=60))
def test_no_file_raises_anything_but_a_usage_error(content: bytes) -> None:
    Path("job.toml").write_bytes(content)
    assert refusal("job.toml").startswith("job.toml:")


@IN_ONE_FOLDER
@given(
    st.one_of(ANY_KEY, st.text(max_size=12), st.sampled_from(["parameters", "endpoint", "chunk"])),
    st.one_of(st.text(max_size=12), st.sampled_from(["{}", "[]", "0x" + "f" * 5000, "1e999", "'"])),
)
def test_no_set_raises_anything_but_a_usage_error(key: str, raw: str) -> None:
    try:
        load(written(EMBED), [(key, raw)])
    except UsageError as error:
        assert printable(str(error), 10_000) == str(error)


def test_the_table_the_records_and_the_later_keys_agree() -> None:
    rule = {"rule.column": "a", "rule.equals": 1, "rule.endpoints": ["openai"]}
    job = load(written(EMBED | rule | {"endpoint.price.input": 0}))
    lists = {"endpoint": job.endpoints[0], "rule": job.rules[0]}
    for key in KEYS:
        record: Any = job
        for name in key.name.removeprefix("parameters.").split("."):
            record = lists.get(name) or getattr(record, {"equals": "value"}.get(name, name))
        if key.default is not None:
            assert record == key.default, key.name
    assert not LATER & {key.name for key in KEYS}
    assert [row[0] for row in reference()] == [key.name for key in KEYS]
    assert ("chunk.size", "integer, at least 1", "256", "maximum tokens per chunk, never exceeded") in (
        reference()
    )


# What a file becomes


def test_a_whole_file_becomes_a_job(tmp_path: Path) -> None:
    Path("jobs").mkdir()
    Path("jobs/报告.toml").write_text(
        """
        task = "feature-extraction"
        [input]
        path = "data/*.jsonl"
        keep = ["title", "year"]
        [parameters]
        normalize = true
        [[endpoint]]
        name = "hub"
        kind = "hf"
        model = "BAAI/bge-small-zh-v1.5"
        api_key = { env = "HF_TOKEN" }
        max_input_tokens = 512
        batch_tokens = 1_000
        price = { input = 0.01 }
        deadline = { call_seconds = 60 }
        [output]
        path = "out/"
        """,
        "utf-8",
    )
    job = load("jobs/报告.toml")
    assert (job.name, job.folder, job.address) == ("报告", "jobs", "jobs/报告.toml")
    assert job.input == records.InputSpec("jobs/data/*.jsonl", "text", None, ("title", "year"))
    assert job.chunk == records.ChunkSpec("structure", 256, 0, None)
    assert (job.parameters, job.prompt) == ({"normalize": True}, None)
    assert job.endpoints == (
        records.EndpointSpec(
            name="hub",
            kind="hf",
            provider="hf-inference",
            model="BAAI/bge-small-zh-v1.5",
            revision="main",
            url="https://router.huggingface.co",
            api_key=Reference(env="HF_TOKEN"),
            max_input_tokens=512,
            concurrency=256,
            batch_size=32,
            batch_tokens=1000,
            requests_per_minute=None,
            tokens_per_minute=None,
            price=Price(input=0.01),
            deadline=Deadline(call_seconds=60.0),
            allow_model_change=False,
        ),
    )
    assert (job.aggregate.method, job.output.path, job.output.format) == (
        "rows",
        "jobs/out",
        "directory",
    )
    assert job.budget == records.BudgetSpec(None, False)
    assert job.guard == records.GuardSpec(0.1, 0.25, 3, 1_000_000, 1_000_000_000)
    assert job.run == records.RunSpec(60.0, 1800.0, 30.0, None)


def test_defaults_follow_task_and_kind() -> None:
    def chosen(**keys: str) -> tuple[object, ...]:
        said = {k.replace("__", "."): v for k, v in keys.items()}
        base = {k: v for k, v in EMBED.items() if k != "endpoint.model" or len(said) == 0}
        job = load(written(base | said))
        endpoint = job.endpoints[0]
        return endpoint.url, endpoint.concurrency, endpoint.batch_size, job.aggregate.method

    assert chosen() == ("https://api.openai.com/v1", 256, 32, "rows")
    assert chosen(endpoint__kind="local") == ("", 2, 64, "rows")
    assert chosen(endpoint__kind="local", task="summarization") == ("", 2, 1, "text")
    hub = "https://router.huggingface.co"
    assert chosen(endpoint__kind="hf", endpoint__model="o/m", task="summarization") == (hub, 256, 1, "text")


def test_set_wins_over_flags_and_flags_over_the_file() -> None:
    path = written(EMBED | {"chunk.size": 100})
    assert load(path, (), {"chunk.size": 200, "chunk.overlap": None}).chunk.size == 200
    assert load(path, [("chunk.size", "300")], {"chunk.size": 200}).chunk.size == 300
    assert load(path, [("chunk.size", "300"), ("chunk.size", "400")]).chunk.size == 400
    assert load(path, (), {"chunk.size": "200", "output.path": Path("o.jsonl")}).chunk.size == 200


@pytest.mark.parametrize(
    ("key", "raw", "found"),
    [
        ("endpoint.model", "gpt-4.1", "gpt-4.1"),
        ("endpoint.model", "2024", "2024"),
        ("endpoint.model", '"2024"', "2024"),
        ("endpoint.openai.model", "large", "large"),
    ],
)
def test_bare_words_are_strings_and_an_endpoint_has_a_name(key: str, raw: str, found: str) -> None:
    assert load(written(EMBED), [(key, raw)]).endpoints[0].model == found


def test_set_reads_lists_tables_and_parameters_as_toml() -> None:
    job = load(
        written(EMBED | {"endpoint.api_key": {"file": "k"}}),
        [
            ("input.keep", "title,year"),
            ("endpoint.price", "{ input = 2, hour = 1.5 }"),
            ("parameters.a.b", "1_000"),
            ("parameters.a.c", "plain words"),
            ("endpoint.api_key.env", "MY_KEY"),
        ],
    )
    assert job.input.keep == ("title", "year")
    assert job.endpoints[0].price == Price(input=2.0, hour=1.5)
    assert job.parameters == {"a": {"b": 1000, "c": "plain words"}}
    assert job.endpoints[0].api_key == Reference(env="MY_KEY")


def test_paths_of_the_command_line_belong_to_the_current_folder() -> None:
    Path("deep").mkdir()
    path = written(EMBED | {"endpoint.api_key": {"file": "key"}}, "deep/job.toml")
    job = load(path, [("input.path", "a.jsonl")], {"output.path": "../o.jsonl"})
    assert (job.input.path, job.output.path) == ("a.jsonl", "../o.jsonl")
    assert job.endpoints[0].api_key == Reference(file="key")
    moved = load(path, [("endpoint.api_key.file", "key")])
    assert moved.input.path == "deep/in.jsonl"
    assert moved.endpoints[0].api_key == Reference(file=str(Path("key").absolute()))


def test_streams_are_paths_and_commands_without_output_need_none() -> None:
    job = load("embed", (), {"input.path": "-", "output.path": "-"})
    assert (job.input.path, job.output.path, job.output.format) == ("-", "-", "stream")
    assert load("embed", (), {"input.path": "./-"}, needs_output=False).input.path == "./-"
    assert refusal("embed", **{"input.path": "-"}) == "template `embed`: `output.path` is missing"


# Templates


def test_templates_run_with_input_and_output_only() -> None:
    here = {"input.path": "a.jsonl", "output.path": "b.parquet"}
    assert [name for name, _ in templates()] == ["ask", "embed", "enrich", "summarize"]
    assert dict(templates())["embed"] == (
        "Embeddings on this machine: one row per chunk, with its vector"
    )
    assert load("embed", (), here).chunk == records.ChunkSpec("structure", 256, 32, None)
    assert load("summarize", (), here).aggregate.method == "text"
    assert load("enrich", (), here).aggregate.method == "mean"
    asked = {"endpoint.url": "http://127.0.0.1:11434/v1/", "endpoint.model": "m"}
    ask = load("ask", (), here | asked)
    assert ask.endpoints[0].url == "http://127.0.0.1:11434/v1"
    assert ask.prompt is not None and "{chunk}" in ask.prompt


def test_a_file_goes_before_a_template_of_its_name() -> None:
    Path("embed").write_text("task = 1")
    assert refusal("embed") == "embed: task must be a string, got 1"
    Path("embed").unlink()
    Path("embed").mkdir()
    assert refusal("embed") == "template `embed`: `input.path` is missing"
    assert refusal("embd") == "embd: no such job file or template (did you mean `embed`?)"
    assert refusal("../templates/embed").endswith("no such job file or template")
    assert refusal("a\0b\x1b[2J").startswith("a\\x00b\\x1b[2J: no such job file or template")


# The fingerprint


def test_the_fingerprint_changes_with_what_affects_answers_and_nothing_else() -> None:
    base = fingerprint(load(written(EMBED)))
    assert len(base) == 32

    def other(**keys: Any) -> str:
        return fingerprint(
            load(written(EMBED | {k.replace("__", "."): v for k, v in keys.items()}))
        )

    for same in (
        {"endpoint__price__input": 1.0}, {"endpoint__batch_size": 3}, {"output__path": "b.jsonl"},
        {"endpoint__concurrency": 3}, {"budget__max_cost_usd": 3, "endpoint__price__input": 1}, {"input__path": "other.jsonl"},
        {"endpoint__url": "https://example.com/v1"}, {"name": "x"}, {"endpoint__name": "y"},
        {"endpoint__api_key": {"env": "A"}}, {"guard__max_failed": 1}, {"chunk__size": 256},
    ):  # fmt: skip
        assert other(**same) == base, same
    changed = [
        other(**keys)
        for keys in (
            {"chunk__size": 255}, {"chunk__overlap": 1}, {"chunk__method": "fixed"},
            {"chunk__tokenizer": "cl100k_base"}, {"endpoint__model": "large"},
            {"input__text": "body"}, {"parameters__dimensions": 8}, {"aggregate__method": "mean"},
            {"endpoint__kind": "tei", "endpoint__url": "https://a.example"},
            {"endpoint__revision": "v2"},
        )
    ]  # fmt: skip
    revised = [fingerprint(load(written(EMBED)), {"structure": n}) for n in (1, 2)]
    assert len({base, *changed, *revised}) == 13
    chat = [fingerprint(load(written(CHAT | {"parameters.prompt": p}))) for p in ("a {chunk}", "b {chunk}")]
    assert chat[0] != chat[1]


def test_parameters_in_another_order_have_the_same_fingerprint() -> None:
    one = load(written(EMBED | {"parameters.a": 1, "parameters.b": {"c": 1, "d": 2}}))
    other = load(written(EMBED | {"parameters.b": {"d": 2, "c": 1}, "parameters.a": 1}))
    assert fingerprint(one) == fingerprint(other)


# What is refused, word for word


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"chunk.overlaps": 3}, "unknown key `chunk.overlaps` (did you mean `overlap`?)"),
        ({"size": 3}, "unknown key `size` (did you mean `chunk.size`?)"),
        ({"endpoint.price.inputs": 3},
         "unknown key `endpoint.price.inputs` (did you mean `input`?)"),
        ({"chunk.qqq": 3}, "unknown key `chunk.qqq`"),
        ({"chunk.size": 512, "chunk.overlap": 600},
         "chunk.overlap = 600 tokens must be smaller than chunk.size = 512 tokens"),
        ({"chunk.size": 1024, "endpoint.max_input_tokens": 512},
         "chunk.size = 1,024 tokens must not be more than endpoint.max_input_tokens = 512 tokens"),
        ({"chunk.size": "big"}, 'chunk.size must be an integer, got "big"'),
        ({"chunk.size": True}, "chunk.size must be an integer, got true"),
        ({"chunk.size": 256.0}, "chunk.size must be an integer, got 256.0"),
        ({"chunk.size": 0}, "chunk.size must be at least 1, got 0"),
        ({"chunk.size": 10**30},
         "chunk.size must be at most 1,000,000,000,000, "
         "got a number of more than 18 digits"),
        ({"chunk.overlap": -1}, "chunk.overlap must be at least 0, got -1"),
        ({"chunk": 5}, "chunk must be a table, got 5"),
        ({"endpoint.concurrency": 0},
         "endpoint.concurrency must be between 1 and 10,000, got 0"),
        ({"endpoint.batch_size": -3}, "endpoint.batch_size must be between 1 and 10,000, got -3"),
        ({"endpoint.batch_tokens": 0}, "endpoint.batch_tokens must be at least 1, got 0"),
        ({"endpoint.price.input": -1}, "endpoint.price.input must be at least 0, got -1"),
        ({"endpoint.deadline.call_seconds": 0},
         "endpoint.deadline.call_seconds must be more than 0 and at most 2,592,000, got 0"),
        ({"budget.max_cost_usd": 0}, "budget.max_cost_usd must be more than 0, got 0"),
        ({"budget.stop_at_cap": 1}, "budget.stop_at_cap must be true or false, got 1"),
        ({"guard.max_failed": 1.5}, "guard.max_failed must be between 0 and 1, got 1.5"),
        ({"guard.max_chunks": 0}, "guard.max_chunks must be at least 1, got 0"),
        ({"input.keep": ["a", "a"]}, "input.keep names a column twice"),
        ({"input.keep": "a"}, 'input.keep must be a list of strings, got "a"'),
        ({"input.text": " "}, "input.text must not be empty"),
        ({"input.path": "a\0b"},
         'input.path must not hold control characters, got "a\\x00b"'),
        ({"name": "a/b"}, 'name must be 1 to 64 letters, digits, `-` or `_`, a letter or digit '
         'first, got "a/b"'),
        ({"task": "token-classification"}, "task must be one of feature-extraction, summarization, "
         'chat-completion, got "token-classification"'),
        ({"endpoint.kind": "opnai"}, "endpoint.kind must be one of local, hf, tei, openai, "
         'got "opnai" (did you mean `openai`?)'),
        ({"endpoint.weight": 3}, 'endpoint.weight = 3 is not used by route = "ordered"'),
        ({"endpoint.requests_per_minute": 0},
         "endpoint.requests_per_minute must be at least 0.01, got 0"),
        ({"guard.drift_texts": -1}, "guard.drift_texts must be at least 0, got -1"),
        ({"guard.max_removed": 1.5}, "guard.max_removed must be between 0 and 1, got 1.5"),
        ({"notify.url": "x"}, "`[notify]` is not supported yet in this version"),
        ({"rule": [{"column": "a"}]}, "`rule.equals` is missing"),
        ({"endpoint.kind": "tgi"}, 'endpoint.kind = "tgi" is not supported yet in this version'),
        ({"aggregate.method": "map_reduce"},
         'aggregate.method = "map_reduce" is not supported yet in this version'),
        ({"input.path": "hf://bucket/x"},
         "input.path must be hf://datasets/OWNER/NAME[@REVISION]/PATH"),
        ({"input.path": "gs://bucket/x"},
         "input.path must be a local path, or begin with s3://, https://, hf://"),
        ({"input.path": "http://files.example/x.csv"},
         "input.path must begin with https://, http:// is for this machine only"),
        ({"input.path": "https://files.example/x.csv?key=abc"},
         "input.path must not hold a query, which may hold a key: leave out `?` and what follows"),
        ({"aggregate.method": "text"},
         'aggregate.method = "text" does not fit task = "feature-extraction"'),
        ({"task": "summarization"}, 'endpoint.kind = "openai" does not serve task = '
         '"summarization", only feature-extraction, chat-completion'),
        ({"task": "chat-completion"},
         "`parameters.prompt` is missing, task chat-completion needs one"),
        ({"parameters.prompt": "{chunk}"},
         "parameters.prompt is not used by task feature-extraction"),
        ({"parameters.messages": []}, "`parameters.messages` is set by textmill itself"),
        ({"parameters.Api-Key": "x"}, "`parameters.Api-Key` must not hold a credential"),
        ({"parameters.a": {"b": [2**70]}}, "parameters.a.b must fit in 64 bits"),
        ({"endpoint.provider": "together"},
         'endpoint.provider must be one of hf-inference, got "together"'),
        ({"endpoint.provider": "hf-inference"}, "endpoint.provider is not used by kind openai"),
        ({"endpoint.kind": "hf", "endpoint.model": "../x"},
         'endpoint.model must be a name like owner/model, got "../x"'),
        ({"endpoint.kind": "tei"}, "`endpoint.url` is missing, kind tei has no default"),
        ({"endpoint.kind": "local", "endpoint.url": "https://a.example"},
         "endpoint.url is not used by kind local"),
        ({"endpoint.api_key": "literal"},
         "endpoint.api_key must be a reference, never the key itself"),
        ({"endpoint.api_key": {}}, "endpoint.api_key must hold exactly one of `env` and `file`"),
    ],
)  # fmt: skip
def test_a_file_is_refused_with(keys: dict[str, Any], text: str) -> None:
    assert refusal(written(EMBED | keys)) == f"job.toml: {text}"


@pytest.mark.parametrize(
    ("key", "raw", "text"),
    [
        ("chunk.size", "big", '--set chunk.size: must be an integer, got "big"'),
        ("chunk.size", "", '--set chunk.size: must be an integer, got ""'),
        ("chunk.size", "5\n[evil]", "--set chunk.size: is not a TOML value"),
        ("chunk.size", "nan", "--set chunk.size: must be an integer, got nan"),
        ("budget.max_cost_usd", "inf",
         "--set budget.max_cost_usd: must be a finite number, got inf"),
        ("guard.max_failed", "nan", "--set guard.max_failed: must be a finite number, got nan"),
        ("parameters.x", "[nan]", "--set parameters.x: must be a finite number, got nan"),
        ("parameters.x", "[1,", "--set parameters.x: is not a TOML value"),
        ("parameters.x", "2024-01-01", "--set parameters.x: must be text, a number, true, false, "
         "a list or a table, got a date or time"),
        ("chunk.overlap", "600", "--set chunk.overlap: chunk.overlap = 600 tokens must be smaller "
         "than chunk.size = 256 tokens"),
        ("endpoint.api_key", "plain",
         "--set endpoint.api_key: must be a reference, never the key itself"),
        ("endpoint.weight", "2", "--set endpoint.weight: endpoint.weight = 2 is not used by "
         'route = "ordered"'),
        ("endpoint.other.model", "m", "--set endpoint.other.model: unknown key "
         "`endpoint.other.model` (did you mean `endpoint.model`?)"),
        ("parameters", "5", "--set parameters: must be a table, got 5"),
        ("chunk..size", "5", "--set chunk..size: unknown key `chunk..size` (did you mean "
         "`chunk.size`?)"),
        ("name", "a\udcff", '--set name: must be UTF-8, got "a\\udcff"'),
    ],
)  # fmt: skip
def test_set_is_refused_at_its_own_address(key: str, raw: str, text: str) -> None:
    assert refusal(written(EMBED), (key, raw)) == text


def test_a_flag_is_refused_under_its_name() -> None:
    path = written(EMBED)
    assert refusal(path, **{"run.grace_seconds": -1}) == (
        "--grace: must be between 0 and 2,592,000, got -1"
    )
    assert refusal(path, **{"output.path": "x.csv"}) == (
        '-o: must end in .parquet or .jsonl, or be a directory, got "x.csv"'
    )


def test_missing_keys_are_named() -> None:
    assert refusal(written({})) == "job.toml: `task` is missing"
    assert refusal(written({"task": "summarization"})) == "job.toml: `endpoint.kind` is missing"
    no_model = {k: v for k, v in EMBED.items() if k != "endpoint.model"}
    assert refusal(written(no_model)) == "job.toml: `endpoint.model` is missing"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a = 1\nname = oops\n", "job.toml:2: not TOML, at column 8"),
        (b'name = "', "job.toml:1: not TOML, at the end"),
        (b"task = 'a'\nname = 'b'\ntask = 'c'\n", "job.toml:3: `task` is set twice"),
        (b"[chunk]\nsize = 2\n\n[chunk]\n", "job.toml:4: `chunk` is set twice"),
        (b"run = { until = '1', until = '2' }", "job.toml:1: `run` is set twice"),
        (b"\n\nname = '\xff'", "job.toml:3: not UTF-8"),
        (b"a = " + b"[" * 5000, "job.toml: nested too deeply"),
        (b"a = " + b"9" * 5000, "job.toml:1: not TOML, at the end"),
        (b"#" * 1_000_001, "job.toml: a job file must be at most 1,000,000 bytes"),
        (b"[endpoint]\nkind = 'tei'",
         "job.toml: `endpoint` is a list, write [[endpoint]] instead of [endpoint]"),
        (b"endpoint = 3", "job.toml: `endpoint` must be a table, written [[endpoint]]"),
        (b"[[endpoint]]\n[[endpoint]]", "job.toml: `endpoint.1.kind` is missing"),
        (b"\xef\xbb\xbf" + b"task = 3", "job.toml: task must be a string, got 3"),
        (b"parameters" + b".a" * 500 + b" = 1",
         "job.toml: parameters" + ".a" * 11 + " must not be nested deeper than 10"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_with_its_line(content: bytes, text: str) -> None:
    Path("job.toml").write_bytes(content)
    assert refusal("job.toml") == text


def test_an_unreadable_job_file_is_refused() -> None:
    Path("loop.toml").symlink_to("loop.toml")
    assert refusal("loop.toml").startswith("loop.toml: cannot be read: ")


# URLs


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://Example.com/v1/", "https://example.com/v1"),
        ("HTTPS://example.com", "https://example.com"),
        ("http://localhost:8080/v1", "http://localhost:8080/v1"),
        ("http://127.8.9.1/", "http://127.8.9.1"),
        ("http://[::1]:80/v1", "http://[::1]:80/v1"),
        ("https://example.com/@scope/v1", "https://example.com/@scope/v1"),
    ],
)
def test_a_url_is_kept_without_the_slash_at_its_end(url: str, kept: str) -> None:
    assert load(written(EMBED), [("endpoint.url", url)]).endpoints[0].url == kept


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("https://me:hunter2@example.com/v1", "must not hold a user or password"),
        ("https://@example.com", "must not hold a user or password"),
        ("me:hunter2@example.com", "must not hold a user or password"),
        ("https:/me:hunter2@example.com", "has no valid host and port"),
        ("https://example.com\\me:hunter2@x", "must be ASCII without blanks or backslashes"),
        ("https://exam ple.com", "must be ASCII without blanks or backslashes"),
        ("https://ｌocalhost", "must be ASCII without blanks or backslashes"),
        ("https://example.com/v1?key=hunter2", "must not hold a secret in its query"),
        ("https://example.com/v1?a=1&a=2", "must not hold a fragment (`#`), or a query with a name twice"),
        ("https://example.com/#", "must not hold a fragment (`#`), or a query with a name twice"),
        ("ftp://example.com", "must start with https://, or http:// in the own network"),
        ("example.com/v1", "must start with https://, or http:// in the own network"),
        ("https://", "has no valid host and port"),
        ("https://example.com:0", "has no valid host and port"),
        ("http://127.1", "has no whole address, got host `127.1`"),
        ("http://2130706433", "has no whole address, got host `2130706433`"),
        ("https://example.com:99999", "is not a URL"),
        ("https://[::1]hunter2", "is not a URL|has no valid host and port"),
        ("https://example.com/v1/../admin", "must be a plain path, without `..` or `%`"),
    ],
)
def test_a_url_is_refused_and_not_repeated(url: str, problem: str) -> None:
    text = refusal(written(EMBED), ("endpoint.url", url))
    assert text in {f"--set endpoint.url: {words}" for words in problem.split("|")}


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]", "[::ffff:8.8.8.8]"])
def test_plain_http_to_a_public_address_is_refused_when_the_job_is_read(host: str) -> None:
    public = written(EMBED | {"endpoint.url": f"http://{host}/v1"})
    assert "endpoint.url must start with https://: " in refusal(public)
    allowed = load(public, [("endpoint.allow_http", "true")])
    assert allowed.endpoints[0].url == f"http://{host}/v1"


@pytest.mark.parametrize("host", ["gpu-box", "gpu.example.com", "10.1.2.3", "[fd00::7]", "100.64.0.9"])
def test_plain_http_is_read_for_the_own_network_and_for_names_which_are_not_looked_up(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.getaddrinfo", None)
    url = f"http://{host}:8000/v1"
    assert load(written(EMBED | {"endpoint.url": url})).endpoints[0].url == url


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_metadata_service_of_a_cloud_is_never_an_endpoint(scheme: str) -> None:
    path = written(EMBED | {"endpoint.url": f"{scheme}://169.254.169.254/latest"})
    assert refusal(path, ("endpoint.allow_http", "true")) == (
        "job.toml: endpoint.url must not be used: 169.254.169.254 is the metadata service of a cloud, "
        "which is no endpoint"
    )


# Paths


def output_refusal(output: str, source: str = "in.jsonl") -> str:
    return refusal(written(EMBED), ("output.path", output), ("input.path", source))


@pytest.mark.parametrize(
    "output",
    ["", "/", "..", "a/..", ".parquet", "x.csv", "x.parquet/", "v1.2", "x.jsonl.gz", "s3://b/x.parquet"],
)  # fmt: skip
def test_an_output_must_be_parquet_jsonl_or_a_directory(output: str) -> None:
    assert output_refusal(output).startswith("--set output.path: must ")


def test_a_directory_with_a_dot_is_given_with_a_slash() -> None:
    assert load(written(EMBED), [("output.path", "v1.2/")]).output.path == "v1.2"


def test_an_output_of_a_job_file_stays_in_its_folder() -> None:
    Path("deep").mkdir()
    Path("deep/away").symlink_to("..")
    for path in ("../o.jsonl", "away/o.jsonl", "x/../../o.jsonl"):
        job = written(EMBED | {"output.path": path}, "deep/job.toml")
        assert refusal(job) == (
            f'deep/job.toml: output.path leaves the folder of the job file, got "{path}"'
        )
        assert load(job, (), {"output.path": path}).output.path == path
    absolute = str(Path("o.jsonl").absolute())
    job = written(EMBED | {"output.path": absolute}, "deep/job.toml")
    assert load(job).output.path == absolute


def test_an_output_that_is_a_link_is_refused_but_for_a_published_directory() -> None:
    Path("target.jsonl").touch()
    Path("o.jsonl").symlink_to("target.jsonl")
    Path("dangling.jsonl").symlink_to("nowhere")
    assert output_refusal("o.jsonl").endswith('is a symbolic link, got "o.jsonl"')
    assert output_refusal("dangling.jsonl").endswith('is a symbolic link, got "dangling.jsonl"')
    Path("out.run/versions/1").mkdir(parents=True)
    Path("out").symlink_to("out.run/versions/1")
    assert load(written(EMBED), [("output.path", "out")]).output.path == "out"
    Path("other").symlink_to("out.run/versions/1")
    assert output_refusal("other").endswith('is a symbolic link, got "other"')


def test_an_output_of_another_sort_than_what_is_there_is_refused() -> None:
    Path("o.jsonl").mkdir()
    Path("plain").touch()
    os.mkfifo("pipe")
    assert output_refusal("o.jsonl").endswith('exists and is no file, got "o.jsonl"')
    assert output_refusal("plain").endswith('exists and is no directory, got "plain"')
    assert output_refusal("pipe").endswith('exists and is no directory, got "pipe"')


def test_an_output_that_is_the_input_is_refused_under_every_name() -> None:
    Path("data").mkdir()
    Path("data/in.jsonl").touch()
    Path("alias").symlink_to("data")
    Path("hard.jsonl").hardlink_to("data/in.jsonl")
    Path("links").mkdir()
    Path("links/a.jsonl").symlink_to("../data/in.jsonl")
    for output, source in (
        ("data/in.jsonl", "data/in.jsonl"),
        ("data/../data/in.jsonl", "data/in.jsonl"),
        ("alias/in.jsonl", "data/in.jsonl"),
        ("hard.jsonl", "data/in.jsonl"),
        ("hard.jsonl", "data/*.jsonl"),
        ("hard.jsonl", "data"),
        ("data/in.jsonl", "links"),
        ("new.jsonl", "new.jsonl"),
        ("data", "data"),
    ):
        assert output_refusal(output, source) == (
            f'--set output.path: output.path is the input, "{source}"'
        )
    assert output_refusal("data", "data/in.jsonl") == (
        '--set output.path: output.path is a directory that holds the input, "data/in.jsonl"'
    )


@pytest.mark.parametrize(
    ("output", "source"),
    [
        ("data/o.parquet", "data"),
        ("data/deep/o.parquet", "data"),
        ("alias/o.parquet", "data"),
        ("data/o.jsonl", "data/*.jsonl"),
        ("data/new/o.jsonl", "data/*/*.jsonl"),
        ("data/a/b/c/o.jsonl", "data/**/*.jsonl"),
        ("data/o.jsonl", "d?ta/[n-p].jsonl"),
        ("data/out", "data/*/*.parquet"),
        ("o.jsonl", "*.jsonl"),
    ],
)
def test_an_output_that_would_be_read_the_next_time_is_refused(output: str, source: str) -> None:
    Path("data").mkdir()
    Path("alias").symlink_to("data")
    text = output_refusal(output, source)
    assert text == (
        f'--set output.path: output.path is where input.path = "{source}" would read it the next '
        f'time, got "{output}"'
    )


def test_an_output_beside_the_input_is_taken() -> None:
    Path("data").mkdir()
    for output, source in (
        ("data/o.parquet", "data/in.jsonl"),
        ("data/o.parquet", "data/*.jsonl"),
        ("data2/o.jsonl", "data"),
        ("o.jsonl", "data/*.jsonl"),
        ("data/x/o.jsonl", "data/*.jsonl"),
        ("deep/" * 30 + "o.parquet", "**/a/" * 30 + "*.jsonl"),
    ):
        keys = [("output.path", output), ("input.path", source)]
        assert load(written(EMBED), keys).output.path == output


def test_an_output_in_a_run_folder_is_refused() -> None:
    Path("mine.run/runs").mkdir(parents=True)
    for output in ("o.parquet.run/parts/x.parquet", "mine.run/x.jsonl"):
        assert output_refusal(output) == (
            f'--set output.path: is in a run folder, got "{output}"'
        )
    Path("there").mkdir()
    Path("there/x.jsonl.run").symlink_to(".")
    assert output_refusal("there/x.jsonl").endswith('is in a run folder, got "there/x.jsonl"')
    assert load(written(EMBED), [("output.path", "2024.run/x.jsonl")]).output.format == "jsonl"


def test_a_path_that_cannot_be_looked_at_is_a_usage_error_for_the_output_only() -> None:
    long = "x" * 300
    assert load(written(EMBED), [("input.path", long)]).input.path == long
    assert output_refusal(f"{long}.jsonl") == (
        "--set output.path: the name is too long for its files"
    )
    assert refusal(long).endswith("cannot be read: File name too long")


def test_a_budget_without_a_price_bounds_nothing() -> None:
    keys = {"endpoint.kind": "openai", "endpoint.model": "m", "budget.max_cost_usd": 3}
    assert refusal(written(EMBED | keys)) == (
        "job.toml: budget.max_cost_usd has no effect without a price"
    )


def test_a_prompt_without_the_chunk_asks_every_chunk_the_same() -> None:
    keys = {"task": "chat-completion", "endpoint.kind": "openai", "endpoint.model": "m",
            "parameters.prompt": "Say {title}"}
    assert "has no {chunk}" in refusal(written(EMBED | keys))


@pytest.mark.parametrize(("size", "tokenizer", "refused"), [
    (341, None, False), (342, None, True), (512, "cl100k_base", False), (512, "own.json", False),
    (513, "cl100k_base", True),
])
def test_a_size_that_may_exceed_what_the_model_reads(size, tokenizer, refused) -> None:
    keys = {"chunk.size": size, "endpoint.max_input_tokens": 512}
    if tokenizer:
        keys["chunk.tokenizer"] = tokenizer
    if refused:
        shown_text = refusal(written(EMBED | keys))
        assert f"{size:,} tokens" in shown_text and "512" in shown_text
    else:
        load(written(EMBED | keys))


def test_an_unknown_key_without_a_near_name_lists_the_keys_of_its_section():
    with pytest.raises(UsageError, match=r"unknown key `budget\.partial`") as raised:
        load("embed", [("budget.partial", "true")], {"input.path": "a.jsonl", "output.path": "b.parquet"})
    assert raised.value.hint == "keys of [budget]: max_cost_usd, stop_at_cap"
