"""TESSERA's published tiles of 0.1 degrees, each in the UTM zone of its centre, as patches on any grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import ProviderError
from rsembed.core.fetching import FetchRecipe, FetchRequest, Grid
from rsembed.core.patch import Patch
from rsembed.providers.lattice import Lattice
from rsembed.providers.products.answers import Layer, product_patch, wanted_bands
from rsembed.providers.products.tile_files import Tile, TileFiles
from rsembed.providers.products.tile_index import TileCell
from rsembed.providers.transport import RequestCounter
from rsembed.providers.warp import nearest_plan
from rsembed.tools.spatial import to_lonlat

COLLECTION = "TESSERA/V1"
BANDS = tuple(f"T{i:03d}" for i in range(128))
_EDGE_POINTS = 9
"""Points along each side of a grid by which its extent in degrees is found."""


@dataclass
class _Canvas:
    """Embeddings gathered from tiles: ``values`` (D, H, W), and where there are any, (H, W)."""

    values: NDArray[np.float32]
    valid: NDArray[np.bool_]

    def lay(self, tile: Tile, target: Lattice, bands: Sequence[int], *, under: bool) -> bool:
        """Put the nearest pixels of ``tile`` where it has an embedding (``under``: and nothing lies there yet).

        Not ``under``: over whatever lies there, wherever the tile has a pixel. False where nothing was put.
        """
        plan = nearest_plan(tile.lattice, target)
        if plan is None:
            return False
        values, there = tile.values(plan.window)
        if not plan.is_slice:
            values, there = values[:, plan.rows, plan.cols], there[plan.rows, plan.cols]
        use = np.broadcast_to(plan.inside, self.valid.shape)
        use = use & ~self.valid & there if under else use
        if not use.any():
            return False
        if list(bands) != list(range(len(values))):
            values = values[list(bands)]
        np.copyto(self.values, values, where=use)
        self.valid |= use
        return True


class TesseraTiles:
    """The tiles in one place. Safe to use from many threads."""

    def __init__(self, files: TileFiles) -> None:
        self._files = files

    def check(self, recipe: FetchRecipe, bands: Sequence[str]) -> None:
        """Raise ProviderError for bands that are not there, or a resampling that would invent embeddings."""
        wanted_bands(bands, BANDS, recipe.collection)

    def fetch(self, request: FetchRequest) -> Patch:
        """See ProviderBase: a frame for each bin, whose year is that of its first day."""
        counter = RequestCounter()
        bands = wanted_bands(request.bands, BANDS, request.recipe.collection)
        layers = [self._year(request, window.start.year, bands, counter) for window in request.bins]
        return product_patch(request, layers, counter)

    def close(self) -> None:
        """Forget open tiles."""
        self._files.close()

    def _year(self, request: FetchRequest, year: int, bands: Sequence[int], counter: RequestCounter) -> Layer:
        grid, target = request.grid, Lattice.of_grid(request.grid)
        zeros = request.recipe.product is not None and request.recipe.product.holes == "zero"
        cells = cells_touched(grid, corners_only=zeros)
        entries = self._files.index(counter).find(year, cells)
        if not zeros:
            entries = sorted(entries, key=lambda entry: entry.cell)
        tiles = [self._files.open(entry, len(BANDS), counter) for entry in entries]
        shape = (grid.height, grid.width)
        canvas = _Canvas(np.zeros((len(bands), *shape), np.float32), np.zeros(shape, np.bool_))
        used = [tile.entry.cell.name for tile in tiles if canvas.lay(tile, target, bands, under=not zeros)]
        if zeros and used:
            canvas.valid |= _hull([tile.lattice for tile in tiles], grid)
        return Layer(canvas.values, canvas.valid, tuple(used))


def cells_touched(grid: Grid, *, corners_only: bool = False) -> list[TileCell]:
    """The cells of 0.1 degrees that ``grid`` touches, from the south-west on.

    ``corners_only``: those between its south-west and its north-east pixel, as the reference system finds them.
    """
    left, bottom, right, top = grid.bounds
    if corners_only:
        half = grid.scale_m / 2
        x, y = np.array([left + half, right - half]), np.array([bottom + half, top - half])
    else:
        across, down = np.linspace(left, right, _EDGE_POINTS), np.linspace(bottom, top, _EDGE_POINTS)
        x = np.concatenate([across, across, np.full(_EDGE_POINTS, left), np.full(_EDGE_POINTS, right)])
        y = np.concatenate([np.full(_EDGE_POINTS, bottom), np.full(_EDGE_POINTS, top), down, down])
    lon, lat = to_lonlat(grid.epsg, x, y)
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        raise ProviderError(f"{grid} lies where its own projection ends; no tile can be found for it")
    if lon.max() - lon.min() > 180:  # it crosses the antimeridian
        lon = np.where(lon < 0, lon + 360, lon)
    columns = range(math.floor(lon.min() * 10), math.floor(lon.max() * 10) + 1)
    rows = range(math.floor(lat.min() * 10), math.floor(lat.max() * 10) + 1)
    return [TileCell(j * 10 + 5, ((i + 1800) % 3600 - 1800) * 10 + 5) for j in rows for i in columns]


def _hull(lattices: Sequence[Lattice], grid: Grid) -> NDArray[np.bool_]:
    """Pixels of ``grid`` within the box around all tiles of its own zone: where the reference has zeros, if nothing."""
    own = [lattice for lattice in lattices if lattice.crs == f"EPSG:{grid.epsg}"]
    inside = np.zeros((grid.height, grid.width), np.bool_)
    if own:
        left, top = min(o.transform[2] for o in own), max(o.transform[5] for o in own)
        right = max(o.transform[2] + o.width * o.transform[0] for o in own)
        bottom = min(o.transform[5] + o.height * o.transform[4] for o in own)
        x = grid.x_min + (np.arange(grid.width) + 0.5) * grid.scale_m
        y = grid.y_max - (np.arange(grid.height) + 0.5) * grid.scale_m
        inside = ((y < top) & (y > bottom))[:, None] & ((x > left) & (x < right))[None, :]
    return inside
