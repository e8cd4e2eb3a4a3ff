"""An invented place for tests: granules of two overlapping tiles, as Earth Engine images and as a STAC catalogue.

The same rasters are served both ways, and :func:`composed` says what must come out, in plain numpy on a canvas
of 10 m pixels: no code of the providers is used for it.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasterio.warp import transform_geom

from rsembed.testing.earth_engine import SyntheticBand, SyntheticImage

Numbers = NDArray[np.generic]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

NATIVE_M = {
    "B1": 60, "B2": 10, "B3": 10, "B4": 10, "B5": 20, "B6": 20, "B7": 20, "B8": 10, "B8A": 20, "B9": 60, "B11": 20,
    "B12": 20, "SCL": 20, "VV": 10, "VH": 10,
}  # fmt: skip
ASSETS = {
    "B1": "coastal", "B2": "blue", "B3": "green", "B4": "red", "B5": "rededge1", "B6": "rededge2", "B7": "rededge3",
    "B8": "nir", "B8A": "nir08", "B9": "nir09", "B11": "swir16", "B12": "swir22", "SCL": "scl", "VV": "vv", "VH": "vh",
}  # fmt: skip
S2_BANDS = tuple(band for band in NATIVE_M if band.startswith("B"))
EPSG, LEFT, TOP, SIDE_PX = 32631, 480_000.0, 4_699_980.0, 48
OVERLAP_PX = 24
"""Of the two tiles, side by side: the canvas is so much narrower than both."""
CANVAS_PX = (SIDE_PX, 2 * SIDE_PX - OVERLAP_PX)
CLEAR = (2, 4, 5, 6, 7, 11)


@dataclass(frozen=True)
class Granule:
    """One image: ``bands`` at their own resolution; ``col_px`` is where its tile begins on the canvas."""

    name: str
    time: str
    col_px: int
    bands: Mapping[str, Numbers]
    earth_engine: Mapping[str, object]
    stac: Mapping[str, object]

    def valid(self, band: str) -> Mask:
        """Where the raster holds something: 0 and NaN are holes."""
        values = self.bands[band]
        return ~np.isnan(values) if values.dtype == np.float32 else values != 0

    def image(self) -> SyntheticImage:
        """The granule as the local Earth Engine serves it."""
        made = {}
        for band, values in self.bands.items():
            step = float(NATIVE_M[band])
            place = (step, 0.0, LEFT + 10 * self.col_px, 0.0, -step, TOP)
            policy = "sample" if band == "SCL" else "mean"
            mask = self.valid(band).astype(np.float32)
            made[band] = SyntheticBand(np.nan_to_num(values), f"EPSG:{EPSG}", place, mask, policy)  # type: ignore[arg-type]
        return SyntheticImage(self.name, self.time, made, self.earth_engine)

    def item(self, folder: Path) -> dict[str, Any]:
        """The granule's files below ``folder``, and its STAC item."""
        radar = "VV" in self.bands
        assets = {}
        for band, values in self.bands.items():
            path, step = folder / self.name / f"{band}.tif", NATIVE_M[band]
            path.parent.mkdir(parents=True, exist_ok=True)
            nodata = float("nan") if radar else 0
            profile = {"driver": "GTiff", "count": 1, "height": values.shape[0], "width": values.shape[1]}
            place = {"crs": f"EPSG:{EPSG}", "transform": Affine(step, 0, LEFT + 10 * self.col_px, 0, -step, TOP)}
            with rasterio.open(path, "w", dtype=values.dtype, nodata=nodata, **profile, **place) as target:
                target.write(values, 1)
            stored = {"nodata": "nan", "unit": "dB"} if radar else {"nodata": 0, "scale": 0.0001, "offset": 0.0}
            about = {"eo:bands": [{"name": band}], "raster:bands": [stored]}
            assets[ASSETS[band]] = {"href": f"./{self.name}/{band}.tif", **about}
        west, east = LEFT + 10 * self.col_px, LEFT + 10 * (self.col_px + SIDE_PX)
        south = TOP - 10 * SIDE_PX
        ring = [[west, TOP], [east, TOP], [east, south], [west, south], [west, TOP]]
        outline = transform_geom(f"EPSG:{EPSG}", "EPSG:4326", {"type": "Polygon", "coordinates": [ring]})
        lons, lats = zip(*outline["coordinates"][0], strict=True)
        return {
            "type": "Feature", "stac_version": "1.0.0", "id": self.name, "geometry": outline, "assets": assets,
            "bbox": [min(lons), min(lats), max(lons), max(lats)], "links": [],
            "collection": "sentinel-1-grd" if radar else "sentinel-2-c1-l2a",
            "properties": {"datetime": self.time, **self.stac},
        }  # fmt: skip


