"""What a fleet refuses, and what it notices about itself."""

from __future__ import annotations

import base64
import json
import os
import pickle
import signal
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.fleet_parts import Job, Trial, eventually, rsembed, write_places
from workers.broker import connect_redis
from workers.testing import nobody_s_broker

IDLE_S = 4.0


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.file,))


def pickled(file: Path) -> str:
    """A ticket as kombu lays it into Redis, with a pickle in it."""
    number = str(uuid.uuid4())
    headers = {"lang": "py", "task": "rsembed.fetch", "id": number, "retries": 0, "timelimit": [None, None]}
    properties = {
        "correlation_id": number, "reply_to": "", "delivery_mode": 2, "priority": 0, "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": "io"}, "delivery_tag": str(uuid.uuid4()),
    }  # fmt: skip
    body = base64.b64encode(pickle.dumps(((), {"run": Bomb(file)}, {}))).decode()
    kind = {"content-encoding": "binary", "content-type": "application/x-python-serialize"}
    return json.dumps({"body": body, **kind, "headers": headers, "properties": properties})


def test_broker_when_a_pickle_lies_in_it_then_it_is_refused_and_the_worker_lives_on(
    trial: Trial, tmp_path: Path
) -> None:
    (pid, _), broker = trial.io_worker(), connect_redis(trial.environ["REDIS_URL"])
    broker.lpush("io", pickled(tmp_path / "unpickled"))
    eventually(lambda: not broker.llen("io"), "that somebody takes the message")
    run = trial.start(Job(write_places(tmp_path / "places.parquet", 40, lon=11.0)), tmp_path / "out")
    trial.wait(run)
    assert not (tmp_path / "unpickled").exists()
    assert list(trial.fleet.pids("io")) == [pid]


def test_submit_when_a_label_leads_out_of_the_output_then_it_is_refused(trial: Trial, tmp_path: Path) -> None:
    table = write_places(tmp_path / "places.parquet", 4, lon=11.1)
    before = len(trial.ledger.runs())
    for label in ("../../x", "..", "/tmp/x"):
        words = Job(table, (f"null@{label}",)).words()
        done = rsembed(trial.environ, "fleet", "submit", *words, "--out", str(tmp_path / "out" / "deep"))
        assert done.returncode == 2, (label, done.stdout, done.stderr)
        assert f"{label!r} cannot name a folder" in done.stderr
    assert len(trial.ledger.runs()) == before
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["places.parquet"]


def test_flower_when_it_has_no_password_then_it_does_not_start(trial: Trial) -> None:
    environ = {**trial.environ, "RSEMBED_FLOWER_USER": "operator", "RSEMBED_FLOWER_PASSWORD": ""}
    done = rsembed(environ, "fleet", "flower")
    assert done.returncode == 2
    assert "RSEMBED_FLOWER_PASSWORD" in done.stderr


def test_worker_when_the_schema_is_newer_then_it_refuses_and_says_why(trial: Trial) -> None:
    (known,) = trial.query("SELECT version_num FROM alembic_version")[0]
    trial.query("UPDATE alembic_version SET version_num = 'from_the_future'")
    try:
        for words in (("worker", "io"), ("worker", "cpu"), ("dispatcher",)):
            done = rsembed(trial.environ, "fleet", *words)
            assert done.returncode not in (0, -signal.SIGTERM)
            assert "from_the_future" in done.stderr
            assert "Traceback" not in done.stderr
    finally:
        trial.query("UPDATE alembic_version SET version_num = %s", known)


def test_worker_when_alive_but_idle_while_work_is_ready_then_doctor_and_metrics_tell(
    trial: Trial, tmp_path: Path
) -> None:
    pid, _ = trial.io_worker()
    deaf = trial.fleet.add("io-deaf", ("worker", "io"), {"REDIS_URL": nobody_s_broker(trial.environ["REDIS_URL"])})
    try:
        name = eventually(
            lambda: [worker.info.id for worker in trial.ledger.workers() if worker.info.pid == deaf.pid], "the deaf one"
        )[0]
        os.kill(pid, signal.SIGSTOP)
        run = trial.start(Job(write_places(tmp_path / "places.parquet", 40, lon=11.5)), tmp_path / "out")
        watched = ("doctor", "--only", "progress", "--idle-after", str(IDLE_S), "--json")
        eventually(lambda: trial.ledger.queue_ages().get("io", 0) > 2 * IDLE_S, "that the work has waited")
        found = json.loads(trial.tell(*watched, codes=(1,)))
        assert [each for each in found if each["state"] == "failed" and name[:8] in each["detail"]]
        assert idle_seconds(trial)[name] > IDLE_S
    finally:
        os.kill(pid, signal.SIGCONT)
        trial.fleet.remove(deaf)
    trial.wait(run)
    trial.tell(*watched)


def idle_seconds(trial: Trial) -> dict[str, float]:
    """Worker -> what Prometheus is told of its idleness."""
    port = trial.environ["RSEMBED_METRICS_PORT"]
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20).read().decode()
    told = [line for line in text.splitlines() if line.startswith("rsembed_worker_idle_seconds{")]
    return {line.split('worker="')[1].split('"')[0]: float(line.rpartition(" ")[2]) for line in told}
