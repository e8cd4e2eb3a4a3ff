"""Where the cells of a map lie."""

from __future__ import annotations

import numpy as np
import pytest

from rsembed.core.embedding import CellGrid, Embedding
from rsembed.core.errors import SpecError

UTM = (160.0, 0.0, 500_000.0, 0.0, -80.0, 4_000_000.0)


def test_cell_grid_when_cells_are_not_square_then_centres_and_bounds_follow_each_side() -> None:
    grid = CellGrid(32631, UTM, height=2, width=3)
    assert grid.x.tolist() == [500_080.0, 500_240.0, 500_400.0]
    assert grid.y.tolist() == [3_999_960.0, 3_999_880.0]
    assert (grid.x.dtype, grid.y.dtype) == (np.float64, np.float64)
    assert grid.bounds == (500_000.0, 3_999_840.0, 500_480.0, 4_000_000.0)


def test_cell_grid_when_whole_numbers_are_given_then_they_become_floats() -> None:
    assert CellGrid(4326, (1, 0, -180, 0, -1, 90), 180, 360) == CellGrid(
        4326, (1.0, 0.0, -180.0, 0.0, -1.0, 90.0), 180, 360
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transform": (10.0, 0.0, 0.0, 0.0, 10.0, 0.0)}, "north-up"),
        ({"transform": (-10.0, 0.0, 0.0, 0.0, -10.0, 0.0)}, "north-up"),
        ({"transform": (10.0, 1.0, 0.0, 0.0, -10.0, 0.0)}, "north-up"),
        ({"transform": (10.0, 0.0, 0.0)}, "6 finite numbers"),
        ({"transform": (10.0, 0.0, float("nan"), 0.0, -10.0, 0.0)}, "6 finite numbers"),
        ({"transform": (10.0, 0.0, "0", 0.0, -10.0, 0.0)}, "6 finite numbers"),
        ({"height": 0}, "at least one cell"),
        ({"width": -1}, "at least one cell"),
        ({"epsg": 0}, "EPSG"),
    ],
)
def test_cell_grid_when_a_value_cannot_be_then_it_is_named(change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"epsg": 32631, "transform": UTM, "height": 2, "width": 3} | change
    with pytest.raises(SpecError, match=message):
        CellGrid(**given)  # type: ignore[arg-type] # wrong on purpose


def test_cells_when_the_embedding_is_a_map_then_of_its_shape() -> None:
    found = Embedding(np.zeros((4, 2, 3), np.float32), {"grid": {"epsg": 32631, "transform": list(UTM)}})
    assert found.cells == CellGrid(32631, UTM, 2, 3)


@pytest.mark.parametrize("shape", [(4,), (4, 2, 3)])
def test_cells_when_no_grid_is_known_then_none(shape: tuple[int, ...]) -> None:
    assert Embedding(np.zeros(shape, np.float32), {"grid": None}).cells is None
    assert Embedding(np.zeros(shape, np.float32)).cells is None
