"""Sizes, pieces and answers of Earth Engine requests; no client is needed."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from rsembed.core.errors import ProviderError, TransientProviderError
from rsembed.core.fetching import FetchRecipe, FetchRequest, Grid
from rsembed.core.specs import Window
from rsembed.providers.gee_request import (
    MAX_BYTES,
    MAX_SIDE_PX,
    Column,
    Layout,
    Piece,
    Stitched,
    first_pieces,
    fits,
    halves,
)

JUNE, JULY = Window(dt.date(2022, 6, 1), dt.date(2022, 7, 1)), Window(dt.date(2022, 7, 1), dt.date(2022, 8, 10))
GRID = Grid(32631, 480_000.0, 4_700_000.0, 10.0, 4, 6)


def layout(n_bands: int = 2, bins: tuple[Window, ...] = (JUNE, JULY), dtype: str = "float32") -> Layout:
    return Layout(tuple(Column(f"B{i + 1}", dtype) for i in range(n_bands)), bins)


def request(grid: Grid = GRID, bins: tuple[Window, ...] = (JUNE, JULY), *, frame_date: str = "median") -> FetchRequest:
    recipe = FetchRecipe("COPERNICUS/S2_SR_HARMONIZED", 10.0, frame_date=frame_date)  # type: ignore[arg-type]
    return FetchRequest(recipe, ("B1", "B2"), grid, bins)


def answer(piece: Piece, bands: Layout, value: float = 7.0, count: int = 1, days: int = 0b1) -> NDArray[np.void]:
    """An answer with ``value`` everywhere, ``count`` images a pixel, taken on the days of the bits ``days``."""
    pixels = np.zeros((piece.height, piece.width), dtype=bands.bands(piece.bins))
    for t in piece.bins:
        for name in bands.value_names(t):
            pixels[name] = value
        pixels[bands.count_name(t)] = count
        for i, name in enumerate(bands.day_names(t)):
            pixels[name] = days >> (31 * i) & (2**31 - 1)
    return pixels


def test_layout_when_bins_differ_in_length_then_a_day_band_for_each_31_days() -> None:
    names = [name for name, _ in layout().bands(range(2))]
    assert names == [
        "t000_B1", "t000_B2", "t000_n", "t000_days00", "t001_B1", "t001_B2", "t001_n", "t001_days00", "t001_days01",
    ]  # fmt: skip


def test_pixel_bytes_when_counted_then_the_server_adds_one_a_band() -> None:
    assert layout(bins=(JUNE,)).pixel_bytes(range(1)) == 2 * (4 + 1) + (2 + 1) + (4 + 1)
    assert layout(bins=(JUNE,), dtype="uint16").pixel_bytes(range(1)) == 2 * (2 + 1) + (2 + 1) + (4 + 1)


@pytest.mark.parametrize("side", [64, 224, 256, 300, 512, 1001])
def test_first_pieces_when_a_year_of_twelve_bands_then_all_fit_and_cover_every_pixel_once(side: int) -> None:
    months = tuple(Window(dt.date(2022, m, 1), dt.date(2022, m + 1, 1)) for m in range(1, 12))
    bands = layout(12, months)
    pieces = first_pieces(bands, side, side + 2)
    covered = np.zeros((side, side + 2), int)
    for piece in pieces:
        assert fits(piece, bands)
        covered[piece.row : piece.row + piece.height, piece.col : piece.col + piece.width] += 1
    assert (covered == 1).all()
    whole = side * (side + 2) * bands.pixel_bytes(range(11))
    assert len(pieces) <= 2 * -(-whole // MAX_BYTES)


def test_first_pieces_when_just_at_the_limit_then_one_and_one_byte_more_then_two() -> None:
    bands = layout(1, (JUNE,), "uint8")  # 2 + 3 + 5 bytes a pixel
    width = MAX_BYTES // 10 // 256
    assert len(first_pieces(bands, 256, width)) == 1
    assert len(first_pieces(bands, 256, width + 1)) == 2


def test_first_pieces_when_as_many_pixels_failed_before_then_smaller_ones_while_space_allows() -> None:
    assert [p.height * p.width for p in first_pieces(layout(), 64, 64, 64 * 64)] == [64 * 32] * 2
    assert [p.height * p.width for p in first_pieces(layout(), 64, 64, 64 * 64 + 1)] == [64 * 64]
    assert len(first_pieces(layout(), 64, 64, 1)) == 16


def test_first_pieces_when_a_side_is_too_long_then_cut() -> None:
    assert [p.width for p in first_pieces(layout(1, (JUNE,)), 1, MAX_SIDE_PX + 2)] == [MAX_SIDE_PX // 2 + 1] * 2


def test_first_pieces_when_there_are_too_many_bands_then_cut_by_bins() -> None:
    bins = tuple(
        Window(dt.date(2020, 1, 1) + dt.timedelta(d), dt.date(2020, 1, 2) + dt.timedelta(d)) for d in range(40)
    )
    pieces = first_pieces(layout(30, bins), 8, 8)
    assert [p.bins for p in pieces] == [range(20), range(20, 40)]


def test_first_pieces_when_one_bin_has_too_many_bands_then_refused() -> None:
    with pytest.raises(ProviderError, match="1502 bands in Earth Engine, which gives 1024"):
        first_pieces(layout(1500, (JUNE,)), 8, 8)


def test_halves_when_space_is_used_up_then_bins_and_then_nothing() -> None:
    piece = Piece(0, 0, 48, 32, range(2))
    assert [(p.row, p.height, p.width) for p in halves(piece)] == [(0, 24, 32), (24, 24, 32)]
    small = replace(piece, height=16, width=16)
    assert [p.bins for p in halves(small)] == [range(1), range(1, 2)]
    assert halves(replace(small, bins=range(1))) == []


def test_stitched_when_pieces_are_added_then_each_is_in_its_place() -> None:
    bands = layout()
    stitched = Stitched(request(), bands)
    for value, piece in enumerate((Piece(0, 0, 4, 3, range(2)), Piece(0, 3, 4, 3, range(2))), start=1):
        assert piece.grid(GRID).x_min == GRID.x_min + 10 * piece.col
        stitched.add(piece, answer(piece, bands, value))
    assert not stitched.settle()
    np.testing.assert_array_equal(stitched.values[1, 1, 2], [1, 1, 1, 2, 2, 2])
    assert stitched.valid.all()


def test_stitched_when_a_pixel_is_masked_then_told_from_a_zero() -> None:
    bands = layout()
    piece = Piece(0, 0, 4, 6, range(2))
    pixels = answer(piece, bands, value=0.0)
    pixels["t000_B1"][1, 2] = -1e30
    stitched = Stitched(request(), bands)
    stitched.add(piece, pixels)
    stitched.settle()
    assert stitched.valid.sum() == stitched.valid.size - 1
    assert not stitched.valid[0, 0, 1, 2]
    assert (stitched.values == 0).all()


def test_stitched_when_days_are_told_then_dates_and_counts_of_the_frame() -> None:
    bands = layout()
    left, right = Piece(0, 0, 4, 3, range(2)), Piece(0, 3, 4, 3, range(2))
    stitched = Stitched(request(), bands)
    stitched.add(left, answer(left, bands, count=2, days=1 | 1 << 35))
    stitched.add(right, answer(right, bands, count=1, days=1 << 20))
    stitched.settle()
    first, second = stitched.frames()
    assert (first.n_images, first.first_date, first.last_date) == (2, dt.date(2022, 6, 1), dt.date(2022, 6, 21))
    assert (second.n_images, second.date, second.last_date) == (3, dt.date(2022, 7, 21), dt.date(2022, 8, 5))


def test_stitched_when_the_recipe_dates_frames_by_their_middle_then_so() -> None:
    bands = layout(bins=(JUNE,))
    piece = Piece(0, 0, 4, 6, range(1))
    stitched = Stitched(request(bins=(JUNE,), frame_date="midpoint"), bands)
    stitched.add(piece, answer(piece, bands))
    stitched.settle()
    assert next(stitched.frames()).date == JUNE.midpoint


def test_settle_when_the_strict_filter_gave_a_pixel_then_what_the_relaxed_one_gave_is_dropped() -> None:
    bands = layout()
    piece = Piece(0, 0, 4, 6, range(2))
    pixels = answer(piece, bands, count=-1, days=1 << 5)
    pixels["t000_n"][0, 0] = 1
    pixels["t000_days00"][0, 0] = 1
    stitched = Stitched(request(), bands)
    stitched.add(piece, pixels)
    assert not stitched.settle()
    assert stitched.valid.sum() == 2
    assert [frame.n_images for frame in stitched.frames()] == [1, 0]
    assert next(stitched.frames()).last_date == dt.date(2022, 6, 1)


def test_settle_when_the_strict_filter_gave_nothing_then_the_relaxed_one_counts() -> None:
    bands = layout()
    piece = Piece(0, 0, 4, 6, range(2))
    stitched = Stitched(request(), bands)
    stitched.add(piece, answer(piece, bands, count=-2, days=1 << 5))
    assert stitched.settle()
    assert stitched.valid.all()
    assert [frame.n_images for frame in stitched.frames()] == [2, 2]


def test_stitched_when_the_answer_has_other_bands_then_transient() -> None:
    bands = layout()
    piece = Piece(0, 0, 4, 6, range(2))
    with pytest.raises(TransientProviderError, match=r"asked for \(4, 6\) with 9"):
        Stitched(request(), bands).add(piece, answer(piece, layout(1)))
