"""Precomputed products by every route: one place, a local export beside imagery, a fleet's workers, Earth Engine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rsembed.api import get_embedding, get_embeddings_batch
from rsembed.core.errors import ProviderError, RowError, SpecError
from rsembed.core.patch import Patch
from rsembed.core.settings import Settings
from rsembed.core.specs import BBox, OutputSpec, PointBuffer, TemporalSpec
from rsembed.exporting import export_batch
from rsembed.inspection import inspect_model_input
from rsembed.pipelines.plan import lock_weights, plan_run
from rsembed.pipelines.request import ExportConfig, ExportModelRequest, ExportTarget, RunRequest
from rsembed.providers.base import ProviderBase
from rsembed.providers.factory import make_provider
from rsembed.providers.products.downloads import Downloader, Wanted
from rsembed.providers.transport import RequestCounter
from rsembed.testing.scene import write_synthetic_catalog
from rsembed.tools.spatial import to_lonlat
from tests.builders import row_table
from tests.product_files import MadeTile, file_server, write_map, write_registry, write_tile
from workers.queues import CPU, infer_queue
from workers.spec import ProviderSpec, RunSpec

YEAR = TemporalSpec.year(2022)
EPSG = 32631


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_catalog(tmp_path_factory.mktemp("synthetic"), size_px=256)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[MadeTile]]:
    """Tiles of two years around the synthetic scene."""
    root = tmp_path_factory.mktemp("tiles")
    made = [write_tile(root, lon_i, 4245, year) for year in (2021, 2022) for lon_i in (275, 285)]
    write_registry(root, made)
    return root, made


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = np.random.default_rng(0).standard_normal((4, 721, 1440), dtype=np.float32)
    return write_map(tmp_path_factory.mktemp("map") / "embed_map_small.tif", values).parent


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder for each test, and no network."""
    monkeypatch.setenv("RSEMBED_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("RSEMBED_OFFLINE", "1")


def places(n: int = 5) -> pa.Table:
    """Points on the synthetic scene."""
    x, y = 480_500.0 + 100.0 * np.arange(n), np.full(n, 4_698_900.0)
    lon, lat = to_lonlat(EPSG, x, y)
    return pa.table({"id": [f"p{i}" for i in range(n)], "lon": lon, "lat": lat})


def rows_of(folder: Path, label: str) -> dict[str, np.ndarray]:
    table = pq.read_table(folder / label).to_pydict()
    return dict(zip(table["id"], (np.array(v, np.float32) for v in table["embedding"]), strict=True))


def test_export_when_products_and_imagery_are_asked_for_then_each_from_its_own_source(
    catalog: Path, tiles: tuple[Path, list[MadeTile]], tmp_path: Path
) -> None:
    root, _ = tiles
    source = tmp_path / "places.parquet"
    pq.write_table(places(), source)
    summary = export_batch(
        spatials=source,
        temporal=YEAR,
        models=["mosaiks", f"tessera:cache_dir={root}"],
        target=ExportTarget.dataset(tmp_path / "out"),
        config=ExportConfig(shard_size=2, buffer_m=100.0, show_progress=False),
        backend="stac",
        catalog=catalog,
    )
    assert summary.counts["tessera"]["ok"] == summary.counts["mosaiks"]["ok"] == 5
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["request"]["provider"]["backend"] == "stac"
    assert "CC0" in manifest["licences"]["tessera"]["name"]
    found = rows_of(tmp_path / "out", "tessera")
    rows = places().to_pylist()
    spots = [PointBuffer(row["lon"], row["lat"], 100.0) for row in rows]
    alone = get_embeddings_batch("tessera", spatials=spots, temporal=YEAR, cache_dir=str(root))
    for row, answer in zip(rows, alone, strict=True):
        np.testing.assert_array_equal(found[row["id"]], answer.data)
        assert answer.meta["backend"] == "products"


def test_export_when_a_year_is_not_covered_then_refused_before_any_work(cells: Path, tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"copernicus: .*stands for 2022.*2021 only"):
        export_batch(
            spatials=[(2.8, 42.4)],
            temporal=YEAR,
            models=[f"copernicus:data_dir={cells}"],
            target=ExportTarget.dataset(tmp_path / "out"),
            config=ExportConfig(show_progress=False),
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("recipe", ["authors", "rs-embed"])
def test_embedding_when_a_map_is_asked_for_then_it_says_where_it_lies(cells: Path, recipe: Any) -> None:
    found = get_embedding(
        "copernicus", spatial=BBox(10.1, 45.2, 10.9, 45.6), temporal=TemporalSpec.year(2021), recipe=recipe,
        output=OutputSpec.grid(), data_dir=str(cells),
    )  # fmt: skip
    assert found.data.shape == (4, 2, 4)
    assert found.meta["grid"] == {"epsg": 4326, "transform": [0.25, 0.0, 10.0, 0.0, -0.25, 45.625]}


def test_embedding_when_a_point_has_no_buffer_then_its_own_pixels(tiles: tuple[Path, list[MadeTile]]) -> None:
    root, _ = tiles
    found = get_embedding(
        "tessera", spatial=PointBuffer(2.8, 42.45), temporal=YEAR, output=OutputSpec.grid(), cache_dir=str(root)
    )
    assert found.data.shape == (128, 2, 2)


def test_embedding_when_too_much_is_asked_for_then_refused_with_the_limit(tiles: tuple[Path, list[MadeTile]]) -> None:
    with pytest.raises((RowError, SpecError), match="1448 x 1448"):
        get_embedding("tessera", spatial=BBox(2.6, 42.3, 3.0, 42.6), temporal=YEAR, cache_dir=str(tiles[0]))


def test_embedding_when_nothing_is_there_then_no_data(tiles: tuple[Path, list[MadeTile]]) -> None:
    with pytest.raises(ProviderError, match="No images found"):
        get_embedding("tessera", spatial=PointBuffer(30.0, 10.0, 50), temporal=YEAR, cache_dir=str(tiles[0]))


def test_embedding_when_pixels_are_in_hand_then_they_are_pooled() -> None:
    pixels = np.random.default_rng(0).standard_normal((64, 7, 5)).astype(np.float32)
    pixels[:, 2, 2] = np.nan
    found = get_embedding("gse", spatial=PointBuffer(2.8, 42.45), temporal=YEAR, input_chw=pixels)
    np.testing.assert_allclose(found.data, np.nanmean(pixels, axis=(1, 2)), rtol=1e-5, atol=1e-6)


def test_inspection_when_a_product_is_asked_for_then_its_pixels(tiles: tuple[Path, list[MadeTile]]) -> None:
    found = inspect_model_input("tessera", spatial=PointBuffer(2.8, 42.45, 40), temporal=YEAR, cache_dir=str(tiles[0]))
    assert found["ok"]
    assert found["backend"] == "products"
    assert (found["report"]["height"], found["report"]["n_images"]) == (8, 1)
    assert len(found["report"]["frames"][0]["bands"]) == 128


def test_fleet_when_a_run_is_submitted_then_its_workers_open_and_read_the_same(
    catalog: Path, tiles: tuple[Path, list[MadeTile]], tmp_path: Path
) -> None:
    asked = RunRequest(
        (ExportModelRequest.parse(f"tessera:cache_dir={tiles[0]}"), ExportModelRequest.parse("mosaiks")),
        config=ExportConfig(buffer_m=100.0), device="cuda",
    )  # fmt: skip
    settings = Settings(cache_dir=tmp_path / "cache", offline=True)
    source = ProviderSpec.resolve("stac", settings, catalog=catalog)
    plan = lock_weights(plan_run(asked, source.make(settings), settings, stated_device=True), settings)
    table = row_table(places(), tmp_path)
    spec = RunSpec.from_json(json.loads(json.dumps(RunSpec.of(plan, asked, source, table).to_json())))
    planned = spec.plan(settings, with_weights=False)
    assert planned.describe() == plan.describe()
    assert [model.device for model in planned.models] == ["cpu", "cuda"]
    card = planned.models[0].embedder.card
    assert infer_queue(card.id, card.kind) == CPU
    provider = spec.open_provider(settings)
    group = next(group for group in planned.groups if group.recipe.product is not None)
    shard = table.shard(0, 5)
    height, width = group.asked_pixels(shard, group.models[0], 100.0)
    grids = group.grids(shard, height, width, 100.0)
    patch = provider.fetch(_request(group, grids[0], shard))
    assert isinstance(patch, Patch)
    assert patch.valid_tchw.all()


def _request(group: Any, grid: Any, shard: Any) -> Any:
    from rsembed.core.fetching import FetchRequest

    return FetchRequest(group.recipe, group.bands, grid, group.bins(shard.window(0)))


def test_source_when_only_products_are_used_then_the_backend_is_not_part_of_the_request(
    catalog: Path, tiles: tuple[Path, list[MadeTile]]
) -> None:
    asked = RunRequest((ExportModelRequest.parse(f"tessera:cache_dir={tiles[0]}"),))
    settings = Settings(offline=True)
    plans = [plan_run(asked, make_provider("stac", catalog=c, settings=settings), settings) for c in (catalog, None)]
    assert plans[0].describe() == plans[1].describe()
    assert plans[0].provider == {"backend": "products"}
    assert isinstance(make_provider("stac", settings=settings), ProviderBase)


def test_earth_engine_when_asked_for_its_embeddings_then_one_request_and_holes_left_out() -> None:
    pytest.importorskip("ee")
    from rsembed.providers.gee import GeeProvider
    from rsembed.testing.earth_engine import LocalEarthEngine, SyntheticImage
    from rsembed.testing.earth_engine.collections import SyntheticBand

    side, left, top = 40, 480_000.0, 4_700_000.0
    values = np.random.default_rng(0).uniform(-1, 1, (64, side, side))
    mask = np.ones((side, side))
    mask[18:20, 18:22] = 0
    bands = {
        f"A{i:02d}": SyntheticBand(values[i], f"EPSG:{EPSG}", (10.0, 0, left, 0, -10.0, top), mask) for i in range(64)
    }
    images = {
        "GOOGLE/SATELLITE_EMBEDDING/V1/ANNUAL": [
            SyntheticImage("here", "2022-01-01T00:00:00Z", bands, {"system:time_end": 1672531200000})
        ]
    }
    lon, lat = to_lonlat(EPSG, np.array([left + 200]), np.array([top - 200]))
    with LocalEarthEngine(images=images) as server:
        provider = GeeProvider("local-test", server.url)
        for output, expected in (
            (OutputSpec.pooled(), None),
            (OutputSpec.grid(), np.where(mask > 0, values, np.nan)[:, 14:26, 14:26]),
        ):
            found = get_embedding(
                "gse", spatial=PointBuffer(float(lon[0]), float(lat[0]), 60), temporal=YEAR, output=output,
                backend=provider,
            )  # fmt: skip
            inside, there = values[:, 14:26, 14:26], mask[14:26, 14:26] > 0
            np.testing.assert_allclose(
                found.data, inside[:, there].mean(axis=1) if expected is None else expected, rtol=1e-5, atol=1e-6
            )
        assert server.counters.pixel_requests == 2


STALLED = """
import sys
from pathlib import Path
from rsembed.providers.products.downloads import Downloader, Wanted
from rsembed.providers.transport import RequestCounter
Downloader().fetch(Wanted(sys.argv[1]), Path(sys.argv[2]), RequestCounter())
"""


def test_download_when_its_process_is_killed_then_the_next_one_goes_on_where_it_was(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3_000_000)
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "file").write_bytes(data)
    target = tmp_path / "kept" / "file"
    with file_server(tmp_path / "served") as server:
        server.script["file"] += [("stall", 2_000_000)]
        program = [sys.executable, "-c", STALLED, f"{server.url}/file", str(target)]
        with subprocess.Popen(program) as child:
            part = target.parent / ".file.part"
            patience = time.monotonic() + 120
            while not (part.exists() and part.stat().st_size) and time.monotonic() < patience:
                assert child.poll() is None
                time.sleep(0.02)
            child.send_signal(signal.SIGKILL)
        assert not target.exists()
        came = part.stat().st_size
        assert 0 < came <= 2_000_000
        server.release.set()
        Downloader().fetch(Wanted(f"{server.url}/file"), target, RequestCounter())
        assert server.asked("file")[-1] == f"bytes={came}-"
    assert target.read_bytes() == data


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import numpy as np
from rsembed.api import describe_model, get_embedding
from rsembed.core.specs import PointBuffer, TemporalSpec
for model in ("gse", "tessera", "copernicus"):
    describe_model(model)
found = get_embedding("copernicus", spatial=PointBuffer(0.1, 0.1, 30_000), temporal=TemporalSpec.year(2021),
                      data_dir=sys.argv[1])
assert found.data.shape == (4,) and np.isfinite(found.data).all()
"""


def test_products_when_torch_is_not_installed_then_they_work(cells: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(cells)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
