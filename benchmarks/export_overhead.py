"""What an export costs when fetching and inference cost nothing: CPU, memory, waiting, resuming.

    python benchmarks/export_overhead.py [--rows 1000,10000,100000] [--quick] [--full] [--json]

The null provider (1 x 8 x 8 patches, no latency or 0.2 s) and the null model; every measurement
runs in a process of its own, so that its CPU time and its peak memory are its own. The input
store is on, as in every run. ``cpu`` leaves out what an export of one row costs in such a process
(start-up, imports); ``cpu all`` is the whole process. ``eff`` is ideal / wall of the export call,
ideal = rows x latency / workers: ``cold`` is a process's first export (imports on first use
included), ``warm`` its second, as in a notebook or a worker.

Beside it, by the same measures, ``per-item``: a stand-in for layouts with one file pair (npz and
JSON) per row and a barrier per chunk. Threads fetch a chunk of 16 while the chunk before it is
embedded in one batch and written by the same threads. It keeps no inputs, syncs nothing and
cannot resume, so it does less. ``per-item/64`` has chunks as large as the number of workers.

Without ``--full``, runs with latency stop at 10,000 rows, and the stand-in at 10,000 rows always.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 64
LATENCY_S = 0.2
LONG_ROWS = 10_000
"""Longer runs with latency need --full; the stand-in is not run beyond this."""
TARGETS = {"cpu ms/row": 0.4, "growth MB": 50.0, "eff %": 90.0, "resume s": 2.0}


@dataclass(frozen=True)
class Case:
    """One measurement. ``system``: ``rsembed`` or ``per-item``; ``chunk``: rows between two barriers."""

    system: str
    rows: int
    workers: int
    latency_s: float
    chunk: int = 16
    warm: bool = False
    resume: bool = False

    @property
    def ideal_s(self) -> float:
        """Seconds that the waiting alone takes."""
        return self.rows * self.latency_s / self.workers


@dataclass(frozen=True)
class Figures:
    """What a process measured of itself. ``call_s``: the export call; ``process_s``: with start and imports."""

    call_s: float
    process_s: float
    cpu_s: float
    peak_mb: float
    warm_s: float | None = None


# In the measured process -----------------------------------------------------------------------


def measure_here(case: Case, folder: Path) -> Figures:
    """Run ``case`` in this process."""
    import rsembed.testing.null  # noqa: F401 - imports come before the clock starts; the null model registers itself
    from rsembed import api  # noqa: F401 - see above

    run = export_per_item if case.system == "per-item" else export_dataset
    began = time.monotonic()
    run(case, folder, "out")
    call_s = time.monotonic() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s, most_mb = usage.ru_utime + usage.ru_stime, peak_mb()
    warm_s = None
    if case.warm:
        began = time.monotonic()
        run(case, folder, "again")
        warm_s = time.monotonic() - began
    return Figures(call_s, 0.0, cpu_s, most_mb, warm_s)


def peak_mb() -> float:
    """The most memory this process ever had, MB."""
    # ru_maxrss survives exec on Linux and would show the parent's memory; VmHWM is this program's.
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return int(found[1]) / 1024 if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def export_dataset(case: Case, folder: Path, out: str) -> None:
    """The export as users call it."""
    from rsembed.core.specs import TemporalSpec
    from rsembed.exporting import export_batch
    from rsembed.pipelines.request import ExportConfig, ExportTarget
    from rsembed.testing.null import NullProvider

    summary = export_batch(
        spatials=_table(folder, case.rows),
        temporal=TemporalSpec.year(2023),
        models=["null"],
        target=ExportTarget.dataset(folder / f"{out}-{case.rows}-{case.latency_s}"),
        config=ExportConfig(fetch_workers=case.workers, show_progress=False),
        backend=NullProvider(latency_s=case.latency_s),
    )
    if summary.counts["null"]["ok"] != case.rows or (case.resume and summary.requests):
        raise SystemExit(f"{case}: the run went wrong: {summary}")


def export_per_item(case: Case, folder: Path, out: str) -> None:
    """One npz and one JSON per row, a barrier per chunk (see the module's docstring)."""
    import numpy as np
    import pyarrow.parquet as pq

    from rsembed.core.fetching import FetchRequest
    from rsembed.core.patch import Patch
    from rsembed.core.serialization import to_json
    from rsembed.core.specs import TemporalSpec
    from rsembed.providers.collections import grid_rule
    from rsembed.testing.null import COLLECTION, NullEmbedder, NullProvider
    from rsembed.tools.spatial import snapped_grids

    target = folder / f"{out}-items-{case.rows}-{case.latency_s}-{case.chunk}"
    target.mkdir()
    provider, model = NullProvider(latency_s=case.latency_s), NullEmbedder()
    places = pq.read_table(_table(folder, case.rows))
    ids, lon, lat = (column.to_numpy(zero_copy_only=False) for column in places.columns)
    recipe, window = model.fetch_recipe(), TemporalSpec.year(2023).window
    grids = snapped_grids(lon, lat, 8, 8, recipe.scale_m, rule=grid_rule(COLLECTION))

    def write(i: int, patch: Patch, vector: np.ndarray) -> None:
        np.savez(target / f"{ids[i]}.npz", embedding=vector)
        about = {"id": ids[i], "lon": lon[i], "lat": lat[i], "model": model.card.id, "dim": len(vector)}
        about |= {"frames": patch.frames, "grid": patch.grid, "valid_fraction": patch.valid_fraction()}
        (target / f"{ids[i]}.json").write_text(json.dumps(to_json(about), indent=1), encoding="utf-8")

    chunks = [range(first, min(first + case.chunk, case.rows)) for first in range(0, case.rows, case.chunk)]
    with ThreadPoolExecutor(case.workers) as pool:

        def fetch(chunk: range) -> Iterator[Patch]:
            requests = [FetchRequest(recipe, ("B1",), grids[i], (window,)) for i in chunk]
            return pool.map(provider.fetch, requests)

        ahead = fetch(chunks[0])
        for number, chunk in enumerate(chunks):
            patches = list(ahead)  # the barrier
            if number + 1 < len(chunks):
                ahead = fetch(chunks[number + 1])
            image = np.stack([patch.values_tchw[:, 0] / np.float32(4000) for patch in patches])
            vectors = model.embed_batch({"image": image}, np.zeros((len(chunk), 4), np.float32))
            list(pool.map(write, chunk, patches, vectors))


def _table(folder: Path, rows: int) -> Path:
    return folder / f"places-{rows}.parquet"


# In the process that starts them ---------------------------------------------------------------


def write_places(path: Path, rows: int) -> None:
    """A table of seeded places; in a process of its own, so that the starter stays small."""
    code = (
        "import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq\n"
        "n = int(sys.argv[1]); rng = np.random.default_rng(0)\n"
        "columns = {'id': [f'r{i}' for i in range(n)], 'lon': rng.uniform(-10, 20, n), 'lat': rng.uniform(40, 55, n)}\n"
        "pq.write_table(pa.table(columns), sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(rows), str(path)], check=True)


def measure(case: Case, folder: Path) -> Figures:
    """Run ``case`` in a fresh process."""
    if not _table(folder, case.rows).exists():
        write_places(_table(folder, case.rows), case.rows)
    command = [sys.executable, "-m", "benchmarks.export_overhead", "--child", json.dumps(asdict(case)), str(folder)]
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return replace(Figures(**json.loads(done.stdout)), process_s=time.monotonic() - began)


def cases(rows: Sequence[int], *, full: bool) -> list[Case]:
    """What is measured, in order; the resume comes after the run that it resumes."""
    long = max(rows) if full else LONG_ROWS
    waiting = [n for n in rows if n <= long]
    few = [n for n in rows if n <= LONG_ROWS] or [min(rows)]
    return [
        *(Case("rsembed", n, WORKERS, 0.0) for n in rows),
        Case("rsembed", max(rows), WORKERS, 0.0, resume=True),
        *(Case("rsembed", n, WORKERS, LATENCY_S, warm=n == min(rows)) for n in waiting),
        *(Case("per-item", n, 8, 0.0) for n in few),
        Case("per-item", min(rows), WORKERS, LATENCY_S),
        Case("per-item", min(rows), WORKERS, LATENCY_S, chunk=WORKERS),
    ]


def _row(case: Case, got: Figures, start: Figures, smallest: Figures | None) -> dict[str, object]:
    """One line of the table; None where a figure says nothing."""
    eff = 100 * case.ideal_s / got.call_s if case.latency_s else None
    name = "resume" if case.resume else case.system + (f"/{case.chunk}" if case.system != "rsembed" else "")
    return {
        "system": name,
        "rows": case.rows,
        "workers": case.workers,
        "latency s": case.latency_s,
        "cpu ms/row": None if case.resume else 1e3 * max(0.0, got.cpu_s - start.cpu_s) / case.rows,
        "cpu all ms/row": 1e3 * got.cpu_s / case.rows,
        "wall s": got.call_s,
        "ideal s": case.ideal_s or None,
        "eff %": eff,
        "eff warm %": 100 * case.ideal_s / got.warm_s if got.warm_s and case.latency_s else None,
        "peak MB": got.peak_mb,
        "growth MB": None if smallest is None else got.peak_mb - smallest.peak_mb,
        "process s": got.process_s,
    }


def table(rows: Sequence[dict[str, object]], names: Sequence[str]) -> str:
    """Aligned columns."""
    cells = [list(names)]
    for row in rows:
        values = [row[name] for name in names]
        cells.append(["-" if v is None else f"{v:.3g}" if isinstance(v, float) and v < 1 else _text(v) for v in values])
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)


def _text(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def verdicts(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Each target beside what was measured and, where it has one, the stand-in's figure."""
    own = [row for row in rows if row["system"] == "rsembed"]
    largest = next(row for row in reversed(own) if not row["latency s"])
    other = [row for row in rows if str(row["system"]).startswith("per-item")]
    resumed = next(row for row in rows if row["system"] == "resume")
    found: list[tuple[str, str, str, object, object]] = [
        (f"CPU ms/row, {largest['rows']} rows", "cpu ms/row", "<=", largest["cpu ms/row"], other[-3]["cpu ms/row"]),
        (f"peak memory MB, {own[0]['rows']} -> {largest['rows']} rows", "growth MB", "<", largest["growth MB"], None),
    ]
    for row in own:
        if row["latency s"]:
            beside = other[-2]["eff %"] if row["rows"] == other[-2]["rows"] else None
            found.append((f"efficiency %, {row['rows']} rows, cold", "eff %", ">=", row["eff %"], beside))
            if row["eff warm %"] is not None:
                found.append((f"efficiency %, {row['rows']} rows, warm", "eff %", ">=", row["eff warm %"], beside))
    found.append(("resume s, process start included", "resume s", "<", resumed["process s"], None))
    found.append(("resume s, call alone", "resume s", "<", resumed["wall s"], None))
    lines: list[dict[str, object]] = []
    for what, target, sign, value, beside in found:
        limit = TARGETS[target]
        good = isinstance(value, float) and (value >= limit if sign == ">=" else value <= limit)
        lines.append(
            {"measured": what, "rsembed": value, "target": f"{sign} {limit:g}", "met": "yes" if good else "NO",
             "per-item/16": beside}
        )  # fmt: skip
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", default="1000,10000,100000", help="numbers of rows, smallest first")
    parser.add_argument("--quick", action="store_true", help="60 and 200 rows: shows that it works, says nothing")
    parser.add_argument("--full", action="store_true", help="latency runs of more than 10,000 rows too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--child", nargs=2, metavar=("CASE", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(asdict(measure_here(Case(**json.loads(asked.child[0])), Path(asked.child[1])))))
        return
    counts = [60, 200] if asked.quick else sorted({int(text) for text in asked.rows.split(",")})
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="export-overhead-") as scratch:
        folder = Path(scratch)
        measure(Case("rsembed", 1, WORKERS, 0.0), folder)  # so that compiled files and disk caches are there
        start = measure(Case("rsembed", 1, WORKERS, LATENCY_S), folder)
        starts = {"rsembed": start, "per-item": measure(Case("per-item", 1, WORKERS, 0.0), folder)}
        smallest: Figures | None = None
        for case in cases(counts, full=asked.full):
            got = measure(case, folder)
            growing = case.system == "rsembed" and not case.resume and not case.latency_s
            smallest = smallest or got
            rows.append(_row(case, got, starts[case.system], smallest if growing else None))
            if not asked.json:
                print(f"{case.system} {case.rows} rows, {case.latency_s:g} s: {got.call_s:.1f} s", file=sys.stderr)
    targets = verdicts(rows)
    if asked.json:
        print(json.dumps({"runs": rows, "targets": targets}, indent=1))
    else:
        print(table(rows, list(rows[0])), "\n")
        print(table(targets, list(targets[0])))


if __name__ == "__main__":
    main()
