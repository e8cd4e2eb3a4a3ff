"""THOR: its geometry, what each recipe feeds it, groups of bands, ground that tokens cover, its checkpoint."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rsembed.core.errors import ModelError, WeightsError
from rsembed.core.fetching import Grid
from rsembed.core.patch import Frame, Patch
from rsembed.core.settings import Settings
from rsembed.core.specs import OutputSpec, SensorSpec, Window
from rsembed.embedders import torch_runtime
from rsembed.embedders.base import View
from rsembed.embedders.checkpoint import fit, load_state_dict
from rsembed.embedders.nets.thor_net import ThorEncoder, alibi_slopes, merge_grids
from rsembed.embedders.onthefly.thor import CARD, Thor
from rsembed.embedders.onthefly.thor_bands import BANDS
from rsembed.embedders.options import make_config
from rsembed.embedders.weights import WeightsHandle, WeightsPin
from rsembed.tools.tiling import whole_image

WINDOW = Window(dt.date(2022, 6, 1), dt.date(2022, 9, 1))
# thor/data/thor_dataset_base.py of github.com/FM4CS/THOR, NORMALIZATION.
BLUE, SWIR2 = (0.176620, 0.264520), (0.175772, 0.156223)
VV, VH = (-12.9850, 5.0062), (-20.6958, 5.8688)


class Small(Thor):
    """The model with a small network and no file."""

    def resolve(self, settings: Settings, pin: WeightsPin | None = None) -> WeightsHandle | None:
        return None

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        bands = [band for table in BANDS.values() for band in table.values()]
        net = ThorEncoder(24, 2, heads=3, code_dim=8, bands=bands)
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.2)
        net.slopes.copy_(alibi_slopes(3))
        return net


@pytest.fixture(autouse=True)
def _no_cached_nets() -> Iterator[None]:
    yield
    torch_runtime.reset_cache()


def embedder(
    recipe: str = "authors",
    modality: str = "s2",
    *,
    output: OutputSpec | None = None,
    sensor: SensorSpec | None = None,
    cls: type[Thor] = Thor,
    **options: object,
) -> Thor:
    return cls(make_config(CARD, recipe=recipe, modality=modality, output=output, sensor=sensor, options=options))


def view(values_chw: np.ndarray) -> View:
    values = values_chw[None].astype(np.float32)
    return View(values, np.isfinite(values), (dt.date(2022, 7, 17),), 8.5, 47.4, 10.0, WINDOW)


def scene(side: int, channels: int = 10, seed: int = 0) -> np.ndarray:
    high = 4000 if channels == 10 else 0.8
    return np.random.default_rng(seed).uniform(0, high, (channels, side, side))


# Network input


def test_prepare_when_optical_then_the_authors_clamp_and_the_reference_clips() -> None:
    values = np.full((10, 32, 32), 3000.0)
    values[0, 0, :2] = (20000.0, np.nan)
    authors = embedder().prepare(view(values))["pixels"]
    assert authors[0, 5, 5] == pytest.approx((0.3 - BLUE[0]) / BLUE[1], rel=1e-5)
    assert authors[9, 5, 5] == pytest.approx((0.3 - SWIR2[0]) / SWIR2[1], rel=1e-5)
    assert authors[0, 0, :2].tolist() == [5.0, 0.0]
    reference = embedder("rs-embed").prepare(view(values))["pixels"]
    assert reference[0, 0, 0] == pytest.approx((1.0 - BLUE[0]) / BLUE[1], rel=1e-5)
    assert reference[0, 0, 1] == pytest.approx(-BLUE[0] / BLUE[1], rel=1e-5)


def test_prepare_when_radar_then_the_authors_standardise_decibels() -> None:
    power = np.full((2, 16, 16), 0.02)
    power[0, 0, :3] = (0.0, np.nan, 1e6)
    pixels = embedder(modality="s1").prepare(view(power))["pixels"]
    level = 10 * math.log10(0.02)
    assert pixels[0, 5, 5] == pytest.approx((level - VV[0]) / VV[1], rel=1e-5)
    assert pixels[1, 5, 5] == pytest.approx((level - VH[0]) / VH[1], rel=1e-5)
    assert pixels[0, 0, :3].tolist() == [-5.0, 0.0, 5.0]


def test_prepare_when_the_sensor_gives_decibels_then_taken_as_they_are() -> None:
    sensor = SensorSpec("COPERNICUS/S1_GRD", ("VV", "VH"))
    levels = np.full((2, 16, 16), -15.0)
    pixels = embedder(modality="s1", sensor=sensor).prepare(view(levels))["pixels"]
    assert pixels[0, 0, 0] == pytest.approx((-15 - VV[0]) / VV[1], rel=1e-5)
    with pytest.raises(ModelError, match="look like decibels"):
        embedder(modality="s1").prepare(view(levels))


def test_prepare_when_radar_in_the_reference_then_percentile_of_the_padded_image() -> None:
    power = scene(21, 2)  # padded to 24
    padded = np.zeros((2, 24, 24))
    padded[:, 1:22, 1:22] = power
    logs = np.log1p(padded)
    expected = np.clip(logs / np.percentile(logs, 99), 0, 1)
    pixels = embedder("rs-embed", "s1").prepare(view(power))["pixels"]
    np.testing.assert_allclose(pixels, expected, atol=1e-6)


def test_prepare_when_padded_then_the_margin_is_the_mean_or_black() -> None:
    authors = embedder().prepare(view(scene(154)))
    assert authors["pixels"].shape == (10, 160, 160)
    assert not authors["pixels"][:, :3].any()
    reference = embedder("rs-embed").prepare(view(scene(154)))["pixels"]
    assert reference[0, 0, 0] == pytest.approx(-BLUE[0] / BLUE[1], rel=1e-5)
    np.testing.assert_allclose(authors["pixels"][:, 3:-3, 3:-3], reference[:, 3:-3, 3:-3], atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "stretch"), [(288, 288, 1.0), (420, 420, 420 / 288), (100, 400, 200 / 288), (150, 150, 1.0)]
)
def test_prepare_when_resized_then_only_the_authors_tell_the_ground(height: int, width: int, stretch: float) -> None:
    values = np.zeros((10, height, width))
    assert embedder().prepare(view(values))["stretch"] == pytest.approx(stretch)
    assert embedder("rs-embed").prepare(view(values))["stretch"] == 1.0


def test_prepare_when_always_resized_then_any_tile_has_the_fixed_size() -> None:
    made = embedder(resize_mode="fixed", image_size=144)
    assert made.prepare(view(scene(96)))["pixels"].shape == (10, 144, 144)
    assert made.prepare(view(scene(96)))["stretch"] == pytest.approx(96 / 144)
    assert (made.contract.image_size, made.contract.any_size) == (144, False)


# Regions


def region(made: Thor, side: int) -> tuple[float, ...]:
    shape = (1, 10, side, side)
    frames = (Frame(WINDOW, 1, WINDOW.midpoint),)
    grid = Grid(32632, 0.0, 0.0, 10.0, side, side)
    patch = Patch(np.ones(shape, np.float32), np.ones(shape, bool), made.contract.bands, grid, frames)
    [prepared] = made.prepare_patch(patch, whole_image(side, side), lon=8.5, lat=47.4, window=WINDOW)
    return prepared.roi


def test_prepare_patch_when_padded_then_only_the_reference_pools_the_margin() -> None:
    assert region(embedder(), 154) == (3 / 160, 3 / 160, 157 / 160, 157 / 160)
    assert region(embedder("rs-embed"), 154) == (0, 0, 1, 1)
    assert region(embedder(), 150) == region(embedder(), 420) == (0, 0, 1, 1)


# The network


def answer(made: Thor, arrays: dict[str, np.ndarray], roi: tuple[float, ...] = (0, 0, 1, 1)) -> np.ndarray:
    made.load("cpu")
    return made.embed_batch(arrays, np.array([roi] * len(arrays["pixels"]), np.float32))


def stacked(prepared: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([one[name] for one in prepared]) for name in prepared[0]}


def grids(made: Thor, arrays: dict[str, np.ndarray]) -> list[torch.Tensor]:
    pixels = torch.from_numpy(arrays["pixels"])
    with torch.inference_mode():
        return made.build()(
            pixels,
            made.bands,
            cover_m=pixels.shape[-1] * 10.0,
            stretch_b=torch.from_numpy(arrays["stretch"]),
            patch_px=8,
        )


def test_embed_batch_when_pooled_then_every_token_of_both_groups_counts_alike() -> None:
    made = embedder(cls=Small)
    arrays = stacked([made.prepare(view(scene(64)))])
    fine, coarse = grids(made, arrays)
    assert (fine.shape, coarse.shape) == ((1, 8, 8, 24), (1, 4, 4, 24))
    tokens = torch.cat([fine.flatten(1, 2), coarse.flatten(1, 2)], dim=1)
    np.testing.assert_allclose(answer(made, arrays), tokens.mean(1), atol=1e-5)
    largest = embedder(cls=Small, output=OutputSpec.pooled("max"))
    np.testing.assert_allclose(answer(largest, arrays), tokens.amax(1), atol=1e-5)
    quarter = torch.cat([fine[:, :4, 4:].flatten(1, 2), coarse[:, :2, 2:].flatten(1, 2)], dim=1)
    np.testing.assert_allclose(answer(made, arrays, (0.5, 0, 1, 0.5)), quarter.mean(1), atol=1e-5)


@pytest.mark.parametrize(("merge", "channels"), [("mean", 24), ("sum", 24), ("concat", 48)])
def test_embed_batch_when_a_grid_is_asked_then_groups_join_as_the_option_says(merge: str, channels: int) -> None:
    made = embedder(cls=Small, output=OutputSpec.grid(), group_merge=merge)
    arrays = stacked([made.prepare(view(scene(64)))])
    grid = answer(made, arrays)
    assert grid.shape == (1, channels, 8, 8)
    expected = merge_grids(grids(made, arrays), merge).permute(0, 3, 1, 2)
    np.testing.assert_allclose(grid, expected, atol=1e-5)


def test_embed_batch_when_radar_then_one_group() -> None:
    made = embedder(modality="s1", cls=Small, output=OutputSpec.grid())
    arrays = stacked([made.prepare(view(scene(24, 2)))])
    [grid] = grids(made, arrays)
    np.testing.assert_allclose(answer(made, arrays)[0], grid[0].permute(2, 0, 1), atol=1e-5)


def test_embed_batch_when_scales_differ_in_a_batch_then_as_each_alone() -> None:
    made = embedder(cls=Small, resize_mode="fixed", image_size=64)
    rows = [made.prepare(view(scene(side, seed=side))) for side in (64, 80, 120)]
    arrays = stacked(rows)
    assert len(set(arrays["stretch"].tolist())) == 3
    together = answer(made, arrays)
    for slot, row in enumerate(rows):
        alone = {name: np.zeros_like(array) for name, array in arrays.items()}
        for name, array in alone.items():
            array[slot] = row[name]
        assert np.array_equal(answer(made, alone)[slot], together[slot])
    told = answer(made, {**arrays, "stretch": np.ones(3, np.float32)})
    assert np.array_equal(told[0], together[0])
    assert not np.allclose(told[1], together[1])


@pytest.mark.parametrize(("patch_size", "cells"), [(4, 16), (16, 4)])
def test_embed_batch_when_patches_are_of_another_size_then_so_is_the_grid(patch_size: int, cells: int) -> None:
    made = embedder(cls=Small, output=OutputSpec.grid(), patch_size=patch_size)
    arrays = stacked([made.prepare(view(scene(64)))])
    assert answer(made, arrays).shape == (1, 24, cells, cells)


def test_contract_when_the_size_does_not_hold_whole_patches_then_error() -> None:
    with pytest.raises(ModelError, match="image_size must be a multiple of 64"):
        _ = embedder(patch_size=32).contract
    assert embedder(patch_size=32, image_size=320).contract.image_size == 320
    with pytest.raises(ModelError, match="group_merge must be one of mean, sum, concat"):
        embedder(group_merge="median")


def test_alibi_slopes_when_heads_are_no_power_of_two_then_filled_up() -> None:
    assert alibi_slopes(4).tolist() == [1 / 4, 1 / 16, 1 / 64, 1 / 256]
    assert alibi_slopes(6).tolist() == [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]
    assert alibi_slopes(3).tolist() == [1 / 16, 1 / 256, 1 / 4]
    assert alibi_slopes(12)[8:].tolist() == pytest.approx([0.7071, 0.3536, 0.1768, 0.0884], abs=1e-4)


# Sizes and checkpoint


@pytest.mark.parametrize(
    ("variant", "dim", "depth", "millions"),
    [("t", 192, 12, 7.6), ("small", 384, 12, 25.8), ("thor_v1_base", 768, 12, 94.1), ("large", 1024, 24, 314)],
)
def test_build_when_a_size_is_chosen_then_its_tensors(variant: str, dim: int, depth: int, millions: float) -> None:
    made = embedder(variant=variant)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in made.build().state_dict().items()}
    assert made.dim == dim
    assert shapes["bands.S2:Red.weight"] == (dim, 1, 16, 16)
    assert f"blocks.{depth - 1}.norm1.weight" in shapes
    # The file has 46 bands and a final norm; twelve bands are here, and no norm.
    total = sum(int(np.prod(shape)) for shape in shapes.values()) + 34 * 257 * dim + 2 * dim
    assert total / 1e6 == pytest.approx(millions, rel=0.005)


def published(net: nn.Module) -> dict[str, torch.Tensor]:
    """The network's tensors under the names of the published file, with some of what else is in it."""
    state = {}
    for name, tensor in net.state_dict().items():
        kept = name.replace("bands.", "ind_patch_embed.patch_embed.").replace("group_codes.", "band_embed.")
        state[f"encoder.{kept.replace('slopes', 'encoder_slopes')}"] = tensor
    others = (
        "encoder.norm.weight",
        "encoder.band_embed.group7",
        "encoder.ind_patch_embed.patch_embed.S3:Oa01_reflectance.weight",
        "encoder.ind_patch_embed.patch_embed.S1:HV.bias",
        "encoder.ind_patch_embed.patch_embed.S2:CoastAerosal.bias",
        "encoder.decoder_pred.weight",
        "decoder.mask_token",
    )
    return {**state, **{name: torch.ones(3) for name in others}}


