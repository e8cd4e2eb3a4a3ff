"""Rows 44 to 50 of the reference's contract: regions larger or longer than a model's input."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rsembed
from rsembed import (
    BBox,
    Embedding,
    ExportConfig,
    ExportTarget,
    InputPrepSpec,
    Model,
    ModelError,
    OutputSpec,
    PointBuffer,
    RSEmbedError,
    SpecError,
    load_export,
)
from rsembed.core.fetching import Grid
from tests.contract.reference import models
from tests.contract.reference.calls import YEAR, settings
from tests.contract.reference.models import SIDE, Land, land

GRID, MANY = OutputSpec.grid(), InputPrepSpec.tile(max_tiles=100_000, max_tiles_hard=100_000)
METRE = 1 / 111_320
"""Degrees of latitude in a metre, about."""


def box(height_m: float, width_m: float, *, lon: float = 3.0, lat: float = 42.0) -> BBox:
    """A box of about that size, in the middle of a UTM zone."""
    dy, dx = height_m * METRE / 2, width_m * METRE / np.cos(np.deg2rad(lat)) / 2
    return BBox(lon - dx, lat - dy, lon + dx, lat + dy)


def ask(spatial: Any, model: str = "contract-pixels", **changes: Any) -> Embedding:
    given = settings(backend=Land(), temporal=YEAR, output=GRID, input_prep=MANY) | changes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of seams
        return rsembed.get_embedding(model, spatial=spatial, **given)


def truth(found: Embedding) -> np.ndarray:
    """The land under a map of one cell a pixel."""
    meta, (_, height, width) = found.meta["grid"], found.data.shape
    a, _, c, _, _, f = meta["transform"]
    grid = Grid(meta["epsg"], c, f, a, height, width)
    return np.stack([land(grid, band) for band in ("B1", "B2")])


REGIONS = [
    PointBuffer(3.0, 42.0, 40), PointBuffer(3.0, 42.0, 20), PointBuffer(3.0, 42.0, 100), PointBuffer(3.01, 42.0, 130),
    PointBuffer(3.0, -42.0, 170), box(40, 80), box(80, 40), box(60, 500), box(500, 60), box(330, 250), box(20, 700),
    box(85, 85), box(90, 170),
]  # fmt: skip


# Row 44: a rectangular region is what comes back, by every path. Where the reference fetches an enlarged square, ours
# fetches that square for regions that fit a model's input, and whole tiles for larger ones.


@pytest.mark.parametrize("region", REGIONS, ids=str)
def test_region_when_mapped_then_exactly_the_asked_ground(region: Any) -> None:
    found = ask(region)
    np.testing.assert_array_equal(found.data, truth(found))
    _, height, width = found.data.shape
    if isinstance(region, PointBuffer):
        assert (height, width) == (2 * region.buffer_m // 10,) * 2
    else:
        assert abs(height * 10 * METRE - (region.maxlat - region.minlat)) <= 20.1 * METRE


@pytest.mark.parametrize("region", REGIONS, ids=str)
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_region_when_pooled_then_over_the_asked_ground_alone(region: Any, pooling: Any) -> None:
    pixels = ask(region).data.astype(np.float64)
    found = ask(region, output=OutputSpec.pooled(pooling)).data
    expected = pixels.mean(axis=(1, 2)) if pooling == "mean" else pixels.max(axis=(1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("region", [PointBuffer(3.0, 42.0, 130), box(60, 500), box(40, 80)], ids=str)
@pytest.mark.parametrize("model", ["contract-pixels", "contract-tokens"])
def test_region_when_it_goes_every_path_then_the_same(region: Any, model: str, tmp_path: Path) -> None:
    one = ask(region, model)
    batch = rsembed.get_embeddings_batch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        made = Model(model, **settings(backend=Land(), output=GRID, input_prep=MANY))
        same = [
            batch(model, spatials=[region], **settings(backend=Land(), temporal=YEAR, output=GRID, input_prep=MANY))[0],
            made.get_embedding(region, temporal=YEAR),
        ]
    for other in same:
        np.testing.assert_allclose(other.data, one.data, atol=1e-6)
        assert other.meta["grid"] == one.meta["grid"]
    pooled = ask(region, model, output=OutputSpec.pooled()).data
    out = tmp_path / "out"
    rsembed.export_batch(
        spatials=[region], temporal=YEAR, models=[model], target=ExportTarget.dataset(out),
        config=ExportConfig(input_prep=MANY, show_progress=False), **settings(backend=Land()),
    )  # fmt: skip
    np.testing.assert_allclose(load_export(out).embedding(model)[0], pooled, rtol=1e-5, atol=1e-6)


def test_region_when_it_is_square_and_native_then_one_fetch_of_just_it() -> None:
    provider = Land()
    ask(PointBuffer(3.0, 42.0, SIDE * 5), backend=provider)
    assert [(grid.height, grid.width) for grid in provider.asked] == [(SIDE, SIDE)]


# Row 45: joined maps


@pytest.mark.parametrize("height", [9, 10, 15, 16, 17, 31, 40])
@pytest.mark.parametrize("width", [3, 8, 9, 20, 33])
@pytest.mark.parametrize(
    "prep", [MANY, InputPrepSpec.tile(12, 5, max_tiles_hard=10**6), InputPrepSpec.tile(8, 8)], ids=str
)
def test_map_when_joined_from_tiles_then_shape_and_values_of_the_array_in_hand(
    height: int, width: int, prep: InputPrepSpec
) -> None:
    pixels = np.random.default_rng(height * width).integers(1, 4000, (2, height, width)).astype(np.float32)
    found = ask(PointBuffer(3.0, 42.0), input_chw=pixels, input_prep=prep)
    np.testing.assert_array_equal(found.data, pixels)


@pytest.mark.parametrize("region", REGIONS, ids=str)
def test_tokens_when_joined_then_one_cell_for_each_four_pixels_and_no_duplicates(region: Any) -> None:
    found, pixels = ask(region, "contract-tokens"), ask(region)
    _, height, width = pixels.data.shape
    assert found.data.shape[0] == 5
    assert abs(found.data.shape[1] - height / 4) <= 1
    assert abs(found.data.shape[2] - width / 4) <= 1
    cells, (left, bottom, right, top) = found.cells, pixels.cells.bounds  # type: ignore[union-attr]
    assert cells is not None
    outer = cells.bounds
    assert max(abs(a - b) for a, b in zip(outer, (left, bottom, right, top), strict=True)) <= 40
    assert np.isfinite(found.data).all()


def test_tokens_when_tiles_meet_on_the_lattice_then_each_cell_is_its_own_grounds() -> None:
    region = PointBuffer(3.0, 42.0, 160)
    whole, parts = ask(region, "contract-tokens"), []
    assert whole.data.shape == (5, 8, 8)
    pixels = ask(region).data
    for row in range(0, 32, SIDE):
        for col in range(0, 32, SIDE):
            tile = pixels[:, row : row + SIDE, col : col + SIDE]
            parts.append(ask(PointBuffer(3.0, 42.0), "contract-tokens", input_chw=tile).data)
    expected = np.block([[parts[4 * i + j] for j in range(4)] for i in range(4)])
    np.testing.assert_allclose(whole.data, expected, atol=1e-6)


def test_tiles_when_they_reach_a_network_then_they_are_square_and_of_its_size() -> None:
    models.PatchTokens.seen.clear()
    for region in REGIONS:
        ask(region, "contract-tokens")
    assert models.PatchTokens.seen
    assert all(height == width for _, height, width in models.PatchTokens.seen)


# Row 46: pooled over tiles


def test_pooled_when_tiles_own_unequal_ground_then_weighted_by_it() -> None:
    pixels = np.zeros((2, 8, 20), np.float32)
    pixels[:, :, 16:] = 100
    found = ask(PointBuffer(3.0, 42.0), input_chw=pixels, output=OutputSpec.pooled())
    assert found.meta["input_prep"]["n_tiles"] == 3
    np.testing.assert_allclose(found.data, 100 * 4 / 20, rtol=1e-6)


# Row 47: a slight overhang. Our limit is a setting of the request, not of the environment.


@pytest.mark.parametrize(
    ("width", "frac", "tiles", "tile_px"),
    [(24, 0.1, 3, 8), (25, 0.2, 3, 8), (25, 0.1, 4, 8), (25, 0.0, 4, 8), (27, 0.5, 3, 9), (28, 0.5, 3, 9)],
)
def test_overhang_when_slight_then_fewer_tiles_and_recorded(width: int, frac: float, tiles: int, tile_px: int) -> None:
    prep = InputPrepSpec.tile(tile_snap_frac=frac)
    pixels = np.arange(2 * 8 * width, dtype=np.float32).reshape(2, 8, width) + 2
    found = ask(PointBuffer(3.0, 42.0), input_chw=pixels, input_prep=prep)
    assert found.meta["input_prep"]["n_tiles"] == tiles
    assert abs(found.meta["input_prep"]["tile_px"][1] - tile_px) <= 1
    np.testing.assert_array_equal(found.data, pixels)


@pytest.mark.parametrize("frac", [-0.01, 0.51, float("nan"), "0.1", None])
def test_overhang_when_its_limit_is_out_of_range_then_spec_error(frac: Any) -> None:
    with pytest.raises(SpecError, match=r"tile_snap_frac must lie in 0..0.5"):
        InputPrepSpec.tile(tile_snap_frac=frac)


# Row 48: many tiles. What can be known before any work is refused before any work, for the whole call.


def test_tiles_when_more_than_the_soft_limit_then_a_warning_and_the_same_numbers() -> None:
    region, plain = PointBuffer(3.0, 42.0, 160), ask(PointBuffer(3.0, 42.0, 160), output=OutputSpec.pooled())
    few = InputPrepSpec.tile(max_tiles=9)
    given = settings(backend=Land(), temporal=YEAR, input_prep=few)
    with pytest.warns(UserWarning, match="a region takes 16 tiles of contract-pixels, more than max_tiles=9") as caught:
        found = rsembed.get_embedding("contract-pixels", spatial=region, **given)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(found.data, plain.data)


def test_tiles_when_more_than_the_hard_limit_then_model_error_before_any_fetch(tmp_path: Path) -> None:
    provider, hard = Land(), InputPrepSpec.tile(max_tiles=9, max_tiles_hard=9)
    given = settings(backend=provider, temporal=YEAR)
    region, places = PointBuffer(3.0, 42.0, 160), [PointBuffer(3.0, 42.0, 40), PointBuffer(3.0, 42.0, 160)]
    ways = (
        lambda: rsembed.get_embedding("contract-pixels", spatial=region, input_prep=hard, **given),
        lambda: rsembed.get_embeddings_batch("contract-pixels", spatials=places, input_prep=hard, **given),
        lambda: rsembed.export_batch(
            spatials=[region], models=["contract-pixels"], target=ExportTarget.dataset(tmp_path / "o"), input_prep=hard,
            **given,
        ),
    )  # fmt: skip
    for way in ways:
        with pytest.raises(RSEmbedError, match=r"16 tiles of 8, more than max_tiles_hard=9.*input_prep='resize'"):
            way()
    assert provider.asked == []


def test_auto_when_too_many_tiles_then_resized_and_recorded() -> None:
    region = PointBuffer(3.0, 42.0, 160)
    few = ask(region, "contract-tokens", input_prep=InputPrepSpec.auto(max_tiles=9), output=OutputSpec.pooled())
    assert few.meta["input_prep"] == {
        "requested_mode": "auto",
        "resolved_mode": "resize",
        "n_tiles": 1,
        "tile_px": [32, 32],
    }
    many = ask(region, "contract-tokens", input_prep=InputPrepSpec.auto(max_tiles=16), output=OutputSpec.pooled())
    assert many.meta["input_prep"] == {
        "requested_mode": "auto",
        "resolved_mode": "tile",
        "n_tiles": 16,
        "tile_px": [8, 8],
    }
    resized = ask(region, "contract-tokens", input_prep="resize", output=OutputSpec.pooled())
    np.testing.assert_array_equal(few.data, resized.data)


# Row 49: alone or with others


@pytest.mark.parametrize("output", [GRID, OutputSpec.pooled(), OutputSpec.pooled("max")], ids=str)
def test_batch_when_tiled_then_equal_to_single_ones_facts_included(output: OutputSpec) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        given = settings(backend=Land(), temporal=YEAR, input_prep=MANY, output=output)
        several = rsembed.get_embeddings_batch("contract-pixels", spatials=REGIONS, batch_size=3, **given)
    for region, found in zip(REGIONS, several, strict=True):
        alone = ask(region, output=output)
        np.testing.assert_array_equal(found.data, alone.data)
        assert json.dumps(dict(found.meta), sort_keys=True) == json.dumps(dict(alone.meta), sort_keys=True)


# Row 50: by name or as a spec, in one place


@pytest.mark.parametrize(
    "prep", ["tile", "resize", "auto", InputPrepSpec.tile(16), InputPrepSpec.auto(max_tiles=1)], ids=str
)
def test_input_prep_when_given_by_name_or_spec_at_either_place_then_the_same(prep: Any, tmp_path: Path) -> None:
    places = [PointBuffer(3.0, 42.0, 100)]
    found = []
    for number, ways in enumerate(
        ({"input_prep": prep}, {"config": ExportConfig(input_prep=prep, show_progress=False)})
    ):
        out = tmp_path / str(number)
        rsembed.export_batch(
            spatials=places, temporal=YEAR, models=["contract-pixels"], target=ExportTarget.dataset(out),
            **{"config": ExportConfig(show_progress=False)} | ways, **settings(backend=Land()),
        )  # fmt: skip
        found.append(load_export(out).embedding("contract-pixels").tobytes())
    alone = ask(places[0], input_prep=prep, output=OutputSpec.pooled())
    assert found[0] == found[1] == alone.data.tobytes()


def test_input_prep_when_given_twice_then_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="input_prep is given twice"):
        rsembed.export_batch(
            spatials=[PointBuffer(3.0, 42.0, 100)], temporal=YEAR, models=["contract-pixels"],
            target=ExportTarget.dataset(tmp_path), input_prep="tile", config=ExportConfig(input_prep="tile"),
            **settings(),
        )  # fmt: skip
