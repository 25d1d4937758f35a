"""Inputs in a bucket, against a real S3 server on the loopback."""

import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from jobs.mock import serving
from pipeline.errors import InputError, UsageError
from pipeline.source.documents import read
from pipeline.source.files import InputSpec, find
from pipeline.source.scan import survey
from pipeline.source.stores import s3
from tests.support import ROOT
from tests.support.served import process

pytestmark = pytest.mark.slow

KEY_ID, SECRET = "AKIDEXAMPLE0CANARY", "canary-secret-4b1f9e77aa"
ROWS = [{"id": n, "text": f"Row {n}: the weir at Oxmead stood at {n * 7} mm."} for n in range(9)]


def lines(rows):
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@pytest.fixture(scope="module")
def server():
    script = ROOT / "tests/support/bucket_server.py"
    command = [sys.executable, "-W", "ignore", script]
    with process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as serving_s3:
        yield f"http://127.0.0.1:{int(serving_s3.stdout.readline())}"


@pytest.fixture
def bucket(server, monkeypatch, request, tmp_path):
    """Puts and removes objects of a bucket of its own, which the environment leads to."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(tmp_path)
    return Bucket(server.removeprefix("http://"), f"b{abs(hash(request.node.name)) % 10**9}")


class Bucket:
    def __init__(self, host, name):
        self.name = name
        self.fs = pafs.S3FileSystem(
            access_key=KEY_ID, secret_key=SECRET, endpoint_override=host, scheme="http",
            region="eu-central-1", allow_bucket_creation=True,
        )
        self.fs.create_dir(name)

    def put(self, key, content):
        with self.fs.open_output_stream(f"{self.name}/{key}", compression=None) as stream:
            stream.write(content)
        return f"s3://{self.name}/{key}"

    def remove(self, key):
        self.fs.delete_file(f"{self.name}/{key}")

    def url(self, key):
        return f"s3://{self.name}/{key}"


def parquet(rows, group=4):
    out = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=group)
    return out.getvalue().to_pybytes()


def ids(path):
    surveyed = survey(InputSpec(path, "text", "id"))
    return [document.id for batch in read(surveyed) for document in batch]


PACKED = {
    "a.jsonl": lines(ROWS),
    "a.jsonl.gz": gzip.compress(lines(ROWS)),
    "a.jsonl.zst": pa.compress(lines(ROWS), codec="zstd", asbytes=True),
    "a.parquet": parquet(ROWS),
}


@pytest.mark.parametrize("name", PACKED)
def test_an_object_gives_the_rows_of_the_same_file_on_disk(bucket, tmp_path, name):
    (tmp_path / name).write_bytes(PACKED[name])
    path = bucket.put(f"deep/er/{name}", PACKED[name])
    assert ids(path) == ids(str(tmp_path / name)) == list(range(9))


def test_a_prefix_and_a_glob_list_files_by_name(bucket):
    for name in ("in/b.jsonl", "in/a.jsonl", "in/_tmp.jsonl", "in/.x.jsonl", "in/README.md",
                 "in/2024/c.jsonl", "in/2025/d.jsonl", "in/2025/deep/e.jsonl", "in/a/b?.jsonl"):
        bucket.put(name, lines(ROWS[:1]))

    def names(pattern):
        return [each.path.partition("/in/")[2] for each in find(bucket.url(pattern))]

    assert names("in") == names("in/") == ["a.jsonl", "b.jsonl"]
    assert names("in/[ab].jsonl") == ["a.jsonl", "b.jsonl"]
    assert names("in/*/*.jsonl") == ["2024/c.jsonl", "2025/d.jsonl", "a/b?.jsonl"]
    assert names("in/202*/**/*.jsonl") == ["2024/c.jsonl", "2025/d.jsonl", "2025/deep/e.jsonl"]
    assert names("in/**/e.jsonl") == ["2025/deep/e.jsonl"]
    assert names("in/a/b?.jsonl") == ["a/b?.jsonl"]  # as it stands, where it stands so
    assert len(names("**/*.jsonl")) == 7
    assert names("i?/b.jsonl") == ["b.jsonl"]


@pytest.mark.parametrize("key", ["none.jsonl", "none/*.jsonl", "none", "in/x.xml"])
def test_what_is_not_there_is_a_usage_error(bucket, key):
    bucket.put("in/x.xml", b"id,text\n")
    with pytest.raises(UsageError):
        find(bucket.url(key))


def test_a_bucket_that_is_not_there_is_a_usage_error(bucket):
    for path in ("s3://nosuchbucket-x/a.jsonl", "s3://nosuchbucket-x/*.jsonl", "s3://nosuchbucket-x/"):
        with pytest.raises(UsageError):
            find(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize("change", ["edit", "same size", "remove"])
@pytest.mark.parametrize("when", ["before", "during"])
def test_an_object_that_changes_or_vanishes_ends_the_run(bucket, name, change, when):
    rows = [{"id": n, "text": f"row {n} " + "x" * 2_000} for n in range(9_000 if when == "during" else 9)]
    raw = lines(rows) if name == "a.jsonl" else parquet(rows, 3_000)
    path = bucket.put(name, raw)
    batches = read(survey(InputSpec(path, "text", "id")))
    if when == "during":
        next(batches)
    if change == "remove":
        bucket.remove(name)
    else:
        bucket.put(name, raw + b"\n" if change == "edit" else raw[:100] + b"?" + raw[101:])
    with pytest.raises(InputError, match="changed while it was read"):
        list(batches)


def job(path, url, output="out.parquet"):
    Path("job.toml").write_text(f"""
