"""Datasets of the Hub over a server on the loopback that speaks its API, as the library calls it."""

import hashlib
import json
from urllib.parse import parse_qs, unquote

import pytest

from pipeline.errors import InputError, UsageError
from pipeline.source.documents import read
from pipeline.source.files import InputSpec, find
from pipeline.source.scan import survey
from pipeline.source.stores import http_file, hub
from tests.support import require_module
from tests.support.file_server import FileServer, serving_files

require_module("huggingface_hub")
TOKEN = "hf_canary5e1f0a77"
COMMIT = "c" * 40
FILES = {
    "README.md": b"# A dataset", "data/a.jsonl": b'{"id": 1, "text": "one"}\n',
    "data/b.jsonl": b'{"id": 2, "text": "two"}\n', "data/lang=de/c.jsonl": b'{"id": 3, "text": "drei"}\n',
}  # fmt: skip


class Hub(FileServer):
    """The routes of the Hub; the files themselves are on another host, behind signed URLs."""

    def __init__(self, elsewhere):
        super().__init__()
        self.elsewhere, self.commit, self.posted = elsewhere, COMMIT, b""
        self.contents = dict(FILES)
        for path, raw in FILES.items():
            elsewhere.files[f"/store/{path}"] = raw

    def _entry(self, path):
        raw = self.contents[path]
        return {"type": "file", "path": path, "size": len(raw), "oid": hashlib.sha1(raw).hexdigest()}

    def answer(self, handler):
        path, api = handler.path.partition("?")[0], "/api/datasets/weirs/levels"
        length = int(handler.headers.get("Content-Length") or 0)
        posted = handler.rfile.read(length)
        if path in (f"{api}/revision/main", f"{api}/revision/v1", api):
            self.files[path] = json.dumps({"id": "weirs/levels", "sha": self.commit}).encode()
        elif path == f"{api}/paths-info/{self.commit}":
            wanted = parse_qs(posted.decode())["paths"]
            found = [self._entry(each) for each in wanted if each in self.contents]
            found += [{"type": "directory", "path": each, "oid": "0"} for each in wanted
                      if any(p.startswith(f"{each}/") for p in self.contents)]  # fmt: skip
            self.files[path] = json.dumps(found).encode()
        elif path.startswith(f"{api}/tree/{self.commit}"):
            below = unquote(path.removeprefix(f"{api}/tree/{self.commit}").strip("/"))
            self.files[path] = json.dumps(self._tree(below, "recursive=true" in handler.path.lower())).encode()
        elif path.startswith("/datasets/weirs/levels/resolve/"):
            inner = unquote(path.split("/", 6)[6])
            self.redirects[path] = f"{self.elsewhere.url}/store/{inner}?signature=secret"
        else:
            self.not_found = {"X-Error-Code": "RepoNotFound"}
        super().answer(handler)

    def _tree(self, below, is_deep):
        start = f"{below}/" if below else ""
        found = {}
        for path in self.contents:
            rest = path.removeprefix(start)
            if path.startswith(start) and ("/" not in rest or is_deep):
                found[path] = self._entry(path)
            elif path.startswith(start):
                folder = start + rest.partition("/")[0]
                found[folder] = {"type": "directory", "path": folder, "oid": "0"}
        return list(found.values())


@pytest.fixture
def served(monkeypatch):
    monkeypatch.setattr(http_file, "PAUSE_SECONDS", 0.001)
    with serving_files() as elsewhere, serving_files(Hub(elsewhere)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def ids(path):
    surveyed = survey(InputSpec(path, "text", "id"))
    return [d.id for batch in read(surveyed) for d in batch]


@pytest.mark.parametrize(("path", "expected"), [
    ("hf://datasets/weirs/levels/data/a.jsonl", [1]), ("hf://datasets/weirs/levels/data", [1, 2, 3]),
    ("hf://datasets/weirs/levels@v1/data/", [1, 2, 3]), ("hf://datasets/weirs/levels/data/*.jsonl", [1, 2]),
    ("hf://datasets/weirs/levels/**/*.jsonl", [1, 2, 3]),
])  # fmt: skip
def test_a_file_a_folder_and_a_glob_of_a_dataset(served, path, expected):
    assert ids(path) == expected


def test_the_token_goes_to_the_hub_and_nowhere_else(served):
    assert ids("hf://datasets/weirs/levels/data/a.jsonl") == [1]
    assert all(headers["authorization"] == f"Bearer {TOKEN}" for _, headers in served.requests)
    assert len(served.elsewhere.requests) == 2
    for path, headers in served.elsewhere.requests:
        assert TOKEN not in path + json.dumps(headers)


def test_both_passes_read_one_commit_whatever_is_pushed(served):
    surveyed = survey(InputSpec("hf://datasets/weirs/levels/data/a.jsonl", "text", "id"))
    commit, served.commit = served.commit, "d" * 40
    served.requests.clear()
    list(read(surveyed))
    assert {path for path, _ in served.requests} == {f"/datasets/weirs/levels/resolve/{commit}/data/a.jsonl"}


def test_a_new_commit_with_the_same_file_is_the_same_input(served):
    path = "hf://datasets/weirs/levels/data/a.jsonl"
    before = find(path)
    served.commit = "d" * 40
    assert find(path) == before


@pytest.mark.parametrize(("path", "error", "problem"), [
    ("hf://datasets/weirs/levels/data/gone.jsonl", UsageError, "no such file"),
    ("hf://datasets/weirs/none/a.jsonl", UsageError, "no such dataset, or it is private"),
    ("hf://datasets/weirs/levels/data/*.csv", UsageError, "no file found"),
    ("hf://models/weirs/levels", UsageError, "must be hf://datasets/OWNER/NAME"),
])  # fmt: skip
def test_what_the_hub_does_not_have_is_one_line(served, path, error, problem):
    with pytest.raises(error, match=problem):
        find(path)


def test_a_hub_without_encryption_is_refused(served, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    with pytest.raises(UsageError, match="HF_ENDPOINT must begin with https://"):
        find("hf://datasets/weirs/levels/a.jsonl")


def test_without_the_extra_its_name_is_said(served, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match="hf:// needs the extra `hf`") as caught:
        find("hf://datasets/weirs/levels/a.jsonl")
    assert caught.value.hint == "pip install 'textmill[hf]'"


def test_access_that_is_denied_is_an_input_error(served):
    served.statuses = [403]
    with pytest.raises(InputError, match="the Hub denies access"):
        find("hf://datasets/weirs/levels/a.jsonl")
    assert hub.fault_of("hf://datasets/a/b@refs/convert/parquet/x.parquet") is None
