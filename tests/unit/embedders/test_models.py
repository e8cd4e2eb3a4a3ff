"""What single model files do with options, frames and missing pixels; no weights needed."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping

import numpy as np
import pytest

from rsembed.core.errors import ModelError
from rsembed.core.fetching import FramePolicy, Grid
from rsembed.core.patch import Frame, Patch
from rsembed.core.specs import OutputSpec, Window
from rsembed.embedders import torch_runtime
from rsembed.embedders.base import EmbedderBase, View
from rsembed.embedders.options import make_config
from rsembed.embedders.registry import REGISTRY
from rsembed.tools.tiling import Footprint, Tile, whole_image

WINDOW = Window(dt.date(2022, 6, 1), dt.date(2022, 9, 1))


def embedder(name: str, *, recipe: str = "authors", grid: bool = False, **options: object) -> EmbedderBase:
    cls = REGISTRY.get(name)
    output = OutputSpec.grid() if grid else OutputSpec.pooled()
    return cls(make_config(cls.card, recipe=recipe, output=output, options=options))


def view(values: np.ndarray, valid: np.ndarray | None = None, dates: tuple[dt.date, ...] = ()) -> View:
    values = values.astype(np.float32)
    dates = dates or tuple(WINDOW.start + dt.timedelta(days=30 * i) for i in range(len(values)))
    return View(values, np.ones(values.shape, bool) if valid is None else valid, dates, 8.5, 47.4, 10.0, WINDOW)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, FramePolicy("auto", frame_days=28, max_frames=4)),
        ({"temporal_mode": "single"}, FramePolicy("single")),
        ({"n_frames": 2, "frame_stride_days": 40}, FramePolicy("auto", frame_days=40, max_frames=2)),
        ({"temporal_mode": "multi", "max_frames": 3}, FramePolicy("multi", frame_days=28, max_frames=3, n_frames=3)),
    ],
    ids=str,
)
def test_prithvi_when_options_change_time_then_the_contract_follows(
    options: Mapping[str, object], expected: FramePolicy
) -> None:
    assert embedder("prithvi", **options).contract.frames == expected


def test_prithvi_when_frames_repeat_then_only_the_reference_recipe_drops_them() -> None:
    frames = np.stack([np.full((6, 224, 224), v) for v in (100, 200, 100)])
    reference = embedder("prithvi", recipe="rs-embed").prepare(view(frames))
    assert reference["pixels"].shape == (6, 2, 224, 224)
    assert reference["temporal_coords"].tolist() == [[2022.0, 152.0], [2022.0, 182.0]]
    assert embedder("prithvi").prepare(view(frames))["pixels"].shape == (6, 3, 224, 224)


def test_prithvi_when_pixels_are_missing_then_each_recipe_fills_its_own_way() -> None:
    values, valid = np.full((1, 6, 224, 224), 1087.0), np.ones((1, 6, 224, 224), bool)
    values[0, 0, 0, 0], valid[0, 0, 0, 1] = np.nan, False
    authors = embedder("prithvi").prepare(view(values, valid))["pixels"]
    assert authors[0, 0, 0, :3].tolist() == pytest.approx([0.0001, 0.0001, 0.0])
    reference = embedder("prithvi", recipe="rs-embed").prepare(view(values, valid))["pixels"]
    assert reference[0, 0, 0, :3].tolist() == pytest.approx([0.0, 0.0, 0.1087])


@pytest.mark.parametrize("recipe", ["authors", "rs-embed"])
def test_prithvi_when_hls_comes_as_reflectance_or_as_dn_then_the_same_pixels(recipe: str) -> None:
    cls = REGISTRY.get("prithvi")
    made = cls(make_config(cls.card, recipe=recipe, modality="hls"))
    dn = np.random.default_rng(3).integers(100, 9000, (1, 6, 224, 224)).astype(np.float32)
    dn[..., :9, :9] = -9999.0
    valid = dn > 0
    of_dn, of_reflectance = (made.prepare(view(given, valid))["pixels"] for given in (dn, dn / np.float32(10000)))
    assert made.contract.collection == "NASA/HLS/HLSS30/v002"
    np.testing.assert_allclose(of_reflectance, of_dn, rtol=1e-5, atol=1e-5)
    assert np.ptp(of_dn) > 0.5


def test_prithvi_when_frames_lie_far_apart_then_it_warns() -> None:
    dates = (dt.date(2021, 1, 1), dt.date(2022, 1, 1))
    frames = np.stack([np.full((6, 224, 224), v) for v in (100, 200)])
    with pytest.warns(UserWarning, match="365 days apart"):
        embedder("prithvi").prepare(view(frames, dates=dates))


def test_prithvi_when_padded_then_the_input_is_a_multiple_and_the_roi_leaves_the_padding_out() -> None:
    made = embedder("prithvi", prep="pad")
    patch = Patch(
        np.ones((1, 6, 40, 64), np.float32),
        np.ones((1, 6, 40, 64), bool),
        made.contract.bands,
        Grid(32632, 0.0, 0.0, 30.0, 40, 64),
        (Frame(WINDOW, 1, WINDOW.midpoint),),
    )
    [prepared] = made.prepare_patch(patch, whole_image(40, 64), lon=8.5, lat=47.4, window=WINDOW)
    assert prepared.arrays["pixels"].shape == (6, 1, 48, 64)
    assert prepared.roi == (0.0, 0.0, 1.0, 40 / 48)


def test_prithvi_when_a_size_is_no_multiple_of_the_patch_then_error() -> None:
    with pytest.raises(ModelError, match="multiple of 14"):
        _ = embedder("prithvi", variant="600_tl", image_size=240).contract


def test_remoteclip_when_max_pooling_is_asked_then_error_says_why() -> None:
    cls = REGISTRY.get("remoteclip")
    with pytest.raises(ModelError, match="own image vector"):
        make_config(cls.card, output=OutputSpec.pooled("max"))


def test_remoteclip_when_another_repository_is_named_then_its_file() -> None:
    assert embedder("remoteclip", model_id="me/mine").weights_file().repo == "me/mine"
    assert embedder("remoteclip", model_id="chendelong/RemoteCLIP").weights_file().file == "RemoteCLIP-ViT-B-32.pt"


@pytest.fixture
def mosaiks() -> EmbedderBase:
    made = embedder("mosaiks")
    made.load("cpu")
    return made


def embed(made: EmbedderBase, seen: View, roi: tuple[float, ...] = (0, 0, 1, 1)) -> np.ndarray:
    arrays = {name: array[None] for name, array in made.prepare(seen).items()}
    return made.embed_batch(arrays, np.array([roi], np.float32))[0]


def test_mosaiks_when_pixels_are_invalid_then_their_values_do_not_matter(mosaiks: EmbedderBase) -> None:
    values = np.random.default_rng(0).integers(0, 3000, (1, 3, 32, 32)).astype(np.float32)
    valid = np.ones(values.shape, bool)
    valid[..., :5, :7] = False
    other = np.where(valid, values, np.float32(np.nan))
    assert np.array_equal(embed(mosaiks, view(values, valid)), embed(mosaiks, view(other, valid)))


def test_mosaiks_when_nothing_is_valid_then_zeros(mosaiks: EmbedderBase) -> None:
    values = np.zeros((1, 3, 16, 16))
    assert not embed(mosaiks, view(values, np.zeros(values.shape, bool))).any()


def test_mosaiks_when_a_grid_does_not_divide_then_the_last_pixels_are_left_out() -> None:
    made = embedder("mosaiks", grid=True)
    made.load("cpu")
    values = np.random.default_rng(0).integers(0, 3000, (1, 3, 30, 41)).astype(np.float32)
    grid = embed(made, view(values))
    assert grid.shape == (512, 3, 5)
    pooled = embed(embedder_loaded("mosaiks"), view(values), (0.0, 0.0, 8 / 41, 8 / 30))
    # The first cell lies far from the cut, whose edge is replicated.
    np.testing.assert_allclose(grid[:, 0, 0], pooled, atol=1e-5)


def embedder_loaded(name: str) -> EmbedderBase:
    made = embedder(name)
    made.load("cpu")
    return made


def test_mosaiks_when_too_small_then_error(mosaiks: EmbedderBase) -> None:
    with pytest.raises(ModelError, match="at least 8 x 8"):
        mosaiks.prepare(view(np.zeros((1, 3, 7, 20))))


def test_load_when_the_device_is_not_there_then_error_lists_what_is() -> None:
    with pytest.raises(ModelError, match=r"device 'cuda:99' is not there; this machine has cpu"):
        embedder("mosaiks").load("cuda:99")


def test_load_when_bf16_on_a_cpu_then_error() -> None:
    cls = REGISTRY.get("mosaiks")
    with pytest.raises(ModelError, match="needs a CUDA device"):
        cls(make_config(cls.card, precision="bf16")).load("cpu")


def test_embed_batch_when_not_loaded_then_error() -> None:
    with pytest.raises(ModelError, match=r"call load\(device\) first"):
        embedder("mosaiks").embed_batch({}, np.zeros((0, 4), np.float32))


def test_reset_cache_when_two_embedders_are_equal_then_one_net_was_cached() -> None:
    torch_runtime.reset_cache()
    embedder_loaded("mosaiks")
    embedder_loaded("mosaiks")
    assert torch_runtime.reset_cache() == 1
    assert torch_runtime.reset_cache() == 0


def test_prepare_patch_when_a_tile_is_not_square_then_the_padding_does_not_count() -> None:
    made = embedder("remoteclip")
    patch = Patch(
        np.ones((1, 3, 100, 224), np.float32),
        np.ones((1, 3, 100, 224), bool),
        made.contract.bands,
        Grid(32632, 0.0, 0.0, 10.0, 100, 224),
        (Frame(WINDOW, 1, WINDOW.midpoint),),
    )
    footprint = Footprint(100, 224, 100, 224, (Tile(0, 0, 100, 224, (0.0, 0.0, 1.0, 1.0), 22400.0),))
    [prepared] = made.prepare_patch(patch, footprint, lon=0.0, lat=0.0, window=WINDOW)
    assert prepared.arrays["pixels"].shape == (3, 224, 224)
    assert prepared.roi == (0.0, 0.0, 1.0, 100 / 224)
