"""What the fleet's control plane costs: submitting, tickets and leases, status, pausing, a killed worker.

    python benchmarks/fleet_scale.py [--rows 1000000] [--finished 1000] [--quick] [--json]

Everything runs on this machine: embedded servers, a dispatcher, worker processes of a real Celery.
``ledger``: workers that claim, settle and do nothing else, so what is left is tickets and
transactions. ``end to end``: patches of 1 x 8 x 8 pixels from the null provider through the input
store, the null model, parts and manifest. The ledger holds ``--finished`` ended runs all the while.
Servers and workers share the machine's cores, so compare figures of one run only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsembed.pipelines.checkpoint import PartRecord
from workers.broker import connect_redis
from workers.ledger.records import (
    ClaimedShard,
    ClaimedUnit,
    GroupEntry,
    ModelEntry,
    NewRun,
    RowOutcome,
    RunState,
    ShardState,
    StoredRows,
    WorkerInfo,
)
from workers.ledger.repository import Ledger
from workers.process import WorkerProcess
from workers.report import WorkReport
from workers.settings import FleetSettings
from workers.testing import FleetUnderTest

MODELS = ("null@one", "null:poison=77@two", "null:modality=multi@three")
TARGETS = {
    "submit_s": 40, "submit_mb": 300, "submit_again_s": 20, "ledger_rows_s": -10_000, "end_to_end_rows_s": -5_000,
    "redis_mb": 20, "status_s": 0.2, "pause_s": 5, "rerun_p95_s": 30,
}  # fmt: skip
"""At most; a negative one: at least."""


@dataclass
class Figures:
    """What was measured."""

    rows: int
    finished_runs: int
    submit_s: float = 0.0
    submit_mb: float = 0.0
    submit_again_s: float = 0.0
    submit_again_changed: bool = True
    ledger_rows_s: float = 0.0
    end_to_end_rows_s: float = 0.0
    redis_mb: float = 0.0
    status_s: float = 0.0
    pause_s: float = 0.0
    rerun_p95_s: float = 0.0
    growth_mb: dict[str, float] = field(default_factory=dict)


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


# Workers that only keep books -----------------------------------------------------------------


class BookFetch:
    """Settles every row of a unit as done, without having fetched it."""

    def __init__(self, process: WorkerProcess, ledger: Ledger) -> None:
        self._process, self._ledger = process, ledger

    def work_once(self) -> WorkReport:
        """See Service."""
        process, ledger = self._process, self._ledger
        hold = process.claim(lambda _: ledger.claim_unit(process.id, process.lease_s, process.deadline_s), limit=8)
        if hold is None:
            return WorkReport.nothing("fetch")
        with hold:
            unit: ClaimedUnit = hold.claimed
            rows = ledger.stored_rows(unit.run, unit.first_seq, unit.n_rows)
            outcomes = [
                RowOutcome(slot, rows.seq[slot], rows.row[slot], rows.ids[slot], "done") for slot in range(unit.n_rows)
            ]
            ledger.settle_rows(unit.token, outcomes, requests=unit.n_rows)
            return WorkReport(unit.run, "fetch", unit.shard, None, unit.n_rows, 0, 0)


class BookInfer:
    """Settles a shard with the record of a file that nobody has written."""

    def __init__(self, process: WorkerProcess, ledger: Ledger) -> None:
        self._process, self._ledger = process, ledger

    def work_once(self) -> WorkReport:
        """See Service."""
        process, ledger = self._process, self._ledger
        hold = process.claim(lambda _: claim_shard(process, ledger), limit=3)
        if hold is None:
            return WorkReport.nothing("embed")
        with hold:
            shard: ClaimedShard = hold.claimed
            ledger.settle_shard(shard.token, book_record(shard))
            return WorkReport(shard.run, "embed", shard.shard, shard.model.label, shard.n_rows, 0, 0)


class NoFinish:
    """Leaves runs as they are: there are no files to put together."""

    def work_once(self) -> WorkReport:
        """See Service."""
        time.sleep(0.2)
        return WorkReport.nothing("finish")


def claim_shard(process: WorkerProcess, ledger: Ledger) -> ClaimedShard | None:
    return ledger.claim_shard(process.id, None, [], 30.0, process.lease_s, process.deadline_s, "cpu")


def book_record(shard: ClaimedShard) -> PartRecord:
    n = shard.n_rows
    name = f"{shard.model.label}/_shards/shard-{shard.shard:06d}.parquet"
    return PartRecord("shard", shard.model.label, shard.shard, name, shard.first_seq, n, 1, "0" * 64, {"ok": n})


def book_worker(kind: str) -> int:
    """A Celery worker whose services only keep books; runs in a process of its own."""
    from rsembed.plugins import load_plugins
    from workers.queues import CONTROL, IO, TASK_CONTROL, TASK_FETCH, TASK_INFER
    from workers.tasks import TicketWorker
    from workers.worker import known_models

    settings = FleetSettings.from_environment()
    load_plugins(settings.plugins)
    ledger = Ledger(settings.need_database_url())
    models = {} if kind == "io" else known_models(["null"])
    queues = (IO, CONTROL) if kind == "io" else ("gpu.null",)
    info = WorkerInfo(str(uuid.uuid4()), kind, "here", os.getpid(), queues, (), "cpu", "benchmark")
    process = WorkerProcess(ledger, info, lease_s=settings.lease_s, heartbeat_s=settings.heartbeat_s, deadline_s=600)
    services = {
        TASK_FETCH: lambda: BookFetch(process, ledger),
        TASK_INFER: lambda: BookInfer(process, ledger),
        TASK_CONTROL: NoFinish,
    }
    worker = TicketWorker(
        settings.need_redis_url(), process, services, queues=queues, concurrency=3, models=models
    )
    process.start()
    return worker.run()


# Measurements ---------------------------------------------------------------------------------


def write_table(path: Path, n: int) -> None:
    side = int(np.ceil(np.sqrt(n)))
    i = np.arange(n)
    table = pa.table({"id": i, "lon": -170 + (i % side) * (300 / side), "lat": -60 + (i // side) * (120 / side)})
    pq.write_table(table, path)


def finished_runs(url: str, count: int) -> None:
    """Ended runs of one row each, by the same calls as real ones."""
    ledger = Ledger(url, direct=True)
    for number in range(count):
        new = NewRun(
            fingerprint=f"{number:064x}", output=f"/nowhere/{number}", spec={}, n_rows=1, shard_size=1,
            shards_per_part=1, groups=(GroupEntry(0, f"{number:064x}", ("B1",), 1000),),
            models=(ModelEntry(0, "null", "null", 0, "gpu.null"),),
        )  # fmt: skip
        rows = StoredRows([0], [0], [19000], [19100], [0], [1.0], [1.0], [None], ["a"], [None])
        ledger.load_run(new, [rows])
    lead = ledger.lead()
    assert lead is not None
    worker = "00000000-0000-0000-0000-000000000001"
    left = count
    while left:
        lead.admit(10**12, 1, ["null"])
        while unit := ledger.claim_unit(worker, 60, 600):
            ledger.settle_rows(unit.token, [RowOutcome(0, 0, 0, "a", "done")], requests=1)
        while shard := ledger.claim_shard(worker, None, [], 30, 60, 600, "cpu"):
            ledger.settle_shard(shard.token, book_record(shard), state=ShardState.DONE)
        while taken := ledger.take_finishing(worker, 60):
            ledger.end_run(taken[1], RunState.DONE)
            left -= 1
    lead.close()
    ledger.close()


def submit(fleet: FleetUnderTest, table: Path, out: Path, models: Sequence[str] = MODELS) -> tuple[dict, float, float]:
    """A submit as JSON, its seconds, and its peak memory in MB."""
    words = [str(table), *(part for model in models for part in ("--model", model)), "--backend", "null"]
    words += ["--year", "2022", "--out", str(out), "--json"]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, __file__, "--child", "fleet", "submit", *words],
        env=fleet.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"submit ended with {done.returncode}: {done.stderr}")
    peak = float(done.stderr.rsplit("peak MB ", 1)[1])
    return json.loads(done.stdout), seconds, peak


def wait_for(fleet: FleetUnderTest, run: int, done_rows: int, stage: str, deadline_s: float = 900) -> None:
    """Until so many rows x models have passed a stage."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        status = fleet.ledger.status(run)
        if sum(s.done + s.no_data + s.failed + s.low_quality for s in status.stages if s.stage == stage) >= done_rows:
            return
        time.sleep(0.1)
    raise SystemExit(f"run {run}: {stage} did not reach {done_rows} rows within {deadline_s} s")


