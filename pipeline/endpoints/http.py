"""The HTTP client: one session, own deadlines, capped answers, no redirects, judged addresses.

The defaults of every library are wrong for a batch: aiohttp waits 300 s in total, opens 100
connections, follows redirects with the body and reads answers of any size. Nothing here retries.
"""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import quote, urlencode, urlsplit

import aiohttp
import anyio
from aiohttp.http_exceptions import ContentEncodingError
from msgspec.structs import replace
from yarl import URL

from pipeline.addresses import AddressError
from pipeline.disk.durable import descriptors_are_used_up
from pipeline.endpoints.diagnosis import (
    connect_timeout,
    diagnosed,
    is_misdirected,
    no_connection,
    no_secure_connection,
    unknown_host,
    wrong_certificate,
)
from pipeline.endpoints.error_bodies import without_echoes
from pipeline.endpoints.kinds import KINDS
from pipeline.endpoints.network.connector import connector
from pipeline.endpoints.network.proxy import Proxy, unused_proxy
from pipeline.endpoints.network.reply import Get, Reply
from pipeline.errors import DescriptorError, EndpointError, ErrorKind
from pipeline.limits import awake
from pipeline.records import Answer, Answered, Endpoint, Failure, Request
from pipeline.secret import Addition, Mask, Secret
from pipeline.text import printable

MAX_HEADER_BYTES = 64 << 10
MAX_HEADERS = 1_000
LARGE_BODY_BYTES = 512 << 10
BASE_ANSWER_BYTES = 4 << 20
ANSWER_BYTES_PER_REQUEST = 256 << 10
"""8,192 floats in decimal digits with blanks; a long text has the base in addition."""


Confirm = Callable[[Get], Awaitable[None]]
"""Asks the server for its identity, through the `get` of its client; see `server_info`."""


