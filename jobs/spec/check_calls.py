"""Checks of what a job adds to its calls: headers, a query, a proxy.

A header is the place where most services want a credential, so here a text is taken for one sooner
than elsewhere in a job: by the name under which it is sent, or because it looks random.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from jobs.secrets import Reference, looks_random, looks_secret
from jobs.spec.keys import KeyLocations
from pipeline.addresses import literal, problem

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_OF_THE_CLIENT = {
    *("accept-encoding", "content-encoding", "content-length", "content-type", "expect", "host"),
    *("connection", "http2-settings", "keep-alive", "proxy-authenticate", "proxy-authorization"),
    *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
}
"""Headers of the message or of the connection. Source: RFC 9110, 7.6.1."""

_SECRET_WORDS = {"password", "passwd", "pwd", "passphrase", "secret", "credential", "credentials",
                 "authorization", "cookie", "jwt", "bearer"}  # fmt: skip
_SECRET_NOUNS = _SECRET_WORDS | {"key", "apikey", "token", "auth", "signature", "sig", "pat", "sas"}
"""In the last place: an `api-key` is a key, a `token-limit` is a limit."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
"""Host and port of a URL."""


def check_headers(
    key: str, headers: Mapping[str, str | Reference], locations: KeyLocations, *, has_key: bool
) -> None:
    """Refuses names and values that no header can have, those of the client, and credentials."""
    seen = set()
    for name, value in headers.items():
        full, lower = f"{key}.{name}", name.lower()
        if not _HEADER_NAME.fullmatch(name):
            raise locations.wrong(full, "is not the name of a header")
        if lower in _OF_THE_CLIENT:
            raise locations.wrong(full, "is set by textmill itself")
        if lower == "authorization" and has_key:
            raise locations.wrong(full, f"is set by {key.rpartition('.')[0]}.api_key, use one")
        if lower in seen:
            raise locations.wrong(full, "is set twice: case does not count in names of headers")
        seen.add(lower)
        if isinstance(value, Reference):
            continue
        _check_text(full, name, value, locations)
        if not value.strip() or value != value.strip():
            raise locations.wrong(full, "must not be empty, begin or end with a blank")
        if not value.isascii():
            raise locations.wrong(full, "must be ASCII")
        if locations.on_command_line(full):
            # The register of runs keeps the command line, and no value of a header.
            raise locations.wrong(
                full,
                "the value of a header must be in the job file, or a reference",
                addition_hint(name),
            )


def check_query(key: str, query: Mapping[str, str | Reference], locations: KeyLocations) -> None:
    """Refuses names that no query can have, and credentials."""
    for name, value in query.items():
        full = f"{key}.{name}"
        if not name or not name.isprintable():
            raise locations.wrong(full, "is not a name of a query")
        if isinstance(value, str):
            _check_text(full, name, value, locations)


def query_of_url(key: str, url: str, locations: KeyLocations) -> tuple[str, dict[str, str]]:
    """The URL without its query, and its query by name, as if it was under `query`."""
    base, sign, text = url.partition("?")
    pairs = parse_qsl(text, keep_blank_values=True)
    if sign and ("#" in url or len(dict(pairs)) < max(1, len(pairs)) or "@" in base):
        return url, {}  # refused with the URL
    for name, value in pairs:
        if _is_secret(name, value):
            hint = f"query = {{ {addition_hint(name)} }}"
            raise locations.wrong(key, "must not hold a secret in its query", hint)
    return base, dict(pairs)


def check_proxy(key: str, proxy: str | Reference | None, locations: KeyLocations) -> None:
    """Refuses a URL that is not one of an HTTP proxy, or holds a password."""
    if not isinstance(proxy, str):
        return
    if "@" in proxy:
        raise locations.wrong(
            key, "must not hold a user or password", 'proxy = { env = "HTTPS_PROXY" }'
        )
    if wrong := proxy_problem(proxy):
        raise locations.wrong(key, wrong)


def proxy_problem(url: str) -> str | None:
    """What is wrong with the URL of a proxy, without the URL; None: nothing."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme != "http":
        return (
            "must be the URL of an HTTP proxy, http://HOST:PORT (https:// is tunnelled through it)"
        )
    place = parts.netloc.rpartition("@")[2]
    if port == 0 or not url.isascii() or not url.isprintable() or not AUTHORITY.fullmatch(place):
        return "has no valid host and port"
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        return "must be http://HOST:PORT without a path"
    address = literal(host)
    error = problem(address, is_clear=parts.username is not None) if address else None
    return str(error) if error else None


def _check_text(key: str, name: str, value: str, locations: KeyLocations) -> None:
    if _is_secret(name, value):
        raise locations.wrong(
            key, "looks like a secret, which a job must not hold", addition_hint(name)
        )


def _is_secret(name: str, value: str) -> bool:
    return names_secret(name) or looks_secret(value) or looks_random(value)


def names_secret(name: str) -> bool:
    """True for the name of a credential: `api-key`, `X-Auth-Token`, `subscriptionKey`, `Cookie`."""
    words = [word.lower() for word in _WORD.findall(name)]
    return bool(_SECRET_WORDS & set(words)) or (bool(words) and words[-1] in _SECRET_NOUNS)


def addition_hint(name: str) -> str:
    """The reference to write instead of a value."""
    variable = "_".join(_WORD.findall(name)).upper() or "NAME"
    bare = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'
    return f'{bare} = {{ env = "{variable}" }}'
