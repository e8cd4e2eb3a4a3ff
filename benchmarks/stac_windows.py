"""Many small windows out of a STAC catalogue over HTTP: the stac provider against a loop over points.

    python -m benchmarks.stac_windows [--points 200] [--latency 0.02] [--quick] [--json]

A catalogue of 1,000 invented scenes (5 places x 200 dates, 2 bands, 2048 x 2048 pixels in blocks of 1024
x 1024, deflate) is served by a process of its own, as a STAC API and as files; each answer waits
``--latency`` seconds. Rows are clustered: ten around each of a few villages. Each wants the median of
a month, about 16 scenes, in 64 x 64 pixels.

``rsembed``: the provider, asked by ``--threads`` threads in the order of a run's rows, from nothing in
memory. ``loop``: for each point a search, then each scene and band opened with rasterio, the window read,
the file closed, the median taken; GDAL with the options that its manual gives for such files. The loop is run
by one thread and again by as many as rsembed has; fewer points of it are timed, their patches compared to the bit.
Requests and bytes are counted by the server.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import urllib3

ROOT = Path(__file__).resolve().parents[1]
EPSG = 32631
NORTH = 4_700_000.0
BANDS = (("B4", "red"), ("B8", "nir"))
DISTINCT = 8
"""So many different pictures a band; the scenes' files are links to them."""
TARGET = 5.0
GDAL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
}


@dataclass(frozen=True)
class Size:
    """How much is made: places in a row, dates of each, pixels a side of a scene and of its blocks."""

    places: int = 5
    dates: int = 200
    side: int = 2048
    block: int = 1024

    @property
    def scenes(self) -> int:
        """Scenes in all."""
        return self.places * self.dates


@dataclass(frozen=True)
class Figures:
    """What one way of reading cost; requests and bytes by the server's count."""

    way: str
    points: int
    seconds: float
    points_per_s: float
    searches_per_point: float
    requests_per_point: float
    kb_per_point: float


def corner(place: int, size: Size) -> tuple[float, float]:
    """Upper left corner of a place's scenes, metres."""
    return 420_000.0 + place * size.side * 10.0, NORTH


