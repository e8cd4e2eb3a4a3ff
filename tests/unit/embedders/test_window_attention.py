"""Windows over grids of any number of axes: cut and put together, shifted, masked, with a bias per offset."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from rsembed.embedders.nets.swin import Swin, neighbours
from rsembed.embedders.nets.transformer import BlockSpec
from rsembed.embedders.nets.window_attention import (
    WindowAttention,
    attend_in_windows,
    fit_window,
    merge,
    partition,
    relative_index,
    shift_mask,
)

GRIDS = [((12,), (4,), (2,)), ((6, 9), (3, 3), (1, 1)), ((4, 6, 6), (2, 3, 3), (1, 1, 1))]


def numbered(grid: tuple[int, ...], batch: int = 2) -> torch.Tensor:
    count = batch * math.prod(grid)
    return torch.arange(count, dtype=torch.float32).reshape(batch, *grid, 1)


@pytest.mark.parametrize(("grid", "window", "shift"), GRIDS, ids=str)
def test_partition_when_merged_then_the_grid_is_back(
    grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> None:
    x = numbered(grid)
    windows = partition(x, window)
    assert windows.shape == (2 * math.prod(grid) // math.prod(window), math.prod(window), 1)
    assert torch.equal(merge(windows, grid, window), x)


def test_partition_when_cut_then_windows_and_tokens_are_in_raster_order() -> None:
    windows = partition(numbered((4, 6), batch=1), (2, 3))[..., 0]
    assert windows[:2].tolist() == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]


@pytest.mark.parametrize(("grid", "window", "shift"), GRIDS, ids=str)
def test_shift_mask_when_tokens_are_not_neighbours_on_the_ground_then_they_are_kept_apart(
    grid: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> None:
    mask = shift_mask(grid, window, shift)
    rolled = torch.roll(numbered(grid, batch=1), tuple(-s for s in shift), tuple(range(1, len(grid) + 1)))
    places = [torch.unravel_index(window_.long(), grid) for window_ in partition(rolled, window)[..., 0]]
    for allowed, place in zip(mask == 0, places, strict=True):
        close = torch.ones_like(allowed)
        for along, w in zip(place, window, strict=True):
            close &= (along[:, None] - along[None, :]).abs() < w
        assert torch.equal(allowed, close)


def test_attend_in_windows_when_the_grid_is_not_whole_then_zeros_are_seen_and_cut_off() -> None:
    seen = []

    def attend(windows: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        seen.append(windows)
        return windows

    x = numbered((5, 4)) + 1
    assert torch.equal(attend_in_windows(x, (3, 2), (1, 1), attend), x)
    assert seen[0].shape == (2 * 4, 6, 1)
    assert int((seen[0] == 0).sum()) == 2 * 4


def test_fit_window_when_an_axis_is_no_longer_than_the_window_then_one_unshifted_window() -> None:
    assert fit_window((2, 14, 7), (8, 7, 7), (4, 3, 3)) == ((2, 7, 7), (0, 3, 0))


def test_relative_index_when_read_then_each_offset_has_its_own_entry() -> None:
    index = relative_index((2, 3), (2, 3))
    cells = list(itertools.product(range(2), range(3)))
    for i, a in enumerate(cells):
        for j, b in enumerate(cells):
            assert index[i, j] == (a[0] - b[0] + 1) * 5 + (a[1] - b[1] + 2)


def test_relative_index_when_frames_are_fewer_than_the_table_has_then_the_same_offsets_are_read() -> None:
    whole = relative_index((4, 3, 3), (4, 3, 3))
    assert torch.equal(relative_index((2, 3, 3), (4, 3, 3)), whole[:18, :18])


@pytest.mark.parametrize("shift", [0, 1])
def test_window_attention_when_items_are_batched_then_each_is_as_alone(shift: int) -> None:
    torch.manual_seed(0)
    attention = WindowAttention(BlockSpec(8, 2), (3, 3))
    torch.nn.init.normal_(attention.bias_table)
    x = torch.randn(3, 6, 9, 8)
    together = attention.over_grid(x, (shift, shift))
    for i in range(3):
        torch.testing.assert_close(attention.over_grid(x[i : i + 1], (shift, shift))[0], together[i])


def test_window_attention_when_one_window_spans_the_grid_then_it_is_plain_attention_with_the_bias() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(BlockSpec(8, 2), (2, 2))
    torch.nn.init.normal_(attention.bias_table)
    x = torch.randn(1, 2, 2, 8)
    q, k, v = attention.qkv(x.flatten(1, 2)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    logits = q @ k.transpose(-1, -2) / 2 + attention.bias((2, 2))
    expected = attention.proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2)).unflatten(1, (2, 2))
    torch.testing.assert_close(attention.over_grid(x, (1, 1)), expected)


def test_neighbours_when_joined_then_down_goes_before_across() -> None:
    x = torch.tensor([[[[1.0], [2.0]], [[3.0], [4.0]]]])
    assert neighbours(x).flatten().tolist() == [1.0, 3.0, 2.0, 4.0]


def test_swin_when_run_then_each_stage_halves_the_map() -> None:
    tokens = Swin(8, (1, 2), heads=(2, 4), window=4)(torch.randn(2, 3, 32, 32))
    assert tokens.patches_bthwd.shape == (2, 1, 4, 4, 16)
    torch.testing.assert_close(tokens.vector, tokens.patches_bthwd.mean((1, 2, 3)))
