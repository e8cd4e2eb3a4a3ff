"""Copernicus-Embed's one GeoTIFF: a quarter degree a pixel, the whole globe, hundreds of bands.

Its bands lie one after the other, so that a few cells would take all of the file. It is turned once into a table
of the cells that hold anything, kept in the cache folder and mapped into memory.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from rsembed.core.errors import ProviderError, StoreError
from rsembed.core.fetching import FetchRecipe, FetchRequest, Grid
from rsembed.core.patch import Patch
from rsembed.providers.products.answers import Layer, product_patch, wanted_bands
from rsembed.providers.transport import RequestCounter

COLLECTION = "COPERNICUS_EMBED/025DEG"
YEAR = 2021
FILE = "embed_map_310k.tif"
PATTERNS = ("embed_map_*.tif", "embed_map_*.nc")
"""A NetCDF holds the same numbers, as one variable with a dimension of bands or as a variable for each."""
PUBLISHED = "https://huggingface.co/datasets/torchgeo/copernicus_embed/resolve/435b4a7bdce6f6fdbf4272f9d6e54f2604f35fdb"
LEAST_BYTES = 700 * 1024 * 1024
"""The published file is larger than that."""
_NOT_GEOREFERENCED = (0.25, -180.0, 90.125)
_BANDS_AT_ONCE = 64


@dataclass(frozen=True)
class CellTable:
    """``cells``: (N, D), those that hold anything; ``index``: (rows, columns) -> which of them, -1 for none.

    ``step``: degrees; ``left``, ``top``: outer edges of the first cell.
    """

    cells: NDArray[np.generic]
    index: NDArray[np.int32]
    step: float
    left: float
    top: float

    @property
    def bands(self) -> int:
        """Numbers a cell."""
        return int(self.cells.shape[1])

    def read(self, grid: Grid, bands: Sequence[int], *, zeros: bool) -> Layer:
        """The cells under the pixels of ``grid``; across the antimeridian where the table goes round the globe."""
        rows = np.floor((self.top - (grid.y_max - (np.arange(grid.height) + 0.5) * grid.scale_m)) / self.step)
        cols = np.floor((grid.x_min + (np.arange(grid.width) + 0.5) * grid.scale_m - self.left) / self.step)
        height, width = self.index.shape
        if round(width * self.step) == 360:
            cols %= width
        in_row, in_col = (rows >= 0) & (rows < height), (cols >= 0) & (cols < width)
        inside = in_row[:, None] & in_col[None, :]
        at = np.full(inside.shape, -1, np.int64)
        at[inside] = self.index[np.ix_(rows[in_row].astype(int), cols[in_col].astype(int))].ravel()
        there = at >= 0
        values = np.zeros((len(bands), *inside.shape), np.float32)
        values[:, there] = np.asarray(self.cells[at[there]], np.float32)[:, list(bands)].T
        valid = inside if zeros else there
        return Layer(values, valid, (FILE,) if valid.any() else ())


class CopernicusCells:
    """The cells of one file. Safe to use from many threads.

    ``find(counter)`` brings the file; ``cache``: folder for the table made of it.
    """

    def __init__(self, find: Callable[[RequestCounter], Path], cache: Path) -> None:
        self._find = find
        self._cache = cache
        self._lock = threading.Lock()
        self._table: CellTable | None = None

    def check(self, recipe: FetchRecipe, bands: Sequence[str]) -> None:
        """Raise ProviderError for grids that are not the product's own; bands are counted when the file is there."""
        if recipe.grid != "lonlat" or not bands:
            raise ProviderError(f"{recipe.collection} is read in EPSG:4326 and by its own cells only")

    def fetch(self, request: FetchRequest) -> Patch:
        """See ProviderBase: a frame for each bin, empty unless it begins in the product's year."""
        counter = RequestCounter()
        table = self._opened(counter)
        known = tuple(f"E{i:03d}" for i in range(table.bands))
        bands = wanted_bands(request.bands, known, request.recipe.collection)
        zeros = request.recipe.product is not None and request.recipe.product.holes == "zero"
        shape = (request.grid.height, request.grid.width)
        nothing = Layer(np.zeros((len(bands), *shape), np.float32), np.zeros(shape, np.bool_), ())
        layers = [
            table.read(request.grid, bands, zeros=zeros) if window.start.year == YEAR else nothing
            for window in request.bins
        ]
        return product_patch(request, layers, counter)

    def close(self) -> None:
        """Forget the table."""
        with self._lock:
            self._table = None

    def _opened(self, counter: RequestCounter) -> CellTable:
        with self._lock:
            if self._table is None:
                self._table = open_table(self._find(counter), self._cache)
            return self._table


def open_table(path: Path, cache: Path) -> CellTable:
    """The table of the GeoTIFF at ``path``, made unless ``cache`` has it. ProviderError for a file that is none."""
    stat = path.stat()
    key = hashlib.sha256(f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:16]
    folder = cache / f"cells-{key}"
    try:
        with warnings.catch_warnings(), ExitStack() as stack:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            raster = stack.enter_context(rasterio.open(path))
            parts = [stack.enter_context(rasterio.open(name)) for name in raster.subdatasets] or [raster]
            step, left, top = _georeference(parts[0], path)
            if not folder.is_dir():
                _write_table(parts, folder)
    except RasterioError as exc:
        raise ProviderError(f"{path} is damaged: {exc}; remove it to have it fetched again") from exc
    except OSError as exc:
        raise StoreError(f"{cache} cannot hold the table of {path.name}: {exc}") from exc
    cells, index = (np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ("cells", "index"))
    return CellTable(cells, np.asarray(index), step, left, top)


def _georeference(raster: DatasetReader, path: Path) -> tuple[float, float, float]:
    """``(step, left, top)`` in degrees."""
    a, _, x, _, e, y = (float(v) for v in tuple(raster.transform)[:6])
    if raster.transform.is_identity:
        return _NOT_GEOREFERENCED
    if a != -e:
        raise ProviderError(f"{path} has cells of {a} x {-e} degrees; square ones, north-up, were expected")
    return a, x, y


def _blocks(parts: Sequence[DatasetReader]) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """Bands in order, some at a time: the number of the first one, from 0, and their numbers (n, rows, columns)."""
    done = 0
    for part in parts:
        for first in range(1, part.count + 1, _BANDS_AT_ONCE):
            group = list(range(first, min(first + _BANDS_AT_ONCE, part.count + 1)))
            yield done + first - 1, part.read(group)
        done += part.count


def _write_table(parts: Sequence[DatasetReader], folder: Path) -> None:
    """Both arrays into a folder that appears complete or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    there = np.zeros((parts[0].height, parts[0].width), np.bool_)
    for _, block in _blocks(parts):
        there |= (np.isfinite(block) & (block != 0) & (block != parts[0].nodata)).any(axis=0)
    index = np.full(there.shape, -1, np.int32)
    index[there] = np.arange(int(there.sum()), dtype=np.int32)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        np.save(temporary / "index.npy", index)
        shape = (int(there.sum()), sum(part.count for part in parts))
        cells = np.lib.format.open_memmap(temporary / "cells.npy", mode="w+", dtype=parts[0].dtypes[0], shape=shape)
        for first, block in _blocks(parts):
            cells[:, first : first + len(block)] = block[:, there].T
        cells.flush()
        del cells
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was first, which is as good
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
