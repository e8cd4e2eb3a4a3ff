"""What Earth Engine is told about a collection and a request: decided here, spelled out in ``gee_graph``.

Light on purpose: neither the Earth Engine client nor a raster library is needed to plan a request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rsembed.core.fetching import FetchRequest, Grid
from rsembed.providers.collections import SCENE_CLASSES, CollectionInfo, Family
from rsembed.providers.gee_request import Column, Layout
from rsembed.providers.scenes import grid_bounds, grid_centre
from rsembed.providers.selection import cloud_steps
from rsembed.tools.spatial import from_lonlat, to_grid_centre, to_lonlat

COARSER = 1.02
"""From this ratio on a pixel counts as coarser than the source's; the same as for files (``warp``)."""
DEFAULT_MAX_PIXELS = 64
"""What Image.reduceResolution combines unless told otherwise."""
MOST_MAX_PIXELS = 65_536
"""The most that it may be told."""


@dataclass(frozen=True)
class SceneProperties:
    """Names of the properties that Earth Engine's images of a family carry.

    ``datatake``: what the tiles of one overpass share beside the solar day. ``baseline``: the processing
    baseline, text. ``dtype``: the type of its bands as stored.
    """

    datatake: tuple[str, ...] = ()
    baseline: str | None = None
    dtype: str = "float32"


PROPERTIES: Mapping[Family, SceneProperties] = {
    "sentinel-2": SceneProperties(
        ("SPACECRAFT_NAME", "SENSING_ORBIT_NUMBER", "SENSING_ORBIT_DIRECTION"), "PROCESSING_BASELINE", "uint16"
    ),
    "sentinel-1": SceneProperties(("platform_number", "relativeOrbitNumber_start", "orbitProperties_pass")),
    "landsat": SceneProperties(("SPACECRAFT_ID", "WRS_PATH"), dtype="uint16"),
}


COMPANIONS: Mapping[str, tuple[str, str]] = {"MODIS/061/MOD09GA": ("MODIS/061/MOD21A1D", "LST_1KM")}
"""Collection -> another one of which the image of the same day (the same ``system:index``) lends a band."""


@dataclass(frozen=True)
class BandGroup:
    """Bands that are resampled alike: ``average`` is the area mean of their clear pixels, else the nearest is taken.

    ``max_pixels``: how many of them may lie in one output pixel. ``coarser``: the nearest is one of a pyramid level.
    """

    bands: tuple[str, ...]
    average: bool
    max_pixels: int = DEFAULT_MAX_PIXELS
    coarser: bool = False


@dataclass(frozen=True)
class GraphPlan:
    """Everything that decides the expression graph of a request, but for the request itself.

    ``bands`` are Earth Engine's names, each once. ``bounds``: (west, south, east, north), ``centre``: (lon, lat),
    degrees. ``solar_ahead_ms``: how far the place's mean solar time is ahead of UTC. ``pin_classes``: the
    classification is read at its own resolution before it is sampled.
    """

    info: CollectionInfo
    properties: SceneProperties
    bands: tuple[str, ...]
    groups: tuple[BandGroup, ...]
    layout: Layout
    mask: Literal["scl", "none"]
    pin_classes: bool
    cloud_steps: tuple[float | None, ...]
    bounds: tuple[float, float, float, float]
    centre: tuple[float, float]
    solar_ahead_ms: int

    @property
    def method(self) -> str:
        """``average``, ``nearest`` or both, for the provenance."""
        return "+".join(sorted({"average" if group.average else "nearest" for group in self.groups}))


def plan_graph(request: FetchRequest, info: CollectionInfo) -> GraphPlan:
    """What to ask Earth Engine for; pure."""
    recipe = request.recipe
    properties = PROPERTIES.get(info.family, SceneProperties())
    bands = tuple(dict.fromkeys(info.canonical(band) for band in request.bands))
    pixel_m = ground_pixel_m(request.grid)
    mosaic = recipe.composite == "mosaic"
    groups = _groups(info, bands, pixel_m, average=recipe.resampling == "area", apart=mosaic)
    averaged = {band for group in groups if group.average for band in group.bands}
    columns = tuple(
        Column(band, _stored_dtype(info, band, properties) if mosaic and band not in averaged else "float32")
        for band in bands
    )
    mask: Literal["scl", "none"] = "scl" if recipe.clouds.mask == "scl" and info.band(SCENE_CLASSES) else "none"
    classes, centre = info.band(SCENE_CLASSES), grid_centre(request.grid)
    steps = cloud_steps(recipe.clouds, info) if info.cloud_property else (None,)
    return GraphPlan(
        info,
        properties,
        bands,
        groups,
        Layout(columns, request.bins, flagged=info.family == "sentinel-1"),
        mask,
        # Twice as coarse, Earth Engine would read the classes from a pyramid level, where they are other ones.
        pin_classes=classes is not None and pixel_m * COARSER >= 2 * classes.native_m,
        cloud_steps=steps,
        bounds=grid_bounds(request.grid),
        centre=centre,
        solar_ahead_ms=round(centre[0] / 15 * 3_600_000),
    )


def _stored_dtype(info: CollectionInfo, band: str, properties: SceneProperties) -> str:
    return "uint8" if band == SCENE_CLASSES and info.family == "sentinel-2" else properties.dtype


def _groups(
    info: CollectionInfo, bands: tuple[str, ...], pixel_m: float, *, average: bool, apart: bool
) -> tuple[BandGroup, ...]:
    """Bands that may go through the same steps; those averaged are apart by native pixel size, ``apart``: all are."""
    nearest: dict[tuple[float, bool], list[str]] = {}
    averaged: dict[float, list[str]] = {}
    for name in bands:
        band = info.band(name)
        native_m = 0.0 if band is None else band.native_m
        coarser = pixel_m > COARSER * native_m
        if average and band is not None and not band.categorical and coarser:
            averaged.setdefault(native_m, []).append(name)
        else:
            nearest.setdefault((native_m if apart else 0.0, coarser), []).append(name)
    found = [BandGroup(tuple(names), average=False, coarser=coarser) for (_, coarser), names in sorted(nearest.items())]
    for native_m, names in sorted(averaged.items()):
        # A turned pixel reaches over its neighbours, hence the margin.
        within = math.ceil((pixel_m / native_m + 2) * math.sqrt(2)) ** 2
        found.append(
            BandGroup(tuple(names), average=True, max_pixels=min(MOST_MAX_PIXELS, max(DEFAULT_MAX_PIXELS, within)))
        )
    return tuple(found)


def ground_pixel_m(grid: Grid) -> float:
    """Side of a pixel of ``grid`` on the ground, metres, at its centre; its own scale where it is a UTM grid."""
    if grid.epsg // 100 in (326, 327):
        return grid.scale_m
    lon, lat = grid_centre(grid)
    epsg = to_grid_centre(lon, lat)[0]
    left, bottom, right, top = grid.bounds
    x, y = (left + right) / 2, (bottom + top) / 2
    corners = to_lonlat(grid.epsg, np.array([x, x + grid.scale_m, x]), np.array([y, y, y + grid.scale_m]))
    east, north = from_lonlat(epsg, *corners)
    across, down = (east[1] - east[0], north[1] - north[0]), (east[2] - east[0], north[2] - north[0])
    return math.sqrt(abs(across[0] * down[1] - across[1] * down[0]))
