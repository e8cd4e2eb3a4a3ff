"""SatMAE++: two modalities with inputs, weights and networks of their own; no published weights needed."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from rsembed.core.errors import ModelError, WeightsError
from rsembed.core.settings import Settings
from rsembed.core.specs import OutputSpec, SensorSpec, Window
from rsembed.embedders.base import View
from rsembed.embedders.checkpoint import fit, load_state_dict
from rsembed.embedders.nets.mae_encoders import GroupEncoder
from rsembed.embedders.onthefly.satmaepp import CARD, SatMaePP
from rsembed.embedders.options import make_config
from rsembed.embedders.weights import WeightsHandle, WeightsPin

CASES = Path(__file__).resolve().parents[2] / "parity" / "cases"
WINDOW = Window(dt.date(2022, 6, 1), dt.date(2022, 9, 1))
RGB_MEAN = (0.4182007312774658, 0.4214799106121063, 0.3991275727748871)
RGB_STD = (0.28774282336235046, 0.27541765570640564, 0.2764017581939697)
# Of the authors' SentinelIndividualImageDataset: B2 and B12.
S2_MEAN = {0: 1184.3824625, 9: 1247.91870117}
S2_STD = {0: 650.2842772, 9: 1087.6020813}


def embedder(modality: str, recipe: str = "authors", cls: type[SatMaePP] = SatMaePP, **options: object) -> SatMaePP:
    output = options.pop("output", OutputSpec())
    assert isinstance(output, OutputSpec)
    return cls(make_config(CARD, modality=modality, recipe=recipe, output=output, options=options))


def view(values_tchw: np.ndarray) -> View:
    values = values_tchw.astype(np.float32)
    return View(values, np.ones(values.shape, bool), (WINDOW.midpoint,), 8.5, 47.4, 10.0, WINDOW)


@pytest.mark.parametrize(
    ("recipe", "order", "bytes_"),
    [
        ("authors", "auto", (25, 51, 76)),
        ("authors", "rgb", (76, 51, 25)),
        ("rs-embed", "auto", (76, 51, 25)),
        ("rs-embed", "bgr", (25, 51, 76)),
    ],
)
def test_satmaepp_when_rgb_then_channels_come_in_the_order_of_the_recipe(
    recipe: str, order: str, bytes_: tuple[int, ...]
) -> None:
    values = np.broadcast_to(np.array([3000.0, 2000.0, 1000.0])[:, None, None], (3, 224, 224))[None]
    pixels = embedder("rgb", recipe, channel_order=order).prepare(view(values))["pixels"]
    expected = [(byte / 255 - m) / s for byte, m, s in zip(bytes_, RGB_MEAN, RGB_STD, strict=True)]
    assert pixels[:, 7, 7].tolist() == pytest.approx(expected, abs=1e-6)


def test_satmaepp_when_s2_then_two_deviations_around_the_mean_become_bytes() -> None:
    values = np.zeros((1, 10, 96, 96))
    for band in (0, 9):
        for column, deviations in enumerate((-3.0, -1.0, 0.0, 1.0, 2.5)):
            values[0, band, :, column] = S2_MEAN[band] + deviations * S2_STD[band]
    pixels = embedder("s2_10b").prepare(view(values))["pixels"]
    assert pixels.shape == (10, 96, 96)
    for band in (0, 9):
        assert pixels[band, 3, :5].tolist() == pytest.approx([0, 63 / 255, 127 / 255, 191 / 255, 1], abs=1e-7)
        # DN 0, which also stands for missing pixels, lies inside the stretch.
        zero = int((0 - S2_MEAN[band] + 2 * S2_STD[band]) / (4 * S2_STD[band]) * 255)
        assert pixels[band, 3, 50] == pytest.approx(zero / 255, abs=1e-7)


@pytest.mark.parametrize(("modality", "bands", "side"), [("rgb", 3, 224), ("s2_10b", 10, 96)])
def test_satmaepp_when_the_tile_is_of_another_size_then_it_is_resized(modality: str, bands: int, side: int) -> None:
    values = np.random.default_rng(0).integers(0, 4000, (1, bands, 70, 150))
    assert embedder(modality).prepare(view(values))["pixels"].shape == (bands, side, side)
    with pytest.raises(ModelError, match="one frame, got 2"):
        embedder(modality).prepare(view(np.zeros((2, bands, side, side))))


@pytest.mark.parametrize(
    ("modality", "recipe", "collection"),
    [
        ("s2_10b", "authors", "COPERNICUS/S2_HARMONIZED"),
        ("s2_10b", "rs-embed", "COPERNICUS/S2_SR_HARMONIZED"),
        ("rgb", "authors", "COPERNICUS/S2_SR_HARMONIZED"),
    ],
)
def test_satmaepp_when_the_recipe_is_the_authors_then_s2_is_level_1c(
    modality: str, recipe: str, collection: str
) -> None:
    made = embedder(modality, recipe)
    assert made.contract.collection == collection
    assert made.fetch_recipe().collection == collection


def test_satmaepp_when_the_user_names_a_sensor_then_its_collection_stays() -> None:
    sensor = SensorSpec(collection="MINE", bands=CARD.inputs["s2_10b"].bands, scale_m=10)
    made = SatMaePP(make_config(CARD, modality="s2_10b", recipe="rs-embed", sensor=sensor))
    assert made.contract.collection == "MINE"


@pytest.mark.parametrize(
    ("modality", "options", "message"),
    [
        ("s2_10b", {"channel_order": "bgr"}, "channel_order has no meaning for modality s2_10b"),
        ("rgb", {"grid_group_reduce": "max"}, "grid_group_reduce has no meaning for modality rgb"),
        ("s2_10b", {"grid_group_reduce": "median"}, "must be one of mean, max"),
        ("rgb", {"variant": "base"}, "must be one of large"),
        ("s1", {}, "modality must be one of rgb, s2_10b"),
    ],
)
def test_satmaepp_when_an_option_does_not_apply_then_error(
    modality: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        embedder(modality, **options)


@pytest.mark.parametrize(("modality", "variant"), [("rgb", "large"), ("s2_10b", "large_s2_10b")])
def test_satmaepp_when_built_then_it_fits_the_checkpoint_of_its_modality(modality: str, variant: str) -> None:
    made = embedder(modality, variant="l")
    weights = json.loads((CASES / f"satmaepp_{modality}" / "weights.json").read_text())
    assert made.variant == variant
    assert made.weights_file() is CARD.weights[variant]
    assert CARD.weights[variant].repo == weights["repo"]
    assert weights["file"] in (CARD.weights[variant].file, *CARD.weights[variant].other_files)
    assert list(made.wrap) == weights["wrap"]
    with torch.device("meta"):
        net = made.build()
    kept = {
        name: t["shape"]
        for name, t in weights["tensors"].items()
        if not any(re.fullmatch(pattern, name) for pattern in SatMaePP.drop)
    }
    assert kept == {name: list(tensor.shape) for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize(
    ("modality", "recipe", "eps"), [("rgb", "authors", 1e-6), ("rgb", "rs-embed", 1e-5), ("s2_10b", "rs-embed", 1e-6)]
)
def test_satmaepp_when_built_then_the_norm_is_the_recipes(modality: str, recipe: str, eps: float) -> None:
    with torch.device("meta"):
        net = embedder(modality, recipe).build()
    assert {module.eps for module in net.modules() if isinstance(module, torch.nn.LayerNorm)} == {eps}


def empty_net() -> GroupEncoder:
    return GroupEncoder(
        16, 2, heads=2, patch_px=8, image_px=96, groups=((0, 1, 2, 6), (3, 4, 5, 7), (8, 9)), group_dim=4, eps=1e-6
    )


def small_net() -> GroupEncoder:
    torch.manual_seed(0)
    net = empty_net()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net


class Small(SatMaePP):
    """The multispectral model with a small network and no file."""

    def resolve(self, settings: Settings, pin: WeightsPin | None = None) -> WeightsHandle | None:
        return None

    def build(self) -> torch.nn.Module:
        return small_net()


def embed(output: OutputSpec, pixels: np.ndarray, **options: object) -> np.ndarray:
    made = embedder("s2_10b", cls=Small, output=output, **options)
    made.load("cpu")
    roi = np.array([(0, 0, 1, 1), (0, 0, 0.5, 0.25)], np.float32)
    return made.embed_batch({"pixels": pixels}, roi)


def test_satmaepp_when_s2_then_groups_are_pooled_in_vectors_and_joined_in_grids() -> None:
    pixels = np.random.default_rng(0).random((2, 10, 96, 96), np.float32)
    with torch.inference_mode():
        tokens = small_net()(torch.from_numpy(pixels)).patches_bthwd.numpy()
    assert tokens.shape == (2, 3, 12, 12, 16)
    part = tokens[1, :, :3, :6]
    for how in ("mean", "max"):
        pooled = embed(OutputSpec.pooled(how), pixels)
        np.testing.assert_allclose(pooled[0], getattr(tokens[0], how)((0, 1, 2)), atol=1e-6)
        np.testing.assert_allclose(pooled[1], getattr(part, how)((0, 1, 2)), atol=1e-6)
        grid = embed(OutputSpec.grid(), pixels, grid_group_reduce=how)
        np.testing.assert_allclose(grid, getattr(tokens, how)(1).transpose(0, 3, 1, 2), atol=1e-6)


def test_satmaepp_when_slots_are_empty_then_each_row_gives_the_same_bits() -> None:
    pixels = np.random.default_rng(1).random((2, 10, 96, 96), np.float32)
    alone = pixels.copy()
    alone[0] = 0
    together = embed(OutputSpec(), pixels)
    assert np.array_equal(embed(OutputSpec(), alone)[1], together[1])


def test_group_encoder_when_a_band_changes_then_only_its_group_and_cell_do() -> None:
    net = GroupEncoder(8, 0, heads=2, patch_px=2, image_px=6, groups=((0, 2), (1,)), group_dim=2, eps=1e-6)
    torch.nn.init.normal_(net.patch_embed[0].proj.weight)
    pixels = torch.zeros(1, 3, 6, 6)
    before = net(pixels).patches_bthwd
    pixels[:, 2, 2:4, 4:6] = 1.0
    assert (net(pixels).patches_bthwd != before).any(-1).nonzero().tolist() == [[0, 0, 1, 2]]


def test_satmaepp_when_the_file_holds_training_state_then_only_the_weights_are_loaded(tmp_path: Path) -> None:
    made, net, path = embedder("s2_10b"), small_net(), str(tmp_path / "training.pth")
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    extra = {"module.mask_token": torch.zeros(1), "module.up_block2.up_conv.bias": torch.zeros(2)}
    torch.save({"model": {**state, **extra}, "epoch": 49, "args": argparse.Namespace(lr=1e-4)}, path)
    with torch.device("meta"):
        fresh = empty_net()
    dropped = fit(
        load_state_dict(path, made.wrap, made.safe_globals), fresh, rename=SatMaePP.rename, drop=made.drop, file=path
    )
    assert dropped == tuple(sorted(extra))
    assert all(torch.equal(fresh.state_dict()[name], tensor) for name, tensor in net.state_dict().items())
    del state["module.norm.bias"]
    torch.save({"model": state}, path)
    with pytest.raises(WeightsError, match=r"1 missing: norm\.bias"):
        fit(load_state_dict(path, made.wrap), fresh, rename=SatMaePP.rename, drop=made.drop, file=path)
