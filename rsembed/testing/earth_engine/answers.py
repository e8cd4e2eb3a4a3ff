"""From the body of a request to the bytes of its answer: pixels as NPY, values as JSON.

Limits: REST reference "projects.image.computePixels" (48 MB uncompressed, 32K pixels a side, 1024 bands); the
service counts one byte a pixel and band more for the mask (google/Xee, pull request 210). Masked pixels arrive as 0.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from shapely.geometry import mapping

from rsembed.testing.earth_engine import functions  # noqa: F401  # importing it enters them into their table
from rsembed.testing.earth_engine.errors import EarthEngineError, NotModelledError
from rsembed.testing.earth_engine.graph import Expression
from rsembed.testing.earth_engine.lattices import crs_name
from rsembed.testing.earth_engine.values import (
    Band,
    Collection,
    Date,
    Feature,
    Geometry,
    Grid,
    Image,
    PixelCache,
    Projection,
)

Body = Mapping[str, Any]
"""A request's body as it was read: JSON, the one place where values of any type are allowed in."""

MAX_BYTES = 50_331_648
MAX_SIDE = 32_768
MAX_BANDS = 1024
MAX_JSON_BYTES = 10_485_760
KNOWN_KEYS = {"expression", "fileFormat", "bandIds", "grid", "workloadTag"}


@dataclass(frozen=True)
class PixelAnswer:
    """The NPY bytes, what they hold, and how many stored images were read for them."""

    content: bytes
    bands: int
    height: int
    width: int
    scenes: int


def compute_pixels(body: Body, collections: Mapping[str, Collection]) -> PixelAnswer:
    """The answer to ``image:computePixels``. Raises EarthEngineError."""
    unknown = set(body) - KNOWN_KEYS
    if unknown:
        raise NotModelledError(f"computePixels with {sorted(unknown)}")
    if body.get("fileFormat") != "NPY":
        raise NotModelledError(f"computePixels with fileFormat {body.get('fileFormat')!r}; only NPY")
    grid = _grid(body.get("grid"))
    image = Expression(body["expression"], collections).value()
    if not isinstance(image, Image):
        raise EarthEngineError("The expression of computePixels must be an Image.")
    bands = _chosen(image, body.get("bandIds"))
    size = grid.height * grid.width * sum(band.type.dtype.itemsize + 1 for band in bands.values())
    if size > MAX_BYTES:
        raise EarthEngineError(f"Total request size ({size} bytes) must be less than or equal to {MAX_BYTES} bytes.")
    cache = PixelCache()
    pixels = np.zeros((grid.height, grid.width), dtype=[(name, band.type.dtype) for name, band in bands.items()])
    for name, band in bands.items():
        plane = cache.plane(band, grid)
        pixels[name] = np.where(plane.mask > 0, plane.values, 0.0).astype(band.type.dtype)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, pixels, allow_pickle=False)
    return PixelAnswer(buffer.getvalue(), len(bands), grid.height, grid.width, len(cache.scenes))


def _grid(given: Body | None) -> Grid:
    try:
        given = given or {}
        affine, size = given["affineTransform"], given["dimensions"]
        height, width = int(size["height"]), int(size["width"])
        a, b, c, d, e, f = (
            # JSON leaves out numbers that are 0.
            float(affine.get(key, 0))
            for key in ("scaleX", "shearX", "translateX", "shearY", "scaleY", "translateY")
        )
        crs = given.get("crsCode") or given["crsWkt"]
    except KeyError as exc:
        raise NotModelledError(f"computePixels without {exc.args[0]} (the image's own grid)") from exc
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise EarthEngineError(f"Pixel grid dimensions ({width}x{height}) must be less than or equal to {MAX_SIDE}.")
    if a * e == b * d:
        raise EarthEngineError("Pixel grid: the affine transform is not invertible.")
    return Grid(Projection(crs_name(str(crs)), (a, b, c, d, e, f)), height, width)


def _chosen(image: Image, names: list[str] | None) -> dict[str, Band]:
    missing = [name for name in names or () if name not in image.bands]
    if missing:
        raise EarthEngineError(f"Band '{missing[0]}' not found. Available bands: [{', '.join(image.bands)}]")
    bands = {name: image.bands[name] for name in names} if names else dict(image.bands)
    if not bands:
        raise EarthEngineError("The image has no bands.")
    if len(bands) > MAX_BANDS:
        raise EarthEngineError(f"The image has {len(bands)} bands, more than the {MAX_BANDS} that are allowed.")
    return bands


def compute_value(body: Body, collections: Mapping[str, Collection]) -> bytes:
    """The answer to ``value:compute``. Raises EarthEngineError."""
    return json.dumps({"result": plain(Expression(body["expression"], collections).value())}).encode()


def plain(value: object) -> object:
    """``value`` as JSON, the way the service writes it."""
    if isinstance(value, Image):
        return {
            "type": "Image",
            "bands": [_described(name, band) for name, band in value.bands.items()],
            "properties": {name: plain(found) for name, found in value.properties.items()},
        }
    if isinstance(value, Collection):
        kind = "ImageCollection" if all(isinstance(one, Image) for one in value.elements) else "FeatureCollection"
        return {"type": kind, "features": [plain(one) for one in value.elements]}
    if isinstance(value, Feature):
        outline = None if value.outline is None else mapping(value.outline)
        return {"type": "Feature", "geometry": outline, "properties": plain(dict(value.properties))}
    if isinstance(value, Geometry):
        return mapping(value.outline)
    if isinstance(value, Date):
        return {"type": "Date", "value": value.millis}
    if isinstance(value, Projection):
        return {"type": "Projection", "crs": value.crs, "transform": list(value.transform)}
    if isinstance(value, Mapping):
        return {str(name): plain(found) for name, found in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise NotModelledError(f"value:compute of a {type(value).__name__}")


def _described(name: str, band: Band) -> dict[str, object]:
    numbers: dict[str, object] = {"type": "PixelType", "precision": band.type.precision}
    if band.type.precision == "int":
        numbers |= {"min": band.type.low, "max": band.type.high}
    return {
        "id": name,
        "data_type": numbers,
        "crs": band.projection.crs,
        "crs_transform": list(band.projection.transform),
    }
