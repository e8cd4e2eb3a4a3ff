"""OlmoEarth: releases, frames and dates, what becomes of gaps, rotary positions, batches of mixed rows."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
import torch

from rsembed.core.errors import ModelError
from rsembed.core.fetching import CloudPolicy, FramePolicy
from rsembed.core.specs import SensorSpec, Window
from rsembed.embedders.base import View
from rsembed.embedders.nets.olmoearth_net import OlmoEarthEncoder, days_since_2000
from rsembed.embedders.nets.transformer import Attention, BlockSpec
from rsembed.embedders.onthefly.olmoearth import CARD, OlmoEarth
from rsembed.embedders.onthefly.olmoearth_variants import VARIANTS
from rsembed.embedders.options import make_config
from rsembed.tools.temporal import frame_bins

SUMMER = Window(dt.date(2022, 6, 1), dt.date(2022, 9, 1))
# data/norm_configs/computed.json of github.com/allenai/olmoearth_pretrain: B02, B09, vv.
BLUE, VAPOUR, VV = (
    (1188.9412572078477, 1859.1923971769581),
    (3269.812554170875, 2651.088425085525),
    (-11.648991, 10.84035),
)


def embedder(
    recipe: str = "authors", modality: str = "s2", *, sensor: SensorSpec | None = None, **options: object
) -> OlmoEarth:
    given = {"image_size": 32, **options}
    return OlmoEarth(make_config(CARD, recipe=recipe, modality=modality, sensor=sensor, options=given))


def view(values: np.ndarray, *, slots: tuple[int, ...] = (), n_bins: int = 0, window: Window = SUMMER) -> View:
    values = values.astype(np.float32)
    dates = tuple(dt.date(2022, 6, 11) + dt.timedelta(days=30 * i) for i in range(len(values)))
    return View(values, np.isfinite(values), dates, 8.5, 47.4, 10.0, window, slots, n_bins)


def series(frames: int, side: int = 32, channels: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 4000, (frames, channels, side, side))


# Releases


def test_card_when_read_then_every_release_has_its_repository() -> None:
    assert len(VARIANTS) == 11
    assert CARD.weights["large"].repo == "allenai/OlmoEarth-v1-Large"
    assert CARD.weights["small_v1_2"].repo == "allenai/OlmoEarth-v1_2-Small"
    assert {file.file for file in CARD.weights.values()} == {"weights.pth"}


@pytest.mark.parametrize(
    ("asked", "variant"), [("small", "small_v1_2"), ("nano_v1", "nano"), ("base_v1_1", "base_v1_1")]
)
def test_options_when_a_variant_has_another_name_then_it_is_found(asked: str, variant: str) -> None:
    assert embedder(variant=asked).variant == variant


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_build_when_any_variant_then_its_parts_follow_the_version(name: str) -> None:
    variant = VARIANTS[name]
    with torch.device("meta"):
        shapes = {key: tuple(tensor.shape) for key, tensor in embedder(variant=name).build().state_dict().items()}
    sets = 3 if variant.version == "v1" else 1
    assert shapes["set_codes.sentinel2_l2a"] == (sets, variant.dim // 4)
    assert ("blocks.0.attn.freqs" in shapes) == (variant.version == "v1_2")
    if variant.version == "v1":
        assert shapes["patch_embeds.sentinel2_l2a__1.proj.weight"] == (variant.dim, 6, 8, 8)
    else:
        hidden = 12 if variant.size == "nano" else 64
        assert shapes["patch_embeds.sentinel1__0.pixel_proj.0.weight"] == (hidden, 2)
        assert shapes["patch_embeds.sentinel2_l2a__0.proj.weight"] == (variant.dim, 64 * hidden)


# What is fetched


def test_fetch_when_the_authors_recipe_then_the_least_cloudy_scene_of_each_30_days() -> None:
    asked = embedder().fetch_recipe()
    assert (asked.composite, asked.clouds) == ("mosaic", CloudPolicy("none", None, None))
    assert [(b.start.isoformat(), b.days) for b in frame_bins(SUMMER, asked.frames)] == [
        ("2022-06-01", 30), ("2022-07-01", 30), ("2022-07-31", 30)
    ]  # fmt: skip


def test_fetch_when_the_reference_recipe_then_the_rest_of_the_window_is_a_bin() -> None:
    asked = embedder("rs-embed").fetch_recipe()
    assert (asked.composite, asked.clouds.scene_pct) == ("median", 30.0)
    assert [b.days for b in frame_bins(SUMMER, asked.frames)] == [30, 30, 30, 2]


def test_contract_when_no_size_is_named_then_the_recipes() -> None:
    assert embedder(image_size=None).contract.image_size == 128
    assert embedder("rs-embed", image_size=None).contract.image_size == 256
    assert embedder(temporal_mode="single").contract.frames == FramePolicy()
    with pytest.raises(ModelError, match="multiple of patch_size 3"):
        _ = embedder(patch_size=3).contract


# Network input


def test_prepare_when_optical_then_two_sigma_to_unit_without_clipping() -> None:
    values = series(1)
    values[0, 0, 0, 0], values[0, 11, 0, 0] = 12_000.0, 0.0
    pixels = embedder().prepare(view(values))["pixels"]
    assert pixels[0, 0, 0, 0] == pytest.approx((12_000 - (BLUE[0] - 2 * BLUE[1])) / (4 * BLUE[1]), rel=1e-6)
    assert pixels[0, 11, 0, 0] == pytest.approx(-(VAPOUR[0] - 2 * VAPOUR[1]) / (4 * VAPOUR[1]), rel=1e-6)


def test_prepare_when_radar_is_missing_then_the_authors_have_no_echo() -> None:
    levels = np.full((1, 2, 32, 32), -15.0)
    levels[0, 0, 0, 0] = np.nan
    pixels = embedder(modality="s1").prepare(view(levels))["pixels"]
    assert pixels[0, 0, 0, 0] == 0.0
    assert pixels[0, 0, 1, 1] == pytest.approx((-15 - (VV[0] - 2 * VV[1])) / (4 * VV[1]), rel=1e-5)
    power = embedder(modality="s1", sensor=SensorSpec("COPERNICUS/S1_GRD_FLOAT", ("VV", "VH")))
    np.testing.assert_allclose(power.prepare(view(10 ** (levels / 10)))["pixels"], pixels, atol=1e-5)


def test_prepare_when_bins_are_empty_then_the_authors_keep_places_and_acquisition_dates() -> None:
    made = embedder().prepare(view(series(2), slots=(0, 2), n_bins=3))
    assert made["slots"].tolist() == [0, 2]
    assert made["timestamps"].tolist() == [[11, 5, 2022], [11, 6, 2022]]


def test_prepare_when_bins_are_empty_then_the_reference_moves_up_and_dates_by_bins() -> None:
    made = embedder("rs-embed").prepare(view(series(2), slots=(0, 2), n_bins=4))
    assert made["slots"].tolist() == [0, 1]
    assert made["timestamps"].tolist() == [[1, 5, 2022], [31, 6, 2022]]


@pytest.mark.parametrize(("mode", "day"), [("auto", [17, 6, 2022]), ("multi", [1, 5, 2022])])
def test_prepare_when_one_frame_then_the_reference_dates_it_by_mode(mode: str, day: list[int]) -> None:
    assert embedder("rs-embed", temporal_mode=mode).prepare(view(series(1)))["timestamps"].tolist() == [day]


def test_prepare_when_resized_then_only_the_authors_tell_the_ground() -> None:
    assert embedder().prepare(view(series(1, side=48)))["step"] == pytest.approx(6.0)
    assert embedder("rs-embed").prepare(view(series(1, side=48)))["step"] == pytest.approx(4.0)


def test_prepare_when_a_rectangle_is_cut_then_its_middle_and_the_region_follow() -> None:
    made, values = embedder(shape_adjust="crop"), series(1, side=48)[..., 8:40, :]
    np.testing.assert_array_equal(made.prepare(view(values))["pixels"], made.prepare(view(values[..., 8:40]))["pixels"])
    assert made.region((0.0, 0.0, 0.5, 1.0), 32, 48) == pytest.approx((0.0, 0.0, 0.5, 1.0))
    assert embedder().region((0.0, 0.0, 1.0, 1.0), 32, 48) == pytest.approx((0.0, 0.0, 1.0, 2 / 3))


def test_prepare_when_there_are_more_frames_than_a_year_then_error() -> None:
    with pytest.raises(ModelError, match="at most 12 frames"):
        embedder().prepare(view(series(13, side=8)))


# Network


def test_days_when_counted_then_as_the_authors_count() -> None:
    stamps = torch.tensor([[1, 0, 2000], [1, 2, 2001], [0, 0, 0]])
    assert days_since_2000(stamps).tolist() == [0.0, 365.25 + 59, -2000 * 365.25 - 1]


def test_attention_when_all_positions_move_together_then_only_their_differences_matter() -> None:
    torch.manual_seed(0)
    attention = Attention(BlockSpec(16, 2, qkv="split", rotary_axes=3))
    torch.nn.init.normal_(attention.freqs)
    x, positions = torch.randn(1, 5, 16), torch.randn(1, 5, 3)
    with torch.inference_mode():
        here = attention(x, positions_bna=positions)
        moved = attention(x, positions_bna=positions + torch.tensor([3.0, -1.0, 2.0]))
        other = attention(x, positions_bna=2 * positions)
    torch.testing.assert_close(here, moved, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(here, other, atol=1e-3)


@pytest.mark.parametrize(("hidden", "rotary"), [(None, False), (4, False), (4, True)], ids=["v1", "v1_1", "v1_2"])
def test_forward_when_rows_differ_in_dates_places_and_scale_then_each_as_if_alone(
    hidden: int | None, rotary: bool
) -> None:
    torch.manual_seed(0)
    sets = {"sentinel2_l2a": (4, 6, 2) if hidden is None else (12,), "sentinel1": (2,)}
    net = OlmoEarthEncoder(32, 2, heads=4, band_sets=sets, pixel_hidden=hidden, rotary=rotary)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    made = embedder(image_size=16)
    rows = [
        made.prepare(view(series(2, side=16, seed=i), slots=slots, n_bins=6)) | {"step": np.float32(step)}
        for i, (slots, step) in enumerate([((0, 1), 4.0), ((2, 5), 8.0), ((1, 2), 1.0)])
    ]
    stacked = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
    with torch.inference_mode():
        together = made.forward(net, stacked).patches_bthwd
        assert together is not None
        assert together.shape == (3, 2 * len(sets["sentinel2_l2a"]), 4, 4, 32)
        for slot in range(len(rows)):
            zeroed = {name: torch.zeros_like(tensor) for name, tensor in stacked.items()}
            for name, tensor in stacked.items():
                zeroed[name][slot] = tensor[slot]
            alone = made.forward(net, zeroed).patches_bthwd
            assert alone is not None
            assert torch.equal(alone[slot], together[slot])
