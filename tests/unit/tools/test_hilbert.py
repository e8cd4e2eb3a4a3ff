from __future__ import annotations

import numpy as np
import pytest

from rsembed.tools.hilbert import hilbert_keys


def coarse(bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys of the middles of all cells of a 2**bits square grid, and the cells' columns and rows."""
    side = 1 << bits
    col, row = (each.ravel() for each in np.meshgrid(np.arange(side), np.arange(side)))
    lon, lat = -180 + (col + 0.5) * 360 / side, -90 + (row + 0.5) * 180 / side
    return hilbert_keys(lon, lat), col, row


@pytest.mark.parametrize("bits", [1, 2, 3, 6])
def test_keys_when_walked_in_order_then_each_step_goes_to_a_neighbour_and_no_cell_twice(bits: int) -> None:
    keys, col, row = coarse(bits)
    cells = keys >> np.uint64(2 * (24 - bits))
    assert sorted(cells.tolist()) == list(range(4**bits))
    order = np.argsort(cells)
    steps = np.abs(np.diff(col[order])) + np.abs(np.diff(row[order]))
    assert (steps == 1).all()


def test_keys_when_at_the_corners_of_the_world_then_in_range() -> None:
    keys = hilbert_keys(np.array([-180.0, 180.0, -180.0, 180.0]), np.array([-90.0, -90.0, 90.0, 90.0]))
    assert len(set(keys.tolist())) == 4
    assert keys.max() < 1 << 48
    assert keys.dtype == np.uint64


def test_keys_when_places_are_close_then_a_key_depends_on_its_place_alone() -> None:
    lon, lat = np.random.default_rng(0).uniform(-90, 90, (2, 100))
    together = hilbert_keys(lon, lat)
    alone = [hilbert_keys(lon[i : i + 1], lat[i : i + 1])[0] for i in range(100)]
    assert together.tolist() == alone
