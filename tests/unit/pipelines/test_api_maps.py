"""Maps of vectors through the public functions: where their cells lie, and how tiles join."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rsembed import api
from rsembed.core.embedding import Embedding
from rsembed.core.specs import BBox, InputPrepSpec, OutputSpec, PointBuffer
from rsembed.inspection import inspect_model_input
from rsembed.testing.null import MapEmbedder, NullProvider
from tests.builders import TEMPORAL

PLACE = PointBuffer(2.0, 42.0, 110.0)


def grid(spatial: Any = PLACE, **options: Any) -> Embedding:
    given = {"temporal": TEMPORAL, "backend": NullProvider(), "device": "cpu", "output": OutputSpec.grid()} | options
    return api.get_embedding("null-map", spatial=spatial, **given)


def pixels(spatial: Any = PLACE) -> tuple[np.ndarray, dict[str, Any]]:
    report = inspect_model_input(
        "null-map", spatial=spatial, temporal=TEMPORAL, backend=NullProvider(), return_arrays=True
    )
    return report["array_tchw"][0, 0] / np.float32(4000), report


def test_map_when_a_region_takes_several_tiles_then_each_cell_is_where_its_pixels_are() -> None:
    found = grid()
    image, report = pixels()
    assert found.data.shape == (16, 11, 11)  # 220 m of 20 m cells, out of 3 x 3 tiles of 80 m
    np.testing.assert_allclose(found.data[0], image.reshape(11, 2, 11, 2).mean(axis=(1, 3)), rtol=1e-6)
    assert found.cells is not None
    left, bottom, right, top = found.cells.bounds
    assert (right - left, top - bottom) == (220.0, 220.0)
    assert found.meta["input_prep"]["resolved_mode"] == "tile"
    assert found.meta["input_prep"]["n_tiles"] == 9
    assert report["asked_px"] == [22, 22]


@pytest.mark.parametrize("stride", [2, 3, 5, 8])
def test_map_when_tiles_overlap_then_it_is_the_same_where_the_model_looks_at_single_cells(stride: int) -> None:
    # Tiles that start on odd pixels lie between the cells of the first one: each cell takes the nearest.
    found = grid(input_prep=InputPrepSpec.tile(8, stride))
    if stride % 2 == 0:
        np.testing.assert_array_equal(found.data, grid().data)
    assert found.data.shape == (16, 11, 11)
    assert found.cells == grid().cells


def test_map_when_the_region_is_a_rectangle_then_it_covers_just_that() -> None:
    box = BBox(2.0, 42.0, 2.004, 42.001)
    found = grid(box)
    assert found.cells is not None
    left, bottom, right, top = found.cells.bounds
    _, report = pixels(box)
    height, width = report["asked_px"]
    assert abs((right - left) - 10 * width) <= 20
    assert abs((top - bottom) - 10 * height) <= 20
    assert found.data.shape[1:] == (round((top - bottom) / 20), round((right - left) / 20))


def test_map_when_smaller_than_the_models_input_then_the_cells_inside_come_back_with_their_place() -> None:
    found = grid(PointBuffer(2.0, 42.0, 20.0))
    whole = grid(PointBuffer(2.0, 42.0, 40.0))
    np.testing.assert_array_equal(found.data, whole.data[:, 1:3, 1:3])
    assert found.cells is not None
    assert whole.cells is not None
    assert found.cells.x.tolist() == whole.cells.x[1:3].tolist()
    assert found.cells.y.tolist() == whole.cells.y[1:3].tolist()


def test_map_when_pixels_are_in_hand_then_nobody_says_where_it_lies() -> None:
    found = grid(input_chw=np.full((1, 20, 12), 4000.0))
    assert found.data.shape == (16, 10, 6)
    assert found.cells is None


def test_batch_when_tiles_are_more_than_max_tiles_then_it_warns_and_goes_on() -> None:
    with pytest.warns(UserWarning, match="9 tiles of null-map, more than max_tiles=4"):
        found = grid(input_prep=InputPrepSpec.tile(max_tiles=4))
    assert found.data.shape == (16, 11, 11)


def test_map_when_the_model_looks_beyond_its_cells_then_seams_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MapEmbedder, "seamless", False)
    with pytest.warns(UserWarning, match="seams where they meet"):
        grid()


def test_map_when_auto_would_take_too_many_tiles_then_one_squeezed_input() -> None:
    found = grid(input_prep=InputPrepSpec.auto(max_tiles=4))
    assert found.meta["input_prep"]["requested_mode"] == "auto"
    assert found.meta["input_prep"]["resolved_mode"] == "resize"
