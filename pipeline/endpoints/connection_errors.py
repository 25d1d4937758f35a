"""Why a server cannot be reached, in the words of the system, and the next step for its user."""

from __future__ import annotations

import errno
import os
import socket
import ssl

from pipeline.errors import EndpointError
from pipeline.text import printable

_KEPT = "; the same command resumes"
_NETWORK = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")
"""OpenSSL's reasons for a server that answers a handshake with something else."""

# X509_V_ERR_*, from OpenSSL's x509_vfy.h.
_WRONG_TIME = frozenset({9, 10})
_WRONG_NAME = frozenset({62, 63, 64})
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21, 27})


def unknown_host(place: str, error: OSError) -> EndpointError:
    """The error for a name without an address."""
    return EndpointError(
        "unknown_host",
        f"cannot connect to {place} (name not found: {_reason(error)})",
        hint=f"correct the host of `endpoint.url`, or check the network and its DNS{_KEPT}",
    )


def connect_timeout(place: str) -> EndpointError:
    """The error for a server at `HOST:PORT` that does not accept a connection in time."""
    return EndpointError(
        "unreachable",
        f"cannot connect to {place} (timed out)",
        hint=f"check `endpoint.url`, and a firewall or VPN on the way to it{_KEPT}",
    )


def no_connection(place: str, error: OSError) -> EndpointError:
    """The error for a connection that cannot be made."""
    step = "start the server, or correct the host or port of `endpoint.url`"
    if error.errno in _NETWORK:
        step = "check the network, and the host of `endpoint.url`"
    return EndpointError(
        "unreachable", f"cannot connect to {place} ({_reason(error)})", hint=f"{step}{_KEPT}"
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
        hint=f"{step}{_KEPT}",
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
        hint=f"the server must accept TLS 1.2 or later{_KEPT}",
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
