"""Embeddings with names on their axes and places on their cells; the owner of xarray.

A map has the dimensions ``(dim, y, x)``, cell centres as coordinates, and the coordinate ``spatial_ref``, CF's grid
mapping with the reference system as WKT and GDAL's GeoTransform: where rioxarray, GDAL and QGIS look for them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
from numpy.typing import NDArray

from rsembed.core.embedding import CellGrid, Embedding
from rsembed.core.errors import ExportError, SpecError
from rsembed.core.patch import Json
from rsembed.writers.geotiff import write_geotiff
from rsembed.writers.netcdf import write_netcdf
from rsembed.writers.store import store_errors
from rsembed.writers.variables import Variable, plain_attributes
from rsembed.writers.zarr_format import ZarrGroup

if TYPE_CHECKING:
    import xarray

GRID_MAPPING = "spatial_ref"
_CONVENTIONS: Mapping[str, Json] = {"Conventions": "CF-1.10"}


def embedding_to_xarray(embedding: Embedding) -> xarray.DataArray:
    """``embedding`` as a DataArray of the dimensions ``(dim,)`` or ``(dim, y, x)``; its meta as attributes.

    What is nested in the meta is JSON text there, as files can hold it. Raises SpecError without xarray.
    """
    return labelled_array(embedding.data, cells=embedding.cells, attributes=embedding.meta)


def labelled_array(
    data: NDArray[Any], *, cells: CellGrid | None = None, attributes: Mapping[str, Json] | None = None
) -> xarray.DataArray:
    """A vector ``(D,)`` or map ``(D, H, W)`` as a DataArray; ``cells`` say where a map lies (None: not known)."""
    try:
        import xarray
    except ImportError as exc:
        raise SpecError("labelled arrays need xarray: pip install 'rsembed[grids]'") from exc
    embedding, *coordinates = _variables(data, cells, attributes or {})
    found = xarray.DataArray(
        data,
        dims=embedding.dims,
        name=embedding.name,
        coords={each.name: (each.dims, np.asarray(each.values), dict(each.attributes)) for each in coordinates},
        attrs={name: value for name, value in plain_attributes(embedding.attributes).items() if name != "grid_mapping"},
    )
    if cells is not None:
        found.encoding["grid_mapping"] = GRID_MAPPING
    return found


def grid_mapping(epsg: int) -> dict[str, Json]:
    """CF's attributes of a reference system, with its WKT under the names that readers look for."""
    crs = pyproj.CRS.from_epsg(epsg)
    return {**plain_attributes(crs.to_cf()), "spatial_ref": crs.to_wkt(), "epsg": epsg}


def axis_attributes(epsg: int) -> tuple[dict[str, Json], dict[str, Json]]:
    """CF's attributes of the coordinates x and y in EPSG:``epsg``."""
    if pyproj.CRS.from_epsg(epsg).is_geographic:
        return (
            {"axis": "X", "standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"},
            {"axis": "Y", "standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"},
        )
    return (
        {"axis": "X", "standard_name": "projection_x_coordinate", "long_name": "easting", "units": "m"},
        {"axis": "Y", "standard_name": "projection_y_coordinate", "long_name": "northing", "units": "m"},
    )


def _variables(data: NDArray[Any], cells: CellGrid | None, attributes: Mapping[str, Json]) -> list[Variable]:
    """``embedding`` and its coordinates."""
    if data.ndim not in (1, 3):
        raise SpecError(f"an embedding is (D,) or (D, H, W), got an array of shape {data.shape}")
    if data.ndim == 1:
        return [Variable("embedding", ("dim",), data, attributes)]
    if cells is None:
        return [Variable("embedding", ("dim", "y", "x"), data, attributes)]
    if (cells.height, cells.width) != data.shape[1:]:
        raise SpecError(f"a map of shape {data.shape} was given with {cells.height} x {cells.width} cells")
    a, b, c, d, e, f = cells.transform
    mapping = {**grid_mapping(cells.epsg), "GeoTransform": " ".join(map(repr, (c, a, b, f, d, e)))}
    x_attributes, y_attributes = axis_attributes(cells.epsg)
    return [
        Variable("embedding", ("dim", "y", "x"), data, {**attributes, "grid_mapping": GRID_MAPPING}),
        Variable("y", ("y",), cells.y, y_attributes),
        Variable("x", ("x",), cells.x, x_attributes),
        Variable(GRID_MAPPING, (), np.array(0, dtype=np.int32), mapping),
    ]


# Files


