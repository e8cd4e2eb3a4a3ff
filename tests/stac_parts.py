"""Small Sentinel-2 catalogues made by tests: tiled GeoTIFFs of given numbers, and the items that name them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasterio.warp import transform_geom

Numbers = NDArray[np.uint16]
ASSETS = {"B2": "blue", "B3": "green", "B4": "red", "B8": "nir", "SCL": "scl"}


def write_tiff(path: Path, values: Numbers, *, corner: tuple[float, float], epsg: int = 32631, **more: Any) -> Path:
    """A Cloud-Optimised GeoTIFF of 10 m pixels whose upper left corner is ``corner``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = values.shape[-2:]
    count = 1 if values.ndim == 2 else len(values)
    options = {"driver": "COG", "blocksize": 128, "compress": "deflate", "predictor": 2} | more
    if options["driver"] != "COG":
        options.pop("blocksize"), options.pop("predictor")
    place = {"crs": f"EPSG:{epsg}", "transform": Affine(10.0, 0, corner[0], 0, -10.0, corner[1])}
    with rasterio.open(
        path, "w", height=height, width=width, count=count, dtype=values.dtype, nodata=0, **place, **options
    ) as target:
        target.write(values.reshape(count, height, width))
    return path


def write_scene(
    folder: Path,
    name: str,
    bands: Mapping[str, Numbers],
    *,
    corner: tuple[float, float] = (480_000.0, 4_700_000.0),
    epsg: int = 32631,
    when: str = "2022-06-01T10:50:00Z",
    collection: str = "sentinel-2-c1-l2a",
    offset: float = 0.0,
    properties: Mapping[str, Any] | None = None,
    checksums: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The files of one scene below ``folder`` and its item, whose links are relative to ``folder``."""
    assets: dict[str, Any] = {}
    for band, values in bands.items():
        write_tiff(folder / name / f"{band}.tif", values, corner=corner, epsg=epsg)
        about = {"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": offset}
        assets[ASSETS[band]] = {"href": f"./{name}/{band}.tif", "eo:bands": [{"name": band}], "raster:bands": [about]}
        if checksums and band in checksums:
            assets[ASSETS[band]]["file:checksum"] = checksums[band]
    height, width = next(iter(bands.values())).shape
    x, y = corner
    east, south = x + width * 10, y - height * 10
    ring = [[x, y], [east, y], [east, south], [x, south], [x, y]]
    outline = transform_geom(f"EPSG:{epsg}", "EPSG:4326", {"type": "Polygon", "coordinates": [ring]})
    lons, lats = zip(*outline["coordinates"][0], strict=True)
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": collection, "geometry": outline,
        "bbox": [min(lons), min(lats), max(lons), max(lats)], "links": [], "assets": assets,
        "properties": {
            "datetime": when, "constellation": "sentinel-2", "platform": "sentinel-2a", "eo:cloud_cover": 1.0,
            "s2:processing_baseline": "05.00", **(properties or {}),
        },
    }  # fmt: skip


def write_catalog(folder: Path, items: Sequence[Mapping[str, Any]]) -> Path:
    """A static catalogue of ``items`` in ``folder``."""
    for item in items:
        (folder / f"{item['id']}.json").write_text(json.dumps(item), encoding="utf-8")
    links = [{"rel": "item", "href": f"./{item['id']}.json"} for item in items]
    catalog = {"type": "Catalog", "id": "made", "stac_version": "1.0.0", "description": "made", "links": links}
    path = folder / "catalog.json"
    path.write_text(json.dumps(catalog), encoding="utf-8")
    return path


def noise(height: int = 384, width: int = 384, *, low: int = 300, high: int = 4000, seed: int = 0) -> Numbers:
    """Numbers between ``low`` and ``high``, another one in each pixel."""
    return np.random.default_rng(seed).integers(low, high, (height, width)).astype(np.uint16)


def day(text: str) -> dt.date:
    """A date."""
    return dt.date.fromisoformat(text)
