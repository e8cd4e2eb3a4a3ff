"""The precomputed products against the reference system, read from samples in their published formats."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cases import FOLDER, Case

from rsembed.api import get_embedding
from rsembed.core.fetching import Grid
from rsembed.core.patch import Frame, Patch
from rsembed.core.specs import BBox, OutputSpec, TemporalSpec
from rsembed.embedders.options import make_config
from rsembed.tools.spatial import from_lonlat
from rsembed.tools.temporal import frame_bins
from rsembed.tools.tiling import whole_image
from tests.product_files import MadeTile, write_map, write_registry, write_tile

TOLERANCE = 1e-6
OUTPUTS = {"pooled": OutputSpec.pooled(), "pooled_max": OutputSpec.pooled("max"), "grid": OutputSpec.grid()}
FOLDER_OPTION = {"tessera": "cache_dir", "copernicus": "data_dir"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder for this test, and no network."""
    monkeypatch.setenv("RSEMBED_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("RSEMBED_OFFLINE", "1")
    return tmp_path


def answer_from_files(case: Case, output: OutputSpec) -> np.ndarray:
    where = {k: case.facts["spatial"][k] for k in ("minlon", "minlat", "maxlon", "maxlat")}
    option = {FOLDER_OPTION[case.facts["model"]]: str(case.folder / "product")}
    year = TemporalSpec.year(case.facts["temporal"]["year"])
    return get_embedding(
        case.facts["model"], spatial=BBox(**where), temporal=year, output=output, recipe="rs-embed", **option
    ).data


def answer_from_response(case: Case, output: OutputSpec) -> np.ndarray:
    """What Earth Engine gave, as its provider hands it on: masked where the reference asks for -9999."""
    embedder = case.model(make_config(case.model.card, recipe="rs-embed", output=output))
    with np.load(case.folder / "response.npz") as stored:
        pixels = stored["sample_rectangle"].astype(np.float32)
    valid = np.isfinite(pixels) & (pixels != -9999)
    year = TemporalSpec.year(case.facts["temporal"]["year"]).window
    frames = tuple(Frame(w, 1, w.midpoint) for w in frame_bins(year, embedder.contract.frames))
    grid = Grid(3857, 0.0, 0.0, 10.0, *pixels.shape[1:])
    patch = Patch(np.where(valid, pixels, 0)[None], valid[None], tuple(case.facts["bands"]), grid, frames)
    patch = patch.select(embedder.contract.bands)
    place = case.facts["spatial"]
    [prepared] = embedder.prepare_patch(
        patch, whole_image(*pixels.shape[1:]), lon=place["lon"], lat=place["lat"], window=year
    )
    embedder.load("cpu")
    arrays = {name: array[None] for name, array in prepared.arrays.items()}
    return embedder.embed_batch(arrays, np.array([prepared.roi], np.float32))[0]


READERS: dict[str, Callable[[Case, OutputSpec], np.ndarray]] = {
    "tessera": answer_from_files,
    "copernicus": answer_from_files,
    "gse": answer_from_response,
}


@pytest.mark.parametrize("what", OUTPUTS)
@pytest.mark.parametrize("name", READERS)
def test_product_when_read_as_the_reference_does_then_numbers_agree(name: str, what: str, cache: Path) -> None:
    case = Case(FOLDER / name)
    got, expected = READERS[name](case, OUTPUTS[what]), case.expected[what]
    assert got.shape == expected.shape
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)


# The reference's way of reading, written again from its description, at other places ------------------------------


