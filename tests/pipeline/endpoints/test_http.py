"""The HTTP client against real sockets: deadlines, redirects, sizes, certificates, the secret."""

import asyncio
import contextlib
import gzip
import json
import os
import re
import resource
import shutil
import socket
import ssl
import subprocess

import anyio
import numpy as np
import pytest

from jobs.mock import Fault, Mock
from pipeline.endpoints import http
from pipeline.endpoints.http import HttpEndpoint
from pipeline.errors import DescriptorError, EndpointError
from pipeline.records import Chunk, Deadline, Endpoint, Request
from pipeline.secret import Secret
from tests.support import require

pytestmark = pytest.mark.anyio

KEY = "secret-7f3a9c51d2"
LONG = Deadline(30, 30, 30, 30)


def endpoint(url, **changed):
    given = {"name": "m", "kind": "openai", "task": "feature-extraction", "model": "m",
             "identity": ("openai", "", "m", "main"), "url": f"{url}/v1", "deadline": LONG,
             "secret": Secret(KEY)}
    return Endpoint(**given | changed)


def request(text="the weir at Oxmead"):
    return Request(b"", text, 5, Chunk(0, len(text), 5))


async def refused(url, **changed):
    """The error of one call, which must arrive in time."""
    async with HttpEndpoint(endpoint(url, **changed)) as client:
        with pytest.raises(EndpointError) as raised, anyio.fail_after(10):
            await client.answer([request()])
    return raised.value


@contextlib.asynccontextmanager
async def speaking(reply=b"", context=None):
    """A server that answers every call with these bytes; its URL, and the bytes that it received."""
    received, serving = [], set()

    async def serve(reader, writer):
        serving.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                received.append(await reader.readuntil(b"\r\n\r\n"))
                length = re.search(rb"content-length: (\d+)", received[-1].lower())
                received.append(await reader.readexactly(int(length[1])))
                writer.write(reply)
                await writer.drain()
                if not reply.startswith(b"HTTP/1.1 200 OK"):
                    break
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    yield f"http{'s' if context else ''}://127.0.0.1:{port}", received
    server.close()
    if serving:
        await asyncio.wait(serving)


