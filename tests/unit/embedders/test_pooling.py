"""Weights of ground cells, and reductions over them."""

from __future__ import annotations

import pytest
import torch

from rsembed.embedders.pooling import cell_weights, pool_frames, pool_grids, pool_tokens
from rsembed.embedders.roi import on_canvas

FULL = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


def test_cell_weights_when_roi_is_everything_then_exactly_one() -> None:
    assert torch.equal(cell_weights(FULL, 7, 13), torch.ones(1, 7, 13))


def test_cell_weights_when_roi_cuts_cells_then_the_covered_share() -> None:
    weights = cell_weights(torch.tensor([[0.125, 0.5, 0.75, 0.875]]), 4, 4)[0]
    across, down = torch.tensor([0.5, 1.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, 0.5])
    assert torch.equal(weights, down[:, None] * across)


def test_pool_tokens_when_full_then_the_plain_mean() -> None:
    patches = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    pooled = pool_tokens(patches, FULL.expand(2, 4), "mean")
    torch.testing.assert_close(pooled, patches.mean((1, 2, 3)), rtol=0, atol=1e-6)


def test_pool_tokens_when_roi_is_one_cell_then_that_cell() -> None:
    patches = torch.arange(16.0).reshape(1, 1, 4, 4, 1)
    roi = torch.tensor([[0.5, 0.25, 0.75, 0.5]])
    assert pool_tokens(patches, roi, "mean").item() == 6.0
    assert pool_tokens(patches, roi, "max").item() == 6.0


def test_pool_tokens_when_max_then_cells_with_less_than_half_the_weight_are_left_out() -> None:
    patches = torch.tensor([1.0, 2.0, 3.0, 9.0]).reshape(1, 1, 1, 4, 1)
    assert pool_tokens(patches, torch.tensor([[0.0, 0.0, 0.8, 1.0]]), "max").item() == 3.0
    assert pool_tokens(patches, torch.tensor([[0.0, 0.0, 0.9, 1.0]]), "max").item() == 9.0


def test_pool_tokens_when_cells_have_weights_of_their_own_then_both_count() -> None:
    patches = torch.tensor([1.0, 5.0]).reshape(1, 1, 1, 2, 1)
    weights = torch.tensor([0.25, 0.75]).reshape(1, 1, 1, 2)
    assert pool_tokens(patches, FULL, "mean", weights).item() == 4.0


@pytest.mark.parametrize("how", ["mean", "max"])
def test_pool_tokens_when_a_slot_is_all_zeros_then_zeros(how: str) -> None:
    zeros = torch.zeros(1, 2, 3, 3, 4)
    pooled = pool_tokens(zeros, torch.zeros(1, 4), how, torch.zeros(1, 2, 3, 3))  # type: ignore[arg-type]  # both cases
    assert torch.equal(pooled, torch.zeros(1, 4))


def test_pool_frames_when_mean_then_each_cell_over_time() -> None:
    patches = torch.tensor([[1.0, 2.0], [3.0, 6.0]]).reshape(1, 2, 1, 2, 1)
    assert pool_frames(patches, "mean").tolist() == [[[[2.0, 4.0]]]]
    assert pool_frames(patches, "max").tolist() == [[[[3.0, 6.0]]]]


def test_on_canvas_when_an_image_is_padded_then_its_roi_shrinks() -> None:
    assert on_canvas((0.0, 0.0, 1.0, 1.0), 50, 100, 100, 100) == (0.0, 0.0, 1.0, 0.5)
    assert on_canvas((0.0, 0.0, 1.0, 1.0), 130, 128, 128, 128) == (0.0, 0.0, 1.0, 1.0)


def test_pool_grids_when_grids_differ_then_every_token_counts_alike() -> None:
    fine, coarse = torch.arange(16.0).reshape(1, 4, 4, 1), torch.full((1, 2, 2, 1), 100.0)
    assert pool_grids([fine, coarse], FULL, "mean").item() == pytest.approx((120 + 400) / 20)
    corner = torch.tensor([[0.0, 0.0, 0.25, 0.25]])
    assert pool_grids([fine, coarse], corner, "mean").item() == pytest.approx((0 + 0.25 * 100) / 1.25)
    assert pool_grids([fine, coarse], corner, "max").item() == 0.0  # a quarter of the coarse token is too little


def test_pool_grids_when_a_slot_is_empty_then_zeros() -> None:
    grids = [torch.zeros(1, 4, 4, 3), torch.zeros(1, 2, 2, 3)]
    assert not pool_grids(grids, torch.zeros(1, 4), "mean").any()
    assert not pool_grids(grids, torch.zeros(1, 4), "max").any()
