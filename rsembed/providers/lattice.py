"""Where pixels lie, and what can be asked of a raster wherever it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import ProviderError
from rsembed.core.fetching import Grid

if TYPE_CHECKING:
    from rasterio.io import DatasetReader


@dataclass(frozen=True)
class Lattice:
    """A pixel lattice: ``crs`` as ``EPSG:n`` or WKT, affine ``(a, b, c, d, e, f)``, size in pixels."""

    crs: str
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int

    @classmethod
    def of_grid(cls, grid: Grid) -> Lattice:
        """The lattice of ``grid``."""
        return cls(f"EPSG:{grid.epsg}", grid.transform, grid.height, grid.width)

    @property
    def is_upright(self) -> bool:
        """Whether rows run south and columns east."""
        a, b, _, d, e, _ = self.transform
        return b == 0 and d == 0 and a > 0 and e < 0

    def part(self, window: PixelWindow) -> Lattice:
        """The lattice of ``window``."""
        a, b, c, d, e, f = self.transform
        row, col = window.row, window.col
        origin = (c + col * a + row * b, f + col * d + row * e)
        return Lattice(self.crs, (a, b, origin[0], d, e, origin[1]), window.height, window.width)


@dataclass(frozen=True)
class PixelWindow:
    """Pixels ``[row, row + height) x [col, col + width)`` of a raster."""

    row: int
    col: int
    height: int
    width: int


class RasterSource(Protocol):
    """A raster to read from; ``nodata`` and ``units`` by band, None where the file does not say."""

    lattice: Lattice
    nodata: tuple[float | None, ...]
    units: tuple[str | None, ...]

    def read(self, index: int, window: PixelWindow) -> NDArray[np.generic]:
        """The stored numbers of band ``index`` (from 1) in ``window``, shape (height, width)."""
        ...

    def sample(self, index: int) -> NDArray[np.generic]:
        """Some stored numbers of band ``index`` from all over the image, the same at every call."""
        ...


def described(
    dataset: DatasetReader, href: str
) -> tuple[Lattice, tuple[float | None, ...], tuple[str | None, ...], str]:
    """Lattice, no-data and unit of each band, and type of an open dataset.

    Raises ProviderError where it has no reference system.
    """
    crs = dataset.crs
    if crs is None:
        raise ProviderError(f"{href} has no coordinate reference system; it cannot be placed on a grid")
    epsg = crs.to_epsg()
    a, b, c, d, e, f = (float(v) for v in tuple(dataset.transform)[:6])
    lattice = Lattice(f"EPSG:{epsg}" if epsg else crs.to_wkt(), (a, b, c, d, e, f), dataset.height, dataset.width)
    return lattice, tuple(dataset.nodatavals), tuple(dataset.units), str(dataset.dtypes[0])
