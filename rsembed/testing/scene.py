"""A synthetic Sentinel-2 catalogue for the demo and the tests: invented land, no observation.

Fields, a meandering river, a town and woods, over a few dates with clouds; written as a static STAC
catalogue of GeoTIFFs in the layout of Earth Search. Every title says that it is synthetic.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasterio.warp import transform_geom

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COLLECTION = "sentinel-2-c1-l2a"
NOTICE = "Synthetic data made by rsembed.testing.scene: invented land, not a satellite observation."
DATES = ("2022-05-04", "2022-06-13", "2022-07-08", "2022-08-22", "2022-09-16")
OFFSET_DN = 1000

_BANDS = (
    # STAC key, band, pixel in metres
    ("blue", "B02", 10),
    ("green", "B03", 10),
    ("red", "B04", 10),
    ("nir", "B08", 10),
    ("nir08", "B8A", 20),
    ("swir16", "B11", 20),
    ("swir22", "B12", 20),
)
_COVERS = ("bare", "young", "green", "ripe", "grass", "wood", "water", "roof", "road")
# Rough reflectances x 10 000 of B02 B03 B04 B08 B8A B11 B12, of the order of published spectra.
_SPECTRA = np.array(
    [
        [900, 1200, 1550, 2300, 2450, 3100, 2600],
        [520, 830, 780, 2700, 2900, 2100, 1250],
        [290, 620, 330, 4300, 4600, 1750, 800],
        [760, 1180, 1420, 2900, 3050, 3000, 2050],
        [380, 760, 520, 3500, 3700, 2050, 1050],
        [190, 380, 230, 2800, 3050, 1250, 560],
        [420, 430, 260, 140, 120, 60, 40],
        [1500, 1550, 1650, 2050, 2150, 2300, 2100],
        [980, 1020, 1060, 1350, 1400, 1600, 1500],
    ],
    dtype=np.float64,
)
_CLOUD = np.array([4200, 4300, 4400, 4900, 5000, 3200, 2300], dtype=np.float64)
_SCL_OF_COVER = np.array([5, 4, 4, 5, 4, 4, 6, 5, 5], dtype=np.uint8)


@dataclass(frozen=True)
class _Land:
    """Cover per pixel (H, W) in the order of ``_COVERS``, the field each pixel lies in, and a fine texture."""

    cover: Ints
    field_id: Ints
    texture: Floats


def write_synthetic_catalog(
    folder: str | Path,
    *,
    epsg: int = 32631,
    size_px: int = 1024,
    dates: Sequence[str] = DATES,
    seed: int = 0,
    origin: tuple[float, float] = (480_000.0, 4_700_000.0),
) -> Path:
    """Write the catalogue under ``folder`` and return the path of its ``catalog.json``.

    ``size_px``: pixels of 10 m a side, a multiple of 4. ``dates``: ISO days; the last one carries the
    +1000 offset of processing baseline 04.00, declared as -0.1. ``origin``: left and top edge in metres
    of EPSG:``epsg``. The same arguments give the same pixels.
    """
    if size_px < 64 or size_px % 4:
        raise ValueError(f"size_px must be a multiple of 4 from 64 on, got {size_px}")
    root = Path(folder)
    home = root / COLLECTION
    home.mkdir(parents=True, exist_ok=True)
    land = _land(size_px, np.random.default_rng(seed))
    place = (epsg, origin, size_px)
    ids = []
    for number, day in enumerate(dates):
        rng = np.random.default_rng([seed, number + 1])
        with_offset = number == len(dates) - 1
        bands, classes = _scene(land, dt.date.fromisoformat(day), rng, cloudiness=(0.0, 0.18, 0.45)[number % 3])
        ids.append(_write_scene(home, day, place, (bands, classes), with_offset=with_offset))
    return _write_catalog(root, ids)


def _smooth(rng: np.random.Generator, size: int, cells: int) -> Floats:
    """Smooth noise of mean 0 and deviation 1 with about ``cells`` bumps a side, shape (size, size)."""
    coarse = rng.standard_normal((cells + 2, cells + 2))
    at = np.linspace(0.5, cells + 0.49, size)
    low = at.astype(np.int64)
    part = at - low
    part = part * part * (3 - 2 * part)
    rows = coarse[low] * (1 - part)[:, None] + coarse[low + 1] * part[:, None]
    field = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    spread: Floats = (field - field.mean()) / field.std()
    return spread


def _land(size: int, rng: np.random.Generator) -> _Land:
    y, x = np.mgrid[0:size, 0:size].astype(np.float64)
    scale = size / 1024
    texture = 0.6 * _smooth(rng, size, max(8, size // 6)) + 0.4 * rng.standard_normal((size, size))
    # Fields: strips of a lattice that is turned and bent a little, each cut at its own places.
    bend_x, bend_y = 14 * _smooth(rng, size, 4), 14 * _smooth(rng, size, 4)
    u, v = x * 0.94 + y * 0.34 + bend_x, y * 0.94 - x * 0.34 + bend_y
    strip = np.floor(v / 46).astype(np.int64)
    shift = rng.uniform(0, 200, 4096)[strip % 4096]
    width = rng.choice([38.0, 61.0, 89.0, 120.0], 4096)[strip % 4096]
    column = np.floor((u + shift) / width).astype(np.int64)
    field_id = (strip * 7919 + column * 104_729) % 65_536
    crop = rng.choice([0, 1, 2, 3, 4], 65_536, p=[0.16, 0.2, 0.3, 0.2, 0.14])
    cover = crop[field_id]
    edge = ((v / 46) % 1 < 0.05) | (((u + shift) / width) % 1 < 0.03)
    cover[edge] = _COVERS.index("grass")
    cover[_smooth(rng, size, 6) > 1.05] = _COVERS.index("wood")
    cover = _town(cover, (x, y), rng, size)
    course = size * 0.62 + 70 * scale * np.sin(x[0] / (150 * scale)) + 60 * scale * np.sin(x[0] / (61 * scale) + 1)
    bank = np.abs(y - course[None, :])
    breadth = (9 + 3 * np.sin(x[0] / (90 * scale)))[None, :] * max(scale, 0.35)
    cover[bank < breadth * 2.4] = _COVERS.index("wood")
    cover[bank < breadth] = _COVERS.index("water")
    return _Land(cover, field_id, texture)


def _town(cover: Ints, at: tuple[Floats, Floats], rng: np.random.Generator, size: int) -> Ints:
    x, y = at
    road = _COVERS.index("road")
    for offset, slope in ((0.18, 0.31), (0.86, -0.44)):
        cover[np.abs(y - size * offset - slope * (x - size * 0.3)) < 1.3] = road
    distance = np.hypot(x - size * 0.3, (y - size * 0.3) * 1.15) + size * 0.03 * _smooth(rng, size, 7)
    inside = distance < size * 0.12
    blocks = (x.astype(np.int64) // 3 * 31 + y.astype(np.int64) // 3 * 17) % 4096
    built = rng.random(4096)[blocks] < np.clip(1.15 - distance / (size * 0.12), 0, 0.85)
    cover = np.where(inside, _COVERS.index("grass"), cover)
    cover[inside & built] = _COVERS.index("roof")
    cover[inside & ((x.astype(np.int64) % 17 == 0) | (y.astype(np.int64) % 13 == 0))] = road
    return cover


def _scene(
    land: _Land, day: dt.date, rng: np.random.Generator, *, cloudiness: float
) -> tuple[Floats, NDArray[np.uint8]]:
    """Reflectance x 10 000 of the seven bands, (7, H, W), and the scene classification (H, W), at 10 m."""
    size = land.cover.shape[0]
    season = math.sin(2 * math.pi * (day.timetuple().tm_yday - 80) / 365)
    vigour = 1 + 0.12 * season * np.random.default_rng(7).standard_normal(65_536)[land.field_id]
    spectra = _SPECTRA[land.cover].transpose(2, 0, 1)
    bands: Floats = spectra * (1 + 0.035 * land.texture)
    crops = land.cover < _COVERS.index("wood")
    bands[3:5] = np.where(crops, bands[3:5] * vigour, bands[3:5])
    bands[:3] = np.where(crops, bands[:3] / vigour, bands[:3])
    classes = _SCL_OF_COVER[land.cover]
    if cloudiness > 0:
        veil = _smooth(rng, size, 5) + 0.5 * _smooth(rng, size, 17) + 0.2 * _smooth(rng, size, 50)
        top = np.quantile(veil, 1 - cloudiness)
        shadow = np.roll(veil, (size // 24, -size // 18), (0, 1)) > top
        bands = np.where(shadow, bands * 0.45, bands)
        thickness = np.clip((veil - top + 0.15) / 0.5, 0, 1)
        bands = bands * (1 - thickness) + _CLOUD[:, None, None] * thickness
        classes = np.where(shadow, 3, classes)
        classes = np.where(thickness > 0, 8, classes)
        classes = np.where(thickness > 0.6, 9, classes)
    bands = bands + 12 * rng.standard_normal(bands.shape)
    return np.clip(bands, 1, 12_000), classes.astype(np.uint8)


Place = tuple[int, tuple[float, float], int]


def _write_scene(
    home: Path, day: str, place: Place, imagery: tuple[Floats, NDArray[np.uint8]], *, with_offset: bool
) -> str:
    epsg, _, size = place
    bands, classes = imagery
    scene_id = f"SYNTHETIC_{day.replace('-', '')}_L2A"
    folder = home / scene_id
    folder.mkdir(exist_ok=True)
    assets = {}
    for values, (key, name, pixel_m) in zip(bands, _BANDS, strict=True):
        step = pixel_m // 10
        coarse = values.reshape(size // step, step, size // step, step).mean(axis=(1, 3))
        stored = np.rint(coarse + (OFFSET_DN if with_offset else 0)).astype(np.uint16)
        _write_tiff(folder / f"{name}.tif", stored, place, pixel_m)
        reading = {"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1 if with_offset else 0}
        assets[key] = _asset(name, pixel_m, reading)
    _write_tiff(folder / "SCL.tif", classes[::2, ::2], place, 20)
    assets["scl"] = _asset("SCL", 20, {"nodata": 0, "data_type": "uint8"})
    outline = _outline(place)
    lons, lats = zip(*outline["coordinates"][0], strict=True)
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": scene_id,
        "collection": COLLECTION,
        "geometry": outline,
        "bbox": [min(lons), min(lats), max(lons), max(lats)],
        "properties": {
            "datetime": f"{day}T10:50:00Z",
            "title": f"Synthetic scene of {day}",
            "description": NOTICE,
            "constellation": "sentinel-2",
            "proj:epsg": epsg,
            "eo:cloud_cover": round(100 * float(np.isin(classes, (8, 9, 10)).mean()), 4),
            "s2:processing_baseline": "04.00" if with_offset else "03.01",
            "license": "CC0-1.0",
        },
        "links": [{"rel": "collection", "href": "../collection.json", "type": "application/json"}],
        "assets": assets,
    }
    (folder / f"{scene_id}.json").write_text(json.dumps(item, indent=1), encoding="utf-8")
    return scene_id


def _asset(name: str, pixel_m: int, reading: dict[str, object]) -> dict[str, object]:
    return {
        "href": f"./{name}.tif",
        "title": f"{name}, {pixel_m} m (synthetic)",
        "type": "image/tiff; application=geotiff",
        "eo:bands": [{"name": name}],
        "raster:bands": [reading],
        "roles": ["data"],
    }


def _write_tiff(path: Path, values: NDArray[np.generic], place: Place, pixel_m: int) -> None:
    epsg, (left, top), _ = place
    profile = {
        "driver": "GTiff",
        "count": 1,
        "height": values.shape[0],
        "width": values.shape[1],
        "dtype": values.dtype,
        "crs": f"EPSG:{epsg}",
        "transform": Affine(pixel_m, 0, left, 0, -pixel_m, top),
        "nodata": 0,
        "compress": "deflate",
        "zlevel": 1,
        "predictor": 2,
    }
    if min(values.shape) >= 256:
        profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256}
    with rasterio.open(path, "w", **profile) as target:
        target.write(values, 1)
        target.update_tags(description=NOTICE)
        target.set_band_description(1, path.stem.replace("B0", "B"))


def _outline(place: Place) -> dict[str, list[list[tuple[float, float]]]]:
    epsg, (left, top), size = place
    right, bottom = left + size * 10, top - size * 10
    ring = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)]
    found = transform_geom(f"EPSG:{epsg}", "EPSG:4326", {"type": "Polygon", "coordinates": [ring]}, precision=7)
    return {"type": "Polygon", "coordinates": found["coordinates"]}


def _write_catalog(root: Path, ids: Sequence[str]) -> Path:
    about = {"stac_version": "1.0.0", "description": NOTICE, "license": "CC0-1.0"}
    collection = {
        "type": "Collection",
        "id": COLLECTION,
        "title": "Synthetic scenes in the layout of Sentinel-2 L2A",
        **about,
        "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}},
        "links": [{"rel": "item", "href": f"./{i}/{i}.json", "type": "application/json"} for i in ids],
    }
    catalog = {
        "type": "Catalog",
        "id": "synthetic",
        "title": "Synthetic catalogue",
        **about,
        "links": [{"rel": "child", "href": f"./{COLLECTION}/collection.json", "type": "application/json"}],
    }
    (root / COLLECTION / "collection.json").write_text(json.dumps(collection, indent=1), encoding="utf-8")
    (root / "README.txt").write_text(f"{NOTICE}\nFor trying rsembed out and for its tests. CC0.\n", encoding="utf-8")
    path = root / "catalog.json"
    path.write_text(json.dumps(catalog, indent=1), encoding="utf-8")
    return path
