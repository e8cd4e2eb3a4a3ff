"""HTTP around the server: one thread a connection, kept alive; faults that break connections; remote steering.

Steering from other processes, JSON both ways: ``POST /local/faults`` (fields of Fault, or a list of them),
``POST /local/behaviour`` (fields of Behaviour), ``POST /local/clear``, ``GET /local/log``, ``GET /local/counters``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from rsembed.testing.earth_engine.behaviour import STATUS_NAMES, Fault, Latency, RequestRecord
from rsembed.testing.earth_engine.errors import EarthEngineError

if TYPE_CHECKING:
    from rsembed.testing.earth_engine.server import LocalEarthEngine

logger = logging.getLogger(__name__)

FOREVER_S = 3600.0
NPY = b"\x93NUMPY"
PAGE = b"<html><body><h1>Bad gateway</h1></body></html>"


class Listener(ThreadingHTTPServer):
    """Listens for a server and knows its open connections."""

    request_queue_size = 512  # the default of 5 resets connections when a fleet starts
    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], engine: LocalEarthEngine
    ) -> None:
        self.engine = engine
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        super().__init__(address, handler)

    def opened(self, connection: socket.socket) -> None:
        """Note a connection."""
        with self._lock:
            self._open.add(connection)

    def closed(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._open.discard(connection)

    def cut(self) -> None:
        """Cut every open connection."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):  # it was closed from the other end
                    connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: Listener

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        with contextlib.suppress(OSError):  # a connection that was cut has nothing left to flush
            super().finish()
        self.server.closed(self.connection)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client went away
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        logger.debug(format, *args)

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        path = self.path.split("?")[0]
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        if path.startswith("/local/"):
            self._steer(path, content)
            return
        engine, kind = self.server.engine, kind_of(path)
        began, at_s, running = time.monotonic(), engine.age_s(), engine.running()
        fault = engine.next_fault(path)
        note: Mapping[str, Any] = {}
        message = ""
        if fault is not None and fault.delay_s and fault.kind != "silent":
            engine.wait(fault.delay_s)
        try:
            _fail(fault)
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            answer = engine.answer(kind, content, token)
            status, body, note = answer.status, answer.content, answer.note
        except EarthEngineError as exc:
            status, body, message = exc.status, error_body(exc.status, str(exc)), str(exc)
        except Exception as exc:  # a bug here must look like a failing service, not like a client that hangs
            message = f"Internal error of the local server: {type(exc).__name__}: {exc}"
            logger.exception("local Earth Engine failed")
            status, body = 500, error_body(500, message)
        if fault is not None and fault.kind in ("reset", "silent"):
            status, body = 0, b""
        elif fault is not None and fault.kind == "page":
            status, body = fault.status, PAGE
        # Before it is sent: who has the answer finds its record in the log.
        engine.record(
            RequestRecord(
                at_s=at_s,
                method=self.command,
                kind=kind,
                status=status,
                seconds=time.monotonic() - began,
                bytes_in=len(content),
                bytes_out=len(body),
                running=running,
                fault=fault.kind if fault is not None else "",
                message=message,
                **note,
            )
        )
        if status:
            self._send(status, body, fault)
        else:
            self._break_off(fault)

    def _send(self, status: int, body: bytes, fault: Fault | None) -> None:
        """Send the answer, or what is left of it under ``fault``."""
        kind = "application/octet-stream" if body.startswith(NPY) else "application/json; charset=UTF-8"
        if fault is not None and fault.kind == "page":
            kind = "text/html"
        elif fault is not None and fault.kind == "garbage":
            body = NPY + b"\x01\x00this is no header" + body[32:]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        quota = self.server.engine.behaviour.quota_status
        headers = {} if quota is None else {"x-earth-engine-quota-status": quota}
        for name, value in {**headers, **(fault.headers if fault is not None else {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if fault is not None and fault.kind == "truncated":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _break_off(self, fault: Fault | None) -> None:
        """End the connection without an answer: after silence, or at once; the peer gets a reset."""
        if fault is not None and fault.kind == "silent":
            self.server.engine.wait(fault.delay_s or FOREVER_S)
        # Closing without lingering sends RST instead of FIN.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _steer(self, path: str, content: bytes) -> None:
        engine = self.server.engine
        status, answer = 200, json.dumps({"ok": True}).encode()
        try:
            given: Any = json.loads(content) if content else {}
            if path == "/local/faults":
                engine.script(*(Fault(**one) for one in (given if isinstance(given, list) else [given])))
            elif path == "/local/behaviour":
                engine.behave(**behaviour_from(given))
            elif path == "/local/clear":
                engine.clear()
            elif path == "/local/log":
                answer = json.dumps([asdict(record) for record in engine.log]).encode()
            elif path == "/local/counters":
                answer = json.dumps(asdict(engine.counters)).encode()
            else:
                status, answer = 404, error_body(404, "faults, behaviour, clear, log and counters are under /local/")
        except (TypeError, ValueError, KeyError) as exc:
            status, answer = 400, error_body(400, f"{path}: {exc}")
        self._send(status, answer, None)


def _fail(fault: Fault | None) -> None:
    if fault is not None and fault.kind == "error":
        raise EarthEngineError(fault.message, fault.status)


def behaviour_from(given: Mapping[str, Any]) -> dict[str, object]:
    """Fields of a Behaviour from JSON."""
    changes: dict[str, object] = dict(given)
    if given.get("latency") is not None:
        changes["latency"] = Latency(**given["latency"])
    if "concurrency" in given:
        changes["concurrency"] = tuple((float(start_s), int(limit)) for start_s, limit in given["concurrency"])
    return changes


def kind_of(path: str) -> str:
    """What a request is for, by its path."""
    if "$discovery" in path:
        return "discovery"
    last = path.rsplit("/", 1)[-1]
    return last if last in ("algorithms", "value:compute", "image:computePixels") else "other"


def error_body(status: int, message: str) -> bytes:
    """An error as the service writes it (REST guide: ``error`` with code, message, status)."""
    name = STATUS_NAMES.get(status, "UNKNOWN")
    return json.dumps({"error": {"code": status, "message": message, "status": name}}).encode()