def wait_for_state(fleet: FleetUnderTest, run: int, states: Sequence[RunState], deadline_s: float = 900) -> None:
    end = time.monotonic() + deadline_s
    while fleet.ledger.run(run).state not in states:
        if time.monotonic() > end:
            raise SystemExit(f"run {run} is {fleet.ledger.run(run).state} after {deadline_s} s")
        time.sleep(0.1)


def measure_submit(fleet: FleetUnderTest, folder: Path, figures: Figures) -> None:
    table = folder / "many.parquet"
    write_table(table, figures.rows)
    first, figures.submit_s, figures.submit_mb = submit(fleet, table, folder / "many")
    again, figures.submit_again_s, _ = submit(fleet, table, folder / "many")
    figures.submit_again_changed = again["created"] or again["run"] != first["run"]
    run = int(first["run"])
    waits = []
    for _ in range(10):
        began = time.monotonic()
        fleet.ledger.status(run)
        waits.append(time.monotonic() - began)
    figures.status_s = round(sorted(waits)[5], 3)


def measure_books(fleet: FleetUnderTest, folder: Path, figures: Figures, run: int, rows: int) -> None:
    """Rows a second of one model through tickets and ledger alone, while the million rows are there."""
    environ = fleet.environ
    workers = [
        subprocess.Popen([sys.executable, __file__, "--book-worker", kind], env=environ, stdout=subprocess.DEVNULL,
                         stderr=(folder / f"book-{kind}.log").open("w"))
        for kind in ("io", "cpu")
    ]  # fmt: skip
    try:
        wait_for(fleet, run, 256, "embed", 60)
        began = time.monotonic()
        before = _embedded(fleet, run)
        status_s = []
        while _embedded(fleet, run) - before < rows and time.monotonic() - began < 120:
            at = time.monotonic()
            fleet.ledger.status(run)
            status_s.append(time.monotonic() - at)
            time.sleep(0.5)
        # Fetches and shards of all models are transactions of the same kind; rows of a model are counted.
        figures.ledger_rows_s = round((_embedded(fleet, run) - before) / (time.monotonic() - began))
        figures.status_s = round(max(figures.status_s, sorted(status_s)[int(len(status_s) * 0.95)]), 3)
        figures.redis_mb = _redis_mb(fleet)
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        for worker in workers:
            worker.wait(30)


