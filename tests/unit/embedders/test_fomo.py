"""FoMo-Net: each band told by its key, statistics by recipe, and bands in any order."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rsembed.core.errors import ModelError
from rsembed.core.settings import Settings
from rsembed.core.specs import OutputSpec, SensorSpec, Window
from rsembed.embedders import torch_runtime
from rsembed.embedders.base import View
from rsembed.embedders.nets.fomo_net import FomoEncoder
from rsembed.embedders.onthefly.fomo import BANDS, CARD, TABLE_ROWS, Fomo
from rsembed.embedders.options import make_config
from rsembed.embedders.weights import WeightsHandle, WeightsPin

CASE = Path(__file__).resolve().parents[2] / "parity" / "cases" / "fomo"
WINDOW = Window(dt.date(2022, 6, 1), dt.date(2022, 9, 1))
WHOLE = np.array([[0, 0, 1, 1]], np.float32)


class Small(Fomo):
    """The model with a small network and no file."""

    def resolve(self, settings: Settings, pin: WeightsPin | None = None) -> WeightsHandle | None:
        return None

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        net = FomoEncoder(16, 1, heads=2, hidden=24, bands=TABLE_ROWS)
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.3)
        return net


@pytest.fixture(autouse=True)
def _no_cached_nets() -> Iterator[None]:
    yield
    torch_runtime.reset_cache()


def embedder(
    recipe: str = "authors",
    *,
    output: OutputSpec | None = None,
    bands: tuple[str, ...] | None = None,
    **options: object,
) -> Small:
    sensor = SensorSpec(CARD.inputs["s2"].collection, bands) if bands else None
    made = Small(make_config(CARD, recipe=recipe, output=output, sensor=sensor, options=options))
    made.load("cpu")
    return made


def view(values_chw: np.ndarray) -> View:
    values = values_chw[None].astype(np.float32)
    return View(values, np.isfinite(values), (WINDOW.midpoint,), 8.5, 47.4, 10.0, WINDOW)


def scene(bands: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 4000, (bands, 64, 64))


def answer(made: Small, values_chw: np.ndarray) -> np.ndarray:
    arrays = {name: array[None] for name, array in made.prepare(view(values_chw)).items()}
    return made.embed_batch(arrays, WHOLE)[0]


def test_prepare_when_by_the_authors_then_standardised_and_not_clipped() -> None:
    values = np.full((12, 64, 64), 1144.16202635)
    values[2, 0, :3] = (1144.16202635 + 10 * 1183.6292542, np.nan, -5.0)
    pixels = embedder().prepare(view(values))["pixels"]
    expected = [10.0, -1144.16202635 / 1183.6292542, (-5.0 - 1144.16202635) / 1183.6292542, 0.0]
    np.testing.assert_allclose(pixels[2, 0, :4], expected, atol=1e-5)


def test_prepare_when_by_the_reference_then_reflectance_within_0_and_1() -> None:
    values = np.full((12, 64, 64), 2500.0)
    values[0, 0, :3] = (np.nan, 14000.0, -20.0)
    assert embedder("rs-embed").prepare(view(values))["pixels"][0, 0, :4].tolist() == [0.0, 1.0, 0.0, 0.25]


@pytest.mark.parametrize(
    ("norm", "low", "high"), [("unit_scale", 0.1, 0.3), ("per_tile_minmax", 0.0, 1.0), ("none", 1000.0, 3000.0)]
)
def test_prepare_when_another_norm_is_asked_then_each_band_by_it(norm: str, low: float, high: float) -> None:
    values = np.full((12, 64, 64), 1000.0)
    values[:, 32:] = 3000.0
    pixels = embedder(norm=norm).prepare(view(values))["pixels"]
    np.testing.assert_allclose([pixels.min(), pixels.max()], [low, high], atol=1e-6)


def test_prepare_when_bands_are_named_then_their_keys_follow() -> None:
    assert embedder().prepare(view(scene()))["spectral_keys"].tolist() == [*range(6, 16), 17, 18]
    assert embedder(bands=("B12", "B4")).prepare(view(scene(2)))["spectral_keys"].tolist() == [18, 9]


def test_embed_batch_when_bands_come_in_another_order_then_the_same_vector() -> None:
    values = scene(3)
    one = answer(embedder(bands=("B2", "B3", "B8")), values)
    other = answer(embedder(bands=("B8", "B2", "B3")), values[[2, 0, 1]])
    np.testing.assert_allclose(other, one, atol=1e-5)
    assert not np.allclose(answer(embedder(bands=("B8", "B3", "B2")), values), one, atol=1e-3)


def test_embed_batch_when_a_band_is_brighter_throughout_then_nothing_changes() -> None:
    values = scene()
    brighter = values + 1500 * (np.arange(12) == 4)[:, None, None]
    np.testing.assert_allclose(answer(embedder(), brighter), answer(embedder(), values), atol=1e-3)


def test_embed_batch_when_pooled_then_all_bands_count_and_the_grid_is_their_mean() -> None:
    values = scene()
    made = embedder(output=OutputSpec.grid())
    grid = answer(made, values)
    assert grid.shape == (16, 4, 4)
    np.testing.assert_allclose(answer(embedder(), values), grid.mean((1, 2)), atol=1e-5)
    largest = answer(embedder(output=OutputSpec.pooled("max")), values)
    assert (largest > grid.max((1, 2))).any()


def test_encoder_when_one_patch_differs_then_its_cell_changes_most() -> None:
    values = scene()
    made = embedder(output=OutputSpec.grid())
    changed = values.copy()
    changed[:, 16:32, 32:48] = scene(seed=1)[:, 16:32, 32:48]
    difference = np.abs(answer(made, changed) - answer(made, values)).sum(0)
    assert np.unravel_index(difference.argmax(), difference.shape) == (1, 2)


def test_build_when_fitted_then_every_tensor_of_the_file_has_its_place() -> None:
    tensors = json.loads((CASE / "weights.json").read_text())["tensors"]
    with torch.device("meta"):
        net = Fomo(make_config(CARD)).build()
    kept = {}
    for name, tensor in tensors.items():
        if not any(re.fullmatch(pattern, name) for pattern in Fomo.drop):
            for pattern, replacement in Fomo.rename:
                name = re.sub(pattern, replacement, name)
            kept[name] = tensor["shape"]
    assert kept == {name: list(tensor.shape) for name, tensor in net.state_dict().items()}


def test_weights_when_described_then_a_plain_address_and_its_size() -> None:
    file = CARD.weights[""]
    assert file.repo is None
    assert file.url == json.loads((CASE / "weights.json").read_text())["repo"]


def test_options_when_the_norm_is_unknown_then_error() -> None:
    with pytest.raises(ModelError, match="must be one of recipe, standard, unit_scale"):
        embedder(norm="zscore")


def test_sensor_when_a_band_has_no_key_then_error() -> None:
    with pytest.raises(ModelError, match="takes any of the bands"):
        _ = embedder(bands=("B2", "B10")).contract


def test_bands_when_read_then_no_two_share_a_key() -> None:
    keys = [band.key for band in BANDS.values()]
    assert len(set(keys)) == len(keys)
    assert max(keys) < TABLE_ROWS
