"""Maps as Cloud-Optimised GeoTIFFs: a band for each dimension, overviews, and what is known of them as tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsembed.core.embedding import CellGrid
from rsembed.core.errors import ExportError, SpecError

_BLOCK_BYTES = 16 << 20  # GDAL holds all bands of a block at once
_BLOCKS = (512, 256, 128, 64, 32)
_MAX_BANDS = 65_535


def band_names(dim: int) -> list[str]:
    """``dim_000`` and so on; wide enough for the last one."""
    width = max(3, len(str(dim - 1)))
    return [f"dim_{index:0{width}d}" for index in range(dim)]


def write_geotiff(
    path: Path,
    data_dhw: NDArray[np.float32],
    cells: CellGrid,
    *,
    tags: Mapping[str, str],
    names: Sequence[str] | None = None,
) -> None:
    """Write ``data_dhw``, float32 (D, H, W) with NaN where there is nothing, as a new file ``path``.

    ``names``: descriptions of the bands (default: :func:`band_names`). The layout is that of GDAL's COG driver:
    tiles, deflate with the predictor for floats, overviews as means where a side is over a tile, georeference before
    the pixels. Equal content gives equal bytes with one version of GDAL. Raises SpecError without rasterio, ExportError
    when the map cannot be such a file.
    """
    try:
        import rasterio
        from rasterio.errors import CRSError, RasterioError
    except ImportError as exc:
        raise SpecError("GeoTIFF files need rasterio: pip install 'rsembed[stac]'") from exc
    dim, height, width = data_dhw.shape
    if (height, width) != (cells.height, cells.width):
        raise ExportError(f"a map of {height} x {width} cells was given with a grid of {cells.height} x {cells.width}")
    if dim > _MAX_BANDS:
        raise ExportError(f"a TIFF holds at most {_MAX_BANDS} bands, the map has {dim}; save it as .zarr or .nc")
    side = next((block for block in _BLOCKS if dim * block * block * 4 <= _BLOCK_BYTES), _BLOCKS[-1])
    try:
        with rasterio.open(
            path,
            "w",
            driver="COG",
            count=dim,
            height=height,
            width=width,
            dtype="float32",
            nodata=float("nan"),
            crs=rasterio.crs.CRS.from_epsg(cells.epsg),
            transform=rasterio.Affine(*cells.transform),
            blocksize=side,
            compress="DEFLATE",
            predictor="YES",
            overview_resampling="AVERAGE",
            bigtiff="IF_SAFER",
            num_threads=1,
        ) as file:
            file.write(np.asarray(data_dhw, dtype=np.float32))
            file.descriptions = tuple(band_names(dim) if names is None else names)
            file.update_tags(**tags)
    except CRSError as exc:
        raise ExportError(f"EPSG:{cells.epsg} is no reference system that GDAL knows: {exc}") from exc
    except RasterioError as exc:
        path.unlink(missing_ok=True)
        raise ExportError(f"{path.name} could not be written as a GeoTIFF: {exc}") from exc
