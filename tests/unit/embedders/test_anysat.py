"""AnySat: days, patches and missing pixels by recipe; pixels in time, in a patch, in a tile; the authors' slip."""

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

from rsembed.core.errors import ModelError
from rsembed.core.settings import Settings
from rsembed.core.specs import FetchSpec, OutputSpec, Window
from rsembed.embedders import torch_runtime
from rsembed.embedders.base import View
from rsembed.embedders.nets.anysat_net import AnySatEncoder, DistanceTable, distance_buckets
from rsembed.embedders.nets.pixel_series import PixelSeries, day_codes
from rsembed.embedders.onthefly.anysat import CARD, PAD, AnySat
from rsembed.embedders.options import make_config
from rsembed.embedders.weights import WeightsHandle, WeightsPin
from rsembed.tools.temporal import frame_bins

CASE = Path(__file__).resolve().parents[2] / "parity" / "cases" / "anysat"
SUMMER = Window(dt.date(2022, 6, 1), dt.date(2022, 9, 1))
WHOLE = np.array([[0, 0, 1, 1]], np.float32)
DIM = 64


def small_net() -> AnySatEncoder:
    torch.manual_seed(0)
    net = AnySatEncoder(DIM, 1, heads=2, channels=10)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net.eval()


class Small(AnySat):
    """The model with a small network and no file."""

    def resolve(self, settings: Settings, pin: WeightsPin | None = None) -> WeightsHandle | None:
        return None

    def build(self) -> nn.Module:
        return small_net()


@pytest.fixture(autouse=True)
def _no_cached_nets() -> Iterator[None]:
    yield
    torch_runtime.reset_cache()


def embedder(
    recipe: str = "authors", *, output: OutputSpec | None = None, scale_m: float | None = None, **options: object
) -> Small:
    fetch = FetchSpec(scale_m=scale_m)
    made = Small(make_config(CARD, recipe=recipe, output=output, fetch=fetch, options=options))
    made.load("cpu")
    return made


def view(values_tchw: np.ndarray, *, days: tuple[int, ...] = (), slots: tuple[int, ...] = (), n_bins: int = 0) -> View:
    values = values_tchw.astype(np.float32)
    dates = tuple(SUMMER.start + dt.timedelta(days=day) for day in days or range(len(values)))
    return View(values, np.isfinite(values), dates, 8.5, 47.4, 10.0, SUMMER, slots, n_bins)


def scene(frames: int = 3, side: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 4000, (frames, 10, side, side))


def answer(made: Small, seen: View) -> np.ndarray:
    arrays = {name: array[None] for name, array in made.prepare(seen).items()}
    return made.embed_batch(arrays, WHOLE)[0]


@pytest.mark.parametrize(("days", "frames"), [(1, 1), (5, 5), (92, 8), (3653, 8)])
def test_frames_when_by_the_authors_then_eight_or_one_a_day(days: int, frames: int) -> None:
    window = Window(SUMMER.start, SUMMER.start + dt.timedelta(days=days))
    assert len(frame_bins(window, embedder().contract.frames)) == frames
    assert embedder("rs-embed", n_frames=6).contract.frames.count(window) == 6
    assert embedder(n_frames=2).contract.frames.count(window) == min(2, days)


def test_prepare_when_by_the_authors_then_days_are_those_of_the_frames() -> None:
    inputs = embedder().prepare(view(scene(), days=(0, 40, 91), slots=(0, 3, 7), n_bins=8))
    assert inputs["s2_dates"].tolist() == [151, 191, 242]
    assert inputs["pixels"].shape == inputs["valid"].shape == (3, 10, 24, 24)


def test_prepare_when_by_the_reference_then_every_bin_has_a_frame_and_its_middle_as_the_day() -> None:
    inputs = embedder("rs-embed").prepare(view(scene(), days=(0, 40, 91), slots=(0, 3, 7), n_bins=8))
    assert inputs["s2_dates"].tolist() == [156, 168, 179, 191, 202, 214, 225, 237]
    assert inputs["pixels"].shape == (8, 10, 24, 24)
    assert "valid" not in inputs


