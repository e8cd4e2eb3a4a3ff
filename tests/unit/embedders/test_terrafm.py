"""TerraFM: which stem an image takes, radar scaling, sizes."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from rsembed.core.errors import ModelError
from rsembed.core.settings import Settings
from rsembed.core.specs import OutputSpec, SensorSpec, Window
from rsembed.embedders import torch_runtime
from rsembed.embedders.base import View
from rsembed.embedders.nets.terrafm_net import TerraFmEncoder
from rsembed.embedders.onthefly.terrafm import CARD, STEMS, TerraFm
from rsembed.embedders.options import make_config
from rsembed.embedders.weights import WeightsHandle, WeightsPin

WINDOW = Window(dt.date(2022, 6, 1), dt.date(2022, 9, 1))


class Small(TerraFm):
    """The model with a small network and no file."""

    def resolve(self, settings: Settings, pin: WeightsPin | None = None) -> WeightsHandle | None:
        return None

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        net = TerraFmEncoder(16, 1, heads=2, stems=STEMS)
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.1)
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
    cls: type[TerraFm] = TerraFm,
    **options: object,
) -> TerraFm:
    return cls(make_config(CARD, recipe=recipe, modality=modality, output=output, sensor=sensor, options=options))


def view(values_chw: np.ndarray) -> View:
    values = values_chw[None].astype(np.float32)
    return View(values, np.isfinite(values), (dt.date(2022, 7, 17),), 8.5, 47.4, 10.0, WINDOW)


def scene(channels: int, high: float, side: int = 224, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, high, (channels, side, side))


def answer(made: TerraFm, pixels: np.ndarray) -> np.ndarray:
    made.load("cpu")
    return made.embed_batch({"pixels": pixels}, np.array([[0, 0, 1, 1]] * len(pixels), np.float32))


@pytest.mark.parametrize(
    ("recipe", "modality", "stem"),
    [("authors", "s2", "s2_l2a"), ("rs-embed", "s2", "s2_l1c"), ("authors", "s1", "s1"), ("rs-embed", "s1", "s1")],
)
def test_stem_when_recipe_and_modality_are_given_then_the_one_in_use(recipe: str, modality: str, stem: str) -> None:
    made = embedder(recipe, modality, cls=Small)
    assert made.stem == stem
    pixels = made.prepare(view(scene(STEMS[stem], 1.0)))["pixels"][None]
    with torch.inference_mode():
        expected = made.build()(torch.from_numpy(pixels), stem).cls
    np.testing.assert_allclose(answer(made, pixels), expected, atol=1e-6)


def test_embed_batch_when_both_recipes_share_a_net_then_still_two_stems() -> None:
    pixels = scene(12, 1.0)[None].astype(np.float32)
    one, other = (answer(embedder(recipe, cls=Small), pixels) for recipe in ("authors", "rs-embed"))
    assert torch_runtime.reset_cache() == 1
    assert not np.allclose(one, other)


def test_prepare_when_optical_then_reflectance_clipped_and_missing_pixels_zero() -> None:
    values = np.full((12, 224, 224), 2500.0)
    values[0, 0, :3] = (np.nan, 14000.0, -20.0)
    pixels = embedder().prepare(view(values))["pixels"]
    assert pixels[0, 0, :4].tolist() == [0.0, 1.0, 0.0, 0.25]


@pytest.mark.parametrize("recipe", ["authors", "rs-embed"])
def test_prepare_when_radar_then_logs_over_their_99th_percentile(recipe: str) -> None:
    power = scene(2, 0.8)
    logs = np.log1p(power)
    expected = np.clip(logs / np.percentile(logs, 99), 0, 1)
    np.testing.assert_allclose(embedder(recipe, "s1").prepare(view(power))["pixels"], expected, atol=1e-6)


def test_prepare_when_radar_is_in_decibels_then_error_says_where_to_get_power() -> None:
    with pytest.raises(ModelError, match=r"look like decibels.*S1_GRD_FLOAT"):
        embedder(modality="s1").prepare(view(scene(2, 1.0) * 20 - 25))


def test_fetch_recipe_when_radar_then_only_the_reference_mixes_passes() -> None:
    assert embedder(modality="s1").fetch_recipe().orbit == "most_images"
    assert embedder("rs-embed", "s1").fetch_recipe().orbit == "any"
    sensor = SensorSpec("COPERNICUS/S1_GRD_FLOAT", ("VV", "VH"), orbit="DESCENDING")
    assert embedder("rs-embed", "s1", sensor=sensor).fetch_recipe().orbit == "DESCENDING"
    assert embedder().fetch_recipe().orbit == "any"


def test_embed_batch_when_a_grid_is_asked_then_the_normed_patch_tokens() -> None:
    pixels = scene(12, 1.0)[None].astype(np.float32)
    made = embedder(cls=Small, output=OutputSpec.grid())
    grid = answer(made, pixels)
    with torch.inference_mode():
        tokens = made.build()(torch.from_numpy(pixels), "s2_l2a").patches_bthwd
    np.testing.assert_allclose(grid[0], tokens[0, 0].permute(2, 0, 1), atol=1e-6)


def test_output_when_max_pooling_is_asked_then_error() -> None:
    with pytest.raises(ModelError, match="own image vector"):
        embedder(output=OutputSpec.pooled("max"))


@pytest.mark.parametrize(
    ("variant", "dim", "depth", "millions"), [("base", 768, 12, 112.95), ("large", 1024, 24, None)]
)
def test_build_when_a_size_is_chosen_then_its_tensors(
    variant: str, dim: int, depth: int, millions: float | None
) -> None:
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in embedder(variant=variant).build().state_dict().items()}
    assert shapes["stems.s2_l2a.proj.weight"] == (3 * dim, 12, 16, 16)
    assert shapes["projection.proj3.weight"] == (dim, 3 * dim)
    assert f"blocks.{depth - 1}.norm1.weight" in shapes
    assert f"blocks.{depth}.norm1.weight" not in shapes
    if millions is not None:
        assert sum(int(np.prod(shape)) for shape in shapes.values()) / 1e6 == pytest.approx(millions, abs=0.01)


def test_options_when_a_size_is_unknown_then_error() -> None:
    with pytest.raises(ModelError, match="variant must be one of base, large"):
        embedder(variant="huge")
