"""What the fleet's control plane costs: submitting, tickets and leases, status, pausing, a killed worker.

    python benchmarks/fleet_scale.py [--rows 1000000] [--finished 1000] [--quick] [--json]

Everything runs on this machine: embedded servers, a dispatcher, worker processes of a real Celery.
``ledger``: workers that claim, settle and do nothing else, so what is left is tickets and
transactions. ``end to end``: patches of 1 x 8 x 8 pixels from the null provider through the input
store, the null model, parts and manifest. The ledger holds ``--finished`` ended runs all the while.
Servers and workers share the machine's cores. Where others use them too, rows a second say little:
``..._cpu_ms`` is what each process spent on a row (ms of CPU, its children's included), ``load`` the
load average meanwhile. ``pause_s``: until the last request or batch that began; ``rerun_s``: until
each unit of a worker that was killed is leased again.
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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.book_worker import book_record  # noqa: E402 - the path comes first
from workers.broker import connect_redis  # noqa: E402 - the path comes first
from workers.ledger.records import (  # noqa: E402 - the path comes first
    GroupEntry,
    ModelEntry,
    NewRun,
    RowOutcome,
    RunState,
    ShardState,
    StoredRows,
)
from workers.ledger.repository import Ledger  # noqa: E402 - the path comes first
from workers.settings import FleetSettings  # noqa: E402 - the path comes first
from workers.testing import FleetUnderTest  # noqa: E402 - the path comes first

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
    rerun_s: list[float] = field(default_factory=list)
    growth_mb: dict[str, float] = field(default_factory=dict)
    ledger_cpu_ms: dict[str, float] = field(default_factory=dict)
    end_to_end_cpu_ms: dict[str, float] = field(default_factory=dict)
    lease_s: float = 0.0
    load: float = 0.0


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


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


def submit(
    fleet: FleetUnderTest, table: Path, out: Path, models: Sequence[str] = MODELS
) -> tuple[dict[str, Any], float, float]:
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
        time.sleep(0.5)  # asking is work for the ledger, too
    raise SystemExit(f"run {run}: {stage} did not reach {done_rows} rows within {deadline_s} s")


def wait_for_state(fleet: FleetUnderTest, run: int, states: Sequence[RunState], deadline_s: float = 900) -> None:
    end = time.monotonic() + deadline_s
    while fleet.ledger.run(run).state not in states:
        if time.monotonic() > end:
            raise SystemExit(f"run {run} is {fleet.ledger.run(run).state} after {deadline_s} s")
        time.sleep(0.5)  # asking is work for the ledger, too


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
    workers = {
        kind: subprocess.Popen([sys.executable, str(ROOT / "benchmarks" / "book_worker.py"), kind], env=environ,
                               stdout=subprocess.DEVNULL, stderr=(folder / f"book-{kind}.log").open("w"))
        for kind in ("io", "cpu")
    }  # fmt: skip
    pids = {worker.pid: kind for kind, worker in workers.items()}
    try:
        wait_for(fleet, run, 256, "embed", 60)
        before = Moment.now(fleet, run, pids)
        status_s = []
        while _embedded(fleet, run) - before.rows < rows and time.monotonic() - before.at < 120:
            began = time.monotonic()
            fleet.ledger.status(run)
            status_s.append(time.monotonic() - began)
            time.sleep(0.5)
        # Fetches and shards of all models are transactions of the same kind; rows of a model are counted.
        figures.ledger_rows_s, figures.ledger_cpu_ms = before.until(Moment.now(fleet, run, pids))
        figures.status_s = round(max(figures.status_s, sorted(status_s)[int(len(status_s) * 0.95)]), 3)
        figures.redis_mb = _redis_mb(fleet)
    finally:
        for worker in workers.values():
            worker.send_signal(signal.SIGTERM)
        for worker in workers.values():
            worker.wait(30)


@dataclass(frozen=True)
class Moment:
    """Rows embedded and CPU seconds spent so far, by the names of processes."""

    at: float
    rows: int
    cpu_s: dict[str, float]

    @classmethod
    def now(cls, fleet: FleetUnderTest, run: int, more: dict[int, str] | None = None) -> Moment:
        """As things are; ``more``: pid -> name of processes that are not the fleet's own."""
        named = {child.pid: child.spec.name for child in fleet.children if child.pid is not None}
        return cls(time.monotonic(), _embedded(fleet, run), cpu_seconds({**named, **(more or {})}))

    def until(self, later: Moment) -> tuple[int, dict[str, float]]:
        """Rows a second, and ms of CPU a row of each process and of all."""
        rows = max(1, later.rows - self.rows)
        spent = {name: later.cpu_s[name] - self.cpu_s.get(name, 0.0) for name in sorted(later.cpu_s)}
        spent["all"] = sum(spent.values())
        return round(rows / (later.at - self.at)), {name: round(1000 * s / rows, 4) for name, s in spent.items()}


