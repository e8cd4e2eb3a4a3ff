"""A fleet to be mistreated: servers of its own and worker processes that may be killed, for tests and benchmarks."""

from __future__ import annotations

import os
import random
import signal
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import psycopg2
from psycopg2 import sql

from workers.broker import connect_redis
from workers.ledger.db import upgrade
from workers.ledger.repository import Ledger
from workers.servers import EmbeddedPostgres, EmbeddedRedis
from workers.settings import FleetSettings, inherited_environment
from workers.supervisor import Child, ChildSpec, stop_all

Command = tuple[str, ...]

LONGEST_PAUSE_S = 4.0
"""Between two starts of a process that is killed on purpose; the supervisor's own half minute would be waited out."""
_REDIS_DATABASES = 15
"""Beside number 0; the last one is nobody's."""


class Servers(Protocol):
    """Postgres and Redis of one fleet, empty at first; both URLs stay the same."""

    can_restart: bool
    """Whether `restart_postgres` and `restart_redis` may be called."""

    @property
    def database_url(self) -> str: ...
    @property
    def redis_url(self) -> str: ...
    def start(self) -> None: ...
    def restart_postgres(self) -> None: ...
    def restart_redis(self) -> None: ...
    def stop(self) -> None: ...


class EmbeddedServers:
    """The wheels' servers below ``home``; all that they hold goes with `stop`."""

    can_restart = True

    def __init__(self, home: Path) -> None:
        self._postgres = EmbeddedPostgres(home / "postgres")
        self._redis = EmbeddedRedis(home / "redis")

    @property
    def database_url(self) -> str:
        """See `Servers`."""
        return self._postgres.url

    @property
    def redis_url(self) -> str:
        """See `Servers`."""
        return self._redis.url

    def start(self) -> None:
        """See `Servers`."""
        self._postgres.start()
        self._redis.start()

    def restart_postgres(self) -> None:
        """As after a crash: no clean shutdown, recovery at the start."""
        self._postgres.stop("immediate")
        self._postgres.start()

    def restart_redis(self) -> None:
        """Redis comes back empty."""
        self._redis.stop()
        self._redis.start()

    def stop(self) -> None:
        """See `Servers`."""
        self._redis.remove()
        self._postgres.remove()


class GivenServers:
    """A database of its own on a Postgres, and a numbered one on a Redis, that others may use at the same time.

    The role of ``database_url`` has to be allowed to create databases.
    """

    can_restart = False

    def __init__(self, database_url: str, redis_url: str) -> None:
        self._maintenance = database_url
        self._name = f"rsembed_test_{uuid.uuid4().hex}"
        self.database_url = urlsplit(database_url)._replace(path=f"/{self._name}").geturl()
        count = connect_redis(redis_url).incr("rsembed:test:fleets")
        self.redis_url = _numbered(redis_url, 1 + int(str(count)) % (_REDIS_DATABASES - 1))

    def start(self) -> None:
        """See `Servers`."""
        self._execute("CREATE DATABASE {}")
        connect_redis(self.redis_url).flushdb()

    def restart_postgres(self) -> None:
        """See `Servers`; never called."""
        raise AssertionError("these servers are others' too")

    def restart_redis(self) -> None:
        """See `Servers`; never called."""
        raise AssertionError("these servers are others' too")

    def stop(self) -> None:
        """See `Servers`."""
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        connect_redis(self.redis_url).flushdb()

    def _execute(self, statement: str) -> None:
        connection = psycopg2.connect(self._maintenance)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql.SQL(statement).format(sql.Identifier(self._name)))
        finally:
            connection.close()


def _numbered(redis_url: str, number: int) -> str:
    parts = urlsplit(redis_url)
    if parts.scheme == "redis+socket":
        return parts._replace(query=f"virtual_host={number}").geturl()
    return parts._replace(path=f"/{number}").geturl()


def nobody_s_broker(redis_url: str) -> str:
    """A broker on the same Redis to which no ticket is ever sent."""
    return _numbered(redis_url, _REDIS_DATABASES)


def servers_for(home: Path) -> Servers:
    """Fresh databases on the servers that ``DATABASE_URL`` and ``REDIS_URL`` name, else embedded servers."""
    settings = FleetSettings.from_environment(inherited_environment({"RSEMBED_HOME": str(home)}))
    if settings.database_url and settings.redis_url:
        return GivenServers(settings.database_url, settings.redis_url)
    return EmbeddedServers(home)


class FleetUnderTest:
    """A dispatcher and workers below ``home`` on `servers_for` it; each process is started again when it ends.

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
        self.servers = servers_for(home)
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
        self.servers.start()
        url = self.servers.database_url
        upgrade(url)
        inputs = self.home / "inputs"
        inputs.mkdir(exist_ok=True)
        self.environ = {
            "RSEMBED_HOME": str(self.home),
            "RSEMBED_INPUTS": str(inputs),
            **self.environ,
            "DATABASE_URL": url,
            "RSEMBED_DIRECT_DATABASE_URL": url,
            "REDIS_URL": self.servers.redis_url,
        }
        self.ledger = Ledger(url)
        for name, words in self._commands.items():
            self.add(name, words)
        self._tender.start()

    def add(self, name: str, words: Command, environ: Mapping[str, str] | None = None) -> Child:
        """One more process, ``rsembed fleet`` with ``words``; ``environ`` goes over that of the others."""
        logs = self.home / "logs"
        logs.mkdir(exist_ok=True)
        surroundings = {**self.environ, **(environ or {})}
        spec = ChildSpec(name, ("-m", "rsembed", "fleet", *words), surroundings, logs / f"{name}.log")
        child = Child(spec, longest_pause_s=LONGEST_PAUSE_S)
        self.children.append(child)
        return child

    def remove(self, child: Child) -> None:
        """Stop one process for good."""
        self.children.remove(child)
        stop_all([child], grace_s=10)

    def _tend(self) -> None:
        while not self._stop.wait(0.1):
            for child in list(self.children):
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
        """See `EmbeddedServers.restart_postgres`."""
        self.servers.restart_postgres()

    def restart_redis(self) -> None:
        """See `EmbeddedServers.restart_redis`."""
        self.servers.restart_redis()

    def flush_redis(self) -> None:
        """Everything in Redis is gone; its connections stay."""
        connect_redis(self.environ["REDIS_URL"]).flushdb()

    def stop(self) -> None:
        """Stop processes, then servers; what these held is gone."""
        self._stop.set()
        if self._tender.is_alive():
            self._tender.join()
        stop_all(self.children, grace_s=10)
        if hasattr(self, "ledger"):
            self.ledger.close()
        self.servers.stop()
