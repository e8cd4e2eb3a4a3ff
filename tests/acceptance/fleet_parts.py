"""What tests of a whole fleet share: its surroundings, its commands, and a local export to compare it with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq

from rsembed.core.fetching import FetchRequest
from rsembed.pipelines.fetch_unit import FetchUnit
from tests.builders import files, row_table, run_plan
from workers.ledger.records import RunState, RunStatus
from workers.testing import FleetUnderTest

ROOT = Path(__file__).resolve().parents[2]
LEASE_S = 2.0
PATIENCE_S = 150.0
"""Longest wait for anything; far more than an idle machine needs."""
OK = (RunState.DONE,)


def surroundings(home: Path, **more: str) -> dict[str, str]:
    """Environment of a fleet that is quick to notice things."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RSEMBED_PLUGINS": "rsembed.testing.fleet",
        "RSEMBED_WEIGHTS_DIR": str(home / "weights"),
        "RSEMBED_OFFLINE": "1",
        "RSEMBED_LEASE_S": str(LEASE_S),
        "RSEMBED_PROBE_S": "1",
        "RSEMBED_FETCH_THREADS": "8",
        **more,
    }


def eventually(found: Callable[[], Any], what: str, *, seconds: float = PATIENCE_S, every_s: float = 0.1) -> Any:
    """The first true answer of ``found``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = found()
        if answer:
            return answer
        time.sleep(every_s)
    raise AssertionError(f"waited {seconds:.0f} s in vain: {what}")


def rsembed(environ: Mapping[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """``rsembed`` with ``words``, to its end."""
    command = [sys.executable, "-m", "rsembed", *words]
    return subprocess.run(
        command, env=dict(environ), cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )


def write_places(path: Path, n: int, *, lon: float = 1.0) -> Path:
    """A table of ``n`` places, each with pixels of its own."""
    side, i = int(np.ceil(np.sqrt(n))), np.arange(n)
    columns = {
        "id": [f"p{k:05d}" for k in i],
        "lon": lon + (i % side) * 0.01,
        "lat": 42.0 + (i // side) * 0.01,
        "year": np.full(n, 2022),
        "plot": i % 7,
    }
    pq.write_table(pa.table(columns), path)
    return path


def requests_of(table: Path, folder: Path) -> dict[str, FetchRequest]:
    """Id -> provider request of the model ``null`` for each row; ``folder`` is for scratch files."""
    plan, rows = run_plan("null"), row_table(pq.read_table(table), folder)
    shard = rows.shard(0, rows.n_rows)
    unit = FetchUnit(plan.groups[0], 0, shard, {"null": (0,)}, "", plan.config.buffer_m)
    return {shard.ids[slot].as_py(): unit.request(slot) for slot in range(rows.n_rows)}


@dataclass(frozen=True)
class Job:
    """A request: rows, models, and what is said of the source ``null``."""

    table: Path
    models: Sequence[str] = ("null",)
    backend: Mapping[str, Any] | None = None
    shard_size: int = 32
    options: Sequence[str] = ()

    def words(self) -> list[str]:
        """As the command line has it."""
        models = [word for model in self.models for word in ("--model", model)]
        options = ["--backend-options", json.dumps(dict(self.backend or {}))] if self.backend else []
        return [
            str(self.table),
            *models,
            "--backend",
            "null",
            *options,
            "--shard-size",
            str(self.shard_size),
            *self.options,
        ]


class Trial:
    """A running fleet, as tests talk to it."""

    def __init__(self, fleet: FleetUnderTest) -> None:
        self.fleet = fleet
        self.ledger = fleet.ledger
        self.environ = fleet.environ

    def tell(self, *words: str, codes: Sequence[int] = (0,)) -> str:
        """What ``rsembed fleet`` says to ``words``; it has to end with one of ``codes``."""
        done = rsembed(self.environ, "fleet", *words)
        assert done.returncode in codes, f"fleet {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def submit(self, job: Job, out: Path | str, *words: str) -> dict[str, Any]:
        """What ``submit --json`` answers."""
        done = rsembed(self.environ, "fleet", "submit", *job.words(), "--out", str(out), "--json", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def start(self, job: Job, out: Path | str, *words: str) -> int:
        """Submit; the run's number."""
        return int(self.submit(job, out, *words)["run"])

    def state(self, run: int) -> RunState:
        return self.ledger.run(run).state

    def status(self, run: int) -> RunStatus:
        return self.ledger.status(run)

    def wait(self, run: int, *states: RunState, seconds: float = PATIENCE_S) -> RunState:
        """Until ``run`` is in one of ``states`` (default: done)."""
        wanted = states or OK
        end = time.monotonic() + seconds
        while (state := self.state(run)) not in wanted:
            assert time.monotonic() < end, f"run {run} is {state.value} ({self.ledger.run(run).reason}), not {wanted}"
            time.sleep(0.1)
        return state

    def io_worker(self) -> tuple[int, str]:
        """Process id and id of the one IO worker, once it is there."""

        def alive() -> list[tuple[int, str]]:
            pids = self.fleet.pids("io")
            return [(each.info.pid, each.info.id) for each in self.ledger.workers() if each.info.pid in pids]

        found: list[tuple[int, str]] = eventually(alive, "an IO worker")
        return found[0]

    def query(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a statement on the ledger's tables."""
        connection = psycopg2.connect(self.environ["DATABASE_URL"])
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def check(self, run: int) -> None:
        """Hold the ledger against itself."""
        assert [str(each) for each in self.ledger.check(run)] == []

    def local(self, job: Job, out: Path, *, code: int = 0) -> dict[str, bytes]:
        """The files of a local export of ``job``."""
        done = rsembed(self.environ, "export", *job.words(), "--out", str(out), "--quiet")
        assert done.returncode == code, done.stdout + done.stderr
        return files(out)


def rows_of(out: Path, label: str) -> dict[str, dict[str, Any]]:
    """Rows of a dataset by id."""
    return {
        row["id"]: row for path in sorted((out / label).glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    }


def lines(path: Path) -> list[float]:
    """The times in a trace."""
    return [float(line) for line in path.read_text(encoding="ascii").split()] if path.exists() else []