def reference_tiles(tiles: list[MadeTile], box: tuple[float, float, float, float]) -> np.ndarray:
    """The crop (128, H, W) that the reference makes of ``tiles`` of one zone, in the registry's order."""
    minlon, minlat, maxlon, maxlat = box
    near = [
        t
        for t in tiles
        if minlon - 0.05 <= t.lon_i / 100 <= maxlon + 0.05 and minlat - 0.05 <= t.lat_i / 100 <= maxlat + 0.05
    ]
    px = near[0].pixel_m
    left, top = min(t.left for t in near), max(t.top for t in near)
    right = max(t.left + t.land.shape[1] * px for t in near)
    bottom = min(t.top - t.land.shape[0] * px for t in near)
    canvas = np.zeros((128, round((top - bottom) / px), round((right - left) / px)), np.float32)
    for tile in near:
        row, col = round((top - tile.top) / px), round((tile.left - left) / px)
        canvas[:, row : row + tile.land.shape[0], col : col + tile.land.shape[1]] = tile.values.transpose(2, 0, 1)
    x, y = from_lonlat(near[0].epsg, np.array([minlon, maxlon]), np.array([minlat, maxlat]))
    rows = slice(max(0, math.floor((top - y.max()) / px)), math.ceil((top - y.min()) / px))
    cols = slice(max(0, math.floor((x.min() - left) / px)), math.ceil((x.max() - left) / px))
    return canvas[:, rows, cols]


@pytest.mark.parametrize(
    ("cells", "box", "year"),
    [
        ([(15, 5205), (25, 5205), (15, 5215), (25, 5215)], (0.13, 52.04, 0.27, 52.17), 2021),
        ([(25, 5215), (15, 5205)], (0.13, 52.04, 0.27, 52.17), 2019),  # two corners are missing
        ([(-6005, -315)], (-60.08, -3.19, -60.02, -3.11), 2024),
        ([(-6005, -315)], (-60.13, -3.23, -60.06, -3.14), 2024),  # beyond the tile
        ([(15005, -3365), (15015, -3365)], (150.02, -33.69, 150.18, -33.61), 2017),
        ([(2025, 6945)], (20.21, 69.41, 20.29, 69.49), 2025),
    ],
)
def test_tiles_when_read_elsewhere_then_the_references_crop(
    cells: list[tuple[int, int]], box: tuple[float, float, float, float], year: int, cache: Path
) -> None:
    root = cache / "tiles"
    tiles = [write_tile(root, *cell, year, pixel_m=300.0, aligned=True, water=True) for cell in cells]
    write_registry(root, tiles)
    expected = reference_tiles(tiles, box)
    for output, wanted in (
        (OutputSpec.pooled(), expected.mean(axis=(1, 2))),
        (OutputSpec.pooled("max"), expected.max(axis=(1, 2))),
        (OutputSpec.grid(), expected),
    ):
        got = get_embedding(
            "tessera", spatial=BBox(*box), temporal=TemporalSpec.year(year), output=output, recipe="rs-embed",
            cache_dir=str(root),
        ).data  # fmt: skip
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


def test_cells_when_read_elsewhere_then_the_references_window(cache: Path) -> None:
    values = np.random.default_rng(3).standard_normal((5, 721, 1440)).astype(np.float32)
    values[:, 200:300, 100:500] = 0
    write_map(cache / "map" / "embed_map_310k.tif", values)
    random = np.random.default_rng(4)
    for _ in range(12):
        minlon, minlat = random.uniform(-180, 170), random.uniform(-90, 80)
        box = (minlon, minlat, minlon + random.uniform(0.3, 8), minlat + random.uniform(0.3, 8))
        rows = slice(math.floor((90.125 - box[3]) / 0.25), math.ceil((90.125 - box[1]) / 0.25))
        cols = slice(math.floor((box[0] + 180) / 0.25), math.ceil((box[2] + 180) / 0.25))
        expected = values[:, rows, cols]
        for output, wanted in ((OutputSpec.pooled(), expected.mean(axis=(1, 2))), (OutputSpec.grid(), expected)):
            got = get_embedding(
                "copernicus", spatial=BBox(*box), temporal=TemporalSpec.year(2021), output=output, recipe="rs-embed",
                data_dir=str(cache / "map"),
            ).data  # fmt: skip
            assert got.shape == wanted.shape
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)