def whole(body, *headers):
    head = [b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


async def test_an_answer_per_request_and_the_secret_in_one_header():
    async with Mock(key=KEY, record=True) as mock:
        async with HttpEndpoint(endpoint(mock.url)) as client:
            answers, headers = await client.answer([request("a b"), request("水位")])
        assert [len(answer.value) for answer in answers] == [384 * 4, 384 * 4]
        assert headers["Content-Type"] == "application/json"
        assert mock.bill.totals().calls == 1


async def test_a_call_is_sent_with_these_headers_only_and_no_key_without_a_secret():
    async with speaking(whole(b"{}")) as (url, received):
        await refused(url, secret=None)
    head = b"".join(received).split(b"\r\n\r\n")[0].decode().lower().split("\r\n")
    assert head[0] == "post /v1/embeddings http/1.1"
    assert {line.partition(":")[0] for line in head[1:]} == {
        "host", "content-type", "accept", "user-agent", "accept-encoding", "content-length",
    }
    assert "user-agent: textmill" in head


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_and_the_secret_stays_with_its_host(status):
    async with Mock() as other:
        fault = f"redirect status={status} location={other.url}/v1/embeddings"
        async with Mock([fault]) as mock:
            error = await refused(mock.url)
            assert mock.bill.totals().calls == 1
        assert other.bill.totals().calls == 0
    assert (error.kind, str(error)) == (
        "config", f"the server redirects to {other.url}/v1/embeddings, which is never followed"
        f" (POST {mock.url}/v1/embeddings)",
    )  # fmt: skip
    assert error.hint == f'endpoint.url = "{other.url}/v1", if you trust that server'


async def test_proxies_cookies_and_netrc_of_the_environment_are_not_used(monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    reply = whole(b"{}", b"set-cookie: a=1; path=/")
    async with speaking(reply) as (url, received), HttpEndpoint(endpoint(url, secret=None)) as client:
        for _ in range(2):
            with pytest.raises(EndpointError, match="200"):
                await client.answer([request()])
    sent = b"".join(received).lower()
    assert b"cookie" not in sent
    assert b"authorization" not in sent


async def test_an_answer_above_the_cap_is_refused(monkeypatch):
    monkeypatch.setattr(http, "BASE_ANSWER_BYTES", 1_000)
    monkeypatch.setattr(http, "ANSWER_BYTES_PER_REQUEST", 0)
    async with Mock() as mock:
        error = await refused(mock.url)
    assert (error.kind, str(error)) == ("invalid", "an answer of more than 1,000 bytes is too large")
    async with speaking(whole(b"x" * 1_001)) as (url, _):
        assert str(await refused(url)) == "an answer of more than 1,000 bytes is too large"
    async with speaking(whole(b"x" * 1_000)) as (url, _):
        assert "more than" not in str(await refused(url))


async def test_a_compressed_answer_is_capped_as_it_unfolds(monkeypatch):
    monkeypatch.setattr(http, "BASE_ANSWER_BYTES", 1 << 20)
    monkeypatch.setattr(http, "ANSWER_BYTES_PER_REQUEST", 0)
    bomb = whole(gzip.compress(b"0" * (64 << 20)), b"content-encoding: gzip")
    async with speaking(bomb) as (url, _):
        error = await refused(url)
    assert (error.kind, str(error)) == ("invalid", "an answer of more than 1,048,576 bytes is too large")


@pytest.mark.parametrize(("fault", "deadline"), [
    ("hang", Deadline(0.05, 0.05, 30, 30)),  # no first byte
    ("slow seconds=5", Deadline(30, 30, 0.1, 30)),  # idle between two pieces
    ("slow seconds=0.02", Deadline(30, 30, 30, 0.2)),  # never idle, and never done
    ("hang", Deadline(30, 30, 30, 0.1)),
])
async def test_what_was_sent_and_not_answered_in_time_is_ambiguous(fault, deadline):
    async with Mock([fault]) as mock:
        error = await refused(mock.url, deadline=deadline)
    assert (error.kind, str(error)) == ("ambiguous", "no complete answer within 0 s")


async def test_a_slow_answer_that_is_never_idle_is_read_to_its_end():
    async with Mock(["delay seconds=0.15"], dimension=8) as mock:
        short = Deadline(30, 30, 0.1, 30)
        async with HttpEndpoint(endpoint(mock.url, deadline=short)) as client:
            assert len((await client.answer([request()])).settled) == 1


async def test_no_connection_in_time_is_unreachable_because_nothing_was_sent():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and shakes no hands
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        error = await refused(url, deadline=Deadline(0.1, 30, 30, 30))
    assert error.kind == "unreachable"
    assert str(error) == f"cannot connect to {url[8:]} (timed out)"
    assert KEY not in str(error)


async def test_a_closed_port_and_an_unknown_name_are_unreachable():
    with socket.create_server(("127.0.0.1", 0)) as used:
        closed = f"http://127.0.0.1:{used.getsockname()[1]}"
    for url, kind, where in (
        (closed, "unreachable", f"{closed[7:]} (connection refused)"),
        ("http://nosuchhost.invalid", "unknown_host", "nosuchhost.invalid:80 (name not found: "),
    ):
        error = await refused(url)
        assert error.kind == kind
        assert str(error).startswith(f"cannot connect to {where}")
        assert "ssl" not in str(error)
        assert "host" in error.hint and "then run the same command again" in error.hint


@pytest.mark.parametrize("fault", ["reset", "half_body", "half_chunked", "cut bytes=10",
                                   "cut bytes=0"])
async def test_a_connection_that_breaks_is_ambiguous(fault):
    async with Mock([fault]) as mock:
        error = await refused(mock.url)
    assert error.kind == "ambiguous"
    assert str(error).startswith("the connection broke: ")


@pytest.mark.parametrize(("reply", "problem"), [
    (b"SSH-2.0-OpenSSH_9.6\r\n", "the reply is not HTTP: b'SSH-2.0-OpenSSH_9.6'"),
    (b"\x15\x03\x01\x00\x02\x02\x46", "(TLS: does the URL need https?)"),
    (b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n{}", "the reply is not HTTP: b'content-length: -5'"),
    (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
     "the reply has a header of more than 65,536 bytes"),
    (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 2_000 + b"\r\n", "the reply has more than 1,000 headers"),
    (whole(b"no gzip", b"content-encoding: gzip"), "the reply is compressed with gzip"),
    (whole(b"no zstd", b"content-encoding: zstd"), "the reply is compressed with zstandard (zstd)"),
    (whole(b"no br", b"content-encoding: br"), "the reply is compressed with brotli (br), which was not"),
    (b"HTTP/1.1 999999 ?\r\n\r\n", "the reply is not HTTP: b'HTTP/1.1 999999 ?'"),
])
async def test_a_reply_that_no_client_can_read_says_so_at_once(reply, problem):
    async with speaking(reply) as (url, _):
        error = await refused(url)
    assert error.kind == "config"
    assert problem in str(error)


async def test_a_server_that_spoke_http_before_gets_another_try():
    async with speaking(whole(b"{}")) as (url, _), HttpEndpoint(endpoint(url)) as client:
        with pytest.raises(EndpointError, match="200"):
            await client.answer([request()])
        async with speaking(b"SSH-2.0-OpenSSH_9.6\r\n") as (other, _):
            client.endpoint = endpoint(other)
            with pytest.raises(EndpointError, match="not HTTP") as caught:
                await client.answer([request()])
    assert caught.value.kind == "ambiguous"


@pytest.mark.parametrize("size", [12_000, 60_000])
async def test_a_header_of_a_proxy_is_read(size):
    reply = whole(b"no", b"content-security-policy: " + b"a" * size)
    async with speaking(reply) as (url, _):
        assert str(await refused(url)) == "200 with an error: no"


async def test_a_connection_that_closes_without_a_word_is_ambiguous():
    async with speaking(b"") as (url, _):
        assert (await refused(url)).kind == "ambiguous"


@pytest.mark.parametrize(("faults", "formats"), [
    (["400 x1 body='encoding_format base64 is not supported'"], ["base64", "float"]),
    (["500 x1 body='base64 encoding is not implemented'"], ["base64", "float"]),
    (["empty x1"], ["base64", "float"]),
    (["422 x2 body='encoding_format: Extra inputs are not permitted'"], ["base64", "float", None]),
    (["400 x1 body='an unrelated fault'"], ["base64"]),
])
async def test_floats_are_asked_for_where_base64_is_refused_once_per_endpoint(faults, formats):
    async with Mock(faults, record=True) as mock, HttpEndpoint(endpoint(mock.url)) as client:
        for following in formats[1:]:
            with pytest.raises(EndpointError) as caught:
                await client.answer([request("a")])
            assert caught.value.ask_with == {"encoding_format": following}
        if len(formats) == 1:
            with pytest.raises(EndpointError, match="unrelated"):
                await client.answer([request("a")])
        else:
            assert len((await client.answer([request("a")])).settled) == 1
        sent = [json.loads(call.body).get("encoding_format") for call in mock.bill.recorded]
    assert sent == formats


async def test_a_text_of_the_user_in_an_error_is_not_the_word_of_the_service():
    text = "The model was not found in the archive of the mill, although it is listed there."
    body = json.dumps({"error": {"message": f"cannot process this: {text}", "type": "invalid"}})
    fault = Fault("status", status=400, body=body)
    async with Mock([fault]) as mock, HttpEndpoint(endpoint(mock.url)) as client:
        with pytest.raises(EndpointError) as caught:
            await client.answer([request(text)])
        assert caught.value.kind == "poison"
        with pytest.raises(EndpointError) as caught:
            await client.answer([request("Another text, so that these are its own words.")])
        assert caught.value.kind == "config"


async def test_a_client_works_after_any_of_these():
    faults = ["reset x1", "half_body x1", "cut bytes=9 x1"]
    async with Mock(faults) as mock, HttpEndpoint(endpoint(mock.url)) as client:
        for _ in faults:
            with pytest.raises(EndpointError):
                await client.answer([request()])
        assert len((await client.answer([request()])).settled) == 1


async def test_a_large_body_gives_no_warning_and_arrives_whole():
    texts = ["水位 " * 40_000 + str(number) for number in range(4)]  # 1.12 MB
    async with Mock(dimension=8) as mock:
        async with HttpEndpoint(endpoint(mock.url)) as client:
            answers, _ = await client.answer([request(text) for text in texts])
        expected = [np.array(mock.vector(text, "m"), "f4").tobytes() for text in texts]
    assert [answer.value for answer in answers] == expected


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory):
    require(shutil.which("openssl"), "openssl", "apt-get install openssl")
    folder = tmp_path_factory.mktemp("certificate")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
               "-nodes", "-keyout", folder / "key.pem", "-out", folder / "cert.pem",
               "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


async def test_a_certificate_that_no_authority_signed_is_refused_and_nothing_is_sent(self_signed):
    async with speaking(whole(b"{}"), self_signed) as (url, received):
        error = await refused(url)
    problem = f"the certificate of {url[8:]} is not valid: self-signed certificate"
    assert (error.kind, str(error)) == ("auth", problem)
    assert error.hint.startswith("make its authority known: export SSL_CERT_FILE=")
    assert received == []


async def test_a_server_without_tls_is_refused_and_nothing_is_sent():
    async with Mock() as mock:
        error = await refused(mock.url.replace("http:", "https:"))
        assert (error.kind, str(error)) == ("config", f"{mock.url[7:]} does not speak TLS")
        assert error.hint.startswith("write http:// in `endpoint.url`")
        assert mock.bill.totals().calls == 0


async def test_too_many_open_files_are_not_blamed_on_the_server():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with Mock() as mock, HttpEndpoint(endpoint(mock.url)) as client:
        probe = os.dup(0)
        os.close(probe)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))  # the next one is too many
            with pytest.raises(DescriptorError, match=r"^endpoint `m`: too many open files$"):
                await client.answer([request()])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert len((await client.answer([request()])).settled) == 1
