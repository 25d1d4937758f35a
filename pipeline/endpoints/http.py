"""The HTTP client: one session, own deadlines, capped answers, no redirects.

The defaults of every library are wrong for a batch: aiohttp waits 300 s in total, opens 100
connections, follows redirects with the body and reads answers of any size. Nothing here retries.
"""

from __future__ import annotations

import io
import json
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import quote, quote_plus, urlsplit

import aiohttp
import anyio
from aiohttp.http_exceptions import ContentEncodingError
from msgspec.structs import replace

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
from pipeline.errors import DescriptorError, EndpointError, ErrorKind
from pipeline.limits import awake
from pipeline.records import Answer, Answered, Endpoint, Failure, Get, Reply, Request
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
        text = endpoint.secret.reveal() if endpoint.secret else ""
        forms = {text, json.dumps(text)[1:-1], quote(text, safe=""), quote_plus(text)}
        self._key_forms = [form for form in forms if form]
        self._headers = {
            "content-type": "application/json",
            "accept": "*/*",
            "accept-encoding": "gzip, deflate",
        }
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=endpoint.deadline.connect_seconds, sock_connect=None, sock_read=None
        )

    async def __aenter__(self) -> HttpEndpoint:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            trust_env=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            skip_auto_headers=("user-agent",),
            headers=self._headers | {"user-agent": "textmill"},
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
                body = self._masked(body.decode("utf-8", "replace")).encode()
                body = without_echoes(body, [request.input for request in requests])
            settled = self.protocol.decode(
                endpoint, len(requests), reply.status, reply.headers, body
            )
        except EndpointError as error:
            error.args = (self._masked(str(error)),)
            if reply is not None:
                error.headers = reply.headers
                if not self._has_answered and is_misdirected(error, reply):
                    raise await self._diagnosed(call.url, reply, error) from None
            raise
        self._has_answered = True
        return Answered([self._without_key(outcome) for outcome in settled], reply.headers)

    async def _diagnosed(self, url: str, reply: Reply, error: EndpointError) -> EndpointError:
        """The error with its next step; calls that end at the same time are diagnosed once."""
        async with self._diagnosing:
            known = self._diagnoses.get((reply.status, str(error)))
            if known is None:
                known = await diagnosed(self.endpoint, url, reply, error, self.get)
                known.args = (self._masked(str(known)),)
                known.headers = error.headers
                self._diagnoses[reply.status, str(error)] = known
            return known

    def _without_key(self, settled: Answer | Failure) -> Answer | Failure:
        if isinstance(settled, Failure):
            return replace(settled, message=self._masked(settled.message))
        model = self._masked(settled.model)
        return settled if model == settled.model else replace(settled, model=model)

    async def get(self, url: str) -> Reply:
        """The reply to a GET. Raises: EndpointError if there is none."""
        return await self._exchange(url, None, {}, BASE_ANSWER_BYTES)

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
                    url,
                    data=io.BytesIO(body) if body is not None and large else body,
                    headers=headers,
                    allow_redirects=False,
                )
                status = response.status
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
            raise connect_timeout(urlsplit(url).netloc) from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise wrong_certificate(_place(error), error.certificate_error) from None
        except aiohttp.ClientConnectorSSLError as error:
            raise no_secure_connection(
                _place(error), error.os_error, has_replied=self._speaks_http
            ) from None
        except aiohttp.ClientConnectorError as error:
            if error.os_error.errno in DescriptorError.errnos or descriptors_are_used_up():
                raise DescriptorError(f"endpoint `{self.endpoint.name}`") from None
            if isinstance(error, aiohttp.ClientConnectorDNSError):
                raise unknown_host(_place(error), error.os_error) from None
            raise no_connection(_place(error), error.os_error) from None
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

    def _masked(self, message: str) -> str:
        """The message without our key: some servers echo the headers that they reject.

        Answers are not changed: a key such as `ollama` is a word.
        """
        for form in self._key_forms:
            message = message.replace(form, "***")
        return message

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
