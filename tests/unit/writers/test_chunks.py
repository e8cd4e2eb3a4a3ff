"""How arrays are cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsembed.core.errors import ExportError
from rsembed.writers.chunks import chunk_shape, row_blocks


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1000, 768), (341, 768)), ((5, 768, 300, 300), (1, 2, 300, 300)), ((10,), (10,)), ((), ()),
     ((3, 9_999_999), (1, 262_144))],
)  # fmt: skip
def test_chunk_shape_when_a_mebibyte_is_the_limit_then_the_last_axes_stay_whole(
    shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert chunk_shape(shape, 4, 1 << 20) == expected


@given(shape=st.lists(st.integers(0, 5000), max_size=4).map(tuple), target=st.integers(1, 1 << 22))
def test_chunk_shape_when_any_array_is_cut_then_within_limit_and_array(shape: tuple[int, ...], target: int) -> None:
    chunk = chunk_shape(shape, 4, target)
    assert math.prod(chunk) * 4 <= max(target, 4)
    assert all(1 <= length <= max(1, size) for length, size in zip(chunk, shape, strict=True))


@given(sizes=st.lists(st.integers(0, 30), max_size=8), rows=st.integers(1, 12))
def test_row_blocks_when_pieces_are_of_any_length_then_blocks_are_not(sizes: list[int], rows: int) -> None:
    whole = np.arange(sum(sizes) * 2).reshape(-1, 2)
    pieces = np.split(whole, np.cumsum(sizes)[:-1]) if sizes else []
    blocks = list(row_blocks("x", pieces, whole.shape, rows))
    assert [len(block) for block in blocks[:-1]] == [rows] * (len(blocks) - 1)
    np.testing.assert_array_equal(np.concatenate([np.empty((0, 2)), *blocks]), whole)
    assert all(len(block) for block in blocks)


@pytest.mark.parametrize("pieces", [[(2, 3)], [(4, 3), (1, 3)], [(3, 2)], []])
def test_row_blocks_when_pieces_do_not_add_up_then_refused(pieces: list[tuple[int, int]]) -> None:
    with pytest.raises(ExportError, match="x: 3 rows"):
        list(row_blocks("x", [np.zeros(shape) for shape in pieces] + [np.zeros((0, 3))], (3, 3), 2))
