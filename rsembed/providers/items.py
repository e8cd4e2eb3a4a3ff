"""STAC items (plain JSON) to scenes; Earth Search, Planetary Computer and STAC 1.1 spell things differently."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from rsembed.core.errors import ProviderError
from rsembed.providers.collections import CollectionInfo, of_constellation
from rsembed.providers.scenes import Asset, Scene

JsonObject = Mapping[str, Any]
"""JSON as it was read: the one place where values of any type are allowed in."""

_TILE = re.compile(r"(?<![0-9A-Z])T?([0-9]{2}[C-X][A-Z]{2})(?![0-9A-Z])")
_ORBIT = re.compile(r"_R([0-9]{3})_")


def scene_from_item(item: JsonObject, resolve: Callable[[str], str]) -> Scene:
    """The scene that ``item`` describes; ``resolve`` makes its hrefs absolute.

    Raises ProviderError when the item lacks its id, collection or place.
    """
    properties: JsonObject = item.get("properties") or {}
    item_id, collection = str(item.get("id") or ""), str(item.get("collection") or "")
    if not item_id or not collection:
        raise ProviderError(f"a STAC item without id or collection: id {item_id!r}, collection {collection!r}")
    constellation = str(properties.get("constellation") or properties.get("platform") or "")
    info = of_constellation(collection, constellation)
    outline = _outline(item)
    return Scene(
        id=item_id,
        collection=collection,
        time=_time(properties, item_id),
        bbox=_bbox(item, outline, item_id),
        assets=_assets(item, info, resolve),
        outline=outline,
        cloud_pct=_number(properties.get("eo:cloud_cover")),
        platform=str(properties.get("platform") or "").lower(),
        orbit=_orbit(properties),
        orbit_pass=str(properties.get("sat:orbit_state") or "").upper(),
        tile=_tile(item_id, properties),
        baseline=_number(properties.get("s2:processing_baseline") or properties.get("processing:version")),
        instrument_mode=str(properties.get("sar:instrument_mode") or "").upper(),
        constellation=constellation,
        offset_applied=properties.get("earthsearch:boa_offset_applied") is True,
        tier=str(properties.get("landsat:collection_category") or "").upper(),
    )


def _time(properties: JsonObject, item_id: str) -> dt.datetime | None:
    text = properties.get("datetime") or properties.get("start_datetime")
    if not text:
        return None
    try:
        time = dt.datetime.fromisoformat(str(text))
    except ValueError as exc:
        raise ProviderError(f"STAC item {item_id} has the datetime {text!r}, which is none") from exc
    return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)


def _outline(item: JsonObject) -> BaseGeometry | None:
    geometry = item.get("geometry")
    if not geometry:
        return None
    found = shape(geometry)
    return found if found.is_valid else shapely.make_valid(found)


def _bbox(item: JsonObject, outline: BaseGeometry | None, item_id: str) -> tuple[float, float, float, float]:
    bbox = item.get("bbox")
    if bbox:
        west, south, east, north = (bbox[0], bbox[1], bbox[3], bbox[4]) if len(bbox) == 6 else bbox
    elif outline is not None:
        west, south, east, north = outline.bounds
    else:
        raise ProviderError(f"STAC item {item_id} has neither bbox nor geometry; it cannot be placed")
    return float(west), float(south), float(east), float(north)


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _orbit(properties: JsonObject) -> str:
    number = _number(properties.get("sat:relative_orbit"))
    if number is not None:
        return f"{int(number):03d}"
    found = _ORBIT.search(str(properties.get("s2:product_uri") or ""))
    return found.group(1) if found else ""


def _tile(item_id: str, properties: JsonObject) -> str:
    named = str(properties.get("s2:mgrs_tile") or properties.get("grid:code") or "").removeprefix("MGRS-")
    if named:
        return named
    found = _TILE.search(item_id.replace("_", " "))
    return found.group(1) if found else ""


def _assets(item: JsonObject, info: CollectionInfo, resolve: Callable[[str], str]) -> dict[str, Asset]:
    raw: Mapping[str, JsonObject] = item.get("assets") or {}
    if info.family == "unknown":
        return _assets_by_own_names(raw, resolve)
    by_eo_name: dict[str, str] = {}
    for key, asset in raw.items():
        names = _band_names(asset)
        if len(names) == 1:
            by_eo_name.setdefault(names[0].upper(), key)
    found: dict[str, Asset] = {}
    for band in info.bands:
        keys = [key for key in band.assets if key in raw]
        own = (band.name.upper(), band.eo_name.upper())
        keys += [by_eo_name[name] for name in own if name in by_eo_name]
        if keys:
            found[band.name] = _asset(raw[keys[0]], 1, resolve)
    return found


def _assets_by_own_names(raw: Mapping[str, JsonObject], resolve: Callable[[str], str]) -> dict[str, Asset]:
    found: dict[str, Asset] = {}
    for key, asset in raw.items():
        found[key] = _asset(asset, 1, resolve)
        for index, name in enumerate(_band_names(asset), start=1):
            found.setdefault(name, _asset(asset, index, resolve))
    return found


def _band_names(asset: JsonObject) -> list[str]:
    bands = asset.get("eo:bands") or asset.get("bands") or []
    return [str(band.get("name") or "") for band in bands if band.get("name")]


def _asset(asset: JsonObject, index: int, resolve: Callable[[str], str]) -> Asset:
    def stated(name: str) -> object:
        # STAC 1.0 with raster:bands, STAC 1.1 with bands, or one statement for the whole asset.
        for bands in (asset.get("raster:bands"), asset.get("bands")):
            if bands and len(bands) >= index:
                for key in (name, f"raster:{name}"):
                    if bands[index - 1].get(key) is not None:
                        value: object = bands[index - 1][key]
                        return value
        return asset.get(f"raster:{name}", asset.get(name))

    unit = stated("unit")
    nodata = stated("nodata")
    return Asset(
        href=resolve(str(asset.get("href") or "")),
        index=index,
        scale=_number(stated("scale")),
        offset=_number(stated("offset")),
        unit=str(unit) if unit else None,
        nodata=math.nan if str(nodata).lower() == "nan" else _number(nodata),
        checksum=str(asset["file:checksum"]) if asset.get("file:checksum") else None,
    )
