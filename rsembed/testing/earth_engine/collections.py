"""The image collections that the server holds: a static STAC catalogue under Earth Engine's names, and invented ones.

Names, bands and properties follow the pages of Google's data catalogue (COPERNICUS_S2_SR_HARMONIZED,
COPERNICUS_S2_HARMONIZED, COPERNICUS_S1_GRD, LANDSAT_LC08_C02_T1_L2). ``system:index`` is the STAC id, not Google's.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from shapely.geometry import shape

from rsembed.testing.earth_engine.lattices import crs_name, outline_in_degrees
from rsembed.testing.earth_engine.planes import compact
from rsembed.testing.earth_engine.rasters import Level, Numbers, Policy, RasterStore, StoredRaster, file_reader
from rsembed.testing.earth_engine.values import (
    DOUBLE,
    FLOAT,
    Band,
    Collection,
    Image,
    PixelType,
    Projection,
    Transform,
    integer_type,
)

JsonObject = Mapping[str, Any]
"""JSON as it was read: the one place where values of any type are allowed in."""

NAMES = {
    "sentinel-2-c1-l2a": ("COPERNICUS/S2_SR_HARMONIZED",),
    "sentinel-2-l2a": ("COPERNICUS/S2_SR_HARMONIZED",),
    "sentinel-2-l1c": ("COPERNICUS/S2_HARMONIZED",),
    "sentinel-1-grd": ("COPERNICUS/S1_GRD", "COPERNICUS/S1_GRD_FLOAT"),
    "landsat-c2-l2": ("LANDSAT/LC08/C02/T1_L2", "LANDSAT/LC09/C02/T1_L2"),
}
"""STAC collection -> what it is called on Earth Engine. Any other keeps its own id."""

_S2_KEYS = {
    "coastal": "B1", "blue": "B2", "green": "B3", "red": "B4", "rededge1": "B5", "rededge2": "B6", "rededge3": "B7",
    "nir": "B8", "nir08": "B8A", "nir09": "B9", "cirrus": "B10", "swir16": "B11", "swir22": "B12", "scl": "SCL",
}  # fmt: skip
_LANDSAT_KEYS = {
    "coastal": "SR_B1", "blue": "SR_B2", "green": "SR_B3", "red": "SR_B4", "nir08": "SR_B5", "swir16": "SR_B6",
    "swir22": "SR_B7", "lwir11": "ST_B10", "qa_pixel": "QA_PIXEL", "qa_radsat": "QA_RADSAT",
}  # fmt: skip
CLASSES = frozenset({"SCL", "QA60", "QA_PIXEL", "QA_RADSAT", "Fmask"})
"""Bands of classes and bits: their pyramid is a sample (REST reference "PyramidingPolicy")."""


@dataclass(frozen=True)
class SyntheticBand:
    """A raster in memory: ``values`` (height, width), whose dtype is the band's type; ``mask`` from 0 to 1, same shape.

    ``transform``: affine ``(a, b, c, d, e, f)`` in units of ``crs``.
    """

    values: NDArray[np.generic]
    crs: str
    transform: Transform
    mask: NDArray[np.generic] | None = None
    policy: Policy = "mean"


@dataclass(frozen=True)
class SyntheticImage:
    """An image in memory; ``time`` is ISO 8601, UTC; its outline is that of its bands."""

    index: str
    time: str
    bands: Mapping[str, SyntheticBand]
    properties: Mapping[str, object] = field(default_factory=dict)


def invented(images: Sequence[SyntheticImage], store: RasterStore) -> Collection:
    """``images`` as a collection, in order of time."""
    return _in_order([_invented_image(image, store) for image in images])


def _invented_image(image: SyntheticImage, store: RasterStore) -> Image:
    bands = {name: store.band(_invented_raster(image.index, band)) for name, band in image.bands.items()}
    outlines = [_outline(band) for band in image.bands.values()]
    properties = {"system:index": image.index, "system:time_start": millis(image.time), **image.properties}
    return Image(bands, properties, shapely.union_all(outlines))


def _invented_raster(scene: str, band: SyntheticBand) -> StoredRaster:
    mask = np.ones(band.values.shape) if band.mask is None else np.asarray(band.mask, np.float64)
    level: Level = (band.values, compact(mask))
    projection = Projection(crs_name(band.crs), band.transform)
    return StoredRaster(scene, projection, type_of(band.values.dtype), band.policy, lambda: level)


def _outline(band: SyntheticBand) -> shapely.Geometry:
    a, b, c, d, e, f = band.transform
    height, width = band.values.shape
    ring = [(c + a * x + b * y, f + d * x + e * y) for x, y in ((0, 0), (width, 0), (width, height), (0, height))]
    return outline_in_degrees(shapely.Polygon(ring), crs_name(band.crs))


def type_of(dtype: np.dtype[Any]) -> PixelType:
    """The pixel type of a numpy dtype."""
    if np.issubdtype(dtype, np.integer):
        return integer_type(dtype.str)
    return FLOAT if dtype == np.float32 else DOUBLE


def millis(time: str) -> int:
    """Milliseconds since 1970 of an ISO 8601 time; UTC where it names no zone."""
    moment = dt.datetime.fromisoformat(time)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    return round(moment.timestamp() * 1000)


def _in_order(images: Sequence[Image]) -> Collection:
    # The order of a stored collection is not documented; by time, then by name, is ours.
    times = [int(str(image.properties["system:time_start"])) for image in images]
    names = [str(image.properties["system:index"]) for image in images]
    order = sorted(range(len(images)), key=lambda number: (times[number], names[number]))
    return Collection(tuple(images[number] for number in order))


def read_catalog(path: Path, store: RasterStore) -> dict[str, Collection]:
    """Every collection of the static STAC catalogue at ``path``, by its Earth Engine names or else its own id.

    ``path``: the catalogue's file or its folder. Raises FileNotFoundError where there is none.
    """
    start = path / "catalog.json" if path.is_dir() else path
    found: dict[str, list[Image]] = {}
    pending = [start.resolve()]
    while pending:
        here = pending.pop()
        document: JsonObject = json.loads(here.read_text(encoding="utf-8"))
        if document.get("type") == "Feature":
            for name in NAMES.get(document["collection"], (document["collection"],)):
                image = _stored_image(document, here.parent, name, store)
                if image is not None:
                    found.setdefault(name, []).append(image)
            continue
        links = [link["href"] for link in document.get("links", []) if link.get("rel") in ("child", "item")]
        pending += [(here.parent / href).resolve() for href in links]
    return {name: _in_order(images) for name, images in found.items()}


def _stored_image(item: JsonObject, folder: Path, collection: str, store: RasterStore) -> Image | None:
    stated: JsonObject = item["properties"]
    landsat = re.match(r"LANDSAT/LC0(\d)/", collection)
    if landsat and not str(stated.get("platform", "")).endswith(landsat.group(1)):
        return None
    bands: dict[str, Band] = {}
    for key, asset in item["assets"].items():
        name = _band_name(key, asset, landsat=landsat is not None)
        bands[name] = store.band(_stored_raster(item, folder, asset, (collection, name)))
    in_order = sorted(bands, key=lambda name: (name in CLASSES, int(re.sub(r"\D", "", name) or 99), len(name), name))
    return Image(
        {name: bands[name] for name in in_order},
        {**stated, **_properties(item, landsat=landsat is not None)},
        shape(item["geometry"]),
    )


def _band_name(key: str, asset: JsonObject, *, landsat: bool) -> str:
    names = _LANDSAT_KEYS if landsat else _S2_KEYS
    stated = (asset.get("eo:bands") or [{}])[0].get("name", "")
    return names.get(key) or re.sub(r"^B0(\d)$", r"B\1", stated) or key.upper()


def _stored_raster(item: JsonObject, folder: Path, asset: JsonObject, place: tuple[str, str]) -> StoredRaster:
    collection, name = place
    path = str((folder / asset["href"]).resolve())
    header = _header(path, Path(path).stat().st_mtime_ns)
    reading: JsonObject = (asset.get("raster:bands") or [{}])[0]
    nodata = reading.get("nodata", header.nodata)
    pixel_type = type_of(np.dtype(header.dtype))
    convert: Callable[[Numbers], Numbers] = _as_stored
    if collection in ("COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED") and name not in CLASSES:
        convert, pixel_type = _harmonised(item, reading), integer_type("u2")
    elif collection.startswith("COPERNICUS/S1_GRD"):
        convert, pixel_type = _radar(reading, linear=collection.endswith("_FLOAT")), FLOAT
    policy: Policy = "sample" if name in CLASSES else "mean"
    loader = file_reader(path, 1, None if nodata is None else float(nodata), convert)
    return StoredRaster(f"{collection}/{item['id']}", header.projection, pixel_type, policy, loader)


@dataclass(frozen=True)
class _Header:
    """What a file says of its one band."""

    projection: Projection
    dtype: str
    nodata: float | None


@functools.lru_cache(8192)
def _header(path: str, changed_ns: int) -> _Header:
    """What the file at ``path`` says of itself; ``changed_ns`` tells a file from its successor of the same name."""
    del changed_ns
    with rasterio.open(path) as source:
        a, b, c, d, e, f = (float(number) for number in tuple(source.transform)[:6])
        return _Header(
            Projection(crs_name(source.crs.to_string()), (a, b, c, d, e, f)), source.dtypes[0], source.nodata
        )


def _as_stored(stored: Numbers) -> Numbers:
    return stored


def _harmonised(item: JsonObject, reading: JsonObject) -> Callable[[Numbers], Numbers]:
    """Catalogue page: numbers of baseline 04.00 and later, shifted up by 1000, are shifted back to the older range.

    What becomes of numbers below 1000 is not said; the type has no negative ones, so they are 0 here.
    """
    applied = item["properties"].get("earthsearch:boa_offset_applied") is True
    offset = 0.0 if applied else float(reading.get("offset") or 0) * 10_000
    factor = float(reading.get("scale") or 1e-4) * 10_000

    def convert(stored: Numbers) -> Numbers:
        shifted = np.rint(stored.astype(np.float64) * factor + offset)
        return np.maximum(shifted, 0).astype(np.uint16)

    return convert


def _radar(reading: JsonObject, *, linear: bool) -> Callable[[Numbers], Numbers]:
    """Catalogue pages: S1_GRD holds decibels, 10 log10 of what S1_GRD_FLOAT holds."""
    decibel = str(reading.get("unit", "")).lower() in ("db", "decibel")

    def convert(stored: Numbers) -> Numbers:
        if decibel == (not linear):
            return stored.astype(np.float32)
        numbers = stored.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(10 ** (numbers / 10) if linear else 10 * np.log10(numbers), np.float32)

    return convert


def _properties(item: JsonObject, *, landsat: bool) -> dict[str, object]:
    stated: JsonObject = item["properties"]
    time = str(stated["datetime"])
    found: dict[str, object] = {"system:index": item["id"], "system:time_start": millis(time)}
    cloud = stated.get("eo:cloud_cover")
    # The service states these of every image; where STAC is silent a default stands.
    if landsat:
        found["CLOUD_COVER"] = cloud
        found["SPACECRAFT_ID"] = str(stated.get("platform", "")).upper().replace("-", "_")
        found["WRS_PATH"] = int(stated.get("landsat:wrs_path", 0))
        found["WRS_ROW"] = int(stated.get("landsat:wrs_row", 0))
    elif stated.get("constellation") == "sentinel-2":
        orbit = re.search(r"_R(\d{3})_", str(stated.get("s2:product_uri", "")))
        found["CLOUDY_PIXEL_PERCENTAGE"] = cloud
        found["PROCESSING_BASELINE"] = str(stated.get("s2:processing_baseline", "00.00"))
        found["MGRS_TILE"] = str(stated.get("grid:code", "")).removeprefix("MGRS-")
        found["SPACECRAFT_NAME"] = str(stated.get("platform") or "sentinel-2a").title()
        found["SENSING_ORBIT_NUMBER"] = int(orbit.group(1)) if orbit else int(stated.get("sat:relative_orbit", 0))
        found["SENSING_ORBIT_DIRECTION"] = str(stated.get("sat:orbit_state", "descending")).upper()
        found["DATATAKE_IDENTIFIER"] = stated.get("s2:datatake_id")
    elif stated.get("constellation") == "sentinel-1":
        found["instrumentMode"] = stated.get("sar:instrument_mode")
        found["orbitProperties_pass"] = str(stated.get("sat:orbit_state", "")).upper()
        found["transmitterReceiverPolarisation"] = list(stated.get("sar:polarizations", []))
        found["relativeOrbitNumber_start"] = int(stated.get("sat:relative_orbit", 0))
        found["platform_number"] = str(stated.get("platform") or "sentinel-1a")[-1].upper()
    return {name: value for name, value in found.items() if value is not None and not _is_nan(value)}


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
