"""A door in front of a server that can be shut: whoever calls then is refused, and whoever is inside is thrown out."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


class Gate:
    """Passes bytes between clients of ``url`` and the server at ``endpoint``."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._target = (str(parts.hostname), int(parts.port or 80))
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._door: socket.socket | None = None
        self._port = 0
        self.open()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def open(self) -> None:
        door = socket.socket()
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(("127.0.0.1", self._port))
        door.listen(64)
        self._port, self._door = door.getsockname()[1], door
        threading.Thread(target=self._serve, args=(door,), daemon=True).start()

    def shut(self) -> None:
        door, self._door = self._door, None
        with self._lock:
            inside, self._open = list(self._open), set()
        for each in [*([door] if door else []), *inside]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    @contextlib.contextmanager
    def shut_for_a_while(self) -> Iterator[None]:
        self.shut()
        try:
            yield
        finally:
            self.open()

    def _serve(self, door: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = door.accept()
                server = socket.create_connection(self._target)
                with self._lock:
                    if self._door is not door:
                        client.close()
                        server.close()
                        return
                    self._open |= {client, server}
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            with self._lock:
                self._open.discard(each)
            each.close()
