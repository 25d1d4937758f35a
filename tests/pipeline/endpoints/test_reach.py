"""The client on its way to a server: judged addresses, added headers and query, a proxy."""

import socket

import pytest
from msgspec.structs import replace

from jobs.mock import Fault, Mock
from pipeline.endpoints.http import HttpEndpoint
from pipeline.errors import EndpointError
from pipeline.records import Deadline
from pipeline.secret import Addition, Secret
from tests.pipeline.endpoints.test_http import (
    KEY,
    endpoint,
    refused,
    request,
    self_signed,
    speaking,
    whole,
)
from tests.support.proxy import Proxy

pytestmark = pytest.mark.anyio
__all__ = ["self_signed"]

PUBLIC = "93.184.216.34"


@pytest.fixture
def names(monkeypatch):
    """Makes the system resolve names: a list of addresses for each look-up, the last one stays."""
    def use(**hosts):
        asked = {host.replace("_", "."): list(answers) for host, answers in hosts.items()}
        real = socket.getaddrinfo

        def look_up(host, port, *args, **kwargs):
            if host not in asked:
                return real(host, port, *args, **kwargs)
            answers = asked[host]
            found = answers.pop(0) if len(answers) > 1 else answers[0]
            return [(socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "",
                     (each, port, 0, 0) if ":" in each else (each, port)) for each in found]  # fmt: skip

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return use


@pytest.fixture
def connected(monkeypatch):
    """The addresses that sockets connect to; none of them is reached."""
    import asyncio

    found = []

    async def connect(loop, sock, address):
        found.append(address[0])
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", connect)
    return found


async def test_a_name_of_the_own_network_is_called_over_plain_http(names):
    async with Mock(key=KEY) as mock:
        names(gpu_box=[["127.0.0.1"]])
        port = mock.url.rpartition(":")[2]
        async with HttpEndpoint(endpoint(f"http://gpu.box:{port}")) as client:
            assert len((await client.answer([request()])).settled) == 1


@pytest.mark.parametrize(("allow_http", "reached"), [(False, []), (True, [PUBLIC])])
async def test_a_name_with_a_public_address_gets_no_plain_http(names, connected, allow_http, reached):
    names(gpu_box=[[PUBLIC]])
    error = await refused("http://gpu.box:8000", allow_http=allow_http)
    assert connected == reached
    if not allow_http:
        assert (error.kind, str(error)) == (
            "config", f"gpu.box is at {PUBLIC}, not a loopback, private or link-local address: plain "
            "http:// goes no further",
        )  # fmt: skip
        assert "endpoint.allow_http = true" in error.hint


async def test_of_several_addresses_only_those_of_the_own_network_are_used(names, connected):
    names(gpu_box=[[PUBLIC, "10.9.9.9", "2606:4700::1111"]])
    error = await refused("http://gpu.box:8000")
    assert (error.kind, set(connected)) == ("unreachable", {"10.9.9.9"})


@pytest.mark.parametrize("url", [f"http://{PUBLIC}:8000", "http://169.254.169.254", "https://169.254.169.254"])
async def test_an_address_in_the_url_is_judged_by_the_socket(connected, url):
    assert (await refused(url)).kind == "config"
    assert connected == []


async def test_a_name_that_points_elsewhere_later_is_judged_again(names, connected, monkeypatch):
    from pipeline.endpoints import http

    monkeypatch.setattr(http.aiohttp.connector._DNSCacheTable, "expired", lambda *_: True)
    names(gpu_box=[["10.9.9.9"], ["169.254.169.254"]])
    async with HttpEndpoint(endpoint("http://gpu.box:8000")) as client:
        kinds = []
        for _ in range(2):
            with pytest.raises(EndpointError) as raised:
                await client.answer([request()])
            kinds.append(raised.value.kind)
    assert (kinds, connected) == (["unreachable", "config"], ["10.9.9.9"])


HEADERS = (Addition("X-Team", "research"), Addition("User-Agent", "night"),
           Addition("X-Auth", Secret("Token hunter-2 0f")))  # fmt: skip
QUERY = (Addition("api-version", "2024-10-21"), Addition("q", "a b&c=d/é+%"),
         Addition("sig", Secret("s/3+cr=t")))  # fmt: skip


async def test_headers_and_query_are_added_to_every_call():
    async with Mock(key=KEY) as mock:
        async with HttpEndpoint(endpoint(mock.url, headers=HEADERS, query=QUERY)) as client:
            await client.answer([request()])
            assert (await client.get(f"{mock.url}/v1/models")).status == 200
        sent = mock.bill.headers
    query = "?api-version=2024-10-21&q=a%20b%26c%3Dd%2F%C3%A9%2B%25&sig=s%2F3%2Bcr%3Dt"
    assert sent[":path"] == {f"/v1/embeddings{query}", f"/v1/models{query}"}
    assert (sent["x-team"], sent["user-agent"]) == ({"research"}, {"night"})
    assert (sent["x-auth"], sent["authorization"]) == ({"Token hunter-2 0f"}, {f"Bearer {KEY}"})


