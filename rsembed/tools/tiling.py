"""From the ground that was asked for to the model's inputs: how large to fetch, which tiles to cut.

Everything is in pixels of the model's scale. The asked region is always the centre of the
fetched one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rsembed.core.errors import ModelError
from rsembed.core.specs import InputPrepSpec

Context = Literal["native", "none"]
Box = tuple[float, float, float, float]
FULL: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Tile:
    """One input of the model: a window of the fetched image and the part of it that counts.

    ``row, col, height, width``: pixels of the fetched image. ``roi``: ``(left, top, right,
    bottom)`` as fractions of the tile, the ground this tile answers for. ``area_px``: that
    ground in pixels.
    """

    row: int
    col: int
    height: int
    width: int
    roi: Box
    area_px: float


@dataclass(frozen=True)
class Footprint:
    """How one region meets the model: what to fetch and which tiles to run."""

    asked_height: int
    asked_width: int
    fetch_height: int
    fetch_width: int
    tiles: tuple[Tile, ...]

    @property
    def forwards(self) -> int:
        """Forward passes a row costs (per frame count)."""
        return len(self.tiles)

    def describe(self, native_px: int) -> dict[str, str | int | list[int]]:
        """How the region met a model with inputs of ``native_px``: ``tile``, ``resize`` or ``whole``, and how many."""
        height, width = self.tiles[0].height, self.tiles[0].width
        squeezed = max(height, width) > native_px
        mode = "tile" if self.forwards > 1 else "resize" if squeezed else "whole"
        return {"resolved_mode": mode, "n_tiles": self.forwards, "tile_px": [height, width]}


def plan_footprint(
    asked_height: int,
    asked_width: int,
    native_px: int,
    *,
    context: Context = "native",
    prep: InputPrepSpec = InputPrepSpec(),  # noqa: B008 - frozen value
    in_hand: bool = False,
) -> Footprint:
    """What to fetch and run for a region of ``asked_height`` x ``asked_width`` pixels.

    Not larger than ``native_px``: one forward; with ``context="native"`` the native footprint
    is fetched and only the asked part counts, with ``"none"`` just the region, resized up.
    Larger: tiles of ``prep.tile_size`` (default ``native_px``), or one resized input.
    ``in_hand``: the image is given, so nothing beyond it can be had (no context, not made square).
    Raises ModelError above ``prep.max_tiles_hard`` tiles.
    """
    side = max(asked_height, asked_width)
    size = prep.tile_size or native_px
    stride = prep.tile_stride or size
    if stride > size:
        raise ModelError(f"tile_stride={stride} is more than a tile of {size} pixels, so ground would be left out")
    whole = whole_image(asked_height, asked_width) if in_hand else _square(asked_height, asked_width, side)
    if side <= native_px and context == "native" and not in_hand:
        return _square(asked_height, asked_width, native_px)
    if side <= native_px or prep.mode == "resize":
        return whole
    least = 0 if in_hand else _even_up(min(size, native_px))
    fetch_h, fetch_w = max(asked_height, least), max(asked_width, least)
    rows = _axis_tiles(fetch_h, size, stride, prep.tile_snap_frac)
    cols = _axis_tiles(fetch_w, size, stride, prep.tile_snap_frac)
    count = len(rows) * len(cols)
    if prep.mode == "auto" and count > prep.max_tiles:
        return whole
    if count > prep.max_tiles_hard:
        raise ModelError(
            f"a region of {asked_height} x {asked_width} pixels needs {count} tiles of {size}, more than "
            f"max_tiles_hard={prep.max_tiles_hard}; ask for a smaller region, a coarser scale_m or input_prep='resize'"
        )
    top, left = (fetch_h - asked_height) / 2, (fetch_w - asked_width) / 2
    tiles = []
    for r0, r1, own_top, own_bottom in rows:
        for c0, c1, own_left, own_right in cols:
            y0, y1 = max(own_top, top), min(own_bottom, top + asked_height)
            x0, x1 = max(own_left, left), min(own_right, left + asked_width)
            if y1 <= y0 or x1 <= x0:
                continue
            h, w = r1 - r0, c1 - c0
            roi = ((x0 - c0) / w, (y0 - r0) / h, (x1 - c0) / w, (y1 - r0) / h)
            tiles.append(Tile(r0, c0, h, w, roi, (y1 - y0) * (x1 - x0)))
    return Footprint(asked_height, asked_width, fetch_h, fetch_w, tuple(tiles))


def whole_image(height: int, width: int) -> Footprint:
    """The footprint of an image that goes in as it is, in one forward pass."""
    tile = Tile(0, 0, height, width, FULL, float(height * width))
    return Footprint(height, width, height, width, (tile,))


def _square(asked_height: int, asked_width: int, side: int) -> Footprint:
    side = _even_up(side)
    top, left = (side - asked_height) / 2, (side - asked_width) / 2
    roi = (left / side, top / side, (left + asked_width) / side, (top + asked_height) / side)
    tile = Tile(0, 0, side, side, roi, float(asked_height * asked_width))
    return Footprint(asked_height, asked_width, side, side, (tile,))


def _even_up(n: int) -> int:
    return n + n % 2


def _axis_tiles(length: int, size: int, stride: int, snap_frac: float) -> list[tuple[int, int, float, float]]:
    """``(start, stop, owned from, owned to)`` of each tile along one axis.

    The last tile is shifted to end with the image; ground covered twice belongs to the tile
    whose side of the overlap's mid-point it lies on. An overhang of at most ``snap_frac``
    tiles is spread over fewer, slightly larger tiles instead (they are resized), where tiles do not
    overlap by intent.
    """
    whole = max(1, length // size)
    overhang = length / size - whole
    if stride == size and 0 < overhang <= snap_frac:
        cuts = [round(length * i / whole) for i in range(whole + 1)]
        return [(a, b, float(a), float(b)) for a, b in zip(cuts, cuts[1:], strict=False)]
    count = 1 + math.ceil(max(0, length - size) / stride)
    starts = [min(i * stride, max(0, length - size)) for i in range(count)]
    stops = [min(start + size, length) for start in starts]
    edges = [0.0, *((stops[i] + starts[i + 1]) / 2 for i in range(count - 1)), float(length)]
    return [(starts[i], stops[i], edges[i], edges[i + 1]) for i in range(count)]
