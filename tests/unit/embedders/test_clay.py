"""Clay: statistics, date, place and ground resolution of each input, and its sizes."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rsembed.core.errors import ModelError, WeightsError
from rsembed.core.settings import Settings
from rsembed.core.specs import OutputSpec, SensorSpec, Window
from rsembed.embedders import torch_runtime
from rsembed.embedders.base import View
from rsembed.embedders.nets.clay_net import ClayEncoder
from rsembed.embedders.onthefly.clay import CARD, Clay
from rsembed.embedders.options import make_config
from rsembed.embedders.weights import WeightsHandle, WeightsPin

CASES = Path(__file__).resolve().parents[2] / "parity" / "cases"
WINDOW = Window(dt.date(2022, 6, 1), dt.date(2022, 9, 1))
# configs/metadata.yaml of github.com/Clay-foundation/model, sentinel-2-l2a.
MEAN = (1105, 1355, 1552, 1887, 2422, 2630, 2743, 2785, 2388, 1835)
STD = (1809, 1757, 1888, 1870, 1732, 1697, 1742, 1648, 1470, 1379)
WAVELENGTHS = (0.493, 0.56, 0.665, 0.704, 0.74, 0.783, 0.842, 0.865, 1.61, 2.19)


class Small(Clay):
    """The model with a small network and no file."""

    def resolve(self, settings: Settings, pin: WeightsPin | None = None) -> WeightsHandle | None:
        return None

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        net = ClayEncoder(32, 1, heads=2, head_dim=8, hidden=32)
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.1)
        return net


@pytest.fixture(autouse=True)
def _no_cached_nets() -> Iterator[None]:
    yield
    torch_runtime.reset_cache()


def embedder(
    recipe: str = "authors",
    *,
    output: OutputSpec | None = None,
    bands: tuple[str, ...] = (),
    cls: type[Clay] = Clay,
    **options: object,
) -> Clay:
    sensor = SensorSpec("COPERNICUS/S2_SR_HARMONIZED", bands, scale_m=10) if bands else None
    return cls(make_config(CARD, recipe=recipe, output=output, sensor=sensor, options=options))


def view(
    values_chw: np.ndarray,
    *,
    date: dt.date = dt.date(2022, 7, 17),
    lat: float = 47.4,
    lon: float = 8.5,
    scale_m: float = 10.0,
) -> View:
    values = values_chw[None].astype(np.float32)
    return View(values, np.isfinite(values), (date,), lon, lat, scale_m, WINDOW)


def scene(side: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 4000, (10, side, side))


@pytest.mark.parametrize("recipe", ["authors", "rs-embed"])
def test_clay_when_prepared_then_bands_are_standardised_and_not_clipped(recipe: str) -> None:
    values = np.full((10, 256, 256), 12000.0)
    values[:, 0, 0] = np.nan
    prepared = embedder(recipe).prepare(view(values))
    expected = [(12000 - m) / s for m, s in zip(MEAN, STD, strict=True)]
    assert prepared["pixels"][:, 1, 1].tolist() == pytest.approx(expected, rel=1e-6)
    assert prepared["pixels"][:, 0, 0].tolist() == pytest.approx([-m / s for m, s in zip(MEAN, STD, strict=True)])
    assert prepared["waves"].tolist() == pytest.approx(WAVELENGTHS, abs=1e-7)


def test_clay_when_prepared_then_date_and_place_are_angles() -> None:
    prepared = embedder().prepare(view(scene(), date=dt.date(2020, 12, 31), lat=-30.0, lon=90.0))
    week = 53 * 2 * math.pi / 52  # beyond a full turn, as in the authors' code
    assert prepared["time"].tolist() == pytest.approx([math.sin(week), math.cos(week), 0.0, 1.0], abs=1e-6)
    assert prepared["latlon"].tolist() == pytest.approx([-0.5, math.sqrt(3) / 2, 1.0, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("recipe", "side", "expected"),
    [("authors", 256, 10.0), ("authors", 128, 5.0), ("authors", 320, 12.5), ("rs-embed", 128, 10.0)],
)
def test_clay_when_an_image_is_resized_then_only_the_reference_keeps_the_fetched_resolution(
    recipe: str, side: int, expected: float
) -> None:
    prepared = embedder(recipe).prepare(view(scene(side)))
    assert prepared["pixels"].shape == (10, 256, 256)
    assert (prepared["gsd"].shape, float(prepared["gsd"])) == ((), expected)


def test_clay_when_a_tile_is_not_square_then_its_longer_side_counts() -> None:
    prepared = embedder().prepare(view(scene(512)[:, :300]))
    assert float(prepared["gsd"]) == 20.0


def test_clay_when_a_sensor_names_some_bands_then_their_numbers_in_that_order() -> None:
    prepared = embedder(bands=("B11", "B2")).prepare(view(np.full((2, 256, 256), 1000.0)))
    assert prepared["pixels"][:, 0, 0].tolist() == pytest.approx([(1000 - 2388) / 1470, (1000 - 1105) / 1809])
    assert prepared["waves"].tolist() == pytest.approx([1.61, 0.493])


def test_clay_when_a_band_is_unknown_then_error() -> None:
    with pytest.raises(ModelError, match="any of the bands B2, B3"):
        _ = embedder(bands=("B2", "B9")).contract


def test_clay_when_max_pooling_is_asked_then_error_says_why() -> None:
    with pytest.raises(ModelError, match="own image vector"):
        embedder(output=OutputSpec.pooled("max"))


def test_clay_when_a_size_is_unknown_then_error() -> None:
    with pytest.raises(ModelError, match="must be one of tiny, small, base, large"):
        embedder(model_size="huge")


def test_clay_when_a_size_is_not_published_then_error_says_where_to_put_it(tmp_path: Path) -> None:
    settings = Settings(weights_dir=tmp_path, cache_dir=tmp_path / "cache")
    with pytest.raises(WeightsError, match=r"not published.*clay/clay-v1.5-tiny.ckpt"):
        embedder(model_size="tiny").resolve(settings)


def test_clay_when_built_then_it_fits_the_checkpoint() -> None:
    with torch.device("meta"):
        net = embedder().build()
    tensors = json.loads((CASES / "clay" / "weights.json").read_text())["tensors"]
    kept = {}
    for name, tensor in tensors.items():
        if not any(re.fullmatch(pattern, name) for pattern in Clay.drop):
            for pattern, replacement in Clay.rename:
                name = re.sub(pattern, replacement, name)
            kept[name] = tensor["shape"]
    assert kept == {name: list(tensor.shape) for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize(
    ("size", "dim", "depth", "inner", "hidden"),
    [("tiny", 192, 6, 192, 384), ("small", 384, 6, 384, 768), ("base", 768, 12, 768, 3072)],
)
def test_clay_when_a_size_is_built_then_its_shapes(size: str, dim: int, depth: int, inner: int, hidden: int) -> None:
    made = embedder(model_size=size)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in made.build().state_dict().items()}
    assert made.dim == dim
    assert shapes["blocks.0.attn.qkv.weight"] == (3 * inner, dim)
    assert shapes["blocks.0.mlp.fc1.weight"] == (hidden, dim)
    assert shapes["patch_embed.to_kernel.weight"] == (64 * dim, 128)
    assert f"blocks.{depth - 1}.norm1.weight" in shapes
    assert f"blocks.{depth}.norm1.weight" not in shapes


def test_clay_when_dates_places_and_scales_differ_then_each_row_is_as_alone() -> None:
    made = embedder(cls=Small)
    made.load("cpu")
    seen = [
        view(scene(seed=1)),
        view(scene(seed=1), date=dt.date(2021, 1, 1)),
        view(scene(seed=1), lat=-10.0, lon=120.0),
        view(scene(seed=1), scale_m=20.0),
    ]
    rows = [made.prepare(one) for one in seen]
    roi = np.tile(np.array([0, 0, 1, 1], np.float32), (4, 1))
    together = made.embed_batch({name: np.stack([row[name] for row in rows]) for name in rows[0]}, roi)
    for i, row in enumerate(rows):
        alone = {name: np.zeros((4, *array.shape), array.dtype) for name, array in row.items()}
        for name, array in row.items():
            alone[name][i] = array
        assert np.array_equal(made.embed_batch(alone, roi)[i], together[i])
    assert len({vector.tobytes() for vector in together}) == 4


def test_clay_encoder_when_positions_are_made_then_columns_come_first_and_frequencies_lie_near_the_gsd() -> None:
    net = ClayEncoder(32, 0, heads=2, head_dim=8, hidden=32)
    table = net.positions(2, 3, torch.tensor([10.0, 20.0]))
    assert table.shape == (2, 2, 3, 24)
    omega = [10.0 / 10000 ** (2 * (i / 5) / 24) for i in range(6)]
    expected = [f(cell * w) for cell in (2, 1) for f in (math.sin, math.cos) for w in omega]
    assert table[0, 1, 2].tolist() == pytest.approx(expected, abs=1e-4)
