"""TerraMind: statistics of each release, sizes, layers, and a checkpoint that holds much more."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rsembed.core.errors import ModelError, WeightsError
from rsembed.core.settings import Settings
from rsembed.core.specs import OutputSpec, Window
from rsembed.embedders import torch_runtime
from rsembed.embedders.base import View
from rsembed.embedders.checkpoint import fit, load_state_dict
from rsembed.embedders.nets.terramind_net import TerraMindEncoder
from rsembed.embedders.onthefly.terramind import CARD, TerraMind
from rsembed.embedders.options import make_config
from rsembed.embedders.weights import WeightsHandle, WeightsPin

WINDOW = Window(dt.date(2022, 6, 1), dt.date(2022, 9, 1))
# terratorch, terramind_register.py: v1_pretraining_mean / std["untok_sen2l2a@224"], first and last band; v01 likewise.
FIRST = {"v1": (1390.458, 2106.761), "v01": (794.311, 1164.883)}
LAST = {"v1": (1857.648, 1334.311), "v01": (1841.645, 1365.08)}
MODALITY = "encoder_embeddings.untok_sen2l2a@224."


class Small(TerraMind):
    """The model with a small network and no file."""

    def resolve(self, settings: Settings, pin: WeightsPin | None = None) -> WeightsHandle | None:
        return None

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        net = TerraMindEncoder(32, 12, heads=2, gated=False)
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.1)
        return net


@pytest.fixture(autouse=True)
def _no_cached_nets() -> Iterator[None]:
    yield
    torch_runtime.reset_cache()


def embedder(
    recipe: str = "authors", *, output: OutputSpec | None = None, cls: type[TerraMind] = TerraMind, **options: object
) -> TerraMind:
    return cls(make_config(CARD, recipe=recipe, output=output, options=options))


def view(values_chw: np.ndarray, valid_chw: np.ndarray | None = None) -> View:
    values = values_chw[None].astype(np.float32)
    valid = np.ones(values.shape, bool) if valid_chw is None else valid_chw[None]
    return View(values, valid, (dt.date(2022, 7, 17),), 8.5, 47.4, 10.0, WINDOW)


def flat(dn: float, side: int = 224) -> np.ndarray:
    return np.full((12, side, side), dn)


@pytest.mark.parametrize(("key", "release"), [("small", "v1"), ("v1_large", "v1"), ("v01_base", "v01")])
def test_prepare_when_a_release_is_chosen_then_its_statistics(key: str, release: str) -> None:
    pixels = embedder(model_key=key if key != "v1_large" else "terramind_v1_large").prepare(view(flat(3000)))["pixels"]
    for band, (mean, std) in ((0, FIRST[release]), (11, LAST[release])):
        assert pixels[band, 100, 100] == pytest.approx((3000 - mean) / std, rel=1e-6)


def test_prepare_when_brighter_than_white_then_only_the_reference_clips() -> None:
    mean, std = FIRST["v1"]
    assert embedder().prepare(view(flat(15000)))["pixels"][0, 0, 0] == pytest.approx((15000 - mean) / std)
    assert embedder("rs-embed").prepare(view(flat(15000)))["pixels"][0, 0, 0] == pytest.approx((10000 - mean) / std)


def test_prepare_when_an_offset_is_asked_then_missing_pixels_stay_at_no_data() -> None:
    mean, std = FIRST["v1"]
    values, valid = flat(500), np.ones((12, 224, 224), bool)
    valid[:, 0, 0] = False
    pixels = embedder(dn_offset=1000).prepare(view(values, valid))["pixels"]
    assert pixels[0, 5, 5] == pytest.approx((1500 - mean) / std, rel=1e-5)
    assert pixels[0, 0, 0] == pytest.approx(-mean / std, rel=1e-5)


def test_prepare_when_the_tile_is_no_square_then_it_is_stretched() -> None:
    made = embedder()
    assert made.prepare(view(np.zeros((12, 100, 300))))["pixels"].shape == (12, 224, 224)
    assert made.canvas(100, 300) == (100, 300)


def test_prepare_when_there_are_two_frames_then_error() -> None:
    values = np.zeros((2, 12, 32, 32), np.float32)
    with pytest.raises(ModelError, match="one frame, got 2"):
        embedder().prepare(View(values, values == 0, (WINDOW.start,) * 2, 0.0, 0.0, 10.0, WINDOW))


@pytest.mark.parametrize(
    ("key", "millions", "hidden", "biases"),
    [
        ("terramind_v1_tiny", None, 768, True),
        ("terramind_v1_small", 22.46, 1536, True),
        ("terramind_v1_base", 87.31, 2048, False),
        ("terramind_v1_large", None, 2730, False),
        ("terramind_v01_base", 87.31, 2048, False),
    ],
)
def test_build_when_a_size_is_chosen_then_its_tensors(
    key: str, millions: float | None, hidden: int, biases: bool
) -> None:
    made = embedder(model_key=key)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in made.build().state_dict().items()}
    dim = made.dim
    assert shapes["patch_embed.proj.weight"] == (dim, 16 * 16 * 12)
    assert shapes["pos_emb"] == (1, 196, dim)
    assert shapes["blocks.0.mlp.fc1.weight"] == (hidden, dim)
    assert ("blocks.0.mlp.fc3.weight" in shapes) is not biases
    assert ("blocks.0.attn.qkv.bias" in shapes) is biases
    assert f"blocks.{24 if 'large' in key else 12}.norm1.weight" not in shapes
    if millions is not None:
        # The authors keep the position table and the norms' biases as buffers.
        buffers = [n for n in shapes if n == "pos_emb" or ("norm" in n and n.endswith("bias"))]
        total = sum(int(np.prod(shape)) for name, shape in shapes.items() if name not in buffers)
        assert total / 1e6 == pytest.approx(millions, abs=0.02)


def test_options_when_a_layer_is_beyond_the_network_then_error() -> None:
    assert embedder(layer_index=-12).config.options["layer_index"] == -12
    with pytest.raises(ModelError, match=r"layer_index must lie in -12..11 for terramind_v1_small, got 12"):
        embedder(layer_index=12)
    with pytest.raises(ModelError, match="dn_offset must be one of 0, 1000"):
        embedder(dn_offset=500)


@pytest.mark.parametrize(
    ("spelt", "key"),
    [("base", "terramind_v1_base"), ("v01_base", "terramind_v01_base"), ("large", "terramind_v1_large")],
)
def test_options_when_the_size_is_called_variant_then_model_key_is_meant(spelt: str, key: str) -> None:
    made = embedder(variant=spelt)
    assert made.variant == key
    assert made.weights_file() == CARD.weights[key]


def answer(made: TerraMind, pixels: np.ndarray) -> np.ndarray:
    made.load("cpu")
    return made.embed_batch({"pixels": pixels}, np.array([[0, 0, 1, 1]] * len(pixels), np.float32))


def test_embed_batch_when_a_layer_is_asked_then_only_the_last_one_is_normed() -> None:
    pixels = np.random.default_rng(0).normal(size=(2, 12, 224, 224)).astype(np.float32)
    output = OutputSpec.grid()
    last, named, first = (answer(embedder(cls=Small, output=output, layer_index=i), pixels) for i in (-1, 11, 0))
    assert np.array_equal(last, named)
    assert last.shape == (2, 32, 14, 14)
    assert not np.allclose(first, last)


def test_embed_batch_when_the_region_is_a_quarter_then_the_tokens_in_it() -> None:
    pixels = np.random.default_rng(0).normal(size=(1, 12, 224, 224)).astype(np.float32)
    made = embedder(cls=Small, output=OutputSpec.pooled("max"))
    made.load("cpu")
    pooled = made.embed_batch({"pixels": pixels}, np.array([[0, 0, 0.5, 0.5]], np.float32))
    grid = answer(embedder(cls=Small, output=OutputSpec.grid()), pixels)
    np.testing.assert_array_equal(pooled[0], grid[0, :, :7, :7].max((1, 2)))


def published(net: nn.Module) -> dict[str, torch.Tensor]:
    """The network's tensors under the names of the published file, with some of what else is in it."""
    names = {
        "patch_embed.proj.weight": f"{MODALITY}proj.weight",
        "pos_emb": f"{MODALITY}pos_emb",
        "mod_emb": f"{MODALITY}mod_emb",
        "norm.weight": "encoder_norm.weight",
        "norm.bias": "encoder_norm.bias",
    }
    state = {names.get(name, name.replace("blocks.", "encoder.")): t for name, t in net.state_dict().items()}
    others = ("encoder_embeddings.tok_lulc@224.mod_emb", "decoder_norm.weight", "decoder.0.norm1.weight", "mask_token")
    return {**state, **{name: torch.ones(3) for name in others}}


