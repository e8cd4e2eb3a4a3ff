from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsembed.core.errors import ModelError
from rsembed.core.specs import InputPrepSpec
from rsembed.tools.tiling import FULL, Footprint, plan_footprint

SIZES = st.integers(1, 60).map(lambda n: 2 * n)
NATIVE = st.integers(1, 20).map(lambda n: 2 * n)
PREPS = (st.none() | st.integers(3, 50)).flatmap(
    lambda size: st.builds(
        InputPrepSpec,
        st.just("tile"),
        st.just(size),
        st.just(64),
        st.just(10**6),
        st.sampled_from([0.0, 0.1, 0.5]),
        st.none() | st.integers(1, size or 2),
    )
)


def owned(footprint: Footprint) -> np.ndarray:
    """How often each half pixel of the fetched image is counted; tile edges may lie on half pixels."""
    counts = np.zeros((2 * footprint.fetch_height, 2 * footprint.fetch_width), int)
    for tile in footprint.tiles:
        left, top, right, bottom = tile.roi
        rows = (2 * (tile.row + top * tile.height), 2 * (tile.row + bottom * tile.height))
        cols = (2 * (tile.col + left * tile.width), 2 * (tile.col + right * tile.width))
        r0, r1, c0, c1 = (round(v) for v in (*rows, *cols))
        assert np.allclose((r0, r1, c0, c1), (*rows, *cols), atol=1e-6)
        counts[r0:r1, c0:c1] += 1
        assert tile.area_px == pytest.approx((r1 - r0) * (c1 - c0) / 4)
    return counts


@given(SIZES, SIZES, NATIVE, PREPS, st.sampled_from(["native", "none"]), st.booleans())
def test_footprint_when_planned_then_its_tiles_own_the_asked_ground_exactly_once(
    height: int, width: int, native: int, prep: InputPrepSpec, context: str, in_hand: bool
) -> None:
    found = plan_footprint(height, width, native, context=context, prep=prep, in_hand=in_hand)  # type: ignore[arg-type]
    assert (found.asked_height, found.asked_width) == (height, width)
    assert found.fetch_height >= height
    assert found.fetch_width >= width
    assert (found.fetch_height - height) % 2 == 0
    assert (found.fetch_width - width) % 2 == 0
    if in_hand:
        assert (found.fetch_height, found.fetch_width) == (height, width)
    for tile in found.tiles:
        assert 0 <= tile.row < tile.row + tile.height <= found.fetch_height
        assert 0 <= tile.col < tile.col + tile.width <= found.fetch_width
        assert all(-1e-9 <= side <= 1 + 1e-9 for side in tile.roi)
    counts = owned(found)
    assert counts.max() == 1
    top, left = found.fetch_height - height, found.fetch_width - width
    assert counts[top : top + 2 * height, left : left + 2 * width].all()
    assert counts.sum() == 4 * height * width
    assert sum(tile.area_px for tile in found.tiles) == pytest.approx(height * width)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(4, 40))
def test_footprint_when_an_array_in_hand_has_odd_sides_then_every_pixel_is_counted_once(
    height: int, width: int, native: int
) -> None:
    found = plan_footprint(height, width, native, in_hand=True, prep=InputPrepSpec(max_tiles_hard=10**6))
    assert (owned(found) == 1).all()


def test_footprint_when_native_then_one_forward_of_the_whole() -> None:
    found = plan_footprint(64, 64, 64)
    assert found.forwards == 1
    assert found.tiles[0].roi == FULL


def test_footprint_when_smaller_than_native_then_context_is_fetched_and_the_middle_counts() -> None:
    found = plan_footprint(16, 32, 64)
    assert (found.fetch_height, found.fetch_width) == (64, 64)
    assert found.tiles[0].roi == (0.25, 0.375, 0.75, 0.625)
    assert found.tiles[0].area_px == 512


def test_footprint_when_no_context_is_wanted_then_a_square_of_the_longer_side() -> None:
    found = plan_footprint(16, 32, 64, context="none")
    assert (found.fetch_height, found.fetch_width) == (32, 32)
    assert found.tiles[0].roi == (0.0, 0.25, 1.0, 0.75)


def test_footprint_when_in_hand_and_small_then_the_array_as_it_is() -> None:
    found = plan_footprint(16, 33, 64, in_hand=True)
    assert (found.fetch_height, found.fetch_width) == (16, 33)
    assert found.tiles[0].roi == FULL


def test_footprint_when_the_last_tile_hangs_over_then_it_is_shifted_back_and_owns_its_half_of_the_overlap() -> None:
    found = plan_footprint(64, 160, 64)
    assert [tile.col for tile in found.tiles] == [0, 64, 96]
    assert {(tile.height, tile.width) for tile in found.tiles} == {(64, 64)}
    assert [tile.area_px for tile in found.tiles] == [64 * 64, 64 * 48, 64 * 48]


def test_footprint_when_the_overhang_is_slight_then_tiles_are_spread_instead() -> None:
    found = plan_footprint(64, 134, 64)
    assert [(tile.col, tile.width) for tile in found.tiles] == [(0, 67), (67, 67)]


def test_footprint_when_snap_is_off_then_a_slight_overhang_costs_a_tile() -> None:
    assert plan_footprint(64, 134, 64, prep=InputPrepSpec(tile_snap_frac=0)).forwards == 3


def test_footprint_when_there_are_too_many_tiles_then_the_error_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"needs 16 tiles of 8, more than max_tiles_hard=9;.*resize"):
        plan_footprint(32, 32, 8, prep=InputPrepSpec.tile(max_tiles=9, max_tiles_hard=9))


def test_footprint_when_auto_then_tiles_up_to_the_limit_and_one_resized_input_beyond() -> None:
    assert plan_footprint(32, 32, 8, prep=InputPrepSpec.auto(max_tiles=16)).forwards == 16
    beyond = plan_footprint(34, 48, 8, prep=InputPrepSpec.auto(max_tiles=16))
    assert beyond.forwards == 1
    assert (beyond.fetch_height, beyond.fetch_width) == (48, 48)


def test_footprint_when_resized_then_a_square_of_which_the_asked_part_counts() -> None:
    found = plan_footprint(32, 64, 8, prep=InputPrepSpec.resize())
    assert found.forwards == 1
    assert (found.fetch_height, found.fetch_width) == (64, 64)
    assert found.tiles[0].roi == (0.0, 0.25, 1.0, 0.75)


def test_footprint_when_resized_in_hand_then_not_made_square() -> None:
    found = plan_footprint(32, 65, 8, prep=InputPrepSpec.resize(), in_hand=True)
    assert (found.fetch_height, found.fetch_width) == (32, 65)
    assert found.tiles[0].roi == FULL


def test_footprint_when_one_side_is_short_then_it_is_padded_to_native_with_context() -> None:
    found = plan_footprint(8, 128, 64)
    assert (found.fetch_height, found.fetch_width) == (64, 128)
    assert found.forwards == 2
    assert all(tile.roi[1] == 28 / 64 for tile in found.tiles)
