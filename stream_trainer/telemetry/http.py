"""The one port a trainer opens: `/metrics` for Prometheus, `/livez` and `/readyz` for a supervisor. Read only.

Bound to this machine unless told otherwise, and small on purpose: GET only, one request a connection, a few threads,
and every connection is closed after `request_s_max`, however slowly the other side talks. No control, no TLS, no
passwords: put a proxy before it where the network is not yours.
"""

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from stream_trainer.errors import ConfigError
from stream_trainer.telemetry.health import Health

__all__ = ["TelemetryServer"]

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 8  # a scraper, two probes, a person, and room
TEXT = "text/plain; charset=utf-8"


class TelemetryServer:
    """Serves a registry and two probes from daemon threads, from `start` until `close`.

    Raises: ConfigError when the address cannot be listened on, at once and not at `start`.

    >>> def well() -> Health:
    ...     return Health(ok=True)
    >>> server = TelemetryServer(CollectorRegistry(), port=0, live=well, ready=well)
    >>> server.port > 0
    True
    >>> server.close()
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        live: Callable[[], Health],
        ready: Callable[[], Health],
        address: str = "127.0.0.1",  # whoever opens it to the network says so
        port: int = 9464,  # 0: any free one, see `port`
        request_s_max: float = 10.0,  # Prometheus gives up after 10 s too
    ) -> None:
        self._live, self._ready, self._registry = live, ready, registry
        try:
            self._server = _Server(address, port, self._answer, request_s_max)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"telemetry: cannot listen on {address} port {port}: {error}. If another program is there (an older "
                "trainer?), stop it or set telemetry.port to a free port, 0 for any; if the address is not one of "
                "this machine, set telemetry.address."
            ) from error
        self.address = address
        self.port: int = self._server.server_address[1]
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="telemetry", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and hang up on everybody. May be called twice, and without `start`."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()

    def _answer(self, path: str, accept: str) -> tuple[int, str, bytes]:
        """Status, content type and body of a GET."""
        if path == "/metrics":
            encode, content_type = choose_encoder(accept)
            return HTTPStatus.OK, content_type, encode(self._registry)
        if path == "/livez":
            return _probe(self._live)
        if path == "/readyz":
            return _probe(self._ready)
        return HTTPStatus.NOT_FOUND, TEXT, b"Not here. There is /metrics, /livez and /readyz.\n"


def _probe(ask: Callable[[], Health]) -> tuple[int, str, bytes]:
    health = ask()
    body = json.dumps({"ok": health.ok, "reasons": list(health.reasons)}) + "\n"
    return HTTPStatus.OK if health.ok else HTTPStatus.SERVICE_UNAVAILABLE, "application/json", body.encode()


class _Server(ThreadingMixIn, TCPServer):
    """Not http.server.HTTPServer: that one asks DNS for its own name before it listens."""

    allow_reuse_address = True  # a restart must not wait for the last scrape's TIME_WAIT
    daemon_threads = True
    request_queue_size = 16

    def __init__(
        self,
        address: str,
        port: int,
        answer: Callable[[str, str], tuple[int, str, bytes]],
        request_s_max: float,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.answer = answer
        self._request_s_max = request_s_max
        self._open: dict[socket.socket, float] = {}  # connection -> when it must be over
        self._open_lock = threading.Lock()
        super().__init__((address, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            full = len(self._open) >= CONNECTIONS_MAX
            if not full:
                self._open[request] = time.monotonic() + self._request_s_max
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Between two accepts: hang up where the time is over. A socket timeout would start anew with every byte."""
        self._hang_up(time.monotonic())

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def server_close(self) -> None:
        TCPServer.server_close(self)
        self._hang_up(float("inf"))

    def _hang_up(self, now_s: float) -> None:
        with self._open_lock:
            late = [request for request, until_s in self._open.items() if until_s <= now_s]
            for request in late:
                with contextlib.suppress(OSError):  # the other side was first
                    request.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it; that thread closes it

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("telemetry: a client went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "stream_trainer", ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        try:
            status, content_type, body = self.server.answer(path, self.headers.get("Accept", ""))
        except Exception as error:  # a probe that cannot answer is not healthy, and its reason belongs in our log
            log.exception("telemetry: %s failed", path)
            status, content_type = HTTPStatus.SERVICE_UNAVAILABLE, TEXT
            body = f"{path} failed with {type(error).__name__}; the log of the trainer says more.\n".encode()
        self._send(status, content_type, body)

    def _refuse(self) -> None:
        self._send(HTTPStatus.METHOD_NOT_ALLOWED, TEXT, b"This port is read only: GET.\n")

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("telemetry: " + format, *args)
