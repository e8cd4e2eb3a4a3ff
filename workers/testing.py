"""A fleet to be mistreated: embedded servers and worker processes that may be killed, for tests and benchmarks."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from workers.broker import connect_redis
from workers.ledger.db import upgrade
from workers.ledger.repository import Ledger
from workers.servers import EmbeddedPostgres, EmbeddedRedis
from workers.supervisor import Child, ChildSpec, stop_all

Command = tuple[str, ...]


class FleetUnderTest:
    """Servers, a dispatcher and workers below ``home``; each process is started again when it ends.

    ``environ``: what the processes are given beside the servers' URLs. ``io``, ``cpu``: workers of
    each kind; ``more``: further processes, name -> words after ``rsembed fleet``.
    """

    def __init__(
        self,
        home: Path,
        environ: Mapping[str, str],
        *,
        io: int = 1,
        cpu: int = 1,
        more: Mapping[str, Command] | None = None,
    ) -> None:
        self.home = home
        self.postgres = EmbeddedPostgres(home / "postgres")
        self.redis = EmbeddedRedis(home / "redis")
        self.environ = dict(environ)
        self.children: list[Child] = []
        commands: dict[str, Command] = {"dispatcher": ("dispatcher",)}
        commands |= {f"io-{k}": ("worker", "io") for k in range(io)}
        commands |= {f"cpu-{k}": ("worker", "cpu") for k in range(cpu)}
        self._commands = commands | dict(more or {})
        self._stop = threading.Event()
        self._tender = threading.Thread(target=self._tend, daemon=True, name="tend")
        self.ledger: Ledger

    def start(self) -> None:
        """Start servers, tables and processes."""
        url = self.postgres.start()
        upgrade(url)
        inputs = self.home / "inputs"
        inputs.mkdir(exist_ok=True)
        self.environ = {
            "RSEMBED_HOME": str(self.home),
            "RSEMBED_INPUTS": str(inputs),
            **self.environ,
            "DATABASE_URL": url,
            "RSEMBED_DIRECT_DATABASE_URL": url,
            "REDIS_URL": self.redis.start(),
        }
        logs = self.home / "logs"
        logs.mkdir(exist_ok=True)
        self.children = [
            Child(ChildSpec(name, ("-m", "rsembed", "fleet", *words), self.environ, logs / f"{name}.log"))
            for name, words in self._commands.items()
        ]
        self.ledger = Ledger(url)
        self._tender.start()

    def _tend(self) -> None:
        while not self._stop.wait(0.2):
            for child in self.children:
                child.keep()

    def pids(self, prefix: str = "") -> Sequence[int]:
        """Processes that run, of those whose name begins with ``prefix``."""
        named = [child.pid for child in self.children if child.spec.name.startswith(prefix)]
        return [pid for pid in named if pid is not None]

    def starts(self, prefix: str = "") -> int:
        """How often processes of that name were started."""
        return sum(child.starts for child in self.children if child.spec.name.startswith(prefix))

    def kill_one(self, prefix: str = "") -> bool:
        """SIGKILL to one of them at random; False when none runs just now."""
        pids = self.pids(prefix)
        if not pids:
            return False
        try:
            os.kill(random.choice(pids), signal.SIGKILL)  # noqa: S311 - chaos, not secrecy
        except ProcessLookupError:
            return False
        return True

    def restart_postgres(self) -> None:
        """As after a crash: no clean shutdown, recovery at the start."""
        self.postgres.stop("immediate")
        self.postgres.start()

    def restart_redis(self) -> None:
        """Redis comes back empty."""
        self.redis.stop()
        self.redis.start()

    def flush_redis(self) -> None:
        """Everything in Redis is gone; its connections stay."""
        connect_redis(self.environ["REDIS_URL"]).flushall()

    def stop(self) -> None:
        """Stop processes, then servers."""
        self._stop.set()
        if self._tender.is_alive():
            self._tender.join()
        stop_all(self.children, grace_s=10)
        if hasattr(self, "ledger"):
            self.ledger.close()
        self.redis.stop()
        self.postgres.stop("immediate")
