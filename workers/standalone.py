"""`rsembed fleet up`: everything on this machine, started together and stopped together.

Postgres and Redis are embedded unless their URLs are given. What lasts lies in the home folder:
the ledger, the input store, log files, Flower's password.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from rsembed.core.errors import RSEmbedError, SpecError
from workers import fleet_file
from workers.crew import UpOptions, crew
from workers.fleet_file import FleetFile
from workers.ledger.db import upgrade
from workers.servers import EmbeddedPostgres, EmbeddedRedis, ServerError
from workers.settings import FleetSettings
from workers.supervisor import Child, stop_all

logger = logging.getLogger(__name__)

EXIT_REFUSED = 2
METRICS_PORT = 9464
GRACE_S = 30.0
TEND_S = 0.5
SERVER_PAUSE_S = 5.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Say = Callable[[str], None]


class LocalFleet:
    """The fleet of one machine, in ``settings.home``. `start`, then `tend` twice a second, then `stop`."""

    def __init__(self, options: UpOptions, settings: FleetSettings, *, say: Say = lambda _line: None) -> None:
        self._options = options
        self._settings = settings
        self._say = say
        self.home = settings.home
        self._held = contextlib.ExitStack()
        self._is_ours = False
        self._postgres: EmbeddedPostgres | None = None
        self._redis: EmbeddedRedis | None = None
        self._next_server_try = 0.0
        self.children: list[Child] = []
        self.file: FleetFile | None = None

    def start(self, *, stopping: Callable[[], bool] = lambda: False) -> FleetFile:
        """Start servers, migrate, start the children; SpecError when a fleet runs in this home already.

        ``stopping`` is asked between the steps; once true, the rest is left out. Whatever was
        started when an error is raised is for `stop` to end.
        """
        self._make_home()
        settings = self._start_servers()
        upgrade(settings.need_direct_database_url())
        settings = self._choose_ports(settings)
        self.file = FleetFile(
            pid=os.getpid(),
            database_url=settings.need_database_url(),
            direct_database_url=settings.need_direct_database_url(),
            redis_url=settings.need_redis_url(),
            inputs=settings.need_inputs(),
            flower_url=f"http://{settings.flower_host}:{settings.flower_port}" if self._options.flower else "",
            metrics_url=f"http://{settings.metrics_host}:{settings.metrics_port}/metrics",
        )
        self.children = [Child(spec) for spec in crew(self._options, settings, self.file)]
        if not stopping():
            self.file.write(self.home)
            self.tend()
        return self.file

    def tend(self) -> None:
        """Start again whatever ended; servers first, for without them the others cannot live."""
        now = time.monotonic()
        if now >= self._next_server_try:
            for server in (self._postgres, self._redis):
                if server is None or server.is_running:
                    continue
                name = type(server).__name__.removeprefix("Embedded")
                self._say(f"{name} has ended; starting it again")
                try:
                    server.start()
                except ServerError as exc:
                    self._say(str(exc))
                    self._next_server_try = now + SERVER_PAUSE_S
        for child in self.children:
            said = child.keep()
            if said:
                self._say(said)

    def stop(self, *, hurry: Callable[[], bool] = lambda: False) -> None:
        """Stop workers and Flower, the dispatcher, Redis, Postgres; with ``hurry`` without waiting for work in hand."""
        if not self._is_ours:
            return
        fleet_file.remove(self.home)
        dispatchers = [child for child in self.children if child.spec.name == "dispatcher"]
        others = [child for child in self.children if child not in dispatchers]
        for group in (others, dispatchers):
            for name in stop_all(group, grace_s=GRACE_S, hurry=hurry):
                self._say(f"{name} did not stop and was killed; its work runs again next time")
        if self._redis is not None:
            self._redis.stop()
        if self._postgres is not None:
            self._postgres.stop("fast")
        self._is_ours = False
        self._held.close()

    def _make_home(self) -> None:
        # As root the servers run as an ordinary user, who has to pass through.
        self.home.mkdir(parents=True, exist_ok=True, mode=0o711 if os.geteuid() == 0 else 0o700)
        (self.home / "logs").mkdir(exist_ok=True, mode=0o700)
        end = time.monotonic() + 2.0
        while True:
            try:
                self._held.enter_context(fleet_file.held(self.home))
                self._is_ours = True
                return
            except BlockingIOError:
                if time.monotonic() < end:  # somebody may just be looking whether it is held
                    time.sleep(0.1)
                    continue
                running = fleet_file.running_fleet(self.home)
                who = f"process {running.pid}" if running else "another process"
                raise SpecError(
                    f"A fleet runs in {self.home} already ({who}): stop it, or set RSEMBED_HOME to another folder."
                ) from None

    def _start_servers(self) -> FleetSettings:
        settings = self._settings
        if not settings.database_url:
            self._postgres = EmbeddedPostgres(self.home / "postgres")
            self._say("Starting Postgres")
            url = self._postgres.start()
            settings = replace(settings, database_url=url, direct_database_url=url)
        if not settings.redis_url:
            self._redis = EmbeddedRedis(self.home / "redis")
            self._say("Starting Redis")
            settings = replace(settings, redis_url=self._redis.start())
        if not settings.inputs:
            inputs = self.home / "inputs"
            inputs.mkdir(exist_ok=True, mode=0o700)
            settings = replace(settings, inputs=str(inputs))
        return settings

    def _choose_ports(self, settings: FleetSettings) -> FleetSettings:
        metrics = settings.metrics_port or _free_port(settings.metrics_host, METRICS_PORT)
        if not self._options.flower:
            return replace(settings, metrics_port=metrics)
        user, password = settings.flower_user, settings.flower_password
        if not (user and password):
            user, password = "rsembed", flower_password(self.home)
        return replace(
            settings,
            metrics_port=metrics,
            flower_port=_free_port(settings.flower_host, settings.flower_port),
            flower_user=user,
            flower_password=password,
        )

    def describe(self) -> str:
        """The running fleet in a few lines, without any password."""
        assert self.file is not None
        names = ", ".join(child.spec.name for child in self.children if child.spec.name not in {"dispatcher", "flower"})
        lines = [
            f"The fleet runs; its state is in {self.home}",
            f"  Postgres  {'embedded' if self._postgres else _shown(self.file.database_url)}",
            f"  Redis     {'embedded' if self._redis else _shown(self.file.redis_url)}",
            f"  Inputs    {_shown(self.file.inputs)}, at most {self._settings.inputs_budget_bytes / 1e9:g} GB",
            f"  Workers   {names}; log files in {self.home / 'logs'}",
            f"  Metrics   {self.file.metrics_url}",
        ]
        if self.file.flower_url:
            given = self._settings.flower_user and self._settings.flower_password
            how = "RSEMBED_FLOWER_USER" if given else f"user rsembed, password in {password_path(self.home)}"
            lines.append(f"  Flower    {self.file.flower_url} ({how})")
        lines.append("Other commands find it by themselves: rsembed fleet submit, status, watch. Ctrl-C stops it.")
        return "\n".join(lines)


def run_up(options: UpOptions, settings: FleetSettings | None = None, *, say: Say | None = None) -> int:
    """Run the fleet until Ctrl-C or SIGTERM; the exit code. A second Ctrl-C does not wait for work in hand."""
    say = say or _to_stdout
    asked = threading.Event()
    hurry = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        (hurry if asked.is_set() else asked).set()
        logger.info("stopping", extra={"signal": number})

    fleet = LocalFleet(options, settings or FleetSettings.from_environment(), say=say)
    with _signals(on_signal):
        try:
            fleet.start(stopping=asked.is_set)
            if not asked.is_set():
                say(fleet.describe())
            while not asked.wait(TEND_S):
                fleet.tend()
            say("Stopping: workers give back what they have in hand. Ctrl-C once more does not wait for them")
        except RSEmbedError as exc:
            say(f"error: {exc}")
            return EXIT_REFUSED
        finally:
            fleet.stop(hurry=hurry.is_set)
    say("The fleet has stopped; `rsembed fleet up` goes on where it was.")
    return 0


def _to_stdout(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def _signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def password_path(home: Path) -> Path:
    """Where Flower's password lies, readable by its owner only."""
    return home / "flower.password"


def flower_password(home: Path) -> str:
    """The random password of this home's Flower, made on first use."""
    path = password_path(home)
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(18) + "\n")
    return path.read_text(encoding="ascii").strip()


def _free_port(host: str, preferred: int) -> int:
    """``preferred`` where nobody listens there, else any free port."""
    for port in (preferred, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            chosen: int = probe.getsockname()[1]
            return chosen
    raise ServerError(f"No port of {host} can be bound.")


def _shown(url: str) -> str:
    """``url`` without user and password."""
    parts = urlsplit(url)
    if not parts.scheme:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
