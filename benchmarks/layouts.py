"""What the layouts of an export cost when fetching and inference cost nothing: CPU, memory, files, bytes.

    python -m benchmarks.layouts [--rows 200,1000] [--px 64] [--quick] [--json]

Patches of ten bands and ``--px`` pixels a side, one model. Every measurement runs in a process of
its own; CPU leaves out what an export of one row costs in such a process. Beside each layout a
stand-in for the plain way of writing it, by the same measures: ``plain per-item`` writes a
compressed npz and an indented JSON a row in the threads that fetch, ``plain combined`` keeps all
rows in memory and writes one compressed npz as a checkpoint when all pixels are there and once
more at the end. Neither syncs, resumes or survives a crash, so they do less.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.export_overhead import ROOT, peak_mb, table

if TYPE_CHECKING:
    from rsembed.pipelines.request import ExportTarget
    from rsembed.testing.null import NullProvider

BANDS = tuple(f"B{i}" for i in range(10))
WORKERS = 8
SYSTEMS = (
    "dataset", "per-item", "per-item+inputs", "plain per-item+inputs", "combined", "combined+inputs",
    "plain combined+inputs",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One measurement: a layout (``+inputs``: pixels are kept) of ``rows`` patches of ``px`` pixels a side."""

    system: str
    rows: int
    px: int


# In the measured process -----------------------------------------------------------------------


def measure_here(case: Case, folder: Path) -> dict[str, float]:
    """Run ``case`` in this process."""
    import rsembed.testing.null  # noqa: F401 - imports come before the clock starts
    from rsembed import exporting  # noqa: F401 - see above

    run = _plain if case.system.startswith("plain") else _export
    out = folder / f"{case.system}-{case.rows}".replace(" ", "-")
    out.mkdir()
    began = time.monotonic()
    run(case, out)
    wall_s = time.monotonic() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found = [path for path in out.rglob("*") if path.is_file()]
    shown = [path for path in found if "_rsembed" not in path.parts and ".rsembed" not in str(path)]
    return {
        "wall_s": wall_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": peak_mb(),
        "files": len(shown),
        "mb": sum(path.stat().st_size for path in shown) / 1e6,
        "kept_mb": sum(path.stat().st_size for path in set(found) - set(shown)) / 1e6,
    }


def _model(px: int) -> str:
    """A null model that takes ten bands of ``px`` pixels; its name."""
    from dataclasses import replace

    from rsembed.core.card import InputContract
    from rsembed.embedders.registry import register
    from rsembed.testing.null import COLLECTION, NullEmbedder

    contract = InputContract(COLLECTION, BANDS, 10.0, px, any_size=True)

    @register("null-ten")
    class Ten(NullEmbedder):
        card = replace(NullEmbedder.card, id="null-ten", inputs={"single": contract})

    return Ten.card.id


def _places(rows: int) -> list[tuple[float, float]]:
    import numpy as np

    rng = np.random.default_rng(0)
    return list(zip(rng.uniform(-10, 20, rows).tolist(), rng.uniform(40, 55, rows).tolist(), strict=True))


def _export(case: Case, out: Path) -> None:
    from rsembed.core.specs import TemporalSpec
    from rsembed.exporting import export_batch
    from rsembed.pipelines.request import ExportConfig, ExportTarget
    from rsembed.testing.null import NullProvider

    layout, _, inputs = case.system.partition("+")
    target: ExportTarget
    if layout == "dataset":
        target = ExportTarget.dataset(out / "set")
    elif layout == "per-item":
        target = ExportTarget.per_item(out)
    else:
        target = ExportTarget.combined(out / "all.npz")
    export_batch(
        spatials=_places(case.rows),
        temporal=TemporalSpec.year(2023),
        models=[_model(case.px)],
        target=target,  # type: ignore[call-overload]  # one of three, chosen above
        config=ExportConfig(num_workers=WORKERS, show_progress=False, save_inputs=bool(inputs)),
        backend=NullProvider(),
    )


