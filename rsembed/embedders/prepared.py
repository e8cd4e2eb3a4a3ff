"""One input of a network: a tile of a row, made ready; numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from rsembed.tools.tiling import FULL, Box


@dataclass(frozen=True)
class Prepared:
    """One input of the network. ``arrays``: name -> array without a batch axis.

    ``roi``: the part of the input that counts, as fractions of what the network sees. ``area_px``: that ground in
    pixels. ``covers`` (for maps): what the network sees, ``(left, top, right, bottom)`` in pixels of the fetched image.
    """

    arrays: Mapping[str, NDArray[Any]]
    roi: Box
    area_px: float
    covers: Box = FULL

    @property
    def signature(self) -> tuple[tuple[str, tuple[int, ...], str], ...]:
        """Inputs of equal signature can share a batch."""
        return tuple((name, array.shape, array.dtype.str) for name, array in sorted(self.arrays.items()))
