"""Kill everything, and compare what comes out with a run that nobody disturbed.

A fleet on embedded servers works on one run while its workers and its dispatcher are killed
(SIGKILL), Redis is flushed and restarted, Postgres is restarted in immediate mode, the input
store is too small for the run and a tenth of the provider's calls fail. Some rows fail for good;
when the run has ended they are healed and retried by their class, under the same fire. Then the
dataset must be, byte for byte, what a local export of the same request gives.

    python benchmarks/chaos.py                                        # 20,000 rows, 50 kills
    python benchmarks/chaos.py --rows 1000 --kills 10 --lease 2 --json

Exit code 0 when nothing was lost, doubled or quarantined, 1 when something was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workers.ledger.errors import LedgerError
from workers.ledger.records import RunState
from workers.testing import FleetUnderTest as Fleet

MODELS = ("null@plain", "null:poison=77@picky", "null:modality=multi@series")
"""Two that share a fetch, one of which fails on some rows, and one with frames of its own."""
ENDED = (RunState.DONE, RunState.DONE_WITH_FAILURES, RunState.CANCELLED, RunState.BLOCKED, RunState.PAUSED)
BYTE_STABLE = ("*/part-*.parquet", "manifest.json", "parts.parquet", "failures.parquet", "_run.json")
HEALED_CLASS = "provider"


@dataclass
class Report:
    """What happened and what came of it."""

    rows: int
    kills: int = 0
    redis_flushes: int = 0
    redis_restarts: int = 0
    postgres_restarts: int = 0
    retried_rows: int = 0
    losses: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def write_table(path: Path, n: int) -> None:
    """``n`` places, each with pixels of its own, with windows of one to four months."""
    side = int(np.ceil(np.sqrt(n)))
    i = np.arange(n)
    months = 1 + i % 4
    start = np.full(n, np.datetime64("2023-01-01"))
    table = pa.table(
        {
            "id": [f"p{k:06d}" for k in range(n)],
            "lon": 1.0 + (i % side) * 0.01,
            "lat": 42.0 + (i // side) * 0.01,
            "start": pa.array(start),
            "end": pa.array(start + months * 28),
            "plot": pa.array(i % 7),
        }
    )
    pq.write_table(table, path)


def backend_options(heal: Path, latency_s: float) -> list[str]:
    given = {
        "latency_s": latency_s, "sigma": 0.5, "fault_share": 0.1, "permanent_share": 0.02, "heal_file": str(heal),
        "empty_share": 0.03, "low_share": 0.03,
    }  # fmt: skip
    return ["--backend-options", json.dumps(given)]


def command(environ: Mapping[str, str], *arguments: str, codes: Sequence[int] = (0,)) -> str:
    """Standard output of an ``rsembed`` command that ends with one of ``codes``."""
    done = subprocess.run(
        [sys.executable, "-m", "rsembed", *arguments], env=dict(environ), capture_output=True, text=True, check=False
    )
    if done.returncode not in codes:
        raise SystemExit(f"rsembed {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def misfortunes(fleet: Fleet, report: Report, kills: int) -> Iterator[Callable[[], None]]:
    """What befalls the fleet, in order: kills, with a server's trouble among them now and then."""

    def kill() -> None:
        report.kills += fleet.kill_one()

    def flush() -> None:
        fleet.flush_redis()
        report.redis_flushes += 1

    def redis() -> None:
        fleet.restart_redis()
        report.redis_restarts += 1

    def postgres() -> None:
        fleet.restart_postgres()
        report.postgres_restarts += 1

    servers = [flush, postgres, redis] if fleet.servers.can_restart else [flush]
    # While fewer than asked have hit somebody.
    step = 0
    while report.kills < kills:
        step += 1
        if step % max(3, kills // 6) == 0 and servers:
            yield servers.pop(0)
        yield kill
    yield from servers


def status_of(fleet: Fleet, run: int) -> RunState | None:
    try:
        return fleet.ledger.run(run).state
    except LedgerError:
        return None  # Postgres is being restarted


def wait_for_end(fleet: Fleet, run: int, deadline_s: float, before: Sequence[RunState] = ()) -> RunState:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        state = status_of(fleet, run)
        if state in ENDED and state not in before:
            return state
        time.sleep(0.3)
    raise SystemExit(f"run {run} did not end within {deadline_s:.0f} s; it is {status_of(fleet, run)}")


def under_fire(fleet: Fleet, report: Report, kills: int, every_s: float, stop: threading.Event) -> None:
    rng = random.Random(1)  # noqa: S311 - chaos, not secrecy
    for strike in misfortunes(fleet, report, kills):
        if stop.wait(rng.uniform(0.5, 1.5) * every_s):
            return
        strike()


def digests(out: Path) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in BYTE_STABLE
        for path in sorted(out.glob(pattern))
    }


