"""The places of rows: points and axis-aligned boxes, out of lon/lat columns or geometries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyproj
import shapely
from numpy.typing import NDArray

from rsembed.core.errors import SpecError
from rsembed.pipelines.rows.problems import Problems
from rsembed.pipelines.rows.source import TableSource, find_column, plain

Floats = NDArray[np.float64]

LON_NAMES = ("lon", "longitude", "x")
LAT_NAMES = ("lat", "latitude", "y")
GEOMETRY_NAMES = ("geometry", "geom", "wkb", "wkt")

POINT, BOX = 0, 1
_POINT_BYTES, _BOX_BYTES = 21, 93
_POINT_HEAD = np.array([1, 1, 0, 0, 0], np.uint8)
_BOX_HEAD = np.array([1, 3, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0], np.uint8)

# About 0.1 mm: a side that a reprojection left this straight is straight.
_STRAIGHT_DEG = 1e-9
_GEOGRAPHIC = "EPSG:4326"


@dataclass(frozen=True)
class PlaceColumns:
    """Where places are read from: ``geometry``, or ``lon`` and ``lat``."""

    geometry: str | None = None
    lon: str | None = None
    lat: str | None = None
    crs: pyproj.CRS | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(name for name in (self.geometry, self.lon, self.lat) if name is not None)


@dataclass(frozen=True)
class Places:
    """Points (kind 0) and boxes (kind 1), N of them.

    ``lon``, ``lat``: centres, degrees, shape (N,). ``boxes``: minlon, minlat, maxlon, maxlat,
    shape (N, 4), NaN for points.
    """

    kind: NDArray[np.int8]
    lon: Floats
    lat: Floats
    boxes: Floats


def place_columns(source: TableSource) -> PlaceColumns:
    """The location columns of ``source``; a geometry goes before lon and lat.

    Raises SpecError that says which names are looked for.
    """
    names = source.columns
    geometry = source.geometry or find_column(names, GEOMETRY_NAMES)
    if geometry is not None:
        return PlaceColumns(geometry=geometry, crs=source.crs)
    lon, lat = find_column(names, LON_NAMES), find_column(names, LAT_NAMES)
    if lon is None or lat is None:
        missing = " and ".join(what for what, found in (("longitude", lon), ("latitude", lat)) if found is None)
        raise SpecError(
            f"{source.name}: no column for the {missing}; looked for a geometry ({', '.join(GEOMETRY_NAMES)}) or "
            f"{'|'.join(LON_NAMES)} and {'|'.join(LAT_NAMES)}; found {', '.join(names) or 'no columns'}"
        )
    return PlaceColumns(lon=lon, lat=lat)


def read_places(batch: pa.RecordBatch, columns: PlaceColumns, *, problems: Problems) -> Places:
    """Places of ``batch``; what is wrong with single rows goes into ``problems``."""
    n = batch.num_rows
    kind, boxes = np.zeros(n, np.int8), np.full((n, 4), np.nan)
    if columns.geometry is None:
        lon = _read_degrees(batch, str(columns.lon), problems)
        lat = _read_degrees(batch, str(columns.lat), problems)
    else:
        shapes = plain(batch.column(columns.geometry))
        problems.add(np.asarray(shapes.is_null()), lambda i: "the geometry is missing")
        lon, lat = np.full(n, np.nan), np.full(n, np.nan)
        _read_shapes(shapes, columns, (kind, lon, lat, boxes), problems)
    _check_range(lon, "longitude", 180.0, problems)
    _check_range(lat, "latitude", 90.0, problems)
    for axis, what, limit in ((0, "longitude", 180.0), (1, "latitude", 90.0), (2, "longitude", 180.0),
                              (3, "latitude", 90.0)):  # fmt: skip
        _check_range(np.where(kind == BOX, boxes[:, axis], 0.0), what, limit, problems)
    # Adding zero turns -0.0 into 0.0: one place, one spelling.
    return Places(kind, lon + 0.0, lat + 0.0, boxes + 0.0)


def _check_range(degrees: Floats, what: str, limit: float, problems: Problems) -> None:
    bad = ~(np.abs(degrees) <= limit)
    problems.add(bad, lambda i: f"{what} must lie in -{limit:g}..{limit:g} degrees, got {degrees[i]:g}")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _read_degrees(batch: pa.RecordBatch, name: str, problems: Problems) -> Floats:
    """Numbers, or text that spells numbers; NaN where there is none."""
    raw = plain(batch.column(name))
    if _is_text(raw.type):
        numbers = _parse_numbers(raw)
    elif pa.types.is_integer(raw.type) or pa.types.is_floating(raw.type) or pa.types.is_decimal(raw.type) \
            or pa.types.is_null(raw.type):  # fmt: skip
        numbers = raw.cast(pa.float64(), safe=False)
    else:
        raise SpecError(f"column {name!r} must hold degrees as numbers, it is {raw.type}")
    problems.add(np.asarray(raw.is_null()), lambda i: f"{name} is missing")
    problems.add(np.asarray(numbers.is_null()), lambda i: f"{name} must be a number of degrees, got {raw[i].as_py()!r}")
    values: Floats = numbers.fill_null(np.nan).to_numpy(zero_copy_only=False)
    return values


def _parse_numbers(text: pa.Array) -> pa.Array:
    trimmed = pc.utf8_trim_whitespace(text.cast(pa.large_string()))
    spelled = pc.match_substring_regex(trimmed, r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$")
    # Arrow's parser knows no leading plus.
    return pc.utf8_ltrim(pc.if_else(spelled, trimmed, None), characters="+").cast(pa.float64())


# -- Geometries ------------------------------------------------------------------------------


def _read_shapes(
    shapes: pa.Array, columns: PlaceColumns, out: tuple[NDArray[np.int8], Floats, Floats, Floats], problems: Problems
) -> None:
    _, lon, lat, _ = out
    rest = problems.free.copy()
    if _is_binary(shapes.type):
        shapes = shapes.cast(pa.large_binary())
        point, lonlat = _plain_points(shapes)
        lon[point], lat[point] = _to_degrees(columns.crs)(lonlat).T
        rest &= ~point
    elif not (_is_text(shapes.type) or pa.types.is_null(shapes.type)):
        raise SpecError(f"column {columns.geometry!r} must hold geometries as WKB or WKT, it is {shapes.type}")
    rows = np.flatnonzero(rest)
    if len(rows):
        _read_with_shapely(shapes.take(pa.array(rows)), rows, columns.crs, out, problems)


def _plain_points(wkb: pa.Array) -> tuple[NDArray[np.bool_], Floats]:
    """Mask of the 2-D little-endian points and their coordinates, shape (M, 2), without shapely."""
    offsets = np.frombuffer(wkb.buffers()[1], np.int64)[wkb.offset : wkb.offset + len(wkb) + 1]
    data = np.frombuffer(wkb.buffers()[2] or b"", np.uint8)
    found = (np.diff(offsets) == _POINT_BYTES) & ~np.asarray(wkb.is_null())
    rows = data[offsets[:-1][found][:, None] + np.arange(_POINT_BYTES)]
    xy = np.ascontiguousarray(rows[:, len(_POINT_HEAD) :]).view("<f8").reshape(-1, 2)
    # An empty point is written as NaN, NaN: shapely tells it from a broken one.
    is_point = (rows[:, : len(_POINT_HEAD)] == _POINT_HEAD).all(axis=1) & ~np.isnan(xy).all(axis=1)
    found[found] = is_point
    return found, xy[is_point]


def _to_degrees(crs: pyproj.CRS | None) -> Callable[[Floats], Floats]:
    if crs is None:
        return lambda xy: xy
    transformer = pyproj.Transformer.from_crs(crs, _GEOGRAPHIC, always_xy=True)
    return lambda xy: np.stack(transformer.transform(xy[:, 0], xy[:, 1]), axis=-1)


def _read_with_shapely(
    shapes: pa.Array,
    rows: NDArray[np.int64],
    crs: pyproj.CRS | None,
    out: tuple[NDArray[np.int8], Floats, Floats, Floats],
    problems: Problems,
) -> None:
    kind, lon, lat, boxes = out
    encoded = np.array(shapes.to_pylist(), dtype=object)
    parse = shapely.from_wkt if _is_text(shapes.type) else shapely.from_wkb
    with np.errstate(all="ignore"):  # numbers beyond all floats are told as coordinates out of range
        found = _single_parts(shapely.force_2d(parse(encoded, on_invalid="ignore")))

    def add(bad: NDArray[np.bool_], reason: Callable[[int], str]) -> None:
        mask = np.zeros(len(kind), dtype=bool)
        mask[rows[bad]] = True
        problems.add(mask, lambda i: reason(int(np.searchsorted(rows, i))))

    add(shapely.is_missing(found), lambda i: "the geometry cannot be read as WKB or WKT")
    add(shapely.is_empty(found), lambda i: "the geometry is empty")
    found[~shapely.is_missing(found)] = shapely.transform(found[~shapely.is_missing(found)], _to_degrees(crs))
    types = shapely.get_type_id(found)
    bounds = shapely.bounds(found)
    is_point = (types == shapely.GeometryType.POINT) & ~shapely.is_empty(found)
    is_box = _axis_aligned(found, types, bounds)
    hint = " after reprojection to EPSG:4326" if crs is not None else ""
    flat = (types == shapely.GeometryType.POLYGON) & ~((bounds[:, 0] < bounds[:, 2]) & (bounds[:, 1] < bounds[:, 3]))
    add(flat, lambda i: "the polygon has no area")
    add(~is_point & ~is_box, lambda i: (
        f"only points and axis-aligned boxes are accepted, got a {found[i].geom_type} that is neither{hint}; "
        "give its bounds (a box) or its centroid (a point)"
    ))  # fmt: skip
    lon[rows[is_point]], lat[rows[is_point]] = shapely.get_coordinates(found[is_point]).T
    kind[rows[is_box]] = BOX
    boxes[rows[is_box]] = bounds[is_box]
    lon[rows[is_box]] = (bounds[is_box, 0] + bounds[is_box, 2]) / 2
    lat[rows[is_box]] = (bounds[is_box, 1] + bounds[is_box, 3]) / 2
    # What has a problem already gets some place, so that the range checks stay quiet about it.
    lon[~problems.free], lat[~problems.free] = 0.0, 0.0


def _single_parts(shapes: NDArray[np.object_]) -> NDArray[np.object_]:
    """A multi-geometry of one part as that part: some formats write nothing else."""
    multi = np.isin(shapely.get_type_id(shapes), (shapely.GeometryType.MULTIPOINT, shapely.GeometryType.MULTIPOLYGON))
    one = multi & (shapely.get_num_geometries(shapes) == 1)
    shapes[one] = shapely.get_geometry(shapes[one], 0)
    return shapes


def _axis_aligned(shapes: NDArray[np.object_], types: NDArray[np.int64], bounds: Floats) -> NDArray[np.bool_]:
    """Which shapes are boxes: polygons without holes, all vertices on the bounds, as large as the bounds."""
    box = (types == shapely.GeometryType.POLYGON) & (shapely.get_num_interior_rings(shapes) == 0)
    area = (bounds[:, 2] - bounds[:, 0]) * (bounds[:, 3] - bounds[:, 1])
    with np.errstate(invalid="ignore"):
        box &= (area > 0) & (np.abs(shapely.area(shapes) - area) <= 1e-6 * area)
    xy, owner = shapely.get_coordinates(shapes, return_index=True)
    off_x = np.minimum(np.abs(xy[:, 0] - bounds[owner, 0]), np.abs(xy[:, 0] - bounds[owner, 2])) > _STRAIGHT_DEG
    off_y = np.minimum(np.abs(xy[:, 1] - bounds[owner, 1]), np.abs(xy[:, 1] - bounds[owner, 3])) > _STRAIGHT_DEG
    inside: NDArray[np.bool_] = np.bincount(owner[off_x & off_y], minlength=len(shapes)).astype(bool)
    aligned: NDArray[np.bool_] = box & ~inside
    return aligned


def places_wkb(places: Places) -> pa.Array:
    """Places as 2-D little-endian WKB (pa.binary): a point, or a polygon from the south-west corner, counter-clockwise.

    A function of the coordinates alone, so that the input's format cannot change a byte.
    """
    n = len(places.kind)
    sizes = np.where(places.kind == BOX, _BOX_BYTES, _POINT_BYTES)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    data = np.empty(int(offsets[-1]), np.uint8)
    points, boxes = np.flatnonzero(places.kind == POINT), np.flatnonzero(places.kind == BOX)
    corners = np.stack([places.lon[points], places.lat[points]], axis=-1)
    rings = places.boxes[boxes][:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 1]]
    for rows, head, numbers in ((points, _POINT_HEAD, corners), (boxes, _BOX_HEAD, rings)):
        body = np.ascontiguousarray(numbers, "<f8").view(np.uint8).reshape(len(rows), 8 * numbers.shape[1])
        whole = np.concatenate([np.broadcast_to(head, (len(rows), len(head))), body], axis=1)
        data[offsets[rows][:, None] + np.arange(whole.shape[1])] = whole
    return pa.Array.from_buffers(pa.binary(), n, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
