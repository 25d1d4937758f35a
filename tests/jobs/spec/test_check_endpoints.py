"""Several endpoints and rules in one job file: what they become, and every line that refuses one."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.build import build, tokenizer_name
from jobs.spec.fingerprint import fingerprint
from jobs.spec.load import load
from pipeline.cache.keys import request_key
from pipeline.errors import UsageError
from pipeline.prepare.pipeline import Routing
from pipeline.records import Price, Rule

HEAD = """
task = "{task}"
{route}
[input]
path = "in.jsonl"
[output]
path = "out.parquet"
[parameters]
{prompt}
"""
HUB = '[[endpoint]]\nname = "hub"\nkind = "hf"\nmodel = "a/small"\n'
OPEN = '[[endpoint]]\nkind = "openai"\nmodel = "m"\n'
TEI = '[[endpoint]]\nkind = "tei"\nurl = "http://127.0.0.1:8080"\n'
LOCAL = '[[endpoint]]\nkind = "local"\n'
RULE = '[[rule]]\ncolumn = "sensitive"\nequals = true\nendpoints = ["openai"]\n'


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def file(*tables: str, task: str = "chat-completion", route: str = "") -> str:
    prompt = 'prompt = "Say {chunk}"' if task == "chat-completion" else ""
    said = HEAD.format(task=task, route=f'route = "{route}"' if route else "", prompt=prompt)
    Path("job.toml").write_text(said + "".join(tables))
    return "job.toml"


def chat(*tables: str, route: str = "") -> str:
    return file(*tables, route=route)


def embed(*tables: str, route: str = "") -> str:
    return file(*tables, task="feature-extraction", route=route)


def summary(*tables: str) -> str:
    return file(*tables, task="summarization")


def refusal(path: str, *overrides: tuple[str, str], **flags: object) -> tuple[str, str | None]:
    with pytest.raises(UsageError) as raised:
        load(path, overrides, flags)
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)
    return str(raised.value), raised.value.hint


# What a file becomes


def test_endpoints_route_and_rules_are_handed_on_in_the_order_of_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HUB_KEY", "canary-1")
    monkeypatch.setenv("OPEN_KEY", "canary-2")
    pipeline = build(load(chat(
        HUB + 'weight = 3\nprice = { input = 1 }\napi_key = { env = "HUB_KEY" }\n',
        OPEN + 'fallback = true\nconcurrency = 4\napi_key = { env = "OPEN_KEY" }\n',
        RULE, '[[rule]]\ncolumn = "region"\nequals = "eu"\nendpoints = ["openai", "hub"]\n',
        route="weighted",
    )))  # fmt: skip
    assert pipeline.routing.policy == "weighted"
    assert pipeline.routing.rules == (
        Rule("sensitive", True, ("openai",)), Rule("region", "eu", ("openai", "hub")),
    )  # fmt: skip
    hub, other = pipeline.endpoints
    assert (hub.name, hub.weight, hub.is_fallback, hub.price) == ("hub", 3.0, False, Price(1.0))
    assert (other.name, other.weight, other.is_fallback, other.price) == ("openai", 1.0, True, None)
    assert (hub.concurrency, other.concurrency) == (256, 4)
    assert (hub.identity, other.identity) == (
        ("hf", "hf-inference", "a/small", "main"), ("openai", "", "m", "main"),
    )  # fmt: skip
    assert hub.secret is not None and hub.secret.reveal() == "canary-1"
    assert other.secret is not None and other.secret.reveal() == "canary-2"


def test_a_credential_that_is_not_there_is_named_with_its_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPEN_KEY", raising=False)
    job = load(chat(HUB, OPEN + 'api_key = { env = "OPEN_KEY" }\n'))
    with pytest.raises(UsageError) as raised:
        build(job)
    assert str(raised.value) == (
        "endpoint.openai.api_key: environment variable `OPEN_KEY` is not set"
    )
    assert [endpoint.secret for endpoint in build(job, with_secret=False).endpoints] == [None] * 2


def test_one_endpoint_is_routed_ordered_without_rules() -> None:
    pipeline = build(load(chat(OPEN)))
    assert (pipeline.routing, len(pipeline.endpoints)) == (Routing(policy="ordered", rules=()), 1)
    assert (pipeline.endpoints[0].weight, pipeline.endpoints[0].replica_of) == (1.0, "")


def test_rules_read_columns_that_the_input_need_not_have() -> None:
    rules = "".join(
        f'[[rule]]\ncolumn = "{column}"\nequals = {value}\nendpoints = ["openai"]\n'
        for column, value in (("a", 1), ("a", 2), ("title", 3))
    )
    said = chat(OPEN, rules)
    pipeline = build(load(said, [("parameters.prompt", "{title} {chunk}")]))
    assert (pipeline.input.fields, pipeline.input.optional) == (("title", "a"), ("a",))


def test_parameters_are_sent_as_each_kind_needs_them() -> None:
    pipeline = build(load(embed(HUB + 'replica_of = "openai"\n', OPEN.replace('"m"', '"a/small"'))))
    assert [each.parameters for each in pipeline.endpoints] == [{"truncate": False}, {}]


def test_the_tokenizer_is_the_embedded_models_only_where_nobody_else_answers() -> None:
    assert tokenizer_name(load(summary(LOCAL, LOCAL + 'name = "b"\n'))) == "wordllama"
    job = load(summary(LOCAL, HUB))
    assert tokenizer_name(job) == "o200k_base"
    assert build(load(embed(LOCAL, LOCAL + 'name = "b"\n'))).dimension == 256


@pytest.mark.parametrize(("key", "raw", "found"), [
    ("endpoint.hub.model", "a/large", "a/large"),
    ("endpoint.hub", '{ kind = "openai", model = "x" }', "x"),
])  # fmt: skip
def test_set_reaches_one_of_several_endpoints(key: str, raw: str, found: str) -> None:
    hub, other = load(chat(HUB, OPEN), [(key, raw)]).endpoints
    assert (hub.name, hub.model, other.model) == ("hub", found, "m")


def test_set_reaches_tables_and_references_of_one_of_several() -> None:
    said = [("endpoint.hub.price.input", "2"), ("endpoint.openai.api_key.env", "A"),
            ("endpoint.openai.api_key.file", "k")]  # fmt: skip
    hub, other = load(chat(HUB, OPEN), said[:2]).endpoints
    assert hub.price == Price(2.0) and other.api_key is not None and other.api_key.env == "A"
    moved = load(chat(HUB, OPEN), said[2:]).endpoints[1].api_key
    assert moved is not None and moved.file == str(Path("k").absolute())


def test_set_makes_and_changes_rules() -> None:
    made = [("rule.column", "a"), ("rule.equals", "eu"), ("rule.endpoints", "hub,openai")]
    assert load(chat(HUB, OPEN), made).rules == (Rule("a", "eu", ("hub", "openai")),)
    assert load(chat(HUB, OPEN, RULE), [("rule.equals", "3")]).rules == (
        Rule("sensitive", 3, ("openai",)),
    )
    both = load(chat(HUB, OPEN, RULE, RULE.replace("true", '""')), [("rule.2.endpoints", "hub")])
    assert both.rules == (Rule("sensitive", True, ("openai",)), Rule("sensitive", "", ("hub",)))


def test_true_and_one_are_two_values() -> None:
    rules = load(chat(OPEN, RULE, RULE.replace("true", "1"))).rules
    assert [rule.value for rule in rules] == [True, 1]
    assert [type(rule.value) for rule in rules] == [bool, int]


# Replicas


def test_a_replica_has_the_model_and_the_key_of_its_origin() -> None:
    origin = TEI.replace("8080", "9090") + 'name = "a"\nmodel = "x/y"\nrevision = "v2"\n'
    pipeline = build(load(embed(TEI + 'replica_of = "a"\n', origin)))
    replica, first = pipeline.endpoints
    assert (replica.name, replica.replica_of, replica.model) == ("tei", "a", "x/y")
    assert replica.identity == first.identity == ("tei", "", "x/y", "v2")
    assert request_key(replica)("the weir") == request_key(first)("the weir")


def test_a_replica_of_a_nameless_model_is_stored_under_its_origins_url() -> None:
    pipeline = build(load(embed(TEI, TEI.replace("8080", "9090") + 'name="b"\nreplica_of="tei"\n')))
    assert [each.identity for each in pipeline.endpoints] == [
        ("tei", "", "http://127.0.0.1:8080"), ("tei", "", "http://127.0.0.1:8080"),
    ]  # fmt: skip
    assert [each.model for each in pipeline.endpoints] == ["", ""]
    assert [each.replica_of for each in pipeline.endpoints] == ["", "tei"]


@pytest.mark.parametrize(("more", "text"), [
    ('replica_of = "hubb"',
     'endpoint.b.replica_of must name another endpoint, one of hub, c, got "hubb" '
     "(did you mean `hub`?)"),
    ('replica_of = "b"',
     'endpoint.b.replica_of must name another endpoint, one of hub, c, got "b"'),
    ('replica_of = "c"',
     "endpoint.b.replica_of must not name a replica, `c` is one of `hub`"),
    ('model = "a/large"\nreplica_of = "hub"',
     'endpoint.b.model = "a/large" must be that of the origin `hub`, "a/small"'),
    ('revision = "v2"\nreplica_of = "hub"',
     'endpoint.b.revision = "v2" must be that of the origin `hub`, "main"'),
])  # fmt: skip
def test_a_replica_is_refused_with(more: str, text: str) -> None:
    other = HUB.replace('"hub"', '"c"') + 'replica_of = "hub"\n'
    path = embed(HUB, f'[[endpoint]]\nname = "b"\nkind = "hf"\n{more}\n', other)
    assert refusal(path)[0] == f"job.toml: {text}"


def test_replicas_of_each_other_are_refused() -> None:
    a, b = (f'{TEI}name = "{x}"\nreplica_of = "{y}"\n' for x, y in ("ab", "ba"))
    assert refusal(embed(a, b))[0] == (
        "job.toml: endpoint.a.replica_of must not name a replica, `b` is one of `a`"
    )


def test_a_local_endpoint_is_no_replica_of_a_remote_one() -> None:
    assert refusal(embed(TEI, LOCAL + 'replica_of = "tei"\n'))[0] == (
        "job.toml: endpoint `local` cannot be a replica of `tei`: kind local has its own model"
    )


def test_a_named_model_is_no_replica_of_a_nameless_one() -> None:
    assert refusal(embed(TEI, OPEN + 'replica_of = "tei"\n'))[0] == (
        'job.toml: endpoint.openai.model = "m" must be that of the origin `tei`, none'
    )


# Names


@pytest.mark.parametrize(("tables", "text", "hint"), [
    ((OPEN, OPEN), "two [[endpoint]] have the name `openai`",
     "give each its own name: name = ..."),
    ((HUB, OPEN + 'name = "hub"\n'), "two [[endpoint]] have the name `hub`",
     "give each its own name: name = ..."),
    ((HUB, '[[endpoint]]\nmodel = "m"\n'), "`endpoint.2.kind` is missing", 'kind = "local"'),
    ((HUB, '[[endpoint]]\nname = "b"\n'), "`endpoint.b.kind` is missing",
     "--set endpoint.b.kind=local"),
    ((HUB, OPEN.replace("openai", "opnai")), "endpoint.2.kind must be one of local, hf, tei, "
     'openai, got "opnai" (did you mean `openai`?)', None),
    ((HUB, OPEN + 'name = "a b"\n'), "endpoint.2.name must be 1 to 64 letters, digits, `-` or `_`, "
     'a letter or digit first, got "a b"', None),
    ((HUB, OPEN + "mdoel = 3\n"), "unknown key `endpoint.openai.mdoel` (did you mean `model`?)",
     None),
    ((HUB, OPEN + "concurrency = 0\n"),
     "endpoint.openai.concurrency must be between 1 and 10,000, got 0", None),
    ((HUB, OPEN + "weight = -1\n"), "endpoint.openai.weight must be more than 0, got -1", None),
    ((HUB, '[[endpoint]]\nkind = "openai"\n'), "`endpoint.openai.model` is missing",
     "--set endpoint.openai.model=NAME"),
    ((HUB, OPEN + 'url = "http://8.8.8.8"\n'), "endpoint.openai.url must start with https://: 8.8.8.8 "
     "is not a loopback, private or link-local address: plain http:// goes no further",
     "https://, or `endpoint.allow_http = true` if everybody on the way may read the texts"),
    ((HUB, OPEN + "batch_size = 2\n"), "endpoint.openai.batch_size must be 1 for chat-completion, "
     "got 2", None),
    ((HUB, OPEN + "max_input_tokens = 200\n"), "chunk.size = 256 tokens must not be more than "
     "endpoint.openai.max_input_tokens = 200 tokens", None),
    ((HUB, LOCAL), 'endpoint.local.kind = "local" does not serve task = "chat-completion", only '
     "feature-extraction, summarization", None),
    ((HUB, TEI), 'endpoint.tei.kind = "tei" does not serve task = "chat-completion", only '
     "feature-extraction", None),
    (tuple(OPEN + f'name = "e{n}"\n' for n in range(101)), "101 [[endpoint]] are more than 100",
     None),
])  # fmt: skip
def test_one_of_several_endpoints_is_refused_by_name(
    tables: tuple[str, ...], text: str, hint: str | None
) -> None:
    assert refusal(chat(*tables)) == (f"job.toml: {text}", hint)


def test_a_hundred_endpoints_are_taken() -> None:
    assert len(load(chat(*(OPEN + f'name = "e{n}"\n' for n in range(100)))).endpoints) == 100


@pytest.mark.parametrize("last", ["url", "model", "kind", "concurrency"])
def test_a_flag_for_several_endpoints_is_refused_and_names_what_sets_one(last: str) -> None:
    assert refusal(chat(HUB, OPEN), **{f"endpoint.{last}": "https://a.example"}) == (
        f"--{last}: the job has 2 endpoints, `--set endpoint.NAME.{last}=VALUE` sets one",
        "NAME is one of hub, openai",
    )


@pytest.mark.parametrize(("key", "text"), [
    ("endpoint.model", "the job has 2 endpoints, `--set endpoint.NAME.model=VALUE` sets one"),
    ("endpoint.api_key.env",
     "the job has 2 endpoints, `--set endpoint.NAME.api_key.env=VALUE` sets one"),
    ("endpoint", "the job has 2 endpoints, `--set endpoint.NAME.KEY=VALUE` sets one"),
    ("rule.equals", "the job has 2 rules, `--set rule.NUMBER.equals=VALUE` sets one"),
    ("endpoint.hubb.model", "no endpoint has the name `hubb` (did you mean `hub`?)"),
    ("endpoint.hub.name", "endpoints can be named only in the file"),
    ("endpoint.hub.mdoel", "unknown key `endpoint.hub.mdoel` (did you mean `model`?)"),
    ("rule.3.equals", "no rule has the name `3`"),
    ("rule.2.endpoints", 'must name endpoints of the job (hub, openai), got "x"'),
])  # fmt: skip
def test_set_for_several_is_refused_at_its_own_address(key: str, text: str) -> None:
    path = chat(HUB, OPEN, RULE, RULE.replace("true", "false"))
    assert refusal(path, (key, "x"))[0] == f"--set {key}: {text}"


def test_a_table_from_the_command_line_keeps_its_name() -> None:
    table = '{ name = "b", kind = "openai", model = "x" }'
    assert refusal(chat(HUB, OPEN), ("endpoint.hub", table))[0] == (
        "--set endpoint.hub: endpoints can be named only in the file"
    )


def test_a_name_that_looks_like_a_secret_is_not_echoed() -> None:
    token = "hf_" + "a1B2c3D4e5" * 3
    for table in (OPEN + f'name = "{token}"\n', OPEN.replace("openai", token)):
        for overrides in ([], [("endpoint.model", "x")], [(f"endpoint.{token}.url", "x")]):
            text, hint = refusal(chat(HUB, table), *overrides)
            assert token not in f"{text} {hint}"


# Together


@pytest.mark.parametrize(("path", "text", "hint"), [
    (lambda: chat(HUB + "fallback = true\n", OPEN + "fallback = true\n"),
     "endpoint.fallback = true on every endpoint: at least one must not be a fallback", None),
    (lambda: chat(OPEN + "fallback = true\n"),
     "endpoint.fallback = true on every endpoint: at least one must not be a fallback", None),
    (lambda: chat(HUB + "weight = 2\n", OPEN),
     'endpoint.hub.weight = 2 is not used by route = "ordered"', 'route = "weighted"'),
    (lambda: chat(OPEN + "weight = 1.5\nprice = { input = 1 }\n", route="cheapest"),
     'endpoint.weight = 1.5 is not used by route = "cheapest"', 'route = "weighted"'),
    (lambda: chat(HUB + "price = { input = 1 }\n", OPEN, route="cheapest"),
     'route = "cheapest" needs the price of endpoint `openai`',
     "price = { input = 0.02 } in [[endpoint]], USD per million tokens"),
    (lambda: chat(HUB + "price = { input = 1 }\n", OPEN, "[budget]\nmax_cost_usd = 3\n"),
     "budget.max_cost_usd has no effect without a price of endpoint `openai`",
     "price = { input = 0.02 } in [[endpoint]], USD per million tokens"),
    (lambda: chat(OPEN, route="random"),
     'route must be one of ordered, cheapest, fastest, weighted, got "random"', None),
])  # fmt: skip
def test_endpoints_and_a_route_that_do_not_go_together_are_refused(path, text, hint) -> None:
    assert refusal(path()) == (f"job.toml: {text}", hint)


def test_a_local_endpoint_needs_no_price() -> None:
    priced = HUB + "price = { input = 1 }\n"
    job = load(summary(priced, LOCAL, "[budget]\nmax_cost_usd = 3\n"), [("route", "cheapest")])
    assert job.route == "cheapest"


@pytest.mark.parametrize(("tables", "text", "hint"), [
    ((HUB, OPEN), 'endpoint `hub` serves "a/small" and endpoint `openai` serves "m"',
     "use one job per model"),
    ((HUB, OPEN + "fallback = true\n"),
     'endpoint `hub` serves "a/small" and endpoint `openai` serves "m"', "use one job per model"),
    ((OPEN, OPEN + 'name = "b"\nrevision = "v2"\n'),
     'endpoint `openai` serves "m" and endpoint `b` serves "m", revision "v2"',
     "use one job per model"),
    ((LOCAL, OPEN), 'endpoint `local` is local and endpoint `openai` serves "m"',
     "use one job per model"),
    ((HUB, LOCAL), 'endpoint `hub` serves "a/small" and endpoint `local` is local',
     "use one job per model"),
    ((TEI, LOCAL), "endpoint `tei` does not name its model and endpoint `local` is "
     "local", "use one job per model"),
    ((OPEN, TEI),
     'endpoint `openai` serves "m" and endpoint `tei` does not name its model',
     'model = "m" in both, or replica_of = "openai" in endpoint `tei`'),
    ((TEI, TEI.replace("8080", "9090") + 'name = "b"\n'),
     "endpoint `tei` does not name its model and endpoint `b` does not name its model", 'model = "NAME" in both, or replica_of = "tei" in endpoint `b`'),
])  # fmt: skip
def test_vectors_of_two_models_in_one_output_are_refused(
    tables: tuple[str, ...], text: str, hint: str
) -> None:
    said = f"job.toml: {text}: all vectors of an output must come from one model", hint
    assert refusal(embed(*tables)) == said
    rule = RULE.replace('"openai"', '"' + name_of(tables[1]) + '"')
    assert refusal(embed(*tables, rule)) == said


def name_of(table: str) -> str:
    last = "name" if "name" in table else "kind"
    return table.split(f'{last} = "')[1].split('"')[0]


@pytest.mark.parametrize("tables", [
    (OPEN, OPEN + 'name = "b"\nurl = "https://b.example/v1"\n'),
    (OPEN, TEI + 'model = "m"\n'),
    (OPEN, TEI + 'replica_of = "openai"\n'),
    (TEI, TEI.replace("8080", "9090") + 'name = "b"\nreplica_of = "tei"\n'),
    (LOCAL, LOCAL + 'name = "b"\n'),
    (OPEN, OPEN + 'name = "b"\nfallback = true\n'),
])  # fmt: skip
def test_endpoints_of_one_model_embed_together(tables: tuple[str, ...]) -> None:
    assert len(load(embed(*tables)).endpoints) == 2


def test_text_tasks_take_different_models() -> None:
    assert [e.kind for e in load(summary(HUB, LOCAL + "fallback = true\n")).endpoints] == [
        "hf", "local",
    ]  # fmt: skip


# Rules


@pytest.mark.parametrize(("rule", "text"), [
    (RULE.replace('"openai"', '"opnai"'), "rule.endpoints must name endpoints of the job (hub, "
     'openai), got "opnai" (did you mean `openai`?)'),
    (RULE.replace('"openai"', ""), "rule.endpoints must name an endpoint: no endpoint could answer such "
     "a row"),
    (RULE.replace('"openai"', '"hub", "hub"'), "rule.endpoints names an endpoint twice"),
    (RULE + RULE, 'two [[rule]] have column = "sensitive", equals = true'),
    (RULE.replace("true", "1.0"), "rule.equals must be a boolean, an integer or a string, got 1.0"),
    (RULE.replace("true", "[true]"),
     "rule.equals must be a boolean, an integer or a string, got a list"),
    (RULE.replace("true", "9223372036854775808"),
     "rule.equals must fit in 64 bits, got a number of more than 18 digits"),
    (RULE.replace("equals = true\n", ""), "`rule.equals` is missing"),
    (RULE + "[[rule]]\n", "`rule.2.column` is missing"),
    ("[[rule]]\n", "`rule.column` is missing"),
    (RULE.replace("column", "colum"), "unknown key `rule.colum` (did you mean `column`?)"),
    (RULE + RULE.replace("equals =", "equal ="), "unknown key `rule.2.equal` (did you mean `equals`?)"),
    (RULE.replace('"sensitive"', '" "'), "rule.column must not be empty"),
    (RULE.replace("[[rule]]", "[rule]"), "`rule` is a list, write [[rule]] instead of [rule]"),
])  # fmt: skip
def test_a_rule_is_refused_with(rule: str, text: str) -> None:
    assert refusal(chat(HUB, OPEN, rule))[0] == f"job.toml: {text}"


def test_a_rule_may_leave_only_fallbacks() -> None:
    assert load(chat(HUB, OPEN + "fallback = true\n", RULE)).rules[0].endpoints == ("openai",)


# The fingerprint


def test_a_job_with_one_endpoint_keeps_its_fingerprint() -> None:
    """Figures of the version that took one endpoint only."""
    here = {"input.path": "a.jsonl", "output.path": "b.parquet"}
    assert fingerprint(load("embed", flags=here)) == "da6989cbd50a3238a99fd410f35a718a"
    assert fingerprint(load("summarize", flags=here)) == "dd6aca4d7b048edb44d49e6cc14493a7"
    tei = here | {"endpoint.kind": "tei", "endpoint.url": "https://a.example"}
    assert fingerprint(load("embed", flags=tei)) == "a2dcd67b19f49a3316f2362bac5decf1"


def test_the_fingerprint_covers_all_models_in_the_order_of_asking_and_the_rules() -> None:
    base = fingerprint(load(chat(HUB, OPEN)))
    b = OPEN + 'name = "b"\nreplica_of = "openai"\n'
    same_jobs = [
        chat_fingerprint(HUB.replace('"hub"', '"x"'), OPEN + 'name = "y"\n'),
        chat_fingerprint(HUB, OPEN, b),
        chat_fingerprint(HUB, OPEN + "fallback = true\n"),
        chat_fingerprint(OPEN + "fallback = true\n", HUB),
        chat_fingerprint(HUB + "weight = 2\n", OPEN, route="weighted"),
        chat_fingerprint(HUB, OPEN, route="fastest"),
        chat_fingerprint(HUB, OPEN + 'url = "https://b.example/v1"\n'),
        chat_fingerprint(HUB, OPEN, OPEN + 'name = "b"\nurl = "https://b.example/v1"\n'),
    ]
    assert same_jobs == [base] * len(same_jobs)
    changed = [
        chat_fingerprint(HUB),
        chat_fingerprint(OPEN),
        chat_fingerprint(OPEN, HUB),
        chat_fingerprint(HUB, OPEN.replace('"m"', '"n"')),
        chat_fingerprint(HUB, OPEN, RULE),
        chat_fingerprint(HUB, OPEN, RULE.replace("true", "1")),
        chat_fingerprint(HUB, OPEN, RULE.replace("sensitive", "secret")),
        chat_fingerprint(HUB, OPEN, RULE.replace('"openai"', '"hub"')),
        chat_fingerprint(HUB, OPEN, RULE.replace('"openai"', '"openai", "hub"')),
    ]
    assert len({base, *changed}) == 10


def test_the_fingerprint_of_a_rule_names_models_not_endpoints() -> None:
    renamed = OPEN + 'name = "y"\n'
    assert chat_fingerprint(HUB, OPEN, RULE) == chat_fingerprint(
        HUB, renamed, RULE.replace('"openai"', '"y"')
    )
    either = RULE.replace('"openai"', '"openai", "hub"'), RULE.replace('"openai"', '"hub", "openai"')
    assert chat_fingerprint(HUB, OPEN, either[0]) == chat_fingerprint(HUB, OPEN, either[1])


def chat_fingerprint(*tables: str, route: str = "") -> str:
    return fingerprint(load(chat(*tables, route=route)))


def test_identities_of_endpoints_agree_with_their_replicas_and_models(tmp_path):
    def job(one, two):
        return (
            'task = "feature-extraction"\n[input]\npath = "in.jsonl"\n[output]\npath = "o.parquet"\n'
            + "".join(
                f'[[endpoint]]\nname = "{name}"\nkind = "openai"\nurl = "https://{name}.example/v1"\n'
                f'model = "m"\n{more}\n'
                for name, more in (("one", one), ("two", two))
            )
        )

    def refused(one, two):
        (tmp_path / "job.toml").write_text(job(one, two))
        with pytest.raises(UsageError) as caught:
            load(tmp_path / "job.toml")
        return str(caught.value)

    assert "all vectors of an output must come from one model" in refused('identity = "a"', "")
    assert "must be that of the origin" in refused('identity = "a"', 'replica_of = "one"\nidentity = "b"')
    (tmp_path / "job.toml").write_text(job('identity = "a"', 'replica_of = "one"'))
    assert load(tmp_path / "job.toml").endpoints[0].identity == "a"
