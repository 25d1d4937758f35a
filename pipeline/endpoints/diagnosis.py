"""Why a server cannot be reached, or does not answer as its kind does; and the next step.

A call that no retry can save ends the run anyway, so the server is asked some questions first: does
it answer the lookup of this kind, or of another one, at this base URL or near it? The answers name
the right `endpoint.url`, kind or model; where there are none, the usual mistake of the kind is
named. No question holds a text of the user, and all go to the host of the job.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import anyio

from pipeline.endpoints.error_bodies import read_body
from pipeline.endpoints.kinds import KINDS
from pipeline.endpoints.network.reply import Get, Reply
from pipeline.errors import EndpointError, TextmillError, UsageError
from pipeline.records import Endpoint
from pipeline.text import did_you_mean, printable

_AGAIN = "; then run the same command again"
_NETWORK = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")
"""OpenSSL's reasons for a server that answers a handshake with something else."""

# X509_V_ERR_*, from OpenSSL's x509_vfy.h.
_WRONG_TIME = frozenset({9, 10})
_WRONG_NAME = frozenset({62, 63, 64})
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21, 27})

_NO_ROUTE = frozenset({404, 405, 410, 421, 501})
_MODEL = re.compile(r"mod[eè]l|模型|モデル", re.IGNORECASE)

SECONDS = 5.0
MAX_BASES = 6
_SHOWN_MODELS = 5


class Server(NamedTuple):
    """A server that answers the lookup of a kind."""

    kind: str
    url: str
    models: tuple[str, ...]


def is_misdirected(error: EndpointError, reply: Reply) -> bool:
    """True if the call may have reached another place than the user means: a page instead of an
    answer, a redirect, a route or a model that is not there."""
    if error.ask_with:
        return False
    if reply.status == 200:
        return read_body(reply.body).is_page
    is_of_place = reply.status in _NO_ROUTE or 300 <= reply.status < 400
    return error.facts.stops_with is UsageError and (is_of_place or _names_model(error))


def _names_model(error: EndpointError) -> bool:
    return _MODEL.search(str(error)) is not None


async def diagnosed(
    endpoint: Endpoint, called: str, reply: Reply, error: EndpointError, get: Get
) -> EndpointError:
    """The error with the URL that was called, and the next step as its hint.

    A page with a 200 becomes `config` where the service is found elsewhere; else it stays what it
    is, because a gateway may show a page for a while.
    """
    target = _redirect_target(called, reply) if 300 <= reply.status < 400 else ""
    route = called.removeprefix(endpoint.url)
    server = None if target else await _find(endpoint, get)
    hint = (
        _redirect_hint(endpoint, target, route)
        if target
        else _hint(endpoint, server, route, names_model=_names_model(error))
    )
    message = f"the server redirects to {target}, which is never followed" if target else str(error)
    is_elsewhere = server is not None and server[:2] != (endpoint.kind, endpoint.url)
    kind = "config" if is_elsewhere or reply.status != 200 else error.kind
    return EndpointError(
        kind, f"{message} (POST {printable(called, 300)})", status=error.status, hint=hint
    )


def _redirect_target(called: str, reply: Reply) -> str:
    """Where the reply redirects to, without query and user, which may hold secrets."""
    parts = urlsplit(urljoin(called, reply.headers.get("location", "")))
    host = parts.netloc.rpartition("@")[2]
    return printable(f"{parts.scheme}://{host}{parts.path}", 300)


def _redirect_hint(endpoint: Endpoint, target: str, route: str) -> str:
    base = target.removesuffix("/").removesuffix(route)
    if base != target.removesuffix("/") and base != endpoint.url:
        return f'endpoint.url = "{base}", if you trust that server'
    return "is it a login page, or another path of the service? correct `endpoint.url`"


def _hint(
    endpoint: Endpoint, server: Server | None, route: str, *, names_model: bool
) -> str | None:
    kind = KINDS[endpoint.kind]
    if server is None:
        return kind.url_hint or None
    if server.kind != endpoint.kind:
        other = KINDS[server.kind]
        if endpoint.task not in other.tasks:
            return f"{server.url} is {other.service}, which does not serve {endpoint.task}"
        return f'it is {other.service}: kind = "{server.kind}", url = "{server.url}"'
    if server.url != endpoint.url:
        return f'endpoint.url = "{server.url}": there the server answers'
    listed = ", ".join(f"`{printable(name, 80)}`" for name in server.models[:_SHOWN_MODELS])
    listed += ", ..." if len(server.models) > _SHOWN_MODELS else ""
    if not names_model:
        served = f"; it serves {listed}" if listed else ""
        return f"the server has no {route}: does its model do {endpoint.task}?{served}"
    if endpoint.model and listed and endpoint.model not in server.models:
        near = did_you_mean(endpoint.model, server.models)
        return f"endpoint.model is not one of the server's models{near}: {listed}"
    return None


