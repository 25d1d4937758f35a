"""The proxy of an endpoint: where it is, and how to sign in."""

from __future__ import annotations

import base64
import os
from urllib.parse import unquote, urlsplit

from pipeline.secret import Secret


class Proxy:
    """The parts of the URL of an HTTP proxy, which may hold a user and a password."""

    def __init__(self, url: Secret) -> None:
        parts = urlsplit(url.reveal())
        self.place = f"{parts.hostname}:{parts.port or 80}"
        """`HOST:PORT`, for messages."""
        self.url = f"http://{parts.netloc.rpartition('@')[2]}"
        """Without user and password."""
        self.headers: dict[str, str] = {}
        """Those that sign in: of a tunnel to `https://`, else of each call."""
        self.secrets: list[str] = []
        """What no message may show."""
        if parts.username is not None:
            user, password = unquote(parts.username), unquote(parts.password or "")
            code = base64.b64encode(f"{user}:{password}".encode()).decode()
            self.headers = {"proxy-authorization": f"Basic {code}"}
            self.secrets = [code, password]


def unused_proxy() -> str | None:
    """The hint for a machine whose environment names a proxy that the job does not."""
    names = [name for name in ("HTTPS_PROXY", "https_proxy") if os.environ.get(name)]
    return f'${names[0]} is not used: proxy = {{ env = "{names[0]}" }}' if names else None
