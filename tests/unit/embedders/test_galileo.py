"""Galileo: frames and months, what becomes of gaps, its ways to normalise, its checkpoint, batches of mixed rows."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
import torch

from rsembed.core.errors import ModelError, WeightsError
from rsembed.core.fetching import CloudPolicy, FramePolicy
from rsembed.core.specs import SensorSpec, Window
from rsembed.embedders.base import View
from rsembed.embedders.checkpoint import fit
from rsembed.embedders.nets.galileo_net import GalileoEncoder
from rsembed.embedders.onthefly.galileo import CARD, Galileo
from rsembed.embedders.onthefly.galileo_bands import SIZES
from rsembed.embedders.options import make_config
from rsembed.tools.temporal import frame_bins

WINDOW = Window(dt.date(2022, 1, 1), dt.date(2022, 5, 1))
# config/normalization.json of github.com/nasaharvest/galileo: B2, B12 and VV.
BLUE, SWIR2, VV = (
    (1395.3408730676722, 917.7041440370853),
    (1474.5311266077113, 980.2429840007796),
    (-11.728724, 4.887146),
)


def embedder(
    recipe: str = "authors", modality: str = "s2", *, sensor: SensorSpec | None = None, **options: object
) -> Galileo:
    return Galileo(make_config(CARD, recipe=recipe, modality=modality, sensor=sensor, options=options))


def view(values: np.ndarray, *, slots: tuple[int, ...] = (), n_bins: int = 0, window: Window = WINDOW) -> View:
    values = values.astype(np.float32)
    dates = tuple(dt.date(2022, 3, 7) + dt.timedelta(days=40 * i) for i in range(len(values)))
    return View(values, np.isfinite(values), dates, 8.5, 47.4, 10.0, window, slots, n_bins)


def series(frames: int, side: int = 64, channels: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 4000, (frames, channels, side, side))


# What is fetched


def test_fetch_when_the_authors_recipe_then_every_level_1c_scene_in_30_day_bins() -> None:
    asked = embedder().fetch_recipe()
    assert (asked.collection, asked.composite, asked.clouds) == (
        "COPERNICUS/S2_HARMONIZED", "mosaic", CloudPolicy("none", None, None)
    )  # fmt: skip
    assert [b.days for b in frame_bins(WINDOW, asked.frames)] == [30, 30, 30, 30]


def test_fetch_when_the_reference_recipe_then_level_2a_medians_in_equal_bins() -> None:
    asked = embedder("rs-embed").fetch_recipe()
    assert (asked.collection, asked.composite, asked.clouds.scene_pct) == (
        "COPERNICUS/S2_SR_HARMONIZED", "median", 30.0
    )  # fmt: skip
    summer = Window(dt.date(2022, 6, 1), dt.date(2022, 9, 1))
    assert [b.days for b in frame_bins(summer, asked.frames)] == [23, 23, 23, 23]


def test_fetch_when_radar_then_one_orbit_pass() -> None:
    asked = embedder(modality="s1").fetch_recipe()
    assert (asked.collection, asked.orbit, asked.composite) == ("COPERNICUS/S1_GRD", "most_images", "median")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temporal_mode": "single"}, FramePolicy()),
        ({"n_frames": 5}, FramePolicy("multi", n_frames=5)),
        ({"temporal_mode": "multi"}, FramePolicy("auto", frame_days=30, max_frames=12, bins="fixed")),
    ],
    ids=str,
)
def test_contract_when_options_change_time_then_it_follows(options: dict[str, object], expected: FramePolicy) -> None:
    assert embedder(**options).contract.frames == expected


def test_contract_when_the_size_is_no_multiple_of_the_patch_then_error() -> None:
    with pytest.raises(ModelError, match="multiple of patch_size 6"):
        _ = embedder(patch_size=6).contract


# Network input


def test_prepare_when_the_authors_recipe_then_two_sigma_to_unit_without_clipping() -> None:
    values = series(2)
    values[0, 0, 0, 0] = 12_000.0
    pixels = embedder().prepare(view(values))["pixels"]
    assert pixels[0, 0, 0, 0] == pytest.approx((12_000 - (BLUE[0] - 2 * BLUE[1])) / (4 * BLUE[1]), rel=1e-5)
    low, width = SWIR2[0] - 2 * SWIR2[1], 4 * SWIR2[1]
    np.testing.assert_allclose(pixels[1, 9], (values[1, 9] - low) / width, atol=1e-5)


def test_prepare_when_radar_then_decibels_or_power_become_the_same() -> None:
    levels = np.full((1, 2, 64, 64), -15.0)
    pixels = embedder(modality="s1").prepare(view(levels))["pixels"]
    assert pixels[0, 0, 3, 3] == pytest.approx((-15 - (VV[0] - 2 * VV[1])) / (4 * VV[1]), rel=1e-5)
    power = embedder(modality="s1", sensor=SensorSpec("COPERNICUS/S1_GRD_FLOAT", ("VV", "VH")))
    np.testing.assert_allclose(power.prepare(view(10 ** (levels / 10)))["pixels"], pixels, atol=1e-5)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("none", 10_000.0),
        ("unit_scale", 1.0),
        ("per_tile_minmax", 1.0),
        ("official_stats", (10_000 - BLUE[0]) / BLUE[1]),
    ],
)
def test_prepare_when_a_normalisation_is_named_then_digital_numbers_are_clipped(how: str, expected: float) -> None:
    values = series(1)
    values[0, 0, 0, 0] = 12_000.0
    pixels = embedder("rs-embed", normalization=how).prepare(view(values))["pixels"]
    assert pixels[0, 0, 0, 0] == pytest.approx(expected, rel=1e-6)


def test_prepare_when_reflectance_scales_are_named_for_radar_then_error() -> None:
    with pytest.raises(ModelError, match="is for reflectance"):
        embedder(modality="s1", normalization="unit_scale").prepare(view(np.full((1, 2, 64, 64), -15.0)))


def test_prepare_when_bins_are_empty_then_the_authors_keep_places_and_months_of_the_others() -> None:
    made = embedder().prepare(view(series(2), slots=(0, 3), n_bins=4))
    assert made["pixels"].shape == (2, 10, 64, 64)
    assert made["slots"].tolist() == [0, 3]
    assert made["months"].tolist() == [2, 3]  # 7 March, 16 April


def test_prepare_when_bins_are_empty_then_the_reference_fills_them() -> None:
    values = series(3)
    made = embedder("rs-embed").prepare(view(values, slots=(0, 1, 3), n_bins=4))
    np.testing.assert_array_equal(made["pixels"][[0, 1, 3]], values.astype(np.float32))
    np.testing.assert_allclose(made["pixels"][2], np.median(values, axis=0), rtol=1e-6)
    assert made["months"].tolist() == [0, 1, 2, 3]


def test_prepare_when_one_image_is_in_hand_then_the_reference_repeats_it() -> None:
    made = embedder("rs-embed").prepare(view(series(1)))
    assert made["pixels"].shape[0] == len(made["months"]) == 4


def test_prepare_when_pixels_are_missing_then_the_authors_take_the_mean_of_the_series() -> None:
    values = series(2)
    values[0, 0, 0, 0] = np.nan
    pixels = embedder(normalization="none").prepare(view(values))["pixels"]
    expected = (np.nanmean(values[0, 0]) + values[1, 0].mean()) / 2
    assert pixels[0, 0, 0, 0] == pytest.approx(expected, rel=1e-5)


def test_prepare_when_resized_then_only_the_authors_tell_the_ground() -> None:
    values = series(1, side=128)
    assert embedder().prepare(view(values))["step"] == pytest.approx(16.0)
    assert embedder("rs-embed").prepare(view(values))["step"] == pytest.approx(8.0)


def test_prepare_when_a_month_is_named_then_it_stands_for_all() -> None:
    assert embedder(month=7).prepare(view(series(3)))["months"].tolist() == [6, 6, 6]


def test_prepare_when_there_are_more_frames_than_places_then_error() -> None:
    with pytest.raises(ModelError, match="at most 24 frames"):
        embedder().prepare(view(series(25, side=8)))


# Network


@pytest.mark.parametrize("size", sorted(SIZES))
def test_build_when_any_variant_then_its_tables_fit_the_card(size: str) -> None:
    with torch.device("meta"):
        net = embedder(size=size).build()
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    dim = CARD.dims[size]
    assert shapes["group_codes"] == (7, dim // 4)
    assert shapes["pos_embed"] == (24, dim // 4)
    assert shapes["kernels.S2_SWIR.weight"] == (dim, 2, 8, 8)
    assert sum("norm1.weight" in name for name in shapes) == SIZES[size].depth


def test_weights_when_a_tensor_is_missing_then_the_error_names_it() -> None:
    net = small_net()
    state = {name: tensor for name, tensor in net.state_dict().items() if name != "pos_embed"}
    with pytest.raises(WeightsError, match="1 missing: pos_embed"):
        fit(state, net, file="encoder.pt")


def small_net() -> GalileoEncoder:
    torch.manual_seed(0)
    groups = {"S1": 2, "S2_RGB": 3, "S2_Red_Edge": 3, "S2_NIR_10m": 1, "S2_NIR_20m": 1, "S2_SWIR": 2}
    net = GalileoEncoder(32, 2, heads=4, groups=groups)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


def test_forward_when_rows_differ_in_dates_places_and_scale_then_each_as_if_alone() -> None:
    made, net = embedder(patch_size=16), small_net()
    rows = [
        made.prepare(view(series(2, seed=i), slots=slots, n_bins=6, window=WINDOW)) | {"step": np.float32(step)}
        for i, (slots, step) in enumerate([((0, 1), 16.0), ((2, 5), 32.0), ((1, 2), 4.0)])
    ]
    stacked = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
    with torch.inference_mode():
        together = made.forward(net, stacked).patches_bthwd
        assert together is not None
        for slot in range(len(rows)):
            zeroed = {name: torch.zeros_like(tensor) for name, tensor in stacked.items()}
            for name, tensor in stacked.items():
                zeroed[name][slot] = tensor[slot]
            alone = made.forward(net, zeroed).patches_bthwd
            assert alone is not None
            assert torch.equal(alone[slot], together[slot])
    assert not torch.allclose(together[0], together[1], atol=1e-3)
