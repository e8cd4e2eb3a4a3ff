"""Sine-cosine codes against their formula."""

from __future__ import annotations

import math

import pytest
import torch

from rsembed.embedders.nets.positions import PairEncoding, resize_table, sincos_1d, sincos_2d, sincos_3d


def test_sincos_1d_when_computed_then_sines_come_before_cosines() -> None:
    code = sincos_1d(torch.tensor([3.0], dtype=torch.float64), 4)[0]
    expected = [math.sin(3), math.sin(0.03), math.cos(3), math.cos(0.03)]
    torch.testing.assert_close(code, torch.tensor(expected, dtype=torch.float64))


def test_sincos_1d_when_the_span_differs_then_the_frequencies_do() -> None:
    code = sincos_1d(torch.tensor([1.0], dtype=torch.float64), 4, span=8)[0]
    assert code[1].item() == pytest.approx(math.sin(10000 ** (-1 / 8)))


def test_sincos_1d_when_length_is_odd_then_error() -> None:
    with pytest.raises(ValueError, match="even length"):
        sincos_1d(torch.zeros(1), 5)


def test_sincos_2d_when_column_comes_first_then_the_first_half_varies_along_columns() -> None:
    table = sincos_2d(8, 2, 3)
    assert torch.equal(table[0, :, :4], table[1, :, :4])
    assert torch.equal(table[:, 0, 4:], table[:, 2, 4:])
    assert torch.equal(sincos_2d(8, 2, 3, first="row"), torch.cat([table[..., 4:], table[..., :4]], dim=-1))


def test_sincos_3d_when_built_then_six_six_four_parts_of_column_row_frame() -> None:
    table = sincos_3d(32, 2, 3, 4)
    assert table.shape == (2, 3, 4, 32)
    torch.testing.assert_close(table[1, 2, 3, :12], sincos_1d(torch.tensor(3.0), 12), rtol=0, atol=1e-6)
    torch.testing.assert_close(table[1, 2, 3, 12:24], sincos_1d(torch.tensor(2.0), 12), rtol=0, atol=1e-6)
    torch.testing.assert_close(table[1, 2, 3, 24:], sincos_1d(torch.tensor(1.0), 8), rtol=0, atol=1e-6)


def test_pair_encoding_when_given_a_date_then_half_the_length_for_each_number() -> None:
    code = PairEncoding(16)(torch.tensor([[2022.0, 167.0]]))
    assert code.shape == (1, 16)
    assert torch.equal(code[0, 8:], sincos_1d(torch.tensor(167.0), 8))


def test_resize_table_when_it_fits_then_unchanged_and_corners_stay_when_aligned() -> None:
    table = torch.arange(9.0).reshape(1, 3, 3, 1)
    assert resize_table(table, 3, 3) is table
    larger = resize_table(table, 5, 5, align_corners=True)
    assert larger[0, 0, 0, 0].item() == pytest.approx(0.0, abs=1e-6)
    assert larger[0, -1, -1, 0].item() == pytest.approx(8.0, abs=1e-5)