def test_prepare_when_one_image_is_in_hand_then_only_the_reference_repeats_it() -> None:
    assert len(embedder("rs-embed").prepare(view(scene(1)))["s2_dates"]) == 8
    assert len(embedder().prepare(view(scene(1)))["s2_dates"]) == 1


def test_prepare_when_standardised_then_over_all_frames_of_the_tile() -> None:
    values = scene()
    pixels = embedder().prepare(view(values))["pixels"]
    expected = (values - values.mean((0, 2, 3), keepdims=True)) / values.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(pixels, expected, atol=1e-5)
    units = embedder(normalization="unit_scale").prepare(view(values))["pixels"]
    np.testing.assert_allclose(units, values / 10000, atol=1e-6)


def test_prepare_when_pixels_are_missing_then_the_reference_counts_them_as_zero() -> None:
    values = np.full((8, 10, 24, 24), 3000.0)
    values[:, :, :12] = np.nan
    pixels = embedder("rs-embed").prepare(view(values))["pixels"]
    np.testing.assert_allclose([pixels.min(), pixels.max()], [-1.0, 1.0], atol=1e-5)


def test_embed_batch_when_pixels_are_missing_then_their_values_do_not_matter() -> None:
    values = scene()
    values[0, :, 3:9, 5:11] = np.nan
    first = view(values)
    other = View(np.nan_to_num(first.values_tchw, nan=9000.0), first.valid_tchw, first.dates, 8.5, 47.4, 10.0, SUMMER)
    assert np.array_equal(answer(embedder(), first), answer(embedder(), other))


def test_embed_batch_when_days_change_then_so_does_the_vector() -> None:
    made, values = embedder(), scene()
    assert not np.allclose(answer(made, view(values)), answer(made, view(values, days=(0, 45, 90))), atol=1e-3)


def test_embed_batch_when_dates_differ_within_a_batch_then_each_row_is_as_alone() -> None:
    made = embedder()
    rows = [made.prepare(view(scene(seed=i), days=(0, 10 + i, 60 + i))) for i in range(3)]
    batched = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    together = made.embed_batch(batched, np.repeat(WHOLE, 3, axis=0))
    for i, row in enumerate(rows):
        alone = {name: np.zeros_like(array) for name, array in batched.items()}
        for name, array in row.items():
            alone[name][i] = array
        roi = np.zeros((3, 4), np.float32)
        roi[i] = WHOLE[0]
        assert np.array_equal(made.embed_batch(alone, roi)[i], together[i])


@pytest.mark.parametrize(
    ("recipe", "options", "cells"),
    [("authors", {}, 6), ("rs-embed", {}, 24), ("authors", {"patch_size_m": 80}, 3), ("rs-embed", {"scale_m": 20}, 12)],
    ids=str,
)
def test_patches_when_recipe_and_options_are_given_then_so_many(
    recipe: str, options: dict[str, int], cells: int
) -> None:
    made = embedder(recipe, output=OutputSpec.grid(), grid_feature_mode="patch", **options)
    assert answer(made, view(scene(1))).shape == (DIM, cells, cells)


def test_grid_when_dense_then_each_pixel_after_its_patch() -> None:
    dense = answer(embedder(output=OutputSpec.grid()), view(scene()))
    patches = answer(embedder(output=OutputSpec.grid(), grid_feature_mode="patch"), view(scene()))
    assert dense.shape == (2 * DIM, 24, 24)
    np.testing.assert_array_equal(dense[:DIM], patches.repeat(4, axis=1).repeat(4, axis=2))
    np.testing.assert_allclose(answer(embedder(), view(scene())), patches.mean((1, 2)), atol=1e-5)


def test_grid_when_one_pixel_differs_then_its_own_place_changes_most() -> None:
    made = embedder(output=OutputSpec.grid(), normalization="unit_scale")
    changed = scene()
    changed[:, :, 7, 18] = scene(seed=1)[:, :, 7, 18]
    difference = np.abs(answer(made, view(changed)) - answer(made, view(scene())))[DIM:].sum(0)
    assert np.unravel_index(difference.argmax(), difference.shape) == (7, 18)


