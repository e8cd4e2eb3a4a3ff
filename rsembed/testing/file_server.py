"""A folder over local HTTP, with byte ranges, counted requests and faults on order."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, Literal

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True)
class Asked:
    """One request for ``length`` bytes of ``path`` from ``start``; ``query`` is what stood behind the ``?``."""

    path: str
    start: int
    length: int
    query: str


Fault = Literal["cut", "short", "garbled", "hang"] | int | None
"""What goes wrong with an answer.

A number: that status and nothing else. ``cut``: the connection ends in the middle. ``short``: a whole
answer of half the bytes. ``garbled``: the right length, wrong bytes. ``hang``: nothing until
:meth:`FileServer.release`.
"""


class FileServer:
    """The server at ``url``; ``asked`` lists its requests, ``sent`` counts the bytes of its answers.

    ``fault`` is called for each request and may be set at any time, as may ``knows_ranges``. ``latency_s``:
    waited before each answer.
    """

    def __init__(self, folder: Path, *, latency_s: float = 0.0, handler: type[FileHandler] | None = None) -> None:
        self.folder, self.latency_s = folder, latency_s
        self.fault: Callable[[Asked], Fault] | None = None
        self.knows_ranges = True
        self.asked: list[Asked] = []
        self.sent = 0
        self._released = threading.Event()
        made = type("Handler", (handler or FileHandler,), {"server_of": self})
        self._http = _Threads(("127.0.0.1", 0), made)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let go of every request that hangs."""
        self._released.set()

    def wait_released(self) -> None:
        """Until :meth:`release` is called."""
        self._released.wait()

    def close(self) -> None:
        """End it."""
        self.release()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@contextmanager
def serving(folder: Path, *, latency_s: float = 0.0) -> Iterator[FileServer]:
    """A :class:`FileServer` for the length of the block."""
    server = FileServer(folder, latency_s=latency_s)
    try:
        yield server
    finally:
        server.close()


class _Threads(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # the default of 5 makes a burst of connections wait for a second

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is no error."""


class FileHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    server_of: ClassVar[FileServer]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        server = self.server_of
        path, _, query = self.path.partition("?")
        file = server.folder / path.lstrip("/")
        size = file.stat().st_size if file.is_file() else 0
        found = _RANGE.match(self.headers.get("Range") or "") if server.knows_ranges else None
        start = int(found.group(1)) if found else 0
        stop = min(size, int(found.group(2)) + 1 if found and found.group(2) else size)
        asked = Asked(path.lstrip("/"), start, max(0, stop - start), query)
        server.asked.append(asked)
        fault = server.fault(asked) if server.fault is not None else None
        time.sleep(server.latency_s)
        if fault == "hang":
            server.wait_released()
            self.close_connection = True
        elif isinstance(fault, int) or not file.is_file() or start >= size:
            status = fault if isinstance(fault, int) else 416 if file.is_file() else 404
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._send(file, asked, size, fault, partial=found is not None)

    def _send(self, file: Path, asked: Asked, size: int, fault: Fault, *, partial: bool) -> None:
        length = asked.length // 2 if fault == "short" else asked.length
        with file.open("rb") as content:
            content.seek(asked.start)
            data = content.read(length)
        if fault == "garbled":
            data = bytes(byte ^ 0xA5 for byte in data)
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {asked.start}-{asked.start + length - 1}/{size}")
        self.send_header("Content-Length", str(length))
        self.send_header("ETag", f'"{file.stat().st_mtime_ns}-{size}"')
        self.end_headers()
        if fault == "cut":
            self.close_connection = True
            data = data[: length // 2]
        if self.command == "GET":
            self.server_of.sent += len(data)
            self.wfile.write(data)
