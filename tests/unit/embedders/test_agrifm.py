"""AgriFM: frames by window and recipe, its statistics, and a video Swin that halves the frames with the sides."""

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
from rsembed.core.fetching import CloudPolicy
from rsembed.core.settings import Settings
from rsembed.core.specs import OutputSpec, Window
from rsembed.embedders import torch_runtime
from rsembed.embedders.base import View
from rsembed.embedders.nets.transformer import BlockSpec
from rsembed.embedders.nets.video_swin import FirstOffsets, FrameMerging, VideoSwin
from rsembed.embedders.nets.window_attention import WindowAttention
from rsembed.embedders.onthefly.agrifm import CARD, AgriFm
from rsembed.embedders.options import make_config
from rsembed.embedders.weights import WeightsHandle, WeightsPin
from rsembed.tools.temporal import frame_bins

CASE = Path(__file__).resolve().parents[2] / "parity" / "cases" / "agrifm"
SUMMER = Window(dt.date(2022, 6, 1), dt.date(2022, 9, 1))
MEAN = (4179.192015478227, 4065.9106675194444, 3957.274910960156, 5207.452475253116, 4327.12234687, 4873.16102239,
        5049.1637925, 5111.07806856, 3056.86349163, 2490.9675032)  # fmt: skip
STD = (4041.5212325268735, 3691.003119315892, 3629.331318356375, 2973.5178530908756, 3569.73343885, 3085.9151435,
       2937.56005119, 2806.04462314, 1808.30013156, 1694.20220774)  # fmt: skip


def small_net(frames: int = 4) -> VideoSwin:
    torch.manual_seed(0)
    net = VideoSwin(10, 8, (1, 2), heads=(2, 4), window=(frames, 3, 3), patch=(4, 2, 2))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net.eval()


class Small(AgriFm):
    """The model with a small network and no file."""

    def resolve(self, settings: Settings, pin: WeightsPin | None = None) -> WeightsHandle | None:
        return None

    def build(self) -> nn.Module:
        return small_net()


@pytest.fixture(autouse=True)
def _no_cached_nets() -> Iterator[None]:
    yield
    torch_runtime.reset_cache()


def embedder(recipe: str = "authors", *, output: OutputSpec | None = None, **options: object) -> Small:
    return Small(make_config(CARD, recipe=recipe, output=output, options=options))


def view(values_tchw: np.ndarray, slots: tuple[int, ...] = (), n_bins: int = 0) -> View:
    values = values_tchw.astype(np.float32)
    dates = tuple(SUMMER.start + dt.timedelta(days=i) for i in range(len(values)))
    return View(values, np.isfinite(values), dates, 8.5, 47.4, 10.0, SUMMER, slots, n_bins)


def scene(frames: int, side: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 4000, (frames, 10, side, side))


@pytest.mark.parametrize(
    ("days", "frames"), [(1, 1), (10, 1), (22, 2), (92, 8), (351, 31), (365, 32), (3653, 32)], ids=str
)
def test_frames_when_by_the_authors_then_one_per_11_days_up_to_32(days: int, frames: int) -> None:
    window = Window(SUMMER.start, SUMMER.start + dt.timedelta(days=days))
    assert len(frame_bins(window, embedder().contract.frames)) == frames


def test_frames_when_asked_for_or_by_the_reference_then_so_many() -> None:
    assert embedder("rs-embed").contract.frames.count(SUMMER) == 8
    assert embedder(n_frames=5).contract.frames.count(SUMMER) == 5
    assert embedder("rs-embed", n_frames=5).contract.frames.count(SUMMER) == 5


def test_image_size_when_not_given_then_the_recipes() -> None:
    assert [embedder(recipe).contract.image_size for recipe in ("authors", "rs-embed")] == [256, 224]
    assert embedder(image_size=64).contract.image_size == 64


def test_fetch_recipe_when_by_the_authors_then_clouds_stay() -> None:
    assert embedder().fetch_recipe().clouds == CloudPolicy("none", None, None)
    assert embedder("rs-embed").fetch_recipe().clouds == CloudPolicy("none", 30.0, None)


def test_prepare_when_by_the_authors_then_standardised_without_clipping() -> None:
    values = np.tile(np.array(MEAN)[None, :, None, None], (2, 1, 16, 16))
    values[1] += np.array(STD)[:, None, None] * 5
    values[0, 0, 0, 0] = np.nan
    pixels = embedder(image_size=16).prepare(view(values))["pixels"]
    assert pixels.shape == (2, 10, 16, 16)
    np.testing.assert_allclose(pixels[0].ravel()[1:], 0.0, atol=1e-5)
    assert float(pixels[0, 0, 0, 0]) == pytest.approx(-MEAN[0] / STD[0], abs=1e-6)
    np.testing.assert_allclose(pixels[1], 5.0, atol=1e-5)