async def test_what_a_server_repeats_of_them_is_masked_but_no_name_of_a_model():
    echo = b'HTTP/1.1 400 Bad\r\ncontent-length: 58\r\n\r\n{"error": "research hunter-2 Token hunter-2 0f s%2F3%2Bcr%3Dt"}'
    echo = echo.replace(b"58", str(len(echo.partition(b"\r\n\r\n")[2])).encode())
    async with speaking(echo) as (url, _):
        error = await refused(url, headers=(*HEADERS, Addition("X", Secret("hunter-2"))), query=QUERY)
    assert str(error).endswith("*** *** *** ***")
    echo = Fault("status", status=404, body="research", path="/info")
    async with Mock([echo], key=KEY) as mock:
        async with HttpEndpoint(endpoint(mock.url, headers=HEADERS)) as client:
            assert (await client.get(f"{mock.url}/info")).body == b"***"
        routed = endpoint(mock.url, headers=(Addition("X-Model-Route", "m-large"),), model="m-large")
        async with HttpEndpoint(routed) as client:
            (answer,) = (await client.answer([request()])).settled
    assert answer.model == "m-large"


async def test_an_azure_deployment_takes_a_header_and_a_query():
    key, version = Addition("api-key", Secret(KEY)), Addition("api-version", "2024-10-21")
    async with Mock(key=KEY) as mock:
        base = replace(endpoint(""), url=f"{mock.url}/openai/deployments/embed", secret=None)
        kinds = []
        for headers, query in (((key,), (version,)), ((), (version,)), ((key,), ())):
            async with HttpEndpoint(replace(base, headers=headers, query=query)) as client:
                try:
                    assert len((await client.answer([request()])).settled) == 1
                except EndpointError as error:
                    kinds.append(error.kind)
    assert kinds == ["auth", "config"]


async def test_plain_http_goes_through_the_proxy_with_its_credential():
    async with Mock(key=KEY) as mock, Proxy("me:hun/ter2") as proxy:
        url = Secret(proxy.url.replace("//", "//me:hun%2Fter2@"))
        async with HttpEndpoint(endpoint(mock.url, proxy=url)) as client:
            assert len((await client.answer([request()])).settled) == 1
        assert [head.splitlines()[0] for head in proxy.heads] == [f"POST {mock.url}/v1/embeddings HTTP/1.1"]
        for wrong in (proxy.url, url.reveal().replace("ter2", "ter3")):
            error = await refused(mock.url, proxy=Secret(wrong))
            assert (error.kind, str(error)) == (
                "auth", f"the proxy {proxy.url[7:]} does not connect to {mock.url[7:]}: 407 Proxy "
                "Authentication Required",
            )  # fmt: skip
            assert "endpoint.proxy" in error.hint


async def test_https_is_tunnelled_and_the_proxy_sees_neither_key_nor_header(self_signed):
    async with speaking(whole(b"{}"), self_signed) as (url, received), Proxy() as proxy:
        error = await refused(url, proxy=Secret(proxy.url), headers=HEADERS)
    assert (error.kind, str(error)) == (
        "auth", f"the certificate of {url[8:]} is not valid: self-signed certificate",
    )  # fmt: skip
    assert [head.split(" HTTP")[0] for head in proxy.heads] == [f"CONNECT {url[8:]}"]
    assert "hunter-2" not in proxy.heads[0] and KEY not in proxy.heads[0] and received == []


@pytest.mark.parametrize(("status", "kind"), [
    ("502 Bad Gateway", "unreachable"), ("503 No", "unreachable"), ("403 Forbidden", "auth"),
])  # fmt: skip
async def test_a_proxy_that_does_not_connect_says_why(status, kind):
    async with Proxy(refuses=status) as proxy:
        error = await refused("https://far.example.com", proxy=Secret(proxy.url))
    assert (error.kind, str(error)) == (
        kind, f"the proxy {proxy.url[7:]} does not connect to far.example.com: {status}",
    )  # fmt: skip


async def test_a_proxy_that_is_away_is_named_and_not_the_server():
    with socket.create_server(("127.0.0.1", 0)) as used:
        away = f"127.0.0.1:{used.getsockname()[1]}"
    for url in ("https://far.example.com", "http://10.0.0.1:8000"):
        error = await refused(url, proxy=Secret(f"http://me:hunter2@{away}"))
        assert (error.kind, str(error)) == (
            "unreachable", f"cannot connect to the proxy {away} (connection refused)",
        )  # fmt: skip
    error = await refused("https://far.example.com", proxy=Secret("http://nosuchhost.invalid:3128"))
    assert str(error).startswith("cannot connect to the proxy nosuchhost.invalid:3128 (")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and answers no CONNECT
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        short = Deadline(0.1, 30, 30, 30)
        error = await refused("https://far.example.com", proxy=Secret(f"http://{place}"), deadline=short)
    assert (error.kind, str(error)) == (
        "unreachable", f"cannot connect to the proxy {place} (timed out)",
    )  # fmt: skip


async def test_a_password_goes_to_a_proxy_of_the_own_network_only(names, connected):
    names(proxy_box=[[PUBLIC]])
    error = await refused("https://far.example.com", proxy=Secret("http://me:hunter2@proxy.box:3128"))
    assert (error.kind, connected) == ("config", [])
    await refused("https://far.example.com", proxy=Secret("http://proxy.box:3128"))
    assert connected == [PUBLIC]


async def test_a_proxy_of_the_environment_is_a_hint_only(monkeypatch, connected):
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hunter2@proxy:3128")
    error = await refused("http://10.9.9.9:8000")
    assert (error.kind, connected) == ("unreachable", ["10.9.9.9"])
    assert error.hint == '$HTTPS_PROXY is not used: proxy = { env = "HTTPS_PROXY" }'