def _embedded(fleet: FleetUnderTest, run: int) -> int:
    return sum(s.done for s in fleet.ledger.status(run).stages if s.stage == "embed")


def _redis_mb(fleet: FleetUnderTest) -> float:
    info = connect_redis(fleet.environ["REDIS_URL"]).info("memory")
    return round(float(info["used_memory"]) / 2**20, 1)  # type: ignore[index]  # a plain client answers at once


def measure_end_to_end(fleet: FleetUnderTest, folder: Path, figures: Figures, rows: int) -> None:
    table = folder / "some.parquet"
    write_table(table, rows)
    children = [fleet.add(f"io-{k}", ("worker", "io")) for k in range(1)]
    children += [fleet.add(f"cpu-{k}", ("worker", "cpu", "--models", "null")) for k in range(1)]
    _wait_for_workers(fleet, 2)
    told, _, _ = submit(fleet, table, folder / "some", ("null@one",))
    run = int(told["run"])
    wait_for(fleet, run, rows // 10, "embed")
    sizes = {name: _rss(child.pid) for child in children for name in [child.spec.name]}
    began, before = time.monotonic(), _embedded(fleet, run)
    # Past the start: workers have loaded what they need.
    wait_for(fleet, run, rows - rows // 10, "embed")
    figures.end_to_end_rows_s = round((_embedded(fleet, run) - before) / (time.monotonic() - began))
    figures.growth_mb = {child.spec.name: round(_rss(child.pid) - sizes[child.spec.name], 1) for child in children}
    figures.pause_s = _pause(fleet, folder)
    figures.rerun_p95_s = _rerun(fleet, folder)


def _wait_for_workers(fleet: FleetUnderTest, count: int) -> None:
    end = time.monotonic() + 60
    while len([w for w in fleet.ledger.workers() if w.info.kind != "dispatcher"]) < count:
        if time.monotonic() > end:
            raise SystemExit("the workers did not start")
        time.sleep(0.2)


def _rss(pid: int | None) -> float:
    text = Path(f"/proc/{pid}/statm").read_text()
    return int(text.split()[1]) * resource.getpagesize() / 2**20


def _slow_run(fleet: FleetUnderTest, folder: Path, name: str, rows: int) -> int:
    table = folder / f"{name}.parquet"
    write_table(table, rows)
    words = [str(table), "--model", "null@one", "--backend", "null", "--backend-options", '{"latency_s": 0.2}']
    words += ["--year", "2022", "--shard-size", "64", "--out", str(folder / name), "--json", "--priority", "5"]
    done = subprocess.run(
        [sys.executable, "-m", "rsembed", "fleet", "submit", *words], env=fleet.environ, capture_output=True, check=True
    )
    return int(json.loads(done.stdout)["run"])


def _pause(fleet: FleetUnderTest, folder: Path) -> float:
    """Seconds from a pause until the run's last outcome."""
    run = _slow_run(fleet, folder, "paused", 20_000)
    wait_for(fleet, run, 500, "fetch")
    fleet.ledger.pause(run, "measured", "benchmark")
    began = last = time.monotonic()
    seen = -1
    while time.monotonic() - last < 6:
        now = sum(s.done for s in fleet.ledger.status(run).stages)
        if now != seen:
            seen, last = now, time.monotonic()
        time.sleep(0.1)
    fleet.ledger.cancel(run, "benchmark")
    return round(last - began, 1)


def _rerun(fleet: FleetUnderTest, folder: Path, kills: int = 8) -> float:
    """Seconds from a SIGKILL until the killed worker's units are leased again (95th percentile)."""
    run = _slow_run(fleet, folder, "killed", 50_000)
    waits = []
    for _ in range(kills):
        wait_for(fleet, run, 64, "fetch")
        time.sleep(2)
        fleet.kill_one("io")
        began = time.monotonic()
        losses = fleet.ledger.status(run).losses
        while fleet.ledger.status(run).losses <= losses and time.monotonic() - began < 60:
            time.sleep(0.1)
        done = fleet.ledger.status(run).stages[0].done
        while fleet.ledger.status(run).stages[0].done <= done and time.monotonic() - began < 60:
            time.sleep(0.1)
        waits.append(time.monotonic() - began)
    fleet.ledger.cancel(run, "benchmark")
    return round(sorted(waits)[int(len(waits) * 0.95)], 1)


def measure(options: argparse.Namespace, folder: Path) -> Figures:
    figures = Figures(options.rows, options.finished)
    home = folder / "home"
    home.mkdir()
    environ = {**os.environ, "RSEMBED_PLUGINS": "rsembed.testing.fleet", "RSEMBED_FETCH_THREADS": "4"}
    fleet = FleetUnderTest(home, environ, io=0, cpu=0)
    fleet.start()
    try:
        say(f"{options.finished} ended runs")
        dispatcher = fleet.children[0]
        fleet.remove(dispatcher)
        finished_runs(fleet.environ["DATABASE_URL"], options.finished)
        fleet.add("dispatcher", ("dispatcher",))
        say(f"submitting {options.rows} rows x {len(MODELS)} models, twice")
        measure_submit(fleet, folder, figures)
        run = fleet.ledger.runs(active=True)[0].id
        say("tickets and ledger alone")
        measure_books(fleet, folder, figures, run, options.rows // 4)
        fleet.ledger.cancel(run, "benchmark")
        say("end to end")
        measure_end_to_end(fleet, folder, figures, options.through)
    finally:
        fleet.stop()
    return figures


def verdicts(figures: Figures) -> Iterator[str]:
    for name, value in asdict(figures).items():
        target = TARGETS.get(name)
        if target is None:
            yield f"{name:22} {value}"
        else:
            met = value >= -target if target < 0 else value <= target
            bound = f"{'at least' if target < 0 else 'at most'} {abs(target)}"
            yield f"{name:22} {value:>10}   target {bound}{'' if met else ', missed'}"


def main() -> int:
    if "--child" in sys.argv:
        return child(sys.argv[sys.argv.index("--child") + 1 :])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the large submit")
    parser.add_argument("--through", type=int, default=100_000, help="rows that go end to end")
    parser.add_argument("--finished", type=int, default=1000, help="ended runs in the ledger")
    parser.add_argument("--quick", action="store_true", help="20,000 rows, 20 ended runs: does it still work?")
    parser.add_argument("--book-worker", choices=("io", "cpu"), help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.book_worker:
        return book_worker(options.book_worker)
    if options.quick:
        options.rows, options.through, options.finished = 20_000, 5_000, 20
    folder = Path(tempfile.mkdtemp(prefix="rsembed-scale-"))
    folder.chmod(0o755)
    try:
        figures = measure(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(asdict(figures), indent=1) if options.json else "\n".join(verdicts(figures)))
    return 0


def child(words: Sequence[str]) -> int:
    """An ``rsembed`` command that tells its peak memory at the end."""
    from rsembed.cli.main import cli

    code = cli.main(list(words), prog_name="rsembed", standalone_mode=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak MB {peak:.0f}", file=sys.stderr)
    return int(code or 0)


if __name__ == "__main__":
    sys.exit(main())
