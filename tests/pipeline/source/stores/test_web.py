"""Files of a web server: the same rows as on disk, whatever the connection does, or one line."""

import gzip
import json
import socket

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError, OutageError, UsageError
from pipeline.source.documents import read
from pipeline.source.files import InputSpec, find, recheck
from pipeline.source.scan import survey
from pipeline.source.stores import http_file
from pipeline.source.stores import web as web_files
from tests.support.file_server import FileServer, serving_files

ROWS = [{"id": f"k{n}", "text": f"Row {n}: the weir at Oxmead stood at {n * 7} mm."} for n in range(3_000)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def parquet():
    out = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), out, row_group_size=1_000)
    return out.getvalue().to_pybytes()


FILES = {
    "/a.jsonl": LINES, "/b.json.gz": gzip.compress(json.dumps(ROWS).encode()), "/c.parquet": parquet(),
    "/d.csv": b"id,text\n" + b"".join(f"{row['id']},{row['text']}\n".encode() for row in ROWS),
}  # fmt: skip
ANSWERS = [(row["id"], row["text"]) for row in ROWS]


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setattr(http_file, "PAUSE_SECONDS", 0.001)
    with serving_files() as server:
        server.files.update(FILES)
        yield server
        for path in server.files:
            web_files.list_files(server.url + path)  # closes a copy


def rows(path):
    surveyed = survey(InputSpec(path, "text", "id"))
    found = [(d.id, d.text) for batch in read(surveyed) for d in batch]
    recheck(surveyed.files)
    return found


@pytest.mark.parametrize(("etag", "ranges"), [(True, True), (False, True), (True, False), (False, False)])
@pytest.mark.parametrize("path", FILES)
def test_a_file_is_read_in_place_or_copied_where_nothing_tells_its_version(web, path, etag, ranges):
    web.etag, web.ranges = etag, ranges
    assert rows(web.url + path) == ANSWERS
    whole = [headers["range"] for _, headers in web.requests].count("bytes=0-")
    assert path.endswith(".parquet") or whole == (2 if etag and ranges else 1)


@pytest.mark.parametrize("path", FILES)
def test_a_cut_connection_goes_on_at_the_byte_that_was_reached(web, path):
    web.cut_after, web.cuts = 10_000, 7
    assert rows(web.url + path) == ANSWERS
    assert web.cuts < 7
    if path == "/a.jsonl":
        ranges = [h["range"] for _, h in web.requests if h["range"] != "bytes=0-0"]
        assert ranges[:3] == ["bytes=0-", "bytes=10000-", "bytes=20000-"]


def test_a_copy_that_is_cut_begins_anew(web):
    web.etag, web.cut_after, web.cuts = False, 10_000, 2
    assert rows(f"{web.url}/a.jsonl") == ANSWERS
    web.cuts = 99
    with pytest.raises(OutageError, match=r"/a\.jsonl: the server cannot be reached \(the connection was cut"):
        find(f"{web.url}/a.jsonl")


@pytest.mark.parametrize("path", FILES)
def test_a_server_that_gives_no_more_bytes_is_an_outage(web, path):
    web.cuts = 10**6
    with pytest.raises(OutageError, match=r"the connection was cut at byte 0 of \d+,\d\d\d bytes\)"):
        rows(web.url + path)


def test_a_server_that_is_away_is_an_outage(web):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(OutageError, match=r"the server cannot be reached \(Connection refused"):
        find(f"http://127.0.0.1:{port}/a.jsonl")


@pytest.mark.parametrize(("statuses", "error", "problem"), [
    ([503, 429], None, ""),
    ([503] * 4, OutageError, r"the server cannot be reached \(HTTP 503\)"),
    ([404], UsageError, "no such file"),
    ([403], InputError, r"the server denies access \(HTTP 403\)"),
    ([400], InputError, r"cannot be read \(HTTP 400\)"),
])  # fmt: skip
def test_each_status_has_its_error(web, statuses, error, problem):
    web.statuses = statuses
    if error is None:
        assert len(find(f"{web.url}/a.jsonl")) == 1
    else:
        with pytest.raises(error, match=rf"^{web.url}/a\.jsonl: {problem}$"):
            find(f"{web.url}/a.jsonl")


@pytest.mark.parametrize("path", ["/a.jsonl", "/c.parquet"])
def test_a_file_that_changes_between_the_passes_is_refused(web, path):
    surveyed = survey(InputSpec(web.url + path, "text", "id"))
    web.files[path] = web.files[path].replace(b"Oxmead", b"Exmead")
    with pytest.raises(InputError, match="changed while it was read"):
        list(read(surveyed))
    del web.files[path]
    with pytest.raises(InputError, match=r"changed while it was read \(deleted\)"):
        recheck(surveyed.files)


def test_a_copy_stays_what_it_was(web):
    web.etag = False
    surveyed = survey(InputSpec(f"{web.url}/a.jsonl", "text", "id"))
    web.files["/a.jsonl"] = b""
    assert sum(len(batch) for batch in read(surveyed)) == 3_000
    recheck(surveyed.files)


def test_an_empty_file_is_zero_rows(web):
    web.files["/e.jsonl"] = b""
    assert rows(f"{web.url}/e.jsonl") == []


def test_a_redirect_is_followed_to_places_with_encryption_only(web):
    with serving_files(FileServer()) as other:
        other.files["/there/x"] = LINES
        web.redirects["/r.jsonl"] = f"{other.url}/there/x"
        assert rows(f"{web.url}/r.jsonl") == ANSWERS
    web.redirects["/r.jsonl"] = "http://192.0.2.1/x"
    with pytest.raises(InputError, match=r"r\.jsonl: it redirects to a place without encryption$"):
        find(f"{web.url}/r.jsonl")
    web.redirects["/r.jsonl"] = f"{web.url}/r.jsonl"
    with pytest.raises(InputError, match=r"r\.jsonl: "):
        find(f"{web.url}/r.jsonl")


def test_a_run_over_a_url_is_resumable_and_its_second_run_sends_nothing(web, tmp_path, monkeypatch, own_home, textmill):
    monkeypatch.chdir(tmp_path)
    web.files["/a.csv"] = b"id,text\n1,The weir held.\n2,The gate did not.\n"
    command = ("run", "enrich", "-i", f"{web.url}/a.csv", "-o", "out.jsonl", "--id", "id", "--json")
    ran = textmill(*command)
    assert (ran.code, ran.last["ok"]) == (0, 2), ran.err
    again = textmill(*command)
    assert (again.code, again.last["unchanged"]) == (0, 2), again.err
    web.files["/a.csv"] += b"3,New.\n"
    assert textmill(*command).last["unchanged"] == 2
