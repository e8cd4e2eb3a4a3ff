"""DOFA: kernels from wavelengths, the bytes of its training images, and what each recipe makes of the mean token."""

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
from rsembed.embedders.nets.dofa_net import DofaEncoder
from rsembed.embedders.nets.transformer import Block, BlockSpec
from rsembed.embedders.nets.wavelength_patch_embed import KernelSpec, WavelengthPatchEmbed
from rsembed.embedders.onthefly.dofa import CARD, Dofa
from rsembed.embedders.options import make_config
from rsembed.embedders.weights import WeightsHandle, WeightsPin

CASES = Path(__file__).resolve().parents[2] / "parity" / "cases"
WINDOW = Window(dt.date(2022, 6, 1), dt.date(2022, 9, 1))
# README.md of github.com/zhu-xlab/DOFA: S2_MEAN, S2_STD and the wavelengths of its Sentinel-2 example.
MEAN = (114.1099739, 114.81779093, 126.63977424, 84.33539309, 97.84789168, 103.94461911, 101.435633,
        72.32804172, 56.66528851)  # fmt: skip
STD = (77.84352553, 69.96844919, 67.42465279, 64.57022983, 61.72545487, 61.34187099, 60.29744676,
       47.88519516, 42.55886798)  # fmt: skip
WAVELENGTHS = (0.665, 0.56, 0.49, 0.705, 0.74, 0.783, 0.842, 1.61, 2.19)


class Small(Dofa):
    """The model with a small network and no file."""

    def resolve(self, settings: Settings, pin: WeightsPin | None = None) -> WeightsHandle | None:
        return None

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        net = DofaEncoder(16, 1, heads=2)
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
    cls: type[Dofa] = Dofa,
    **options: object,
) -> Dofa:
    sensor = SensorSpec("COPERNICUS/S2_SR_HARMONIZED", bands, scale_m=10) if bands else None
    return cls(make_config(CARD, recipe=recipe, output=output, sensor=sensor, options=options))


def view(values_chw: np.ndarray, valid: np.ndarray | None = None) -> View:
    values = values_chw[None].astype(np.float32)
    valid = np.ones(values.shape, bool) if valid is None else valid
    return View(values, valid, (WINDOW.midpoint,), 8.5, 47.4, 10.0, WINDOW)


def flat(numbers: tuple[float, ...], side: int = 224) -> np.ndarray:
    return np.broadcast_to(np.array(numbers, np.float32)[:, None, None], (len(numbers), side, side)).copy()


def test_dofa_when_prepared_by_the_authors_recipe_then_bytes_of_satlas_are_standardised() -> None:
    values = flat((1779, 3557, 5000, 3216, 3199, 31, 8160, 20000, 64))
    valid = np.ones((1, *values.shape), bool)
    valid[0, :, 0, 0] = False
    prepared = embedder().prepare(view(values, valid))
    # Red, green, blue: 255 at DN 3558; the others: DN // 32, at most 255.
    bytes_ = (127, 254, 255, 100, 99, 0, 255, 255, 2)
    expected = [(byte - m) / s for byte, m, s in zip(bytes_, MEAN, STD, strict=True)]
    assert prepared["pixels"][:, 100, 100].tolist() == pytest.approx(expected, abs=1e-6)
    missing = [-m / s for m, s in zip(MEAN, STD, strict=True)]
    assert prepared["pixels"][:, 0, 0].tolist() == pytest.approx(missing, abs=1e-6)
    assert prepared["wavelengths_um"].tolist() == pytest.approx(WAVELENGTHS, abs=1e-7)


def test_dofa_when_prepared_by_the_references_recipe_then_reflectance_times_255() -> None:
    values = flat((1779, 3557, 5000, 3216, 3199, 31, 8160, 20000, 64))
    pixels = embedder("rs-embed").prepare(view(values))["pixels"]
    scaled = np.clip(values[:, 0, 0] / 10000, 0, 1) * 255
    expected = [(v - m) / s for v, m, s in zip(scaled, MEAN, STD, strict=True)]
    assert pixels[:, 9, 9].tolist() == pytest.approx(expected, abs=1e-6)


def test_dofa_when_the_recipe_differs_then_so_does_the_product() -> None:
    assert embedder().fetch_recipe().collection == "COPERNICUS/S2_HARMONIZED"
    assert embedder("rs-embed").fetch_recipe().collection == "COPERNICUS/S2_SR_HARMONIZED"
    assert embedder(bands=("B8",)).fetch_recipe().collection == "COPERNICUS/S2_SR_HARMONIZED"