def _plain(case: Case, out: Path) -> None:
    import numpy as np

    from rsembed.core.specs import TemporalSpec
    from rsembed.testing.null import NullProvider

    provider, window = NullProvider(), TemporalSpec.year(2023).window
    vectors = np.zeros((case.rows, 16), np.float32)
    about = {"status": "ok", "temporal": [str(window.start), str(window.end)], "bands": list(BANDS)}

    def fetch(place: tuple[float, float]) -> Any:
        return _patch(provider, place, case.px)

    with ThreadPoolExecutor(WORKERS) as pool:
        if "per-item" in case.system:

            def item(i: int, place: tuple[float, float]) -> None:
                np.savez_compressed(out / f"p{i:05d}.npz", input_chw=fetch(place), embedding=vectors[i])
                text = json.dumps(about | {"lonlat": place}, indent=2)
                (out / f"p{i:05d}.json").write_text(text, encoding="utf-8")

            list(pool.map(item, range(case.rows), _places(case.rows)))
            return
        inputs = np.stack(list(pool.map(fetch, _places(case.rows))))
    np.savez_compressed(out / "all.npz", inputs_bchw=inputs)  # the checkpoint after fetching
    np.savez_compressed(out / "all.npz", inputs_bchw=inputs, embeddings=vectors)
    text = json.dumps([about | {"lonlat": place} for place in _places(case.rows)], indent=2)
    (out / "all.json").write_text(text, encoding="utf-8")


def _patch(provider: NullProvider, place: tuple[float, float], px: int) -> Any:
    from rsembed.core.fetching import FetchRecipe, FetchRequest
    from rsembed.core.specs import TemporalSpec
    from rsembed.testing.null import COLLECTION, NullEmbedder
    from rsembed.tools.spatial import GridRule, snapped_grids

    recipe: FetchRecipe = NullEmbedder().fetch_recipe()
    grid = snapped_grids([place[0]], [place[1]], px, px, 10.0, rule=GridRule(10.0))[0]  # type: ignore[arg-type]  # lists do
    assert recipe.collection == COLLECTION
    return provider.fetch(FetchRequest(recipe, BANDS, grid, (TemporalSpec.year(2023).window,))).values_tchw[0]


# In the process that starts them ---------------------------------------------------------------


def measure(case: Case, folder: Path) -> dict[str, float]:
    """Run ``case`` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.layouts", "--child", json.dumps(asdict(case)), str(folder)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def run(rows: Sequence[int], px: int, folder: Path) -> list[dict[str, object]]:
    """Every layout at every number of rows, as lines of a table."""
    found: list[dict[str, object]] = []
    for system in SYSTEMS:
        start = measure(Case(system, 1, px), folder)
        smallest: dict[str, float] | None = None
        for n in rows:
            got = measure(Case(system, n, px), folder)
            smallest = smallest or got
            found.append(
                {
                    "layout": system,
                    "rows": n,
                    "cpu ms/row": round(1000 * (got["cpu_s"] - start["cpu_s"]) / (n - 1), 2),
                    "wall s": round(got["wall_s"], 2),
                    "peak MB": round(got["peak_mb"]),
                    "growth MB": round(got["peak_mb"] - smallest["peak_mb"]),
                    "files": int(got["files"]),
                    "MB": round(got["mb"], 1),
                    "kept MB": round(got["kept_mb"], 1),
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", default="200,1000", help="numbers of rows, smallest first")
    parser.add_argument("--px", type=int, default=64, help="pixels a side")
    parser.add_argument("--quick", action="store_true", help="5 and 10 rows: shows that it works, says nothing")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--child", nargs=2, metavar=("CASE", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(measure_here(Case(**json.loads(asked.child[0])), Path(asked.child[1]))))
        return
    counts = [5, 10] if asked.quick else sorted({int(text) for text in asked.rows.split(",")})
    with tempfile.TemporaryDirectory(prefix="layouts-") as scratch:
        rows = run(counts, 8 if asked.quick else asked.px, Path(scratch))
    print(json.dumps({"runs": rows}, indent=1) if asked.json else table(rows, list(rows[0])))


if __name__ == "__main__":
    main()