def loaded(state: object, file: Path) -> tuple[ThorEncoder, tuple[str, ...]]:
    made = embedder(cls=Small)
    torch.save(state, file)
    read = load_state_dict(str(file), made.wrap, bare=made.bare)
    made.complete(read)
    net = ThorEncoder(24, 2, heads=12, code_dim=8, bands=[b for table in BANDS.values() for b in table.values()])
    return net, fit(read, net, rename=Thor.rename, drop=Thor.drop)


def other_net() -> ThorEncoder:
    bands = [band for table in BANDS.values() for band in table.values()]
    return ThorEncoder(24, 2, heads=12, code_dim=8, bands=bands)


@pytest.mark.parametrize("wrapped", [True, False])
def test_checkpoint_when_bare_or_wrapped_then_it_fits_and_slopes_may_be_missing(wrapped: bool, tmp_path: Path) -> None:
    source = other_net()
    source.slopes.fill_(7.0)
    state = published(source)
    net, dropped = loaded({"state_dict": state} if wrapped else state, tmp_path / "file.pt")
    assert len(dropped) == 7
    assert net.slopes.tolist() == [7.0] * 12
    assert torch.equal(net.bands["S1:VH"].weight, source.bands["S1:VH"].weight)
    del state["encoder.encoder_slopes"]
    net, _ = loaded({"state_dict": state} if wrapped else state, tmp_path / "file.pt")
    assert torch.equal(net.slopes, alibi_slopes(12))


def test_checkpoint_when_a_tensor_is_missing_or_unknown_then_error_names_it(tmp_path: Path) -> None:
    state = published(other_net())
    band = "encoder.ind_patch_embed.patch_embed.S2:Red.bias"
    with pytest.raises(WeightsError, match=r"1 missing: bands\.S2:Red\.bias"):
        loaded({name: tensor for name, tensor in state.items() if name != band}, tmp_path / "file.pt")
    with pytest.raises(WeightsError, match=r"1 unexpected: encoder\.mystery"):
        loaded({**state, "encoder.mystery": torch.ones(1)}, tmp_path / "file.pt")