def optical(day: str, tile: int, *, cloud: float = 5.0, seed: int = 0, satellite: str = "A") -> Granule:
    """A Sentinel-2 granule of tile 0 (west) or 1 (east): some clouds, a swath edge, random land."""
    rng = np.random.default_rng([seed, tile, *day.encode()])
    bands: dict[str, Numbers] = {}
    for band in S2_BANDS:
        side = SIDE_PX * 10 // NATIVE_M[band]
        values = rng.integers(1, 9000, (side, side)).astype(np.uint16)
        if seed % 2:
            values[:, : side // 8] = 0  # beyond the swath
        bands[band] = values
    bands["SCL"] = rng.choice([4, 4, 5, 6, 3, 8, 9], (SIDE_PX // 2, SIDE_PX // 2)).astype(np.uint8)
    name = f"S2{satellite}_T31T{'EF'[tile]}L_{day.replace('-', '')}"
    return Granule(
        name, f"{day}T10:50:{10 * tile:02d}Z", tile * (SIDE_PX - OVERLAP_PX), bands,
        {
            "CLOUDY_PIXEL_PERCENTAGE": cloud, "SPACECRAFT_NAME": f"Sentinel-2{satellite}", "SENSING_ORBIT_NUMBER": 51,
            "SENSING_ORBIT_DIRECTION": "DESCENDING", "PROCESSING_BASELINE": "05.09", "MGRS_TILE": f"31T{'EF'[tile]}L",
        },
        {
            "constellation": "sentinel-2", "platform": f"sentinel-2{satellite.lower()}", "eo:cloud_cover": cloud,
            "s2:processing_baseline": "05.09", "sat:relative_orbit": 51, "sat:orbit_state": "descending",
            "grid:code": f"MGRS-31T{'EF'[tile]}L",
        },
    )  # fmt: skip


def radar(day: str, *, orbit: int, ascending: bool = True, mode: str = "IW", seed: int = 0) -> Granule:
    """A Sentinel-1 scene over the western tile, decibel; its first columns were not seen."""
    rng = np.random.default_rng([seed, 1, *day.encode()])
    bands: dict[str, Numbers] = {}
    for band in ("VV", "VH"):
        values = rng.normal(-12.0, 4.0, (SIDE_PX, SIDE_PX)).astype(np.float32)
        values[:, :5] = np.nan
        bands[band] = values
    way, time = ("ASCENDING", "17:40:00") if ascending else ("DESCENDING", "05:40:00")
    return Granule(
        f"S1A_{mode}_{day.replace('-', '')}_{way[0]}", f"{day}T{time}Z", 0, bands,
        {
            "instrumentMode": mode, "orbitProperties_pass": way, "relativeOrbitNumber_start": orbit,
            "platform_number": "A", "transmitterReceiverPolarisation": ["VV", "VH"],
        },
        {
            "constellation": "sentinel-1", "platform": "sentinel-1a", "sar:instrument_mode": mode,
            "sat:orbit_state": way.lower(), "sat:relative_orbit": orbit,
        },
    )  # fmt: skip


def write_catalog(folder: Path, granules: Sequence[Granule]) -> Path:
    """A static catalogue of ``granules``."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for granule in granules:
        names.append(f"{granule.name}.json")
        (folder / names[-1]).write_text(json.dumps(granule.item(folder)), encoding="utf-8")
    links = [{"rel": "item", "href": f"./{name}"} for name in names]
    catalog = {"type": "Catalog", "id": "world", "stac_version": "1.0.0", "description": "invented", "links": links}
    path = folder / "catalog.json"
    path.write_text(json.dumps(catalog), encoding="utf-8")
    return path


# What must come out ---------------------------------------------------------------------------------------------


def on_canvas(granule: Granule, band: str, values: Numbers) -> tuple[Floats, Mask]:
    """``values``, which have the shape of ``band``, on the canvas' 10 m pixels, and where the granule has any."""
    fine = values.repeat(NATIVE_M[band] // 10, 0).repeat(NATIVE_M[band] // 10, 1)
    found, inside = np.zeros(CANVAS_PX), np.zeros(CANVAS_PX, bool)
    at = slice(granule.col_px, granule.col_px + SIDE_PX)
    found[:, at], inside[:, at] = fine, True
    return found, inside


def scaled(granule: Granule, band: str, scale_m: int, *, masked: bool) -> tuple[NDArray[np.float32], Mask]:
    """The band at ``scale_m`` over the canvas: the area mean where coarser than its own pixels, else the nearest."""
    values, valid = on_canvas(granule, band, np.nan_to_num(granule.bands[band]))
    valid &= on_canvas(granule, band, granule.valid(band))[0] > 0
    ratio = scale_m // 10
    if scale_m > NATIVE_M[band]:
        if masked:
            # Each of the band's own pixels is clear as the class at its centre says.
            step = NATIVE_M[band] // 10
            classes, seen = on_canvas(granule, "SCL", granule.bands["SCL"])
            centre = (np.isin(classes, CLEAR) & seen)[step // 2 :: step, step // 2 :: step]
            valid = valid & centre.repeat(step, 0).repeat(step, 1)[: CANVAS_PX[0], : CANVAS_PX[1]]
        if granule.bands[band].dtype == np.float32:
            values = 10.0 ** (values / 10.0)
        blocks = (CANVAS_PX[0] // ratio, ratio, CANVAS_PX[1] // ratio, ratio)
        total, n = np.where(valid, values, 0).reshape(blocks).sum((1, 3)), valid.reshape(blocks).sum((1, 3))
        mean = total / np.maximum(n, 1)
        if granule.bands[band].dtype == np.float32:
            mean = 10.0 * np.log10(np.where(n > 0, mean, 1.0))
        return np.where(n > 0, mean, 0.0).astype(np.float32), n > 0
    if masked:
        classes, seen = on_canvas(granule, "SCL", granule.bands["SCL"])
        valid = valid & np.isin(classes, CLEAR) & seen
    near = slice(ratio // 2, None, ratio)
    return np.where(valid, values, 0)[near, near].astype(np.float32), valid[near, near]


def composed(
    granules: Sequence[Granule], band: str, scale_m: int, *, masked: bool = True
) -> tuple[NDArray[np.float32], Mask]:
    """The median of the overpasses in ``granules`` over the canvas: of an overpass' tiles the first by name shows."""
    passes = []
    for _, tiles in groupby(sorted(granules, key=lambda g: (g.time[:10], g.name)), key=lambda g: g.time[:10]):
        values, valid = np.zeros(1), np.zeros(1, bool)
        for i, granule in enumerate(tiles):
            more, there = scaled(granule, band, scale_m, masked=masked)
            values, valid = (more, there) if not i else (np.where(valid, values, more), valid | there)
        passes.append(np.where(valid, values.astype(np.float64), np.nan))
    stack = np.array(passes)
    known = ~np.isnan(stack).all(0)
    middle = np.nanmedian(np.where(known, stack, 0.0), axis=0)
    return np.where(known, middle, 0.0).astype(np.float32), known


def days(granules: Sequence[Granule]) -> list[dt.date]:
    """The days on which ``granules`` were taken, each once, in order."""
    return sorted({dt.date.fromisoformat(granule.time[:10]) for granule in granules})