def test_prepare_when_by_the_reference_then_clipped_first() -> None:
    values = np.full((8, 10, 16, 16), 20000.0)
    pixels = embedder("rs-embed", image_size=16).prepare(view(values))["pixels"]
    expected = (10000 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(pixels[3, :, 5, 5], expected, atol=1e-5)


def test_prepare_when_bins_are_empty_then_dropped_or_as_the_reference_filled() -> None:
    given = view(scene(3), slots=(0, 4, 7), n_bins=8)
    assert embedder(image_size=16).prepare(given)["pixels"].shape[0] == 3
    filled = embedder("rs-embed", image_size=16).prepare(given)["pixels"]
    assert filled.shape[0] == 8
    assert np.array_equal(filled[1], filled[5])
    assert not np.array_equal(filled[0], filled[1])


def test_prepare_when_one_image_is_in_hand_then_only_the_reference_repeats_it() -> None:
    assert embedder("rs-embed", image_size=16).prepare(view(scene(1)))["pixels"].shape[0] == 8
    assert embedder(image_size=16).prepare(view(scene(1)))["pixels"].shape[0] == 1


def test_prepare_when_there_are_too_many_frames_then_error() -> None:
    with pytest.raises(ModelError, match="at most 32 frames, got 33"):
        embedder(image_size=16).prepare(view(scene(33)))


def test_embed_batch_when_frames_are_missing_to_a_multiple_then_zeros_stand_for_them() -> None:
    made = embedder(image_size=16)
    made.load("cpu")
    pixels = made.prepare(view(scene(3)))["pixels"]
    whole = np.concatenate([pixels, np.zeros_like(pixels[:1])])
    one, other = (made.embed_batch({"pixels": p[None]}, np.array([[0, 0, 1, 1]], np.float32)) for p in (pixels, whole))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_embed_batch_when_pooled_then_the_grid_reduced(pooling: str) -> None:
    answers = []
    for output in (OutputSpec("pooled", pooling), OutputSpec.grid()):
        made = embedder(image_size=16, output=output)
        made.load("cpu")
        pixels = made.prepare(view(scene(4)))["pixels"][None]
        answers.append(made.embed_batch({"pixels": pixels}, np.array([[0, 0, 1, 1]], np.float32))[0])
    assert answers[1].shape == (16, 4, 4)
    reduce = np.mean if pooling == "mean" else np.max
    np.testing.assert_allclose(answers[0], reduce(answers[1], axis=(1, 2)), atol=1e-6)


@torch.no_grad()
def test_frame_merging_when_frames_are_odd_then_the_last_is_averaged_with_zeros() -> None:
    merging = FrameMerging(2)
    x = torch.randn(1, 3, 4, 4, 2)
    halves = torch.stack([(x[:, 0] + x[:, 1]) / 2, x[:, 2] / 2], dim=1)
    neighbours = torch.cat(
        [halves[:, :, 0::2, 0::2], halves[:, :, 1::2, 0::2], halves[:, :, 0::2, 1::2], halves[:, :, 1::2, 1::2]], -1
    )
    torch.testing.assert_close(merging(x), merging.reduction(merging.norm(neighbours)))


@torch.no_grad()
def test_first_offsets_when_only_frames_are_cut_then_those_of_the_window_itself() -> None:
    torch.manual_seed(0)
    first, plain = FirstOffsets(BlockSpec(8, 2), (4, 3, 3)), WindowAttention(BlockSpec(8, 2), (4, 3, 3))
    nn.init.normal_(first.bias_table)
    plain.bias_table = first.bias_table
    assert torch.equal(first.bias((2, 3, 3)), plain.bias((2, 3, 3)))
    assert not torch.equal(first.bias((2, 2, 2)), plain.bias((2, 2, 2)))


def test_video_swin_when_sizes_are_odd_then_filled_up_and_halved_at_each_merge() -> None:
    with torch.inference_mode():
        tokens = small_net()(torch.randn(2, 10, 13, 15, 9))
    assert tokens.patches_bthwd.shape == (2, 2, 4, 3, 16)


def test_video_swin_when_items_are_batched_then_each_is_as_alone() -> None:
    net, pixels = small_net(), torch.randn(3, 10, 8, 12, 12)
    with torch.inference_mode():
        together = net(pixels).patches_bthwd
        for i in range(3):
            torch.testing.assert_close(net(pixels[i : i + 1]).patches_bthwd[0], together[i], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_build_when_fitted_then_every_tensor_of_the_file_has_its_place(prefix: str) -> None:
    weights = json.loads((CASE / "weights.json").read_text())
    with torch.device("meta"):
        net = AgriFm(make_config(CARD)).build()
    kept, extra = {}, ["backbone.layers.0.blocks.1.attn.relative_position_index"]
    for name, shape in [*((n, t["shape"]) for n, t in weights["tensors"].items()), *((n, [2]) for n in extra)]:
        name = prefix + name
        if not any(re.fullmatch(pattern, name) for pattern in AgriFm.drop):
            for pattern, replacement in AgriFm.rename:
                name = re.sub(pattern, replacement, name)
            kept[name] = shape
    assert kept == {name: list(tensor.shape) for name, tensor in net.state_dict().items()}
    assert CARD.weights[""].url == weights["repo"]


def test_options_when_frames_would_double_the_vector_then_error() -> None:
    with pytest.raises(ModelError, match=r"n_frames must lie in 1\.\.32"):
        embedder(n_frames=33)
