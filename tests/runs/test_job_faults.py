"""Faults 80 to 89 of the job file: each is one line, exit 2, before any write and any call."""

from pathlib import Path

import pytest

from jobs.mock import serving

JOB = """
task = "feature-extraction"
[input]
path = "in.jsonl"
id = "id"
[chunk]
size = 64
[[endpoint]]
name = "mock"
kind = "openai"
url = "{url}/v1"
model = "m"
[output]
path = "out.parquet"
[guard]
max_failed = 0.5
"""
ROW = '{"id": 1, "text": "The weir at Oxmead stood at 7 mm."}\n'
CANARY = "hf_canaryCanaryCanaryCanary0123456"


@pytest.fixture
def mock(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text(ROW)
    with serving() as mock:
        yield mock


def refused(textmill, mock, text, code=2, **given):
    """What stderr says; nothing was written, nothing was sent, no secret was repeated."""
    Path("job.toml").write_text(text)
    before = sorted(Path().rglob("*"))
    ran = textmill("run", "job.toml", "--json", *given.get("flags", ()))
    assert ran.code == code, ran.err
    assert ran.last["exit"] == code
    assert mock.bill.totals().calls == 0
    assert sorted(Path().rglob("*")) == before
    assert Path("in.jsonl").read_text() == ROW
    assert "Traceback" not in ran.err and CANARY not in ran.err + ran.out
    said = [line for line in ran.err.splitlines() if not line.startswith("hint: ")]
    assert len(said) == 1, ran.err
    return said[0]


CHANGES = [
    (80, "size = 64", "sise = 64", "unknown key `chunk.sise` (did you mean `size`?)"),
    (80, "[guard]", "[gard]", "did you mean `guard`?"),
    (80, 'model = "m"', 'model = "m"\nmodle = "n"', "did you mean `model`?"),
    (81, 'model = "m"', f'model = "m"\napi_key = "{CANARY}"', "endpoint.api_key"),
    (81, 'model = "m"', f'model = "{CANARY}"', "looks like a secret"),
    (81, "[guard]", f'[parameters]\nnote = "Bearer {CANARY}"\n[guard]', "looks like a secret"),
    (82, "{url}", f"http://user:{CANARY}@127.0.0.1:9", "endpoint.url"),
    (82, "{url}", "http://user:pw@127.0.0.1:9", "must not hold a user or password"),
    (82, "{url}", "http://93.184.216.34", "must start with https://"),
    (82, "{url}", "http://169.254.169.254", "is the metadata service of a cloud"),
    (83, 'path = "out.parquet"', 'path = "in.jsonl"', "output.path is the input"),
    (83, 'path = "out.parquet"', 'path = "out.parquet.run/runs/x.parquet"', "is in a run folder"),
    (84, 'path = "out.parquet"', 'path = "../out.parquet"', "leaves the folder of the job file"),
    (84, 'path = "out.parquet"', 'path = "a/../../out.parquet"', "leaves the folder of the job file"),
    (84, 'path = "out.parquet"', 'path = "/tmp/../out.csv"', "must end in .parquet or .jsonl"),
    (85, "size = 64", "size = 0", "chunk.size must be at least 1, got 0"),
    (85, "size = 64", "size = -5", "chunk.size must be at least 1, got -5"),
    (85, 'model = "m"', 'model = "m"\nconcurrency = 0', "endpoint.concurrency must be between 1 and 10,000, got 0"),
    (85, 'model = "m"', 'model = "m"\nbatch_size = -1', "endpoint.batch_size must be between 1 and 10,000, got -1"),
    (85, 'model = "m"', 'model = "m"\nrequests_per_minute = 0',
     "endpoint.requests_per_minute must be at least 0.01, got 0"),
    (85, 'model = "m"', 'model = "m"\ntokens_per_minute = -1',
     "endpoint.tokens_per_minute must be at least 1, got -1"),
    (85, "max_failed = 0.5", "max_failed = 1.5", "guard.max_failed must be between 0 and 1, got 1.5"),
    (85, "max_failed = 0.5", "max_chunks = 0", "guard.max_chunks must be at least 1, got 0"),
    (85, "size = 64", "size = 64\noverlap = 64", "chunk.overlap = 64 tokens must be smaller than"),
    (87, 'model = "m"', 'model = "m"\nmax_input_tokens = 63', "chunk.size = 64 tokens must not be more "
     "than endpoint.max_input_tokens = 63 tokens"),
    (88, 'model = "m"', 'model = "m"\napi_key = { env = "TEXTMILL_TEST_UNSET" }', "`TEXTMILL_TEST_UNSET`"),
    (88, 'model = "m"', 'model = "m"\napi_key = { file = "no-such-key" }', "no-such-key"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "old", "new", "said"), CHANGES, ids=lambda value: str(value)[:40]
)
def test_a_faulty_job_is_refused_before_anything_is_written(textmill, mock, number, old, new, said):
    text = JOB.replace(old, new).replace("{url}", mock.url)
    assert said in refused(textmill, mock, text)


def test_fault_83_an_output_that_the_glob_would_read_the_next_time(textmill, mock):
    text = JOB.replace("in.jsonl", "*.jsonl").replace("out.parquet", "out.jsonl")
    assert "would read it the next time" in refused(textmill, mock, text.replace("{url}", mock.url))


@pytest.mark.parametrize("to", ["in.jsonl", "elsewhere.parquet", "/nonexistent/x.parquet"])
def test_fault_84_a_symbolic_link_as_output_is_refused(textmill, mock, to):
    Path("out.parquet").symlink_to(to)
    said = refused(textmill, mock, JOB.replace("{url}", mock.url))
    assert "output.path" in said
    assert Path("out.parquet").is_symlink()


def test_fault_84_a_folder_that_is_a_link_out_of_the_place_is_refused(textmill, mock, tmp_path_factory):
    Path("sub").symlink_to(tmp_path_factory.mktemp("outside"))
    text = JOB.replace("out.parquet", "sub/out.parquet").replace("{url}", mock.url)
    assert "leaves the folder of the job file" in refused(textmill, mock, text)


def test_fault_88_a_set_but_empty_variable_is_as_good_as_unset(textmill, mock, monkeypatch):
    monkeypatch.setenv("TEXTMILL_TEST_EMPTY", "")
    text = JOB.replace('model = "m"', 'model = "m"\napi_key = { env = "TEXTMILL_TEST_EMPTY" }')
    assert "`TEXTMILL_TEST_EMPTY`" in refused(textmill, mock, text.replace("{url}", mock.url))


def test_fault_89_different_embedding_models_in_one_job_are_refused(textmill, mock):
    other = '[[endpoint]]\nname = "other"\nkind = "openai"\nurl = "{url}/v1"\nmodel = "n"\n[output]'
    said = refused(textmill, mock, JOB.replace("[output]", other).replace("{url}", mock.url))
    assert "mock" in said and "other" in said