class HttpEndpoint:
    """Answers requests over HTTP. Use as an async context manager around all its calls.

    `confirm` is awaited before the first call, if the server could not be identified earlier.
    """

    def __init__(self, endpoint: Endpoint, confirm: Confirm | None = None) -> None:
        self.endpoint = endpoint
        self.protocol = KINDS[endpoint.kind].protocol()
        self._confirm = confirm
        self._confirming = anyio.Lock()
        self._diagnosing = anyio.Lock()
        self._diagnoses: dict[tuple[int, str], EndpointError] = {}
        self._speaks_http = False
        self._has_answered = False
        self._proxy = Proxy(endpoint.proxy) if endpoint.proxy else None
        additions = (*endpoint.headers, *endpoint.query)
        secrets = _maskable([each for each in additions if isinstance(each.value, Secret)])
        secrets += self._proxy.secrets if self._proxy else []
        secrets += [endpoint.secret.reveal()] if endpoint.secret else []
        self._mask_secrets = Mask(secrets)
        self._mask = Mask([*secrets, *_maskable(endpoint.headers)])
        self._query = urlencode([(e.name, e.text) for e in endpoint.query], quote_via=quote)
        # Never as headers of the session: a proxy gets those before the tunnel through it exists.
        self._headers = {
            "accept": "*/*",
            "user-agent": "textmill",
            **{each.name.lower(): each.text for each in endpoint.headers},
            "content-type": "application/json",
            "accept-encoding": "gzip, deflate",
        }
        sign_in = self._proxy.headers if self._proxy else {}
        self._is_encrypted = endpoint.url.startswith("https:")
        self._proxy_headers = sign_in if self._is_encrypted else {}
        self._headers |= {} if self._is_encrypted else sign_in
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=endpoint.deadline.connect_seconds, sock_connect=None, sock_read=None
        )

    async def __aenter__(self) -> HttpEndpoint:
        is_clear = not self._is_encrypted or bool(self._proxy_headers)
        self._session = aiohttp.ClientSession(
            connector=connector(is_clear=is_clear and not self.endpoint.allow_http),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            trust_env=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            skip_auto_headers=("user-agent",),
            proxy=self._proxy.url if self._proxy else None,
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._session.close()

    async def answer(self, requests: Sequence[Request]) -> Answered:
        """One answer or failure per request. Raises: EndpointError for the call as a whole."""
        if self._confirm is not None:
            await self._confirm_once()
        endpoint = self.endpoint
        try:
            return await self._answer(endpoint, requests)
        except EndpointError as error:
            if error.ask_with and self.endpoint is endpoint:  # else another call has learned it
                parameters = endpoint.parameters | dict(error.ask_with)
                self.endpoint = replace(endpoint, parameters=parameters)
            raise

    async def _confirm_once(self) -> None:
        """Calls that begin at the same time wait for the first of them."""
        async with self._confirming:
            if self._confirm is not None:
                await self._confirm(self.get)
                self._confirm = None

    async def _answer(self, endpoint: Endpoint, requests: Sequence[Request]) -> Answered:
        call = self.protocol.encode(endpoint, requests)
        max_bytes = BASE_ANSWER_BYTES + ANSWER_BYTES_PER_REQUEST * len(requests)
        reply: Reply | None = None
        try:
            reply = await self._exchange(call.url, call.body, dict(call.headers), max_bytes)
            body = reply.body
            if reply.status != 200:  # before a part of it is quoted
                body = self._mask(body.decode("utf-8", "replace")).encode()
                body = without_echoes(body, [request.input for request in requests])
            settled = self.protocol.decode(
                endpoint, len(requests), reply.status, reply.headers, body
            )
        except EndpointError as error:
            error.args = (self._mask(str(error)),)
            if reply is not None:
                error.headers = reply.headers
                if not self._has_answered and is_misdirected(error, reply):
                    raise await self._diagnosed(call.url, reply, error) from None
            if not error.facts.is_sent and self._proxy is None:
                error.own_hint = unused_proxy() or error.own_hint
            raise
        self._has_answered = True
        return Answered([self._without_key(outcome) for outcome in settled], reply.headers)

    async def _diagnosed(self, url: str, reply: Reply, error: EndpointError) -> EndpointError:
        """The error with its next step; calls that end at the same time are diagnosed once."""
        async with self._diagnosing:
            known = self._diagnoses.get((reply.status, str(error)))
            if known is None:
                known = await diagnosed(self.endpoint, url, reply, error, self.get)
                known.args = (self._mask(str(known)),)
                known.headers = error.headers
                self._diagnoses[reply.status, str(error)] = known
            return known

    def _without_key(self, settled: Answer | Failure) -> Answer | Failure:
        if isinstance(settled, Failure):
            return replace(settled, message=self._mask(settled.message))
        # The name of a model may be in a header that chooses it: that one is no secret.
        model = self._mask_secrets(settled.model)
        return settled if model == settled.model else replace(settled, model=model)

    async def get(self, url: str) -> Reply:
        """The reply to a GET, masked if it is a refusal. Raises: EndpointError if there is none."""
        status, headers, body = await self._exchange(url, None, {}, BASE_ANSWER_BYTES)
        if status != 200:
            body = self._mask(body.decode("utf-8", "replace")).encode()
        return Reply(status, headers, body)

    async def _exchange(
        self, url: str, body: bytes | None, headers: dict[str, str], max_bytes: int
    ) -> Reply:
        deadline = self.endpoint.deadline
        if self.endpoint.secret is not None:
            headers["authorization"] = f"Bearer {self.endpoint.secret.reveal()}"
        # One scope for all the deadlines: entering three of them was a quarter of the loop's time.
        status: int | None = None
        started = awake.now()
        ends = started + deadline.call_seconds
        try:
            with anyio.CancelScope() as scope, awake.Deadline(scope) as due:
                first = deadline.connect_seconds + deadline.first_byte_seconds
                due.move(min(ends, started + first))
                # aiohttp writes large bytes in one go, with a warning; it splits a stream.
                large = body is not None and len(body) > LARGE_BODY_BYTES
                response = await self._session.request(
                    "GET" if body is None else "POST",
                    self._with_query(url),
                    data=io.BytesIO(body) if body is not None and large else body,
                    headers=self._headers | headers,
                    allow_redirects=False,
                    proxy_headers=self._proxy_headers,
                )
                status = response.status
                if status == 407 and self._proxy is not None:
                    response.close()
                    raise self._refused_by_proxy(self._proxy, status, str(response.reason))
                try:
                    read = await self._read(response, due, ends, max_bytes)
                except BaseException:
                    response.close()
                    raise
                self._speaks_http = True
                return Reply(response.status, response.headers, read)
            waited = awake.now() - started
            raise EndpointError(
                "ambiguous", f"no complete answer within {waited:.0f} s", status=status
            )
        except aiohttp.ConnectionTimeoutError:  # a TimeoutError, but nothing was sent
            place = self._proxy.place if self._proxy else urlsplit(url).netloc
            raise connect_timeout(self._shown(place)) from None
        except aiohttp.ClientHttpProxyError as error:
            raise self._refused_by_proxy(self._proxy, error.status, error.message) from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise wrong_certificate(_place(error), error.certificate_error) from None
        except aiohttp.ClientConnectorSSLError as error:
            raise no_secure_connection(
                _place(error), error.os_error, has_replied=self._speaks_http
            ) from None
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, AddressError):
                hint = error.os_error.hint
                raise EndpointError("config", str(error.os_error), hint=hint) from None
            if error.os_error.errno in DescriptorError.errnos or descriptors_are_used_up():
                raise DescriptorError(f"endpoint `{self.endpoint.name}`") from None
            if isinstance(error, aiohttp.ClientConnectorDNSError):
                raise unknown_host(self._shown(_place(error)), error.os_error) from None
            raise no_connection(self._shown(_place(error)), error.os_error) from None
        except (aiohttp.ClientError, OSError) as error:
            if (problem := _unreadable(error)) is not None:
                # A server that never gave a readable reply will not give one next time.
                kind: ErrorKind = "ambiguous" if self._speaks_http else "config"
                raise EndpointError(kind, problem, status=status) from None
            # Sent, or in part: the server may have answered and billed it.
            raise EndpointError(
                "ambiguous",
                f"the connection broke: {type(error).__name__} {printable(str(error), 99)}".strip(),
                status=status,
            ) from None

    def _shown(self, place: str) -> str:
        """`HOST:PORT` for a message, named as the proxy if it is the proxy's."""
        is_proxy = self._proxy is not None and place == self._proxy.place
        return f"the proxy {place}" if is_proxy else place

    def _with_query(self, url: str) -> URL:
        """The URL that is called; the query is already percent-encoded."""
        sign = "&" if "?" in url else "?"
        return URL(f"{url}{sign}{self._query}" if self._query else url, encoded=True)

    def _refused_by_proxy(self, proxy: Proxy | None, status: int, reason: str) -> EndpointError:
        """The error of a proxy that opened no connection: nothing was sent to the server."""
        host = urlsplit(self.endpoint.url).netloc
        problem = f"the proxy {proxy.place if proxy else ''} does not connect to {host}"
        kind: ErrorKind = "unreachable" if status >= 500 or status == 429 else "auth"
        return EndpointError(
            kind,
            self._mask(f"{problem}: {status} {printable(reason, 99)}".strip()),
            hint="check `endpoint.proxy`, its user and its password",
        )

    async def _read(
        self,
        response: aiohttp.ClientResponse,
        due: awake.Deadline,
        ends: float,
        max_bytes: int,
    ) -> bytes:
        idle_seconds = self.endpoint.deadline.idle_seconds
        pieces: list[bytes] = []
        size = 0
        async with response:
            while True:
                due.move(min(ends, awake.now() + idle_seconds))
                piece = await response.content.readany()
                if not piece:
                    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
                size += len(piece)
                if size > max_bytes:
                    raise EndpointError(
                        "invalid", f"an answer of more than {max_bytes:,} bytes is too large"
                    )
                pieces.append(piece)


