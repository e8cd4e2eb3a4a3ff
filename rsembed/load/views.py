"""One model's embeddings as what other libraries work with: Arrow tables, xarray, GeoPandas."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from rsembed.core.errors import SpecError

if TYPE_CHECKING:
    import geopandas
    import xarray

    from rsembed.load.result import ItemPlaces, ModelResult


def geometries(places: ItemPlaces) -> NDArray[np.object_]:
    """Points and boxes of the items, in degrees; None where a place is not known."""
    found = np.empty(len(places.spatials), dtype=object)
    for i, spatial in enumerate(places.spatials):
        if {"minlon", "minlat", "maxlon", "maxlat"} <= set(spatial):
            found[i] = shapely.box(spatial["minlon"], spatial["minlat"], spatial["maxlon"], spatial["maxlat"])
        elif {"lon", "lat"} <= set(spatial):
            found[i] = shapely.Point(spatial["lon"], spatial["lat"])
    return found


def _days(places: ItemPlaces) -> tuple[NDArray[np.datetime64], NDArray[np.datetime64]]:
    """First days and days after the last ones, NaT where they are not known."""
    none = (None, None)
    bounds = [window or none for window in places.windows]
    start, end = (np.array([each[k] or "NaT" for each in bounds], dtype="datetime64[D]") for k in (0, 1))
    return start, end


def model_table(model: ModelResult, columns: list[str] | None) -> pa.Table:
    """Rows of a model in a layout that is no dataset."""
    start, end = _days(model.places)
    shapes = geometries(model.places)
    centres = shapely.centroid(shapes)
    found = {
        "id": pa.array(list(model.places.ids), pa.string()),
        "start": pa.array(start, from_pandas=True),
        "end": pa.array(end, from_pandas=True),
        "status": pa.array(list(model.data.statuses()), pa.string()),
        "lon": pa.array(shapely.get_x(centres), from_pandas=True),
        "lat": pa.array(shapely.get_y(centres), from_pandas=True),
        "geometry": pa.array(shapely.to_wkb(shapes), pa.binary()),
    }
    if columns is None or "embedding" in columns:
        vectors = _vectors(model)
        found["embedding"] = pa.array([None if each is None else each.ravel() for each in vectors])
    table = pa.table(found)
    return table if columns is None else table.select(columns)


def _vectors(model: ModelResult) -> list[NDArray[Any] | None]:
    """Each item's embedding, None where there is none."""
    whole = model.embeddings
    if whole is None:
        return [None] * model.n_items
    if whole.dtype == object:
        return list(whole)
    absent = np.isnan(whole.reshape(len(whole), -1)).all(axis=1)
    return [None if absent[i] else whole[i] for i in range(len(whole))]


def model_xarray(model: ModelResult) -> xarray.DataArray:
    """See :meth:`ModelResult.to_xarray`."""
    try:
        import xarray
    except ImportError as exc:
        raise SpecError("labelled arrays need xarray: pip install 'rsembed[grids]'") from exc
    values, attributes = _padded(model)
    start, end = _days(model.places)
    centres = shapely.centroid(geometries(model.places))
    return xarray.DataArray(
        values,
        dims=("item", "dim", "y", "x")[: values.ndim],
        name="embedding",
        coords={
            "id": ("item", np.array(list(model.places.ids), dtype=str)),
            "status": ("item", np.array(list(model.data.statuses()), dtype=str)),
            "lon": ("item", shapely.get_x(centres)),
            "lat": ("item", shapely.get_y(centres)),
            "start": ("item", start.astype("datetime64[ns]")),
            "end": ("item", end.astype("datetime64[ns]")),
        },
        attrs={"model": model.model, "label": model.name, **attributes},
    )


def _padded(model: ModelResult) -> tuple[NDArray[np.float32], dict[str, str]]:
    """All embeddings as one array, and what has to be said of it."""
    whole = model.embedding()
    if whole.dtype != object:
        return whole, {}
    there = [each for each in whole if each is not None]
    shape = tuple(max(each.shape[axis] for each in there) for axis in range(there[0].ndim))
    values = np.full((len(whole), *shape), np.nan, np.float32)
    for i, each in enumerate(whole):
        if each is not None:
            values[i][tuple(slice(size) for size in each.shape)] = each
    told = f"maps of different shapes are padded with NaN at their ends to {shape[-2]} x {shape[-1]} cells"
    warnings.warn(f"{model.name}: {told}", UserWarning, stacklevel=4)
    return values, {"padded": told}


def model_frame(model: ModelResult) -> geopandas.GeoDataFrame:
    """See :meth:`ModelResult.to_geopandas`."""
    try:
        import geopandas
    except ImportError as exc:
        raise SpecError("GeoDataFrames need geopandas: pip install 'rsembed[formats]'") from exc
    start, end = _days(model.places)
    vectors = np.empty(model.n_items, dtype=object)
    vectors[:] = _vectors(model)
    columns = {
        "id": list(model.places.ids),
        "status": list(model.data.statuses()),
        "start": start.astype("datetime64[s]"),
        "end": end.astype("datetime64[s]"),
        "embedding": vectors,
    }
    return geopandas.GeoDataFrame(columns, geometry=geometries(model.places), crs="EPSG:4326")
