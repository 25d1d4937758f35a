"""A web server of files on the loopback that can misbehave: no ranges, no ETag, redirects, cuts."""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class FileServer:
    """`files` by path; `requests` that came, with their headers."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.not_found: dict[str, str] = {}
        """Headers of a 404."""
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.etag = self.ranges = True
        self.cut_after = 0
        """Bytes of a body after which the connection ends, while `cuts` are left."""
        self.cuts = 0
        self.statuses: list[int] = []
        """Sent instead of the next answers."""
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        self.requests.append((handler.path, {k.lower(): v for k, v in handler.headers.items()}))
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            return self._send(handler, status, {}, b"")
        if path in self.redirects:
            return self._send(handler, 302, {"Location": self.redirects[path]}, b"")
        path = path if path in self.files else unquote(path)
        if path not in self.files:
            return self._send(handler, 404, self.not_found, b"")
        body = self.files[path]
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()[:16]}"'} if self.etag else {}
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        if ranged is None or not self.ranges:
            return self._send(handler, 200, headers, body)
        start, end = int(ranged[1]), min(len(body), int(ranged[2] or len(body)) + 1)
        if start >= len(body):
            return self._send(handler, 416, headers | {"Content-Range": f"bytes */{len(body)}"}, b"")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
        return self._send(handler, 206, headers, body[start:end])

    def _send(self, handler, status, headers, body) -> None:
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if self.cuts and len(body) > self.cut_after:
            self.cuts -= 1
            body = body[: self.cut_after]
        handler.wfile.write(body)


@contextmanager
def serving_files(server: FileServer | None = None) -> Iterator[FileServer]:
    """The server, on a port of its own."""
    server = server or FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.answer(self)

        do_HEAD = do_POST = do_GET

        def log_message(self, *args):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{listening.server_port}"
    thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