async def _find(endpoint: Endpoint, get: Get) -> Server | None:
    """The server at the base URL of the endpoint, or near it: first as its own kind."""
    found: dict[tuple[int, int], Server] = {}

    async def ask(rank: tuple[int, int], kind: str, base: str) -> None:
        try:
            reply = await get(f"{base}{KINDS[kind].lookup}")
        except (EndpointError, TextmillError):
            return
        models = KINDS[kind].protocol().served_models(reply.body) if reply.status == 200 else None
        if models is not None:
            found[rank] = Server(kind, base, models)

    kinds = [name for name, kind in KINDS.items() if kind.lookup]
    if endpoint.kind not in kinds:
        return None
    kinds.sort(key=lambda name: name != endpoint.kind)
    bases = list(bases_near(endpoint.url))[:MAX_BASES]
    with anyio.move_on_after(SECONDS):
        await ask((0, 0), endpoint.kind, endpoint.url)
        if not found:
            async with anyio.create_task_group() as asking:
                for at, kind in enumerate(kinds):
                    for near, base in enumerate(bases):
                        asking.start_soon(ask, (at, near), kind, base)
    return found[min(found)] if found else None


def bases_near(url: str) -> Iterator[str]:
    """Base URLs that are often meant instead: without the last parts of its path, with `/v1`."""
    parts = urlsplit(url)
    segments = [part for part in parts.path.split("/") if part]
    seen = set()
    for count in range(len(segments), -1, -1):
        path = "".join(f"/{part}" for part in segments[:count])
        for base in (path, path if path.endswith("/v1") else f"{path}/v1"):
            if base not in seen:
                seen.add(base)
                yield f"{parts.scheme}://{parts.netloc}{base}"


def unknown_host(place: str, error: OSError) -> EndpointError:
    """The error for a name without an address."""
    return EndpointError(
        "unknown_host",
        f"cannot connect to {place} (name not found: {_reason(error)})",
        hint=f"correct the host of `endpoint.url`, or check the network and its DNS{_AGAIN}",
    )


def connect_timeout(place: str) -> EndpointError:
    """The error for a server at `HOST:PORT` that does not accept a connection in time."""
    return EndpointError(
        "unreachable",
        f"cannot connect to {place} (timed out)",
        hint=f"check `endpoint.url`, and a firewall or VPN on the way to it{_AGAIN}",
    )


def no_connection(place: str, error: OSError) -> EndpointError:
    """The error for a connection that cannot be made."""
    step = "start the server, or correct the host or port of `endpoint.url`"
    if error.errno in _NETWORK:
        step = "check the network, and the host of `endpoint.url`"
    return EndpointError(
        "unreachable", f"cannot connect to {place} ({_reason(error)})", hint=f"{step}{_AGAIN}"
    )


def wrong_certificate(place: str, error: Exception) -> EndpointError:
    """The error for a certificate that is not accepted; it names the problem."""
    code = getattr(error, "verify_code", 0)
    problem = getattr(error, "verify_message", "") or str(error)
    step = "correct the certificate of the server"
    if code in _WRONG_TIME:
        step = "renew it on the server, or correct the clock of this machine"
    elif code in _WRONG_NAME:
        step = "use a host in `endpoint.url` that the certificate names"
    elif code in _UNKNOWN_AUTHORITY:
        step = "make its authority known: export SSL_CERT_FILE=/path/to/ca.pem"
    return EndpointError(
        "auth",
        f"the certificate of {place} is not valid: {printable(problem.rstrip('.'), 200)}",
        hint=f"{step}{_AGAIN}",
    )


def no_secure_connection(place: str, error: OSError, *, has_replied: bool) -> EndpointError:
    """The error for a handshake that failed; `has_replied`: others before it did not."""
    reason = str(getattr(error, "reason", "") or "")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return no_connection(place, error)
    if reason in _NO_TLS and not has_replied:
        return EndpointError(
            "config",
            f"{place} does not speak TLS",
            hint="write http:// in `endpoint.url`, or the port of its https",
        )
    return EndpointError(
        "auth",
        f"no secure connection to {place} ({printable(_words(reason or str(error)), 100)})",
        hint=f"the server must accept TLS 1.2 or later{_AGAIN}",
    )


def _words(reason: str) -> str:
    return reason.replace("_", " ").lower()


def _reason(error: OSError) -> str:
    """The reason in the words of the system, first letter in lower case.

    The loop's own text is `Connect call failed (...)`. A failed look-up of a name has error numbers
    of its own, below 0.
    """
    is_of_system = not isinstance(error, socket.gaierror) and (error.errno or 0) > 0
    text = os.strerror(error.errno or 0) if is_of_system else error.strerror or str(error)
    return printable(text[:1].lower() + text[1:], 200)