def write_catalogue(folder: Path, size: Size) -> list[dict[str, Any]]:
    """The files of all scenes, and their items."""
    import rasterio
    from rasterio.transform import Affine
    from rasterio.warp import transform_bounds

    rng = np.random.default_rng(0)
    coarse = rng.integers(300, 4000, (size.side // 32, size.side // 32)).astype(np.float32)
    land = np.kron(coarse, np.ones((32, 32), np.float32))
    pictures: dict[tuple[int, int, str], Path] = {}
    for place in range(size.places):
        x, y = corner(place, size)
        for n in range(min(size.dates, DISTINCT)):
            for band, _ in BANDS:
                values = land * (0.8 + 0.05 * n) + rng.normal(0, 20, land.shape).astype(np.float32)
                path = folder / f"picture-{place}-{n}-{band}.tif"
                options = {"driver": "COG", "blocksize": size.block, "compress": "deflate", "predictor": 2}
                shape = {"height": size.side, "width": size.side, "count": 1, "dtype": "uint16", "nodata": 0}
                where = {"crs": f"EPSG:{EPSG}", "transform": Affine(10.0, 0, x, 0, -10.0, y)}
                with rasterio.open(path, "w", **options, **shape, **where) as target:
                    target.write(values.clip(1, 10_000).astype(np.uint16), 1)
                pictures[place, n, band] = path
    items: list[dict[str, Any]] = []
    for place in range(size.places):
        x, y = corner(place, size)
        bbox = transform_bounds(f"EPSG:{EPSG}", "EPSG:4326", x, y - size.side * 10, x + size.side * 10, y)
        for n in range(size.dates):
            day = dt.date(2022, 1, 1) + dt.timedelta(days=n * 364 // size.dates)
            name = f"S2A_31T{place:02d}_{day:%Y%m%d}_{n}"
            assets = {}
            for band, key in BANDS:
                os.link(pictures[place, n % DISTINCT, band], folder / f"{name}-{band}.tif")
                about = {"nodata": 0, "scale": 0.0001, "offset": 0}
                assets[key] = {"href": f"./{name}-{band}.tif", "raster:bands": [about]}
            properties = {"datetime": f"{day}T10:50:00Z", "constellation": "sentinel-2", "platform": "sentinel-2a",
                          "eo:cloud_cover": 1.0, "s2:processing_baseline": "05.00"}  # fmt: skip
            items.append({"type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "sentinel-2-c1-l2a",
                          "bbox": list(bbox), "geometry": None, "links": [], "assets": assets,
                          "properties": properties})  # fmt: skip
    return items


def requests_of(points: int, size: Size) -> list[Any]:
    """What the rows ask for: ten points around each village, villages spread over the places."""
    from rsembed.core.fetching import CloudPolicy, FetchRecipe, FetchRequest, Grid
    from rsembed.core.specs import Window

    rng = np.random.default_rng(1)
    recipe = FetchRecipe("COPERNICUS/S2_SR_HARMONIZED", 10.0, clouds=CloudPolicy("none", None, None))
    found = []
    for village in range(-(-points // 10)):
        x, y = corner(village % size.places, size)
        middle = rng.integers(100, size.side - 100, 2)
        month = dt.date(2022, 1 + village // size.places % 12, 1)
        window = Window(month, month + dt.timedelta(days=30))
        for _ in range(10):
            col, row = (int(v) for v in np.clip(middle + rng.integers(-60, 60, 2), 0, size.side - 64) // 2 * 2)
            grid = Grid(EPSG, x + col * 10.0, y - row * 10.0, 10.0, 64, 64)
            found.append(FetchRequest(recipe, tuple(band for band, _ in BANDS), grid, (window,)))
    return found[:points]


def by_provider(url: str, requests: Sequence[Any], threads: int) -> list[np.ndarray]:
    """Patches of ``requests`` by a provider that has nothing in memory."""
    from rsembed.providers.stac import StacProvider

    provider = StacProvider(url)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return [patch.values_tchw[0] for patch in pool.map(provider.fetch, requests)]
    finally:
        provider.close()


def by_loop(url: str, requests: Sequence[Any], threads: int) -> list[np.ndarray]:
    """The same by a search and a rasterio.open for each point."""
    import rasterio
    from rasterio.warp import transform_bounds
    from rasterio.windows import Window as RasterWindow

    def one(request: Any) -> np.ndarray:
        window, grid = request.bins[0], request.grid
        days = f"{window.start}T00:00:00Z/{window.end - dt.timedelta(days=1)}T23:59:59Z"
        query = {"collections": ["sentinel-2-c1-l2a"], "datetime": days,
                 "bbox": transform_bounds(f"EPSG:{EPSG}", "EPSG:4326", *grid.bounds), "limit": 1000}  # fmt: skip
        items = urllib3.request("POST", f"{url}/search", json=query).json()["features"]
        layers = []
        with rasterio.Env(**GDAL):
            for item in items:
                for _, key in BANDS:
                    with rasterio.open(item["assets"][key]["href"]) as raster:
                        left, top = raster.transform.c, raster.transform.f
                        col, row = round((grid.x_min - left) / 10), round((top - grid.y_max) / 10)
                        layers.append(raster.read(1, window=RasterWindow(col, row, 64, 64)))
        stack = np.stack(layers).reshape(len(items), len(BANDS), 64, 64)
        return np.asarray(np.median(stack, axis=0), np.float32)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, requests))


@contextmanager
def served(folder: Path, latency_s: float) -> Iterator[str]:
    """The address of a server of ``folder`` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.stac_windows", "--serve", str(folder), str(latency_s)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.communicate("end\n")


def serve(folder: Path, latency_s: float) -> None:
    """Serve ``folder`` until the standard input ends."""
    from rsembed.testing.stac_server import StacServer

    items = json.loads((folder / "items.json").read_text(encoding="utf-8"))
    server = StacServer(folder, items, latency_s=latency_s)
    print(server.url, flush=True)
    sys.stdin.read()
    server.close()


def timed(way: str, url: str, points: int, read: Callable[[], list[np.ndarray]]) -> tuple[Figures, list[np.ndarray]]:
    """What ``read`` costs, by the clock and by the server."""
    counts(url)
    began = time.monotonic()
    found = read()
    seconds = time.monotonic() - began
    spent = counts(url)
    figures = Figures(
        way, points, seconds, points / seconds, spent["searches"] / points, spent["requests"] / points,
        spent["bytes"] / points / 1e3,
    )  # fmt: skip
    return figures, found


def counts(url: str) -> dict[str, int]:
    """What the server counted since this was last asked."""
    found: dict[str, int] = urllib3.request("GET", f"{url}/counts").json()
    return found


def measure(size: Size, points: int, loop_points: int, threads: int, latency_s: float) -> list[Figures]:
    """All three ways over one server. Ends the process where patches differ."""
    with tempfile.TemporaryDirectory(prefix="stac-windows-") as scratch:
        folder = Path(scratch)
        (folder / "items.json").write_text(json.dumps(write_catalogue(folder, size)), encoding="utf-8")
        requests = requests_of(points, size)
        few = requests[:loop_points]
        with served(folder, latency_s) as url:
            by_loop(url, few[:1], 1)  # imports and first connections come before the clock starts
            own, patches = timed(
                f"rsembed, {threads} threads", url, points, lambda: by_provider(url, requests, threads)
            )
            runs = [own]
            for n in (1, threads):
                figures, plain = timed(f"loop, {n} threads", url, len(few), lambda n=n: by_loop(url, few, n))  # type: ignore[misc]  # bound now
                runs.append(figures)
                for mine, theirs in zip(patches, plain, strict=False):
                    if not np.array_equal(mine, theirs):
                        raise SystemExit("a patch differs from what rasterio reads")
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--loop-points", type=int, default=20, help="points that the loops read")
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--latency", type=float, default=0.02, help="seconds before each answer of the server")
    parser.add_argument("--quick", action="store_true", help="20 scenes, 10 points: shows that it works, says nothing")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "LATENCY"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(Path(asked.serve[0]), float(asked.serve[1]))
        return
    size = Size(2, 24, 512, 256) if asked.quick else Size()
    points, loop_points = (20, 5) if asked.quick else (asked.points, asked.loop_points)
    runs = measure(size, points, loop_points, asked.threads, 0.0 if asked.quick else asked.latency)
    ratios = [runs[0].points_per_s / run.points_per_s for run in runs[1:]]
    if asked.json:
        print(json.dumps({"scenes": size.scenes, "runs": [asdict(run) for run in runs], "ratios": ratios}))
        return
    print(f"{size.scenes} scenes, {asked.latency:g} s before each answer; patches are equal to the bit\n")
    print(f"{'':22} {'points':>7} {'points/s':>9} {'searches':>9} {'requests':>9} {'kB':>9}   (per point)")
    for run in runs:
        print(
            f"{run.way:22} {run.points:7d} {run.points_per_s:9.2f} {run.searches_per_point:9.2f} "
            f"{run.requests_per_point:9.2f} {run.kb_per_point:9.0f}"
        )
    for run, ratio in zip(runs[1:], ratios, strict=True):
        met = "yes" if ratio >= TARGET else "NO"
        print(f"\n{ratio:.1f} times the throughput of the {run.way} (target {TARGET:g}): {met}")


if __name__ == "__main__":
    main()