@pytest.mark.parametrize("without", ["", "bias of the norms", "mod_emb"])
def test_checkpoint_when_norm_biases_are_missing_then_zeros_but_nothing_else_may_be(
    without: str, tmp_path: Path
) -> None:
    made, net = embedder(cls=Small), TerraMindEncoder(32, 2, heads=2, gated=False)
    nn.init.ones_(net.norm.bias)
    state = published(net)
    if without == "mod_emb":
        del state[f"{MODALITY}mod_emb"]
    elif without:
        state = {name: t for name, t in state.items() if not ("norm" in name and name.endswith("bias"))}
    torch.save(state, tmp_path / "file.pt")
    read = load_state_dict(str(tmp_path / "file.pt"))
    made.complete(read)
    fresh = TerraMindEncoder(32, 2, heads=2, gated=False)
    if without == "mod_emb":
        with pytest.raises(WeightsError, match="1 missing: mod_emb"):
            fit(read, fresh, rename=TerraMind.rename, drop=TerraMind.drop)
        return
    dropped = fit(read, fresh, rename=TerraMind.rename, drop=TerraMind.drop)
    assert dropped == (
        "decoder.0.norm1.weight",
        "decoder_norm.weight",
        "encoder_embeddings.tok_lulc@224.mod_emb",
        "mask_token",
    )
    assert fresh.norm.bias.sum() == (0 if without else 32)