def save_embedding(embedding: Embedding, path: str | Path) -> Path:
    """Save ``embedding`` to ``path``, in the format that its ending names (see :data:`ENDINGS`); returns the path.

    What stood there is replaced once the new file is whole; a missing folder is made. Raises SpecError for another
    ending or a missing package, ExportError for what a format cannot hold, StoreError when the disk refuses.
    """
    target = Path(path)
    check_saving(target, maps=embedding.data.ndim == 3)
    ending = target.suffix.lower()
    if ending in _GEOTIFF and embedding.cells is None:
        raise ExportError(f"{target.name}: it is not known where this map lies; save it as .npz or .nc")
    folder = target.parent
    temporary = folder / f".{target.name}.{uuid.uuid4().hex}.tmp"
    with store_errors(str(target)):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _WRITERS[ending](temporary, embedding)
            _put_in_place(temporary, target)
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
            temporary.unlink(missing_ok=True)
    return target


def check_saving(target: Path, *, maps: bool) -> None:
    """Raise what :func:`save_embedding` would raise of a vector or map, before there is one."""
    ending = target.suffix.lower()
    if ending not in _WRITERS:
        raise SpecError(f"{target.name!r} says no format that an embedding can have: end it in {', '.join(ENDINGS)}")
    if ending in _GEOTIFF and not maps:
        raise ExportError(
            f"{target.name}: a GeoTIFF holds maps, a pooled embedding is a vector; ask for output=OutputSpec.grid() "
            "(--output grid), or save it as .npz or .nc"
        )
    for module, extra in _NEEDED.get(ending, ()):
        if importlib.util.find_spec(module) is None:
            raise SpecError(f"{ending} files need {module}: pip install 'rsembed[{extra}]'")
    _check_taken(target, is_folder=ending == ".zarr")


def _check_taken(target: Path, *, is_folder: bool) -> None:
    """Refuse to put a file in a folder's place, or a Zarr store in that of a folder that is none."""
    if target.is_dir() and not (is_folder and ((target / "zarr.json").is_file() or not any(target.iterdir()))):
        raise ExportError(f"{target} is a folder with something else in it; choose another name")
    if is_folder and target.is_file():
        raise ExportError(f"{target} is a file, and a Zarr store a folder; choose another name")


def _put_in_place(temporary: Path, target: Path) -> None:
    if target.is_dir():
        old = temporary.with_suffix(".old")
        target.rename(old)
        try:
            temporary.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old)
    else:
        os.replace(temporary, target)


def _save_npy(path: Path, embedding: Embedding) -> None:
    with path.open("wb") as file:
        np.save(file, embedding.data, allow_pickle=False)


def _save_npz(path: Path, embedding: Embedding) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, embedding=embedding.data, meta=np.array(json.dumps(dict(embedding.meta))))


def _save_netcdf(path: Path, embedding: Embedding) -> None:
    write_netcdf(path, _variables(embedding.data, embedding.cells, embedding.meta), attributes=_CONVENTIONS)


def _save_zarr(path: Path, embedding: Embedding) -> None:
    group = ZarrGroup(partial(_put, path))
    for variable in _variables(embedding.data, embedding.cells, embedding.meta):
        group.write(variable)
    group.close(_CONVENTIONS)


def _put(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _save_geotiff(path: Path, embedding: Embedding) -> None:
    assert embedding.cells is not None  # save_embedding has looked
    write_geotiff(path, embedding.data, embedding.cells, tags=geotiff_tags(embedding.meta))


def geotiff_tags(meta: Mapping[str, Any]) -> dict[str, str]:
    """What a GeoTIFF says of an embedding: model, recipe, window, licence, attribution, as far as ``meta`` knows."""
    window, licence = meta.get("temporal") or {}, meta.get("licence") or {}
    facts: dict[str, Json] = {
        "model": meta.get("model"),
        "options": meta.get("options"),
        "recipe": meta.get("recipe"),
        "window": f"{window['start']}/{window['end']}" if {"start", "end"} <= set(window) else None,
        "licence": licence.get("name"),
        "attribution": "; ".join(meta.get("attribution") or ()) or None,
    }
    return {f"rsembed_{name}": str(value) for name, value in plain_attributes(facts).items()}


_WRITERS: dict[str, Callable[[Path, Embedding], None]] = {
    ".npy": _save_npy,
    ".npz": _save_npz,
    ".nc": _save_netcdf,
    ".zarr": _save_zarr,
    ".tif": _save_geotiff,
    ".tiff": _save_geotiff,
}
_GEOTIFF = (".tif", ".tiff")
_NEEDED = {
    ".nc": (("h5netcdf", "grids"), ("h5py", "grids")),
    ".tif": (("rasterio", "stac"),),
    ".tiff": (("rasterio", "stac"),),
}
ENDINGS = tuple(_WRITERS)
"""Of files an embedding can be saved to: numbers alone, with meta, NetCDF, Zarr (a folder), GeoTIFF (maps)."""
