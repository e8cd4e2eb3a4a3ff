"""SatVision-TOA: the authors' calibration, the reference's proxy, and checkpoints of the published and other sizes."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rsembed.core.errors import ModelError, WeightsError
from rsembed.core.settings import Settings
from rsembed.core.specs import OutputSpec, Window
from rsembed.embedders import torch_runtime
from rsembed.embedders.base import View
from rsembed.embedders.onthefly.satvision import CARD, SatVision
from rsembed.embedders.options import make_config

WINDOW = Window(dt.date(2022, 6, 1), dt.date(2022, 6, 9))
SMALL = {"embed_dim": 8, "depths": "1,2,6,1", "num_heads": "1,2,2,4"}
REPO = "nasa-cisto-data-science-group/satvision-toa-giant-patch8-window8-128"
# pytorch_caney's transform: kelvin that become 0 and 1, of bands 20, 27 and 34; their places among the 14.
KELVIN = {5: (223.1222, 352.7182), 7: (178.9174, 261.2920), 13: (203.3537, 285.9848)}


@pytest.fixture(autouse=True)
def _no_cached_nets() -> Iterator[None]:
    yield
    torch_runtime.reset_cache()


def embedder(recipe: str = "authors", *, output: OutputSpec | None = None, **options: object) -> SatVision:
    return SatVision(make_config(CARD, recipe=recipe, output=output, options=options))


def view(values_chw: np.ndarray, valid_chw: np.ndarray | None = None) -> View:
    values = values_chw[None].astype(np.float32)
    valid = np.ones(values.shape, bool) if valid_chw is None else valid_chw[None]
    return View(values, valid, (dt.date(2022, 6, 5),), 121.5, 31.2, 1000.0, WINDOW)


def raw(height: int = 128, width: int = 128) -> np.ndarray:
    """Reflectance of 40 per cent, temperatures of 270 kelvin."""
    values = np.full((14, height, width), 40.0)
    values[[5, *range(7, 14)]] = 270.0
    return values


def prepared(made: SatVision, values: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    return made.prepare(view(values, valid))["pixels"]


def checkpoint(options: dict[str, object]) -> dict[str, Tensor]:
    """Named as published, of a network with ``options``; filled with small numbers."""
    state: dict[str, Tensor] = {}
    for name, tensor in embedder(**options).build().state_dict().items():
        theirs = re.sub(
            r"^stages\.(\d+)", r"layers.\1.blocks", re.sub(r"^merges\.(\d+)", r"layers.\1.downsample", name)
        )
        theirs = theirs.replace("patch_norm", "patch_embed.norm").replace("bias_net", "cpb_mlp")
        seed = torch.Generator().manual_seed(len(state))
        state[f"encoder.{theirs}"] = torch.randn(tensor.shape, generator=seed) * 0.1
    return {**state, "encoder.mask_token": torch.zeros(1, 1, 8), "decoder.0.bias": torch.zeros(3)}


def loaded(folder: Path, state: dict[str, Tensor], made: SatVision) -> SatVision:
    file = folder / REPO / "mp_rank_00_model_states.pt"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"module": state, "global_steps": 7}, file)
    made.resolve(Settings(weights_dir=folder, cache_dir=folder / "cache", offline=True))
    made.load("cpu")
    return made


# Pixels ---------------------------------------------------------------------------------------------


def test_prepare_when_values_are_raw_then_calibrated_as_by_the_authors() -> None:
    pixels = prepared(embedder(), raw())
    assert pixels[0, 64, 64] == pytest.approx(0.4)
    for place, (low, high) in KELVIN.items():
        assert pixels[place, 64, 64] == pytest.approx((270 - low) / (high - low), rel=1e-5)


def test_prepare_when_out_of_range_then_only_the_reference_clips() -> None:
    hot = raw()
    hot[7] = 300.0
    assert prepared(embedder(), hot)[7].min() > 1.2
    assert prepared(embedder("rs-embed"), hot)[7].max() == 1.0


def test_prepare_when_pixels_are_invalid_then_zero_in_both_recipes() -> None:
    valid = np.ones((14, 128, 128), bool)
    valid[:, 60:70, 60:70] = False
    for recipe in ("authors", "rs-embed"):
        assert not prepared(embedder(recipe), raw(), valid)[:, 60:70, 60:70].any()


@pytest.mark.parametrize("norm", ["auto", "unit"])
def test_prepare_when_values_are_scaled_then_taken_as_they_are(norm: str) -> None:
    assert prepared(embedder(norm=norm), np.full((14, 128, 128), 0.7))[5, 0, 0] == np.float32(0.7)


def test_prepare_when_asked_for_raw_then_scaled_whatever_the_range() -> None:
    assert prepared(embedder(norm="raw"), np.full((14, 128, 128), 0.7))[0, 0, 0] == pytest.approx(0.007)


def test_prepare_when_the_tile_is_no_square_then_it_is_stretched() -> None:
    made, values = embedder(), raw(64, 96)
    values[0, :, 48:] = 80.0
    pixels = prepared(made, values)
    assert pixels.shape == (14, 128, 128)
    assert pixels[0, :, :60] == pytest.approx(0.4)
    assert pixels[0, :, 68:] == pytest.approx(0.8)
    assert made.canvas(64, 96) == (64, 96)


# The proxy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [True, False])
def test_prepare_when_proxy_then_one_temperature_stands_for_eight_bands(stored: bool) -> None:
    values = np.stack([np.full((128, 128), 1000.0 * (i + 1)) for i in range(6)] + [np.full((128, 128), 240.0)])
    if stored:
        values[6] /= 0.02
    pixels = prepared(embedder("rs-embed", proxy=True), values)[:, 3, 3]
    assert pixels[[0, 1, 2, 3, 4, 6]] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    for place, (low, high) in KELVIN.items():
        assert pixels[place] == pytest.approx((240 - low) / (high - low), rel=1e-4)


def test_proxy_when_recipe_is_the_authors_then_refused() -> None:
    with pytest.raises(ModelError, match="recipe='rs-embed'"):
        embedder(proxy=True)


def test_contract_when_proxy_then_surface_products_are_asked_for() -> None:
    contract = embedder("rs-embed", proxy=True).contract
    assert contract.collection == "MODIS/061/MOD09GA"
    assert contract.bands[-1] == "LST_1KM"
    assert len(contract.bands) == 7


@pytest.mark.parametrize("recipe", ["authors", "rs-embed"])
def test_fetch_recipe_when_nothing_is_asked_then_a_mosaic_under_any_sky(recipe: str) -> None:
    fetch = embedder(recipe).fetch_recipe()
    assert (fetch.composite, fetch.clouds.mask, fetch.clouds.scene_pct) == ("mosaic", "none", None)


# The network ----------------------------------------------------------------------------------------


def test_build_when_published_then_as_many_parameters_as_published() -> None:
    made = embedder()
    with torch.device("meta"):
        net = made.build()
    assert round(sum(tensor.numel() for tensor in net.state_dict().values()) / 1e6) == 2595
    assert made.dim == 4096


def test_build_when_a_stage_is_long_then_every_sixth_block_has_a_norm_more() -> None:
    blocks: nn.Module = embedder(**SMALL).build().stages[2]  # type: ignore[index]
    assert [name for name, _ in blocks.named_parameters() if "norm3" in name] == ["5.norm3.weight", "5.norm3.bias"]


def test_load_when_the_file_is_smaller_than_published_then_its_size_is_taken(tmp_path: Path) -> None:
    made = loaded(tmp_path, checkpoint(SMALL), embedder())
    vector = made.embed_batch({"pixels": np.zeros((1, 14, 128, 128), np.float32)}, np.array([[0, 0, 1, 1]], np.float32))
    assert vector.shape == (1, 64)
    assert made.dim == 64


@pytest.mark.parametrize("gone", ["encoder.layers.2.blocks.5.norm3.bias", "encoder.layers.1.downsample.norm.weight"])
def test_load_when_a_tensor_is_missing_then_error_names_it(gone: str, tmp_path: Path) -> None:
    state = checkpoint(SMALL)
    del state[gone]
    with pytest.raises(WeightsError, match="1 missing"):
        loaded(tmp_path, state, embedder())


def test_load_when_the_options_name_another_size_then_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="of another shape"):
        loaded(tmp_path, checkpoint(SMALL), embedder(embed_dim=16))


def test_batch_when_padded_then_each_row_as_alone_and_the_vector_is_of_the_normed_map(tmp_path: Path) -> None:
    made = loaded(tmp_path, checkpoint(SMALL), embedder(**SMALL))
    pixels = np.random.default_rng(0).uniform(0, 1, (3, 14, 128, 128)).astype(np.float32)
    whole = np.tile(np.array([0, 0, 1, 1], np.float32), (3, 1))
    together = made.embed_batch({"pixels": pixels}, whole)
    for i in range(3):
        alone = np.zeros_like(pixels)
        alone[i] = pixels[i]
        assert made.embed_batch({"pixels": alone}, whole)[i].tobytes() == together[i].tobytes()
    grid = loaded(tmp_path, checkpoint(SMALL), embedder(output=OutputSpec.grid(), **SMALL))
    assert grid.embed_batch({"pixels": pixels}, whole).shape == (3, 64, 4, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depths": "2,2"}, "four counts"),
        ({"num_heads": "a,b,c,d"}, "four counts"),
        ({"image_size": 100}, "multiple of 32"),
    ],
)
def test_options_when_wrong_then_error_says_what_is_expected(options: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        embedder(**options)


def test_output_when_reduced_by_maximum_then_refused() -> None:
    with pytest.raises(ModelError, match="own image vector"):
        embedder(output=OutputSpec.pooled("max"))
