"""Dispatchers on a real Postgres and a real Redis, both of which may go away."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from workers.broker import connect_redis
from workers.dispatcher import run_dispatcher
from workers.ledger.db import upgrade
from workers.ledger.errors import LedgerUnavailableError
from workers.ledger.records import GroupEntry, ModelEntry, NewRun, RunRecord, StoredRows, WorkerInfo
from workers.ledger.repository import Ledger
from workers.publisher import TICKETS_PER_QUEUE
from workers.servers import EmbeddedPostgres, EmbeddedRedis
from workers.settings import FleetSettings

LEASE_S = 1.0


def wait_until(true: Callable[[], object], timeout_s: float = 60.0) -> bool:
    end = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class Control:
    """Servers, a ledger, and the dispatchers that are running."""

    def __init__(self, postgres: EmbeddedPostgres, redis: EmbeddedRedis) -> None:
        self.postgres, self.redis_server = postgres, redis
        self.url, redis_url = postgres.start(), redis.start()
        self.redis = connect_redis(redis_url)
        self.redis.flushall()
        self.ledger = Ledger(self.url, direct=True)
        self.settings = FleetSettings(
            database_url=self.url,
            redis_url=redis_url,
            lease_s=LEASE_S,
            heartbeat_s=LEASE_S / 4,
            sweep_s=0.2,
        )
        self._running: list[tuple[threading.Thread, threading.Event]] = []

    def dispatch(self) -> threading.Event:
        """A dispatcher, until the event is set."""
        stop = threading.Event()
        thread = threading.Thread(target=run_dispatcher, args=(self.settings, stop))
        thread.start()
        self._running.append((thread, stop))
        return stop

    def load(self, n_units: int) -> RunRecord:
        """A run of that many units of one row for the model ``alpha``, which a live worker serves."""
        self.ledger.register(WorkerInfo(str(uuid.uuid4()), "gpu", "host", 1, ("gpu.alpha",), ("alpha",), "cpu", "0"))
        new = NewRun(
            uuid.uuid4().hex,
            "out",
            {},
            n_units,
            1,
            64,
            (GroupEntry(0, "key", ("B1",), 100),),
            (ModelEntry(0, "alpha", "alpha", 0, "gpu.alpha"),),
        )
        numbers = list(range(n_units))
        many = [0] * n_units
        rows = StoredRows(
            numbers, numbers, many, [1] * n_units, many, [0.0] * n_units, [0.0] * n_units,
            [None] * n_units, [f"p{i}" for i in numbers], [None] * n_units,
        )  # fmt: skip
        return self.ledger.load_run(new, [rows])

    def tickets(self, queue: str = "io") -> int:
        return int(self.redis.llen(queue))

    def close(self) -> None:
        for thread, stop in self._running:
            stop.set()
            thread.join(20)
            assert not thread.is_alive()
        for run in self.ledger.runs(active=True):
            self.ledger.cancel(run.id, "test")
        self.ledger.close()
        self.redis.close()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedPostgres, EmbeddedRedis]]:
    folder = tmp_path_factory.mktemp("servers")
    postgres, redis = EmbeddedPostgres(folder / "pg", durable=False), EmbeddedRedis(folder / "redis")
    upgrade(postgres.start())
    yield postgres, redis
    postgres.remove()
    redis.remove()


@pytest.fixture
def control(servers: tuple[EmbeddedPostgres, EmbeddedRedis]) -> Iterator[Control]:
    control = Control(*servers)
    yield control
    control.close()


def test_dispatcher_when_much_is_pending_then_tickets_are_bounded(control: Control) -> None:
    control.load(3 * TICKETS_PER_QUEUE)
    control.dispatch()
    assert wait_until(lambda: control.tickets() == TICKETS_PER_QUEUE)
    time.sleep(1.0)
    assert control.tickets() == TICKETS_PER_QUEUE


def test_dispatcher_when_a_lease_runs_out_then_the_unit_is_given_out_again_as_a_loss(control: Control) -> None:
    run = control.load(1)
    control.dispatch()
    worker = str(uuid.uuid4())
    assert wait_until(lambda: control.ledger.claim_unit(worker, LEASE_S, 60.0))
    began = time.monotonic()
    again = []
    assert wait_until(lambda: again.append(control.ledger.claim_unit(worker, LEASE_S, 60.0)) or again[-1])
    assert again[-1].run == run.id
    assert again[-1].losses == 1
    assert LEASE_S * 0.9 < time.monotonic() - began < 4 * LEASE_S


def test_dispatcher_when_two_run_then_one_leads_and_the_other_takes_over(control: Control) -> None:
    control.load(50)
    first = control.dispatch()
    assert wait_until(lambda: control.tickets() == 50)
    control.dispatch()
    time.sleep(1.0)
    assert control.tickets() == 50
    first.set()
    control.redis.flushall()
    assert wait_until(lambda: control.tickets() == 50)
    assert len([w for w in control.ledger.workers() if w.info.kind == "dispatcher"]) >= 1


def test_dispatcher_when_redis_restarts_then_it_fills_the_queues_again(control: Control) -> None:
    control.load(50)
    control.dispatch()
    assert wait_until(lambda: control.tickets() == 50)
    control.redis_server.stop()
    time.sleep(1.0)
    control.redis_server.start()
    assert wait_until(lambda: control.tickets() == 50)


def test_dispatcher_when_postgres_crashes_then_it_leads_again_and_waits_a_lease_before_it_sweeps(
    control: Control,
) -> None:
    control.load(50)
    control.dispatch()
    assert wait_until(lambda: control.tickets() == 50)
    worker = str(uuid.uuid4())
    claimed = control.ledger.claim_unit(worker, LEASE_S, 60.0)
    assert claimed is not None
    control.postgres.stop("immediate")
    time.sleep(1.5 * LEASE_S)
    control.redis.flushall()
    control.postgres.start()

    def kept() -> bool:
        try:
            return not control.ledger.heartbeat(worker, (claimed.token,), lease_s=LEASE_S).lost
        except LedgerUnavailableError:
            return False

    assert wait_until(kept, 10.0)
    assert wait_until(lambda: control.tickets() == 49)
