"""Whole runs against a server in the own network, with headers and a query, and behind a proxy."""

import socket

import aiohttp
import pytest

from jobs.mock import Fault, serving
from tests.support.served import KEY, at, balanced, failures, given, job, rows, written

LITERAL = "trace-canary-41"


def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as used:
        return used.getsockname()[1]


def test_no_value_of_a_header_is_on_the_terminal_or_on_disk(workdir, textmill):
    """The fixtures look for the key of the variable; the text of the job file is its neighbour."""
    given(workdir, rows(3))
    headers = {"api-key": {"env": "MOCK_KEY"}, "X-Trace": LITERAL}
    echo = Fault("status", status=400, body={"error": f"odd: {KEY} {LITERAL}"}, match="Row <2>")
    with serving([echo]) as mock:
        path = job(workdir, at(mock, api_key=None, headers=headers, query={"v": "2026-11"}, batch_size=1))
        shown = [textmill(*command) for command in (
            ("plan", path), ("run", path, "--dry-run"), ("run", path, "--json"), ("explain", path, "1"),
            ("status", "--json"), ("report", "-o", workdir / "report.html"),
        )]
        assert mock.bill.headers["api-key"] == {KEY} and mock.bill.headers["x-trace"] == {LITERAL}
        assert {each.rpartition("?")[2] for each in mock.bill.headers[":path"]} == {"v=2026-11"}
    (failed,) = failures(workdir)
    assert "odd: *** ***" in str(failed)
    path.unlink()
    assert LITERAL not in "".join(ran.out + ran.err for ran in shown)
    for file in [*workdir.rglob("*"), *workdir.parent.rglob("home*/**/*")]:
        assert not file.is_file() or LITERAL.encode() not in file.read_bytes(), file


def test_an_azure_deployment_answers_a_whole_run(workdir, textmill):
    given(workdir, rows(3))
    with serving(key=KEY) as mock:
        azure = at(mock, url=f"{mock.url}/openai/deployments/embed?api-version=2024-10-21", api_key=None,
                   headers={"api-key": {"env": "MOCK_KEY"}})  # fmt: skip
        balanced(textmill("run", job(workdir, azure), "--json"))
        assert mock.bill.headers[":path"] == {
            "/openai/deployments/embed/models?api-version=2024-10-21",
            "/openai/deployments/embed/embeddings?api-version=2024-10-21",
        }
    assert len(written(workdir)) == 3


def test_a_proxy_that_is_away_ends_the_run_with_its_name(workdir, textmill, monkeypatch):
    given(workdir, rows(3))
    monkeypatch.setenv("MY_PROXY", f"http://me:{KEY}@127.0.0.1:{(port := closed_port())}")
    path = job(workdir, at("https://far.example.com", proxy={"env": "MY_PROXY"}))
    ran = textmill("run", path, "--json", "--max-outage", "0.5")
    balanced(ran, code=5)
    assert f"cannot connect to the proxy 127.0.0.1:{port} (connection refused)" in ran.err


@pytest.mark.parametrize(("command", "code"), [(("run", "--dry-run"), 0), (("plan",), 0), (("run",), 2)])
def test_a_name_is_looked_up_when_the_run_connects(workdir, textmill, monkeypatch, command, code):
    given(workdir, rows(3))
    looked_up = []

    async def look_up(self, host, port=0, family=socket.AF_INET):
        looked_up.append(host)
        return [{"hostname": host, "host": "93.184.216.34", "port": port, "family": socket.AF_INET,
                 "proto": 6, "flags": 0}]  # fmt: skip

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", look_up)
    path = job(workdir, at("http://gpu-box:8000"))
    ran = textmill(command[0], path, *command[1:])
    assert ran.code == code
    assert (set(looked_up) == {"gpu-box"}) == (code == 2)
    if code == 2:
        assert (
            "endpoint `mock`: gpu-box is at 93.184.216.34, not a loopback, private or link-local "
            "address: plain http:// goes no further\nhint: https://, or `endpoint.allow_http = true`"
        ) in ran.err


def test_two_deployments_behind_one_url_are_identified_apart(workdir, textmill):
    """A gateway that chooses a model by a header answers `/info` by it, too."""
    given(workdir, rows(3))
    with serving() as mock:
        for route in ("a", "b"):
            tei = at(mock, name="gate", kind="tei", url=mock.url, model=None, headers={"X-Route": route})
            balanced(textmill("run", job(workdir, tei), "--json"))
        lookups = mock.bill.totals().lookups
        balanced(textmill("run", job(workdir, tei), "--json"))
        assert (lookups, mock.bill.headers["x-route"]) == (2, {"a", "b"})


