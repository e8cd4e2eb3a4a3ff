"""Which square of a tile becomes the input, and where a region lies in it."""

from __future__ import annotations

import numpy as np
import pytest

from rsembed.embedders.snapping import Snapping, central_square, first_pixel, roi_in_square

S2 = frozenset({80.0, 160.0})


@pytest.mark.parametrize(
    ("scale_m", "tokens_m", "unit"),
    [(10.0, S2, 16), (10.0, {80.0}, 8), (20.0, S2, 8), (30.0, S2, 16), (12.5, S2, 64), (10.0, {80.0, 480.0}, 48)],
)
def test_unit_px_when_tokens_differ_then_whole_tokens_of_each(scale_m: float, tokens_m: set[float], unit: int) -> None:
    assert Snapping(scale_m, frozenset(tokens_m), max_px=384).unit_px == unit
    assert all((unit * scale_m / token_m).is_integer() for token_m in tokens_m)


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [
        (288, 288, 288),
        (150, 150, 144),
        (154, 154, 160),
        (152, 152, 144),  # half-way: the smaller
        (3, 3, 16),
        (150, 158, 144),
        (150, 159, None),  # no square
        (384, 384, 384),
        (395, 395, None),  # 400 would be too large
    ],
)
def test_side_px_when_a_tile_is_snapped_then_the_nearest_unit(height: int, width: int, side: int | None) -> None:
    assert Snapping(10.0, S2, max_px=384).side_px(height, width) == side


def test_side_px_when_tokens_are_many_then_none() -> None:
    fine = frozenset({40.0, 80.0})
    assert Snapping(10.0, fine, max_px=384).side_px(192, 192) == 192  # 48^2 + 24^2 = 2880
    assert Snapping(10.0, fine, max_px=384).side_px(200, 200) is None


@pytest.mark.parametrize(("height", "width"), [(5, 5), (6, 4), (4, 7)])
@pytest.mark.parametrize("side", [2, 3, 4, 6, 8])
def test_central_square_when_cut_or_padded_then_first_pixel_says_where(height: int, width: int, side: int) -> None:
    values = np.arange(1, height * width + 1, dtype=np.float32).reshape(1, height, width)
    top, left = first_pixel(height, width, side)
    made = central_square(values, side)
    assert made.shape == (1, side, side)
    for row in range(side):
        for col in range(side):
            y, x = row + top, col + left
            inside = 0 <= y < height and 0 <= x < width
            assert made[0, row, col] == (values[0, y, x] if inside else 0)


def test_central_square_when_padded_then_as_much_before_as_behind() -> None:
    assert first_pixel(154, 154, 160) == (-3, -3)
    assert first_pixel(150, 150, 144) == (3, 3)
    assert first_pixel(155, 150, 144) == (5, 3)


def test_roi_in_square_when_padded_then_the_padding_is_outside() -> None:
    assert roi_in_square((0.0, 0.0, 1.0, 1.0), 154, 154, 160) == (3 / 160, 3 / 160, 157 / 160, 157 / 160)


def test_roi_in_square_when_cut_then_at_the_squares_edges() -> None:
    assert roi_in_square((0.0, 0.5, 1.0, 1.0), 150, 150, 144) == (0.0, 0.5, 1.0, 1.0)
    assert roi_in_square((0.25, 0.25, 0.5, 0.75), 160, 200, 160) == (0.1875, 0.25, 0.5, 0.75)
