"""An HTTP proxy in front of a storage server on this machine, which does to some requests what networks do."""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

KINDS = ("503", "503 after", "reset", "reset after", "stall", "truncated", "short")
"""An error instead of the answer (`after`: although the server did what it was asked), a connection that is reset, an
answer that comes too late, a body that ends before its Content-Length, and one whose Content-Length lies with it."""
_STALL_SECONDS = 2.0


class FaultyProxy:
    """Passes requests on to `upstream`; a part of them, drawn from `seed`, goes wrong. A context manager.

    `seen` counts requests, `done` faults by kind; `rate` and `kinds` may be changed while it runs.
    """

    def __init__(self, upstream: str, rate: float = 0.05, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> None:
        self.rate, self.kinds = rate, kinds
        self.seen = 0
        self.done: Counter[str] = Counter()
        self._draws = random.Random(seed)
        self._lock = threading.Lock()
        host = urlsplit(upstream)
        assert host.hostname is not None
        self._upstream = (host.hostname, host.port or 80)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> "FaultyProxy":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def draw(self) -> str | None:
        """What happens to the next request; None: nothing."""
        with self._lock:
            self.seen += 1
            return self._draws.choice(self.kinds) if self._draws.random() < self.rate else None

    def count(self, kind: str) -> None:
        """A fault has happened."""
        with self._lock:
            self.done[kind] += 1

    def forward(
        self, method: str, path: str, body: bytes, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """The server's answer."""
        connection = http.client.HTTPConnection(*self._upstream, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: FaultyProxy

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up on a proxy like this one."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""

    def _handle(self) -> None:
        proxy = self.server.proxy
        body = self._body()
        fault = proxy.draw()
        if fault == "503":
            return self._refuse(fault)
        if fault == "reset":
            return self._reset(fault)
        dropped = ("connection", "transfer-encoding", "content-length", "expect")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        headers["Content-Length"] = str(len(body))
        answer, content = proxy.forward(self.command, self.path, body, headers)
        if fault == "503 after":
            return self._refuse(fault)
        if fault == "reset after" or (fault in ("truncated", "short") and not content):
            return self._reset("reset after")
        if fault == "stall":
            proxy.count(fault)
            time.sleep(_STALL_SECONDS)
        self.send_response(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                self.send_header(name, value)
        cut = content[: len(content) // 2] if fault in ("truncated", "short") else content
        length = len(cut) if fault == "short" else len(content)
        if self.command == "HEAD":
            length = int(answer.getheader("Content-Length", "0"))
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(cut)
        if fault in ("truncated", "short"):
            proxy.count(fault)
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _handle

    def _body(self) -> bytes:
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _refuse(self, kind: str) -> None:
        self.server.proxy.count(kind)
        content = b'{"error": {"code": 503, "message": "backend unavailable"}}'
        self.send_response(503)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _reset(self, kind: str) -> None:
        self.server.proxy.count(kind)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
