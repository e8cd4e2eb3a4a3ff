"""A real Celery worker on a real Redis: what it takes, what it refuses, and how it comes back and leaves."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.trivial_worker import Job
from workers.app import TicketSender, make_app
from workers.broker import BrokerAwayError, connect_redis
from workers.guard import EXIT_DEAF
from workers.process import EXIT_STUCK
from workers.servers.redis import EmbeddedRedis
from workers.ticket import Ticket

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("trivial_worker.py")


def wait_until(true: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    end = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    redis = EmbeddedRedis(tmp_path_factory.mktemp("redis"))
    redis.start()
    yield redis
    redis.remove()


class Fleet:
    """Workers on one broker, all ended with the test."""

    def __init__(self, server: EmbeddedRedis) -> None:
        self.server = server
        self.url = server.url
        self.redis = connect_redis(self.url)
        self.redis.flushall()
        self.sender = TicketSender(self.url)
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *queues: str, **changes: object) -> subprocess.Popen[bytes]:
        """A worker that listens already."""
        before = self.redis.incr("ready_probe")
        job = Job(self.url, queues or ("control", "io"), **changes)  # type: ignore[arg-type]  # of a dataclass
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
        worker = subprocess.Popen([sys.executable, str(PROGRAM), job.to_text()], cwd=ROOT, env=environ)
        self._started.append(worker)
        assert wait_until(lambda: int(self.redis.get("ready") or 0) >= before)
        return worker

    def send(self, n: int = 1, queue: str = "io") -> None:
        self.sender.send(queue, [Ticket("fetch")] * n)

    def done(self) -> int:
        return int(self.redis.llen("done"))

    def close(self) -> None:
        for worker in self._started:
            if worker.poll() is None:
                worker.kill()
            worker.wait()
        self.sender.close()
        self.redis.close()


@pytest.fixture
def fleet(server: EmbeddedRedis) -> Iterator[Fleet]:
    server.start()
    fleet = Fleet(server)
    yield fleet
    fleet.close()


def raw_message(body: bytes, content_type: str, task: str = "rsembed.fetch") -> str:
    """A message as kombu lays it into Redis, with a body of our choice."""
    number = str(uuid.uuid4())
    return json.dumps(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "binary",
            "content-type": content_type,
            "headers": {"lang": "py", "task": task, "id": number, "retries": 0, "timelimit": [None, None]},
            "properties": {
                "correlation_id": number,
                "reply_to": "",
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": "io"},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )


@contextlib.contextmanager
def watched_events(url: str) -> Iterator[Any]:
    """What Flower would know, kept up to date during the block."""
    app = make_app(url)
    state = app.events.State()
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": state.event})
        listener = threading.Thread(target=lambda: receiver.capture(limit=None, wakeup=False), daemon=True)
        listener.start()
        time.sleep(0.5)
        yield state
        receiver.should_stop = True
        listener.join(10)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.file,))


def test_worker_when_tickets_are_sent_then_each_is_done_once(fleet: Fleet) -> None:
    fleet.start()
    fleet.send(20)
    assert wait_until(lambda: fleet.done() == 20)
    time.sleep(0.3)
    assert fleet.done() == 20
    assert fleet.redis.llen("io") == 0


def test_worker_when_a_pickle_is_sent_then_it_is_refused_and_the_worker_lives_on(fleet: Fleet, tmp_path: Path) -> None:
    worker = fleet.start()
    proof = tmp_path / "unpickled"
    fleet.redis.lpush("io", raw_message(pickle.dumps(((), {"run": Bomb(proof)}, {})), "application/x-python-serialize"))
    fleet.send()
    assert wait_until(lambda: fleet.done() == 1)
    assert wait_until(lambda: fleet.redis.llen("io") == 0)
    assert worker.poll() is None
    assert not proof.exists()


def test_worker_when_a_message_is_nonsense_then_it_is_dropped_and_the_worker_lives_on(fleet: Fleet) -> None:
    worker = fleet.start()
    fleet.redis.lpush("io", raw_message(b"[[], {}, {}]", "application/json", task="os.system"))
    fleet.redis.lpush("io", raw_message(b"{", "application/json"))
    fleet.send()
    assert wait_until(lambda: fleet.done() == 1)
    assert worker.poll() is None


def test_worker_when_redis_is_flushed_then_it_takes_the_next_ticket(fleet: Fleet) -> None:
    fleet.start()
    fleet.redis.flushall()
    fleet.send(3)
    assert wait_until(lambda: fleet.done() == 3)


def test_worker_when_redis_restarts_twice_then_it_takes_tickets_again(fleet: Fleet) -> None:
    worker = fleet.start()
    for _ in range(2):
        fleet.server.stop()
        time.sleep(0.5)
        with pytest.raises(BrokerAwayError):
            fleet.send()
        fleet.server.start()
        fleet.send(3)
        assert wait_until(lambda: fleet.done() == 3)
    assert worker.poll() is None


def test_worker_when_told_to_stop_then_work_in_hand_is_released_and_it_exits_0(fleet: Fleet) -> None:
    worker = fleet.start(seconds=600.0)
    fleet.send(3)
    assert wait_until(lambda: fleet.redis.get("running") == b"3")
    began = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert wait_until(lambda: fleet.done() == 3)
    released_s = time.monotonic() - began
    assert worker.wait(60) == 0
    assert fleet.redis.lrange("done", 0, -1) == [b"released"] * 3
    assert released_s < 5.0


def test_worker_when_flower_shuts_it_down_then_work_in_hand_is_released_too(fleet: Fleet) -> None:
    worker = fleet.start(seconds=600.0)
    fleet.send(2)
    assert wait_until(lambda: fleet.redis.get("running") == b"2")
    make_app(fleet.url).control.shutdown()
    assert worker.wait(60) == 0
    assert fleet.redis.lrange("done", 0, -1) == [b"released"] * 2


def test_worker_when_redis_dies_while_tasks_run_then_they_end_and_the_next_ticket_is_taken(fleet: Fleet) -> None:
    worker = fleet.start(seconds=1.0)
    fleet.send(12)
    assert wait_until(lambda: fleet.redis.get("running") == b"3")
    pid = fleet.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    time.sleep(1.5)
    fleet.server.start()
    fleet.send(3)
    assert wait_until(lambda: fleet.done() >= 3)
    assert worker.poll() is None


def test_worker_when_told_to_stop_while_redis_is_away_then_it_still_exits_0(fleet: Fleet) -> None:
    worker = fleet.start()
    fleet.server.stop()
    time.sleep(0.5)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0


def test_worker_when_a_thread_does_not_come_back_then_the_process_leaves_after_its_grace(fleet: Fleet) -> None:
    worker = fleet.start(seconds=600.0, deaf=True, grace_s=1.0)
    fleet.send()
    assert wait_until(lambda: fleet.redis.get("running") == b"1")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == EXIT_STUCK


def test_worker_when_its_consumer_takes_nothing_then_the_process_leaves(fleet: Fleet) -> None:
    worker = fleet.start(mute=True, patience_s=1.0)
    fleet.send()
    assert worker.wait(60) == EXIT_DEAF


def test_worker_when_a_model_does_not_work_then_its_queue_is_left_until_it_does(fleet: Fleet) -> None:
    fleet.start("gpu.a", "gpu.b", broken="a", probe_s=2.0)
    fleet.send(1, "gpu.a")
    assert wait_until(lambda: fleet.done() == 1)
    time.sleep(0.5)
    fleet.send(1, "gpu.a")
    fleet.send(1, "gpu.b")
    assert wait_until(lambda: fleet.done() == 2)
    assert fleet.redis.llen("gpu.a") == 1
    assert wait_until(lambda: fleet.done() == 3)


def test_flower_when_a_ticket_is_done_then_it_sees_what_was_claimed_and_what_came_of_it(fleet: Fleet) -> None:
    with watched_events(fleet.url) as state:
        fleet.start()
        fleet.send(1)
        assert wait_until(lambda: any(task.state == "SUCCESS" for task in dict(state.tasks).values()))
    (task,) = state.tasks.values()
    assert task.name == "rsembed.fetch"
    assert task.kwargs == "run=7 stage=fetch shard=0"
    assert json.loads(task.result.replace("'", '"')) == {
        "done": 1, "failed": 0, "released": 0, "run": 7, "stage": "fetch", "shard": 0,
    }  # fmt: skip


def test_flower_when_nothing_succeeded_then_it_sees_a_failed_task(fleet: Fleet) -> None:
    with watched_events(fleet.url) as state:
        fleet.start(fail=True)
        fleet.send(1)
        assert wait_until(lambda: any(task.state == "FAILURE" for task in dict(state.tasks).values()))
    (task,) = state.tasks.values()
    assert "nothing succeeded" in task.exception