def cpu_seconds(names: dict[int, str]) -> dict[str, float]:
    """CPU seconds of this process's children with all that descends from them; others than ``names`` by their command.

    Servers that are not our children (given by their URLs) are not seen.
    """
    parents: dict[int, int] = {}
    spent: dict[int, float] = {}
    commands: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            before, _, after = (folder / "stat").read_text().rpartition(")")
        except OSError:
            continue
        pid, fields = int(folder.name), after.split()
        parents[pid], commands[pid] = int(fields[1]), before.partition("(")[2]
        spent[pid] = sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")
    total: dict[str, float] = {}
    for pid, seconds in spent.items():
        top = pid
        while parents.get(top, 0) not in (0, os.getpid()):
            top = parents[top]
        if parents.get(top) == os.getpid():
            name = names.get(top, commands[top])
            total[name] = total.get(name, 0.0) + seconds
    return total


def _embedded(fleet: FleetUnderTest, run: int) -> int:
    return sum(s.done for s in fleet.ledger.status(run).stages if s.stage == "embed")


def _redis_mb(fleet: FleetUnderTest) -> float:
    info = connect_redis(fleet.environ["REDIS_URL"]).info("memory")
    return round(float(info["used_memory"]) / 2**20, 1)


def measure_end_to_end(fleet: FleetUnderTest, folder: Path, figures: Figures, rows: int, warm_up: bool) -> None:
    """Rows a second and CPU a row through one IO and one inference worker, and what these grow by."""
    table = folder / "some.parquet"
    write_table(table, rows)
    children = [fleet.add("io", ("worker", "io")), fleet.add("cpu", ("worker", "cpu", "--models", "null,null-slow"))]
    if warm_up:  # workers have loaded what they need
        few = folder / "few.parquet"
        write_table(few, 256)
        told, _, _ = submit(fleet, few, folder / "few", ("null@one",))
        wait_for_state(fleet, int(told["run"]), [RunState.DONE])
    # Fetching runs ahead of embedding, so all rows are counted, from the first to the last.
    fleet.ledger.drain(None, True, "benchmark")
    told, _, _ = submit(fleet, table, folder / "some", ("null@one",))
    run = int(told["run"])
    _wait_for_workers(fleet, 2)
    before = Moment.now(fleet, run)
    fleet.ledger.drain(None, False, "benchmark")
    wait_for(fleet, run, rows // 5, "embed")
    sizes = {child.spec.name: _rss(child.pid) for child in children}
    wait_for(fleet, run, rows, "embed")
    figures.end_to_end_rows_s, figures.end_to_end_cpu_ms = before.until(Moment.now(fleet, run))
    figures.growth_mb = {child.spec.name: round(_rss(child.pid) - sizes[child.spec.name], 1) for child in children}


def _wait_for_workers(fleet: FleetUnderTest, count: int) -> None:
    end = time.monotonic() + 60
    while len([w for w in fleet.ledger.workers() if w.info.kind != "dispatcher"]) < count:
        if time.monotonic() > end:
            raise SystemExit("the workers did not start")
        time.sleep(0.2)


def _rss(pid: int | None) -> float:
    text = Path(f"/proc/{pid}/statm").read_text()
    return int(text.split()[1]) * resource.getpagesize() / 2**20


def measure_steering(fleet: FleetUnderTest, folder: Path, figures: Figures, kills: int) -> None:
    """A run of slow calls and slow batches that is paused, taken up again, and loses its workers."""
    for child in [child for child in fleet.children if child.spec.name == "io"]:
        fleet.remove(child)
    for k in range(2):
        fleet.add(f"io-{k}", ("worker", "io"), {"RSEMBED_FETCH_THREADS": "16"})
    calls, batches = folder / "calls", folder / "batches"
    table = folder / "slow.parquet"
    write_table(table, 200_000)  # more than is fetched until the last kill
    slow = json.dumps({"latency_s": 0.1, "trace_file": str(calls)})
    words = [str(table), "--model", f"null-slow:trace_file={batches}@one", "--backend", "null", "--year", "2022"]
    words += ["--backend-options", slow, "--shard-size", "64", "--out", str(folder / "slow"), "--json"]
    command = [sys.executable, "-m", "rsembed", "fleet", "submit", *words]
    done = subprocess.run(command, env=fleet.environ, capture_output=True, check=True)
    run = int(json.loads(done.stdout)["run"])
    wait_for(fleet, run, 200, "embed", 120)
    figures.pause_s = _pause(fleet, run, (calls, batches))
    fleet.ledger.resume(run, "benchmark")
    figures.rerun_s = sorted(wait for _ in range(kills) for wait in _waits_after_kill(fleet, run))
    figures.rerun_p95_s = figures.rerun_s[int(len(figures.rerun_s) * 0.95)]
    fleet.ledger.cancel(run, "benchmark")


def _pause(fleet: FleetUnderTest, run: int, traces: Sequence[Path]) -> float:
    """Seconds from a pause until the last request or batch that began."""
    fleet.ledger.pause(run, "measured", "benchmark")
    began = time.time()
    time.sleep(2 * FleetSettings.from_environment(fleet.environ).heartbeat_s + 2)
    last = max(float(trace.read_text().split()[-1]) for trace in traces)
    return round(max(0.0, last - began), 2)


def _waits_after_kill(fleet: FleetUnderTest, run: int) -> list[float]:
    """Seconds from a SIGKILL of an IO worker until each of its units is leased again."""
    victim = _busiest(fleet, run)
    os.kill(victim[0], signal.SIGKILL)
    began = time.monotonic()
    held = dict(victim[1])
    waits = []
    while held and time.monotonic() - began < 120:
        now = {shard: (state, token) for shard, state, token, _ in _units(fleet, run)}
        for shard in [shard for shard in held if now[shard][0] != "pending" and now[shard][1] != held[shard]]:
            held.pop(shard)
            waits.append(round(time.monotonic() - began, 1))
        time.sleep(0.5)  # asking is work for the ledger, too
    return waits + [120.0] * len(held)


def _busiest(fleet: FleetUnderTest, run: int) -> tuple[int, dict[int, str]]:
    """Process id of an IO worker with at least two units, and the tokens of these by shard; waits for one."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pids = {worker.info.id: worker.info.pid for worker in fleet.ledger.workers() if worker.info.kind == "io"}
        units: dict[str, dict[int, str]] = {}
        for shard, state, token, worker in _units(fleet, run):
            if state == "leased" and worker in pids and pids[worker] in fleet.pids("io-"):
                units.setdefault(worker, {})[shard] = token
        busy = max(units, key=lambda worker: len(units[worker]), default=None)
        if len(units) == 2 and busy is not None and len(units[busy]) >= 2:
            return pids[busy], units[busy]
        time.sleep(0.5)  # asking is work for the ledger, too
    raise SystemExit("no IO worker held two units within 60 s")


def _units(fleet: FleetUnderTest, run: int) -> list[tuple[int, str, str, str]]:
    """(shard, state, token, worker) of every unit."""
    connection = psycopg2.connect(fleet.environ["DATABASE_URL"])
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT shard, state, token::text, worker_id::text FROM fetch_units WHERE run_id = %s", (run,)
            )
            return cursor.fetchall()
    finally:
        connection.close()


def measure(options: argparse.Namespace, folder: Path) -> Figures:
    figures = Figures(options.rows, options.finished)
    home = folder / "home"
    home.mkdir()
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environ = {
        **os.environ,
        "PYTHONPATH": path,
        "RSEMBED_PLUGINS": "rsembed.testing.fleet",
        "RSEMBED_FETCH_THREADS": "4",
    }
    if options.quick:
        environ["RSEMBED_LEASE_S"] = "3"
    figures.lease_s = FleetSettings.from_environment(environ).lease_s
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
        say(f"{figures.submit_s:.1f} s and {figures.submit_mb:.0f} MB, again {figures.submit_again_s:.1f} s")
        run = fleet.ledger.runs(active=True)[0].id
        say("tickets and ledger alone")
        measure_books(fleet, folder, figures, run, options.rows // 4)
        fleet.ledger.cancel(run, "benchmark")
        say(f"{figures.ledger_rows_s:,} rows/s; end to end")
        measure_end_to_end(fleet, folder, figures, options.through, not options.quick)
        figures.load = round(os.getloadavg()[0], 1)
        say(f"{figures.end_to_end_rows_s:,} rows/s; pausing and killing")
        measure_steering(fleet, folder, figures, options.kills)
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
    parser.add_argument("--through", type=int, default=200_000, help="rows that go end to end")
    parser.add_argument("--finished", type=int, default=1000, help="ended runs in the ledger")
    parser.add_argument("--kills", type=int, default=5, help="of an IO worker")
    parser.add_argument("--quick", action="store_true", help="10,000 rows, leases of 3 s: does it still work?")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.through, options.finished, options.kills = 10_000, 5_000, 10, 1
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
