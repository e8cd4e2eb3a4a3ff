"""Precomputed products: years, holes, maps, and no torch anywhere near."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import pytest

from rsembed.core.errors import ModelError, SpecError
from rsembed.core.fetching import Grid, PixelLattice
from rsembed.core.patch import Frame, Patch
from rsembed.core.specs import FetchSpec, OutputSpec, SensorSpec, Window
from rsembed.embedders.base import EmbedderBase
from rsembed.embedders.batching import run_slots
from rsembed.embedders.options import make_config
from rsembed.embedders.precomputed.copernicus import Copernicus
from rsembed.embedders.precomputed.gse import Gse
from rsembed.embedders.precomputed.tessera import Tessera
from rsembed.providers.products import copernicus as copernicus_files
from rsembed.providers.products import tessera as tessera_files
from rsembed.tools.temporal import frame_bins
from rsembed.tools.tiling import whole_image
from tests.product_files import write_map, write_registry, write_tile

PRODUCTS = (Gse, Tessera, Copernicus)
YEAR_2021 = Window(dt.date(2021, 1, 1), dt.date(2022, 1, 1))


def window(start: str, end: str) -> Window:
    return Window(dt.date.fromisoformat(start), dt.date.fromisoformat(end))


def patch_of(values: np.ndarray, valid: np.ndarray, bands: tuple[str, ...]) -> Patch:
    """One frame; ``values`` (C, H, W), ``valid`` (H, W)."""
    mask = np.broadcast_to(valid, values.shape)
    grid = Grid(32631, 0.0, 0.0, 10.0, *valid.shape)
    return Patch(np.where(mask, values, 0)[None], mask[None], bands, grid, (Frame(YEAR_2021, 1, YEAR_2021.midpoint),))


def embedded(embedder: EmbedderBase, patch: Patch) -> np.ndarray:
    footprint = whole_image(patch.grid.height, patch.grid.width)
    embedder.load("cpu")
    results = run_slots(
        embedder,
        lambda _: embedder.prepare_patch(patch, footprint, lon=0.0, lat=0.0, window=YEAR_2021),
        3,
        batch_size=2,
    )
    assert not results.errors
    for slot in (1, 2):
        np.testing.assert_array_equal(results.values[0], results.values[slot])
    return results.values[0]


@pytest.fixture
def holed() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    values = random.standard_normal((64, 5, 7)).astype(np.float32) - 3  # a zero would be the largest
    return values, random.random((5, 7)) > 0.4


@pytest.mark.parametrize("recipe", ["authors", "rs-embed"])
def test_pooled_when_there_are_holes_then_only_embeddings_count(
    holed: tuple[np.ndarray, np.ndarray], recipe: str
) -> None:
    values, valid = holed
    for pooling, expected in (("mean", values[:, valid].mean(axis=1)), ("max", values[:, valid].max(axis=1))):
        embedder = Gse(make_config(Gse.card, recipe=recipe, output=OutputSpec("pooled", pooling)))
        got = embedded(embedder, patch_of(values, valid, embedder.contract.bands))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_pooled_when_one_band_is_missing_then_the_pixel_does_not_count(holed: tuple[np.ndarray, np.ndarray]) -> None:
    values, _ = holed
    embedder = Gse(make_config(Gse.card))
    patch = patch_of(values, np.ones((5, 7), bool), embedder.contract.bands)
    mask = patch.valid_tchw.copy()
    mask[0, 3, 0] = False
    given = Patch(patch.values_tchw, mask, patch.bands, patch.grid, patch.frames)
    np.testing.assert_allclose(embedded(embedder, given), values[:, 1:].mean(axis=(1, 2)), rtol=1e-6)


def test_pooled_when_nothing_is_there_then_the_row_fails() -> None:
    embedder = Gse(make_config(Gse.card))
    patch = patch_of(np.ones((64, 2, 2), np.float32), np.zeros((2, 2), bool), embedder.contract.bands)
    with pytest.raises(ModelError, match="no embedding anywhere"):
        embedder.prepare_patch(patch, whole_image(2, 2), lon=0.0, lat=0.0, window=YEAR_2021)


def test_grid_when_there_are_holes_then_nan_stands_in_them(holed: tuple[np.ndarray, np.ndarray]) -> None:
    values, valid = holed
    embedder = Gse(make_config(Gse.card, output=OutputSpec.grid()))
    got = embedded(embedder, patch_of(values, valid, embedder.contract.bands))
    np.testing.assert_array_equal(got, np.where(valid, values, np.nan))


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("recipe", ["authors", "rs-embed"])
def test_years_when_a_window_lies_outside_then_the_coverage_is_named(product: type[EmbedderBase], recipe: str) -> None:
    policy = product(make_config(product.card, recipe=recipe)).fetch_recipe().frames
    assert frame_bins(YEAR_2021, policy) == (YEAR_2021,)
    coverage = "2021 only" if product is Copernicus else "2017 to 2025 only"
    for year in (2015, 2016, 2026):
        with pytest.raises(SpecError, match=f"stands for {year}.*{coverage}"):
            frame_bins(window(f"{year}-01-01", f"{year + 1}-01-01"), policy)


@pytest.mark.parametrize(
    ("start", "end", "middle", "first"),
    [
        ("2021-06-01", "2021-07-01", 2021, 2021),
        ("2021-11-01", "2022-10-01", 2022, 2021),
        ("2020-12-20", "2021-02-01", 2021, 2020),
        ("2020-01-01", "2021-01-01", 2020, 2020),
    ],
)
def test_years_when_a_window_is_no_calendar_year_then_its_middle_decides_or_its_start(
    start: str, end: str, middle: int, first: int
) -> None:
    for recipe, year in (("authors", middle), ("rs-embed", first)):
        policy = Tessera(make_config(Tessera.card, recipe=recipe)).fetch_recipe().frames
        assert frame_bins(window(start, end), policy) == (window(f"{year}-01-01", f"{year + 1}-01-01"),)


def test_years_when_a_window_holds_several_then_one_must_be_named() -> None:
    with pytest.raises(SpecError, match="name one year"):
        frame_bins(window("2019-01-01", "2022-01-01"), Gse(make_config(Gse.card)).fetch_recipe().frames)


def test_collections_when_a_provider_reads_them_then_both_say_the_same() -> None:
    for product, files in ((Tessera, tessera_files), (Copernicus, copernicus_files)):
        assert product.card.inputs["annual"].collection == files.COLLECTION
    assert Tessera.card.inputs["annual"].bands == tessera_files.BANDS


def test_fetch_when_recipes_differ_then_so_does_what_is_read() -> None:
    def fetch(product: type[EmbedderBase], recipe: str):
        return product(make_config(product.card, recipe=recipe)).fetch_recipe()

    assert (fetch(Gse, "authors").grid, fetch(Gse, "rs-embed").grid) == ("utm", "web_mercator")
    assert fetch(Gse, "rs-embed").product is None
    assert fetch(Gse, "rs-embed").composite == fetch(Gse, "authors").composite == "mosaic"
    assert fetch(Gse, "rs-embed").clouds.scene_pct is None
    own, reference = fetch(Tessera, "authors").product, fetch(Tessera, "rs-embed").product
    assert own is not None
    assert reference is not None
    assert (own.lattice, own.holes) == (None, "masked")
    assert (reference.lattice, reference.holes) == (PixelLattice(10.0), "zero")
    cells = fetch(Copernicus, "authors").product
    assert cells is not None
    assert cells.lattice == PixelLattice(0.25, -180.0, 90.125)


def test_options_when_a_folder_is_given_then_its_files_decide(tmp_path: Path) -> None:
    write_registry(tmp_path, [write_tile(tmp_path, 15, 5205, pixel_m=400.0, aligned=True)])
    write_map(tmp_path / "embed_map_small.tif", np.ones((5, 4, 8), np.float32), left=-10.0, top=50.0)
    tiles = Tessera(make_config(Tessera.card, recipe="rs-embed", options={"cache_dir": str(tmp_path)})).fetch_recipe()
    assert tiles.product is not None
    assert tiles.product.location == str(tmp_path)
    assert tiles.product.lattice is not None
    assert tiles.product.lattice.step == 400.0
    cells = Copernicus(make_config(Copernicus.card, options={"data_dir": str(tmp_path)}))
    assert cells.contract.bands == ("E000", "E001", "E002", "E003", "E004")
    assert cells.dim == 5
    found = cells.fetch_recipe().product
    assert found is not None
    assert found.lattice == PixelLattice(0.25, -10.0, 50.0)


def test_options_when_the_file_is_no_raster_then_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "embed_map_small.tif").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="embed_map_small"):
        Copernicus(make_config(Copernicus.card, options={"data_dir": str(tmp_path)})).fetch_recipe()


def test_scale_when_pixels_are_the_products_own_then_it_cannot_be_changed() -> None:
    fetch = FetchSpec(scale_m=20.0)
    for product, recipe in ((Copernicus, "authors"), (Tessera, "rs-embed")):
        with pytest.raises(ModelError, match="scale_m"):
            product(make_config(product.card, recipe=recipe, fetch=fetch)).fetch_recipe()
    assert Gse(make_config(Gse.card, fetch=fetch)).fetch_recipe().scale_m == 20.0


def test_sensor_when_given_then_the_users_own_copy_is_read_as_imagery() -> None:
    sensor = SensorSpec("MY/COPY", tuple(f"x{i}" for i in range(128)), cloudy_pct=None)
    recipe = Tessera(make_config(Tessera.card, sensor=sensor)).fetch_recipe()
    assert (recipe.collection, recipe.product) == ("MY/COPY", None)


def test_device_when_a_run_is_on_cuda_then_products_stay_on_the_cpu() -> None:
    for product in PRODUCTS:
        embedder = product(make_config(product.card))
        assert embedder.resolve_device("cuda:0") == embedder.stated_device("cuda") == "cpu"