task = "feature-extraction"
[input]
path = "{path}"
id = "id"
[[endpoint]]
kind = "openai"
url = "{url}/v1"
model = "m"
[output]
path = "{output}"
""")
    return "job.toml"


def test_a_whole_run_from_a_bucket_and_no_byte_of_it_holds_a_key(bucket, textmill, own_home, tmp_path):
    path = bucket.put("in/a.jsonl", lines(ROWS) + b'{"id": 9, "text": 5}\n')
    with serving() as mock:
        ran = textmill("run", job(path, mock.url), "--json")
        assert ran.code == 3, ran.err
        assert ran.last["documents"] == 10
        again = textmill("run", "job.toml")
        assert again.code == 3
        assert mock.bill.totals().repeated_inputs == 0
    (failure, *_) = [json.loads(f.read_text()) for f in Path.cwd().rglob("failures.jsonl")]
    assert (failure["file"], failure["line"]) == (path, 10)
    told = ran.out + ran.err + again.err
    for file in [*Path.cwd().rglob("*"), *own_home.rglob("*")]:
        if file.is_file():
            told += file.read_bytes().decode("latin-1")
    assert SECRET not in told and KEY_ID not in told


def test_fault_20_and_21_an_object_changed_or_removed_during_the_run_is_not_published(bucket, textmill):
    for change in ("edit", "remove"):
        path = bucket.put("a.jsonl", lines(ROWS))

        def disturb(*_, change=change):
            bucket.put("a.jsonl", lines(ROWS[:-1])) if change == "edit" else bucket.remove("a.jsonl")
            return 0.0

        with serving(latency=disturb) as mock:
            output = f"{change}.parquet"
            ran = textmill("run", job(path, mock.url, output), "--json")
            assert ran.code == 6, ran.err
            assert "changed while it was read" in ran.err
            assert not Path(output).exists()
            mock.latency = 0.0
            bucket.put("a.jsonl", lines(ROWS))
            assert textmill("run", "job.toml").code == 0
            assert mock.bill.totals().repeated_inputs == 0
        os.environ["TEXTMILL_HOME"] += "2"


def test_a_server_that_is_away_is_an_outage_within_seconds(bucket, textmill, monkeypatch):
    path = bucket.put("a.jsonl", lines(ROWS))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        before = time.monotonic()
        ran = textmill("run", job(path, "http://127.0.0.1:9"), "--json")
    assert ran.code == 5, ran.err
    assert ran.last["resumable"] is True
    assert "the bucket cannot be reached" in ran.err
    assert len(ran.err.splitlines()) == 2 and SECRET not in ran.err
    assert time.monotonic() - before < 60  # not the half hour of an endpoint


def test_a_server_that_never_answers_is_an_outage_by_our_own_deadline(bucket, textmill, monkeypatch):
    monkeypatch.setattr(s3, "IDLE_SECONDS", 0.3)
    monkeypatch.setattr(s3, "CONNECT_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        ran = textmill("run", job("s3://bucket/a.jsonl", "http://127.0.0.1:9"))
    assert ran.code == 5, ran.err


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("s3://AKIA:canary-pw-1234@bucket/a.jsonl", "must not hold a user"),
        ("s3://bucket/a.jsonl?secret_key=canary-pw-1234", ""),
        ("s3:///a.jsonl", "must be s3://BUCKET/KEY"),
        ("s3://bucket/../a.jsonl", "must not hold `.`"),
    ],
)
def test_a_path_that_would_carry_a_key_is_refused_and_not_repeated(bucket, textmill, path, said):
    for ran in (
        textmill("run", job(path, "http://127.0.0.1:9")),
        textmill("run", "embed", "-i", path, "-o", "o.parquet"),
    ):
        assert ran.code == 2
        assert said in ran.err
        assert "canary-pw" not in ran.err


@pytest.mark.parametrize(
    "url", ["http://example.com", "ftp://127.0.0.1", "https://u:canary-pw@127.0.0.1", "https://h/path"]
)
def test_a_server_without_encryption_is_refused_but_on_this_machine(bucket, textmill, monkeypatch, url):
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    ran = textmill("run", job("s3://bucket/a.jsonl", "http://127.0.0.1:9"))
    assert ran.code == 2
    assert "AWS_ENDPOINT_URL" in ran.err and "canary-pw" not in ran.err


@pytest.mark.parametrize("command", [["run"], ["plan"], ["chunks"]])
def test_a_signal_leaves_a_bucket_that_does_not_answer(bucket, command):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        more = [] if command == ["chunks"] else ["embed", "-o", "o.parquet", "-i"]
        started = process(
            [sys.executable, "-m", "jobs", *command, *more, "s3://bucket/a.jsonl"],
            env=os.environ | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
                              "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with started as run, silent.accept()[0]:  # it asks, and waits
            run.send_signal(signal.SIGINT)
            _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "Traceback" not in said


def test_partitions_of_a_prefix_and_of_a_glob_are_columns(bucket):
    bucket.put("in/lang=en/a.jsonl", lines(ROWS[:1]))
    bucket.put("in/lang=z%68/b.jsonl", lines(ROWS[1:2]))
    for key in ("in/", "in/*/*.jsonl", "in/**/*.jsonl"):
        surveyed = survey(InputSpec(bucket.url(key), "text", "id", ("lang",), ("lang",)))
        assert [d.fields for batch in read(surveyed) for d in batch] == [{"lang": "en"}, {"lang": "zh"}]