def test_tile_when_asked_then_the_class_token() -> None:
    made = embedder(pooled_source="tile")
    inputs = made.prepare(view(scene()))
    with torch.inference_mode():
        pixels, days, valid = (torch.from_numpy(inputs[name])[None] for name in ("pixels", "s2_dates", "valid"))
        found = small_net()(pixels, days, patch_px=4, valid_btchw=valid)
    np.testing.assert_allclose(answer(made, view(scene())), found.tile[0], atol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "given", "message"),
    [
        ("authors", {"scale_m": 20}, "pixels of 10 m, got 20"),
        ("authors", {"patch_size_m": 25}, "a multiple of 10 m"),
        ("authors", {"patch_size_m": 50}, "image_size must be a multiple of 5 pixels"),
        ("rs-embed", {"scale_m": 15}, "a multiple of 10 m"),
        ("authors", {"pooled_source": "tile", "output": OutputSpec.pooled("max")}, "one vector"),
    ],
    ids=str,
)
def test_contract_when_it_cannot_be_met_then_error(recipe: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        _ = embedder(recipe, **given).contract


def test_distance_buckets_when_read_then_exact_when_near_and_one_for_the_class_token() -> None:
    buckets = distance_buckets(20)
    assert buckets[0].unique().tolist() == buckets[:, 0].unique().tolist() == [7]
    assert buckets[1, [1, 2, 3, 4, 16, 20]].tolist() == [3, 4, 5, 5, 6, 6]
    assert torch.equal(buckets, buckets.T)


@torch.no_grad()
def test_distance_table_when_heads_differ_then_only_the_first_ones_query_counts() -> None:
    torch.manual_seed(0)
    table = DistanceTable(4)
    nn.init.normal_(table.table)
    queries = torch.randn(2, 3, 5, 4)
    bias = table(queries)
    assert bias.shape == (2, 1, 5, 5)
    expected = queries[1, 0, 2] @ table.table[0, :, distance_buckets(2)[2, 4]]
    torch.testing.assert_close(bias[1, 0, 2, 4], expected)
    queries[:, 1:] = 0
    assert torch.equal(table(queries), bias)


def test_day_codes_when_computed_then_sines_and_cosines_take_turns() -> None:
    codes = day_codes(torch.tensor([[100]]), 8)[0, 0]
    for i in range(8):
        angle = 100 / 367 ** (2 * (i // 2) / 8)
        assert float(codes[i]) == pytest.approx(math.cos(angle) if i % 2 else math.sin(angle), abs=1e-5)


def test_pixel_series_when_a_pixel_changes_then_no_other_does() -> None:
    torch.manual_seed(0)
    series = PixelSeries(3, (8, 32)).eval()
    pixels, days = torch.randn(1, 2, 3, 4, 4), torch.tensor([[10, 200]])
    with torch.inference_mode():
        before = series(pixels, days)
        pixels[0, :, :, 1, 2] += 1
        changed = (series(pixels, days) != before).any(-1)[0]
    assert changed.nonzero().tolist() == [[1, 2]]


def test_build_when_fitted_then_every_tensor_of_the_file_has_its_place() -> None:
    tensors = json.loads((CASE / "weights.json").read_text())["tensors"]
    with torch.device("meta"):
        net = AnySat(make_config(CARD)).build()
    kept = {}
    for name, tensor in tensors.items():
        if not any(re.fullmatch(pattern, name) for pattern in AnySat.drop):
            for pattern, replacement in AnySat.rename:
                name = re.sub(pattern, replacement, name)
            kept[name] = tensor["shape"]
    assert kept == {name: list(tensor.shape) for name, tensor in net.state_dict().items()}


def test_complete_when_the_pad_value_is_a_vector_of_one_then_a_number() -> None:
    state = {PAD: torch.tensor([0.5])}
    embedder().complete(state)
    assert state[PAD].shape == ()