def _maskable(additions: Sequence[Addition]) -> list[str]:
    """The values that are hidden in messages; `1` or `en` would hide half of a message."""
    return [text for each in additions if len(text := each.text) >= 4]


def _unreadable(error: Exception) -> str | None:
    """The problem with a reply that no client of ours can read; None for a connection that
    broke."""
    is_encoded = isinstance(error.__cause__, ContentEncodingError)
    if not isinstance(error, aiohttp.ClientResponseError) and not is_encoded:
        return None
    text = str(getattr(error, "message", "") or error.__cause__)
    if "bytes when reading" in text:
        return f"the reply has a header of more than {MAX_HEADER_BYTES:,} bytes"
    if "oo many headers" in text:
        return f"the reply has more than {MAX_HEADERS:,} headers"
    if "content-encoding" in text:
        name = text.split("content-encoding:")[-1].split(".")[0].strip()
        return f"the reply is compressed with {name}, which was not asked for or is damaged"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    start = next((line for line in lines if line.startswith("b'")), "")
    secure = " (TLS: does the URL need https?)" if start.startswith(r"b'\x15\x03") else ""
    return f"the reply is not HTTP: {printable(start or ' '.join(lines), 80)}{secure}"


def _place(error: aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError) -> str:
    """`HOST:PORT`. The error's own text shows `ssl:default` for plain HTTP, and the reason at its
    end, where lines are cut."""
    return f"{error.host}:{error.port}"