def compare(out: Path, expected: Path, rows: int) -> list[str]:
    """Where the disturbed output differs from the undisturbed one, or from itself."""
    problems = []
    found, wanted = digests(out), digests(expected)
    problems += [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    problems += [f"{name} should not be there" for name in sorted(found.keys() - wanted.keys())]
    problems += [f"{name} differs" for name in sorted(found.keys() & wanted.keys()) if found[name] != wanted[name]]
    left = [str(path.relative_to(out)) for path in out.glob("*/_shards/*")] + [str(p) for p in out.glob("_tmp/*")]
    problems += [f"{name} was left behind" for name in left[:5]]
    manifest = json.loads((out / "manifest.json").read_text())
    parts = pq.read_table(out / "parts.parquet").to_pylist()
    for part in parts:
        path = out / part["name"]
        if hashlib.sha256(path.read_bytes()).hexdigest() != part["sha256"]:
            problems.append(f"{part['name']} is not the file that parts.parquet names")
    for label in ("plain", "picky", "series"):
        table = pq.read_table(out / label, columns=["id", "seq", "status"])
        if table.num_rows != rows or pc.count_distinct(table["seq"]).as_py() != rows:
            problems.append(f"{label} has {table.num_rows} rows, {pc.count_distinct(table['seq']).as_py()} distinct")
        counted = Counter(table["status"].to_pylist())
        if {k: v for k, v in manifest["counts"][label].items() if v} != dict(counted):
            problems.append(f"{label}: manifest counts {manifest['counts'][label]}, the files have {dict(counted)}")
    return problems


def compare_ledger(fleet: Fleet, run: int, out: Path) -> list[str]:
    """Where the ledger disagrees with itself or with the files."""
    problems = [str(each) for each in fleet.ledger.check(run)]
    status = fleet.ledger.status(run)
    manifest = json.loads((out / "manifest.json").read_text())
    for stage in status.stages:
        if stage.stage != "embed":
            continue
        counts = manifest["counts"][stage.label]
        if (stage.failed, stage.no_data) != (counts["failed"], counts["no_data"]):
            problems.append(f"{stage.label}: ledger has {stage.failed} failed and {stage.no_data} no_data, {counts}")
        if stage.open:
            problems.append(f"{stage.label}: {stage.open} rows are open in the ledger")
    condemned = {name: n for name, n in status.failures.items() if name not in ("internal", HEALED_CLASS)}
    if condemned:
        problems.append(f"innocent rows were given up: {condemned}")
    return problems


def run(options: argparse.Namespace, folder: Path) -> Report:
    report = Report(options.rows)
    began = time.monotonic()
    table, heal = folder / "places.parquet", folder / "healed"
    write_table(table, options.rows)
    environ = {
        **os.environ,
        "RSEMBED_PLUGINS": "rsembed.testing.fleet",
        "RSEMBED_HOME": str(folder / "home"),
        "RSEMBED_LEASE_S": str(options.lease),
        "RSEMBED_INPUTS_BUDGET_GB": str(options.budget_mb / 1000),
        "RSEMBED_FETCH_THREADS": "16",
    }
    shared = [part for model in MODELS for part in ("--model", model)]
    shared += ["--backend", "null", "--shard-size", str(options.shard_size)]
    say(f"an undisturbed local export of {options.rows} rows")
    calm = [*shared, *backend_options(heal, 0.0)]
    for _ in range(2):
        command(environ, "export", str(table), *calm, "--out", str(folder / "calm"), "--quiet", codes=(0, 3))
        heal.touch()
    heal.unlink()
    (folder / "home").mkdir()
    fleet = Fleet(folder / "home", environ, io=options.io, cpu=options.cpu)
    fleet.start()
    stop = threading.Event()
    try:
        out = folder / "fire"
        fired = [*shared, *backend_options(heal, options.latency)]
        told = command(fleet.environ, "fleet", "submit", str(table), *fired, "--out", str(out), "--json")
        number = int(json.loads(told)["run"])
        say(f"run {number} is under fire: {options.kills} kills")
        first = (options.kills * 2 // 3, options.kills)
        for kills in first:
            stop.clear()
            fire = threading.Thread(target=under_fire, args=(fleet, report, kills, options.every, stop), daemon=True)
            fire.start()
            state = wait_for_end(fleet, number, options.deadline)
            if state not in (RunState.DONE, RunState.DONE_WITH_FAILURES):
                report.problems.append(f"the run ended as {state.value}: {fleet.ledger.run(number).reason}")
                return report
            say(f"ended as {state.value} after {report.kills} kills")
            if kills == first[-1]:
                break
            fire.join()
            heal.touch()
            told = command(
                fleet.environ, "fleet", "retry", str(number), "--error-class", HEALED_CLASS, "--json", codes=(0,)
            )
            report.retried_rows = int(json.loads(told)["rows"])
            say(f"retrying {report.retried_rows} rows of class {HEALED_CLASS}")
        fire.join(options.deadline)
        report.losses = fleet.ledger.status(number).losses
        report.problems += compare(out, folder / "calm", options.rows)
        report.problems += compare_ledger(fleet, number, out)
    finally:
        stop.set()
        fleet.stop()
        report.seconds = round(time.monotonic() - began, 1)
    return report


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two misfortunes")
    parser.add_argument("--lease", type=float, default=5.0, help="seconds")
    parser.add_argument("--shard-size", type=int, default=256)
    parser.add_argument("--latency", type=float, default=0.1, help="median seconds of a provider call")
    parser.add_argument("--budget-mb", type=float, default=1.0, help="size of the input store")
    parser.add_argument("--io", type=int, default=2)
    parser.add_argument("--cpu", type=int, default=2)
    parser.add_argument("--deadline", type=float, default=1800.0, help="seconds after which the run is called stuck")
    parser.add_argument("--keep", action="store_true", help="leave the folder behind")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> int:
    options = parse()
    folder = Path(tempfile.mkdtemp(prefix="rsembed-chaos-"))
    folder.chmod(0o755)
    try:
        report = run(options, folder)
    finally:
        if options.keep:
            say(f"kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(asdict(report), indent=1))
    else:
        for name, value in asdict(report).items():
            print(f"{name:18} {value}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
