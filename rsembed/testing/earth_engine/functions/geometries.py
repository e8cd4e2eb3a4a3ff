"""Geometries and features.

Edges are straight in degrees here, great circles on the service unless ``geodesic`` is false: at a scene's very
edge filters by wide geometries may differ.
"""

from __future__ import annotations

from shapely.geometry import Point, box, shape
from shapely.geometry.base import BaseGeometry

from rsembed.testing.earth_engine.lattices import outline_in_degrees
from rsembed.testing.earth_engine.signatures import function
from rsembed.testing.earth_engine.values import COMPOSITE, Feature, Geometry, Projection


@function("Feature")
def _feature(geometry: Geometry | None = None, metadata: dict[str, object] | None = None) -> Feature:
    return Feature(None if geometry is None else geometry.outline, metadata or {})


def _placed(outline: BaseGeometry, crs: Projection | None) -> Geometry:
    return Geometry(outline_in_degrees(outline, COMPOSITE.crs if crs is None else crs.crs))


@function("GeometryConstructors.Point")
def _point(coordinates: list[float], crs: Projection | None = None) -> Geometry:
    return _placed(Point(coordinates), crs)


@function("GeometryConstructors.Rectangle")
def _rectangle(
    coordinates: list[object],
    crs: Projection | None = None,
    geodesic: bool = True,  # noqa: ARG001  # edges are straight either way, see above
    evenOdd: bool = True,  # noqa: ARG001, N803  # rings do not cross themselves
) -> Geometry:
    flat: list[float] = []
    for one in coordinates:
        flat += one if isinstance(one, list) else [float(str(one))]
    west, south, east, north = flat
    return _placed(box(west, south, east, north), crs)


@function("GeometryConstructors.Polygon")
def _polygon(
    coordinates: list[object],
    crs: Projection | None = None,
    geodesic: bool = True,  # noqa: ARG001  # edges are straight either way, see above
    evenOdd: bool = True,  # noqa: ARG001, N803  # rings do not cross themselves
) -> Geometry:
    return _placed(shape({"type": "Polygon", "coordinates": coordinates}), crs)


@function("GeometryConstructors.MultiPolygon")
def _polygons(
    coordinates: list[object],
    crs: Projection | None = None,
    geodesic: bool = True,  # noqa: ARG001  # edges are straight either way, see above
    evenOdd: bool = True,  # noqa: ARG001, N803  # rings do not cross themselves
) -> Geometry:
    return _placed(shape({"type": "MultiPolygon", "coordinates": coordinates}), crs)
