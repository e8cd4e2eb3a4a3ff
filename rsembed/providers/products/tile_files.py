"""The files of a tiled product: where they lie on this machine and on a server, brought here when they are wanted."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from rsembed.core.errors import CollectionGapError, ProviderError
from rsembed.providers.lattice import Lattice, PixelWindow
from rsembed.providers.products.downloads import Downloader, MissingFileError, Wanted
from rsembed.providers.products.tile_index import TileCell, TileEntry, TileIndex
from rsembed.providers.transport import RequestCounter

TILES, MASKS = "global_0.1_degree_representation", "global_0.1_degree_tiff_all"
_INDEX_NAMES = ("registry.parquet", "manifest.parquet")
_MASK_INDEX = "landmasks.parquet"
Number = TypeVar("Number", np.int8, np.float32)
MOST_OPEN = 32
"""Tiles kept open: their masks are in memory, their numbers are mapped."""


@dataclass(frozen=True)
class TileSite:
    """A server of tiles: where below ``base`` registry, tiles, masks and the masks' registry lie."""

    base: str
    index: str = _INDEX_NAMES[0]
    tiles: str = TILES
    masks: str = MASKS
    mask_index: str = _MASK_INDEX


PUBLISHED = TileSite(
    "https://data.source.coop/tessera/tessera",
    "npy/v1/manifest.parquet",
    "npy/v1",
    "landmasks/v1",
    "landmasks/v1/landmasks.parquet",
)
"""Where the authors publish since 2026; in earlier years it was the layout of a mirror."""


@dataclass(frozen=True)
class Tile:
    """An open tile. ``numbers``: int8 (H, W, D) on ``lattice``; ``scales``: (H, W) or (H, W, D); ``land``: (H, W)."""

    entry: TileEntry
    lattice: Lattice
    numbers: NDArray[np.int8]
    scales: NDArray[np.float32]
    land: NDArray[np.bool_]

    def values(self, window: PixelWindow) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Embeddings (D, h, w) of ``window``, and which pixels (h, w) have one."""
        part = (slice(window.row, window.row + window.height), slice(window.col, window.col + window.width))
        stored, scales = self.numbers[part], np.asarray(self.scales[part], dtype=np.float32)
        whole = scales[..., None] if scales.ndim == 2 else scales
        there = self.land[part] & np.isfinite(whole).all(axis=-1) & stored.any(axis=-1) & whole.any(axis=-1)
        # Turned while they are single bytes, which is several times faster.
        values = np.ascontiguousarray(np.moveaxis(stored, -1, 0)).astype(np.float32)
        values *= scales if scales.ndim == 2 else np.moveaxis(scales, -1, 0)
        return values, there


class TileFiles:
    """The tiles in the folder ``root``, fetched from ``site`` where they are lacking.

    Safe to use from many threads.
    """

    def __init__(self, root: Path, site: TileSite, downloader: Downloader) -> None:
        self._root = root
        self._site = site
        self._downloader = downloader
        self._lock = threading.Lock()
        self._index: TileIndex | None = None
        self._masks: TileIndex | None = None
        self._asked_masks = False
        self._open: OrderedDict[tuple[TileCell, int], Tile] = OrderedDict()

    def index(self, counter: RequestCounter) -> TileIndex:
        """The registry, fetched once. Raises ProviderError and its kin."""
        with self._lock:
            if self._index is None:
                there = [self._root / name for name in _INDEX_NAMES if (self._root / name).is_file()]
                if not there:
                    name = self._site.index.rpartition("/")[2]
                    there = [self._fetch(self._site.index, self._root / name, counter)]
                self._index = TileIndex(there[0])
            return self._index

    def open(self, entry: TileEntry, bands: int, counter: RequestCounter) -> Tile:
        """The tile of ``entry`` with ``bands`` numbers a pixel.

        Raises CollectionGapError where the server lacks what the registry lists, ProviderError for damaged files.
        """
        key = (entry.cell, entry.year)
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)
                return self._open[key]
        tile = self._opened(entry, bands, counter)
        with self._lock:
            self._open[key] = tile
            while len(self._open) > MOST_OPEN:
                self._open.popitem(last=False)
        return tile

    def close(self) -> None:
        """Forget open tiles."""
        with self._lock:
            self._open.clear()

    def _opened(self, entry: TileEntry, bands: int, counter: RequestCounter) -> Tile:
        name = entry.cell.name
        place = f"{entry.year}/{name}/{name}"
        try:
            numbers = self._fetch(
                f"{self._site.tiles}/{place}.npy",
                self._root / TILES / f"{place}.npy",
                counter,
                entry.sha256,
                entry.size,
            )
            scales = self._fetch(
                f"{self._site.tiles}/{place}_scales.npy",
                self._root / TILES / f"{place}_scales.npy",
                counter,
                entry.scales_sha256,
                entry.scales_size,
            )
            land = self._root / MASKS / f"{name}.tiff"
            if not land.is_file():
                self._fetch(f"{self._site.masks}/{name}.tiff", land, counter, self._mask_sum(entry.cell, counter))
        except MissingFileError as exc:
            raise CollectionGapError(f"the registry lists {name} of {entry.year}, but {exc}") from exc
        lattice, mask = _georeference(land)
        stored, factors = _array(numbers, np.int8), _array(scales, np.float32)
        if stored.ndim == 3 and stored.shape[-1] != bands and stored.shape[0] == bands:
            stored = np.moveaxis(stored, 0, -1)
        expected = (lattice.height, lattice.width, bands)
        if stored.shape != expected or factors.shape not in (expected, expected[:2]):
            raise ProviderError(
                f"{numbers} and its scales have shapes {stored.shape} and {factors.shape}, its mask says {expected}; "
                "one of them is damaged: remove them to have them fetched again"
            )
        return Tile(entry, lattice, stored, factors, mask)

    def _mask_sum(self, cell: TileCell, counter: RequestCounter) -> str | None:
        with self._lock:
            if not self._asked_masks:
                path = self._root / _MASK_INDEX
                try:
                    path = self._fetch(self._site.mask_index, path, counter)
                except MissingFileError:
                    self._masks = None
                else:
                    self._masks = TileIndex(path)
                self._asked_masks = True
        found = [] if self._masks is None else self._masks.find(0, [cell])
        return found[0].sha256 if found else None

    def _fetch(
        self, below: str, target: Path, counter: RequestCounter, sha256: str | None = None, size: int | None = None
    ) -> Path:
        return self._downloader.fetch(Wanted(f"{self._site.base}/{below}", sha256, size), target, counter)


def _array(path: Path, kind: type[Number]) -> NDArray[Number]:
    try:
        array: NDArray[Number] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as exc:
        raise ProviderError(f"{path} is damaged: {exc}; remove it to have it fetched again") from exc
    if array.dtype != kind:
        raise ProviderError(f"{path} holds {array.dtype}, {np.dtype(kind)} was expected; remove it to fetch it again")
    return array


def _georeference(path: Path) -> tuple[Lattice, NDArray[np.bool_]]:
    try:
        with rasterio.open(path) as raster:
            epsg = raster.crs.to_epsg() if raster.crs else None
            if epsg is None:
                raise ProviderError(f"{path} has no coordinate reference system; remove it to have it fetched again")
            a, b, c, d, e, f = (float(v) for v in tuple(raster.transform)[:6])
            lattice = Lattice(f"EPSG:{epsg}", (a, b, c, d, e, f), raster.height, raster.width)
            return lattice, raster.read(1) != 0
    except RasterioError as exc:
        raise ProviderError(f"{path} is damaged: {exc}; remove it to have it fetched again") from exc