def test_dofa_when_a_sensor_names_some_bands_then_their_numbers_in_that_order() -> None:
    prepared = embedder("rs-embed", bands=("B12", "B4")).prepare(view(flat((1000, 2000))))
    expected = [(25.5 - MEAN[8]) / STD[8], (51 - MEAN[0]) / STD[0]]
    assert prepared["pixels"][:, 0, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert prepared["wavelengths_um"].tolist() == pytest.approx([2.19, 0.665])


@pytest.mark.parametrize("bands", [("B4", "B8A"), ("B4", "B4"), ("B1",)], ids=str)
def test_dofa_when_a_band_has_no_statistics_or_comes_twice_then_error(bands: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match="any of the bands B4, B3, B2"):
        _ = embedder(bands=bands).contract


def test_dofa_when_given_two_frames_then_error() -> None:
    values = np.zeros((2, 9, 224, 224), np.float32)
    with pytest.raises(ModelError, match="one frame, got 2"):
        embedder().prepare(View(values, values == 0, (WINDOW.midpoint,) * 2, 8.5, 47.4, 10.0, WINDOW))


def test_dofa_when_a_variant_is_unknown_then_error() -> None:
    with pytest.raises(ModelError, match="must be one of base, large"):
        embedder(variant="huge")


@pytest.mark.parametrize(("case", "variant"), [("dofa", "base"), ("dofa_large", "l")])
def test_dofa_when_built_then_it_fits_the_checkpoint(case: str, variant: str) -> None:
    with torch.device("meta"):
        net = embedder(variant=variant).build()
    tensors = json.loads((CASES / case / "weights.json").read_text())["tensors"]
    kept = {}
    for name, tensor in tensors.items():
        if not any(re.fullmatch(pattern, name) for pattern in Dofa.drop):
            for pattern, replacement in Dofa.rename:
                name = re.sub(pattern, replacement, name)
            kept[name] = tensor["shape"]
    assert kept == {name: list(tensor.shape) for name, tensor in net.state_dict().items()}


def batch(seeds: list[int | None]) -> dict[str, np.ndarray]:
    """A slot per seed, zeros where it is None."""
    rows = [
        None if seed is None else embedder().prepare(view(np.random.default_rng(seed).uniform(0, 4000, (9, 224, 224))))
        for seed in seeds
    ]
    example = next(row for row in rows if row is not None)
    return {
        name: np.stack([np.zeros_like(array) if row is None else row[name] for row in rows])
        for name, array in example.items()
    }


def test_dofa_when_slots_are_empty_then_the_bands_are_still_known() -> None:
    made = embedder(cls=Small)
    made.load("cpu")
    roi = np.array([(0, 0, 1, 1), (0, 0, 0.5, 0.5), (0, 0, 0, 0)], np.float32)
    together = made.embed_batch(batch([1, 2, None]), roi)
    empty = np.zeros((1, 4), np.float32)
    first = made.embed_batch(batch([1, None, None]), np.concatenate([roi[:1], empty, empty]))
    second = made.embed_batch(batch([None, 2, None]), np.concatenate([empty, roi[1:2], empty]))
    assert np.isfinite(together).all()
    assert np.array_equal(together[0], first[0])
    assert np.array_equal(together[1], second[1])


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_dofa_when_pooled_then_the_regions_tokens_are_reduced_and_normalised_as_the_recipe_says(pooling: str) -> None:
    arrays, roi = batch([3]), np.array([(0, 0, 0.5, 1)], np.float32)
    grids, vectors = {}, {}
    for recipe in ("authors", "rs-embed"):
        for output, found in ((OutputSpec.grid(), grids), (OutputSpec.pooled(pooling), vectors)):
            made = embedder(recipe, output=output, cls=Small)
            made.load("cpu")
            found[recipe] = made.embed_batch(arrays, roi)[0]
    np.testing.assert_array_equal(grids["authors"], grids["rs-embed"])
    left = grids["authors"][:, :, :7].reshape(16, -1)
    reduced = left.mean(1) if pooling == "mean" else left.max(1)
    plain = (reduced - reduced.mean()) / np.sqrt(reduced.var() + 1e-6)
    np.testing.assert_allclose(vectors["authors"], plain, atol=1e-5)
    norm = Small().build().norm
    learned = plain * norm.weight.detach().numpy() + norm.bias.detach().numpy()
    np.testing.assert_allclose(vectors["rs-embed"], learned, atol=1e-5)


SPEC = KernelSpec(4, 2, unit_per_um=1.0, span=63.0, activation="gelu", layout="dim_rows_columns",
                  kernel_scale=0.02, bias_scale=1.0)  # fmt: skip


def test_wavelength_patch_embed_when_bands_are_reordered_then_the_tokens_stay() -> None:
    torch.manual_seed(0)
    embed = WavelengthPatchEmbed(SPEC)
    pixels, waves = torch.randn(2, 3, 4, 6), torch.tensor([0.49, 0.665, 2.19])
    order = [2, 0, 1]
    tokens = embed(pixels, waves)
    assert tokens.shape == (2, 2, 3, 4)
    torch.testing.assert_close(embed(pixels[:, order], waves[order]), tokens)


def test_block_when_post_norm_then_it_is_torchs_encoder_layer() -> None:
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True).eval()
    ours = Block(BlockSpec(8, 2, hidden=16, norm="post"))
    state = {}
    for name, tensor in theirs.state_dict().items():
        for pattern, replacement in Dofa.rename:
            name = re.sub(pattern, replacement, f".{name}").removeprefix(".")
        state[name] = tensor
    ours.load_state_dict(state)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x))
