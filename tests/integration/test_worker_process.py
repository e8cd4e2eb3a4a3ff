"""A worker from its parts, as the command starts it, on real servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workers.ledger.db import downgrade, upgrade
from workers.ledger.records import WorkerRecord
from workers.ledger.repository import Ledger
from workers.servers import EmbeddedPostgres, EmbeddedRedis

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import sys
from rsembed.cli.log_lines import set_up_logging
from workers.settings import FleetSettings
from workers.worker import run_worker
set_up_logging(1)
sys.exit(run_worker(FleetSettings.from_environment(), sys.argv[1], models=sys.argv[2:] or None))
"""


def wait_until(true: Callable[[], object], timeout_s: float = 60.0) -> bool:
    end = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def wait_for_word(worker: subprocess.Popen[str], word: str) -> bool:
    """Whether the worker says ``word`` before it ends."""
    assert worker.stderr is not None
    return any(word in line for line in worker.stderr)


class Place:
    """Servers, a ledger and the workers started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.postgres, self.redis = EmbeddedPostgres(folder / "pg", durable=False), EmbeddedRedis(folder / "redis")
        self.url = self.postgres.start()
        upgrade(self.url)
        self.ledger = Ledger(self.url)
        self.environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "DATABASE_URL": self.url,
            "REDIS_URL": self.redis.start(),
            "RSEMBED_INPUTS": str(folder / "inputs"),
            "RSEMBED_HOME": str(folder / "home"),
            "RSEMBED_LEASE_S": "2",
        }
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        worker = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            cwd=ROOT,
            env={**self.environ, **environ},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(worker)
        return worker

    def end_workers(self) -> None:
        for worker in self._started:
            if worker.poll() is None:
                worker.kill()
            worker.communicate()
        self._started.clear()

    def known(self, worker: subprocess.Popen[str]) -> WorkerRecord | None:
        return next((w for w in self.ledger.workers(live_only=False) if w.info.pid == worker.pid), None)

    def close(self) -> None:
        self.end_workers()
        self.ledger.close()
        self.postgres.remove()
        self.redis.remove()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("worker"))
    yield place
    place.close()


@pytest.fixture
def place(servers: Place) -> Iterator[Place]:
    yield servers
    servers.end_workers()


def test_worker_when_started_and_stopped_then_the_ledger_knows_it_and_hears_it_leave(place: Place) -> None:
    worker = place.start("io")
    assert wait_until(lambda: place.known(worker))
    record = place.known(worker)
    assert record is not None
    assert record.info.queues == ("control", "io")
    assert record.rss_bytes >= 0
    time.sleep(1.5)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    record = place.known(worker)
    assert record is not None
    assert record.state == "stopped"


def test_worker_when_models_are_named_then_it_serves_their_queues_alone(place: Place) -> None:
    worker = place.start("cpu", "null", RSEMBED_PLUGINS="rsembed.testing.null")
    assert wait_until(lambda: place.known(worker))
    record = place.known(worker)
    assert record is not None
    assert (record.info.queues, record.info.models) == (("gpu.null",), ("null",))


def test_worker_when_the_ledger_comes_later_then_it_waits_for_it(place: Place) -> None:
    place.postgres.stop()
    worker = place.start("io")
    assert wait_for_word(worker, "ledger_away")
    place.postgres.start()
    assert wait_until(lambda: place.known(worker))


def test_worker_when_told_to_stop_before_the_ledger_comes_then_it_exits_0(place: Place) -> None:
    place.postgres.stop()
    worker = place.start("io")
    assert wait_for_word(worker, "ledger_away")
    worker.send_signal(signal.SIGTERM)
    code = worker.wait(60)
    place.postgres.start()
    assert code == 0


def test_worker_when_the_ledger_is_of_another_schema_then_it_refuses_and_says_what_to_do(place: Place) -> None:
    downgrade(place.url, "base")
    worker = place.start("io")
    _, said = worker.communicate(timeout=60)
    upgrade(place.url)
    assert worker.returncode != 0
    assert "rsembed fleet db upgrade" in said
