"""Read back the files that ``Embedding.save`` writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rsembed.core.embedding import Embedding
from rsembed.core.errors import SpecError


def load_embedding(path: str | Path) -> Embedding:
    """The embedding in a file that :meth:`Embedding.save` or ``rsembed embed --out`` wrote; the ending says how.

    .npy holds numbers alone; .npz, .json, .nc and .zarr also meta; .tif the place, and what its tags tell. Raises
    SpecError for a path that is not there, another ending, a file that holds no embedding, or a missing package.
    """
    target = Path(path)
    ending = target.suffix.lower()
    if not target.exists():
        raise SpecError(f"there is no embedding at {target}")
    if ending not in _READERS:
        raise SpecError(f"{target.name!r} is no file of an embedding: expected one that ends in {', '.join(_READERS)}")
    try:
        data, meta = _READERS[ending](target)
    except ImportError as exc:
        extra = "stac" if ending in (".tif", ".tiff") else "grids"
        raise SpecError(f"reading {target.name} needs {exc.name}: pip install 'rsembed[{extra}]'") from exc
    except (KeyError, ValueError, OSError, TypeError, EOFError) as exc:
        raise SpecError(f"{target} is damaged or holds no embedding: {exc}") from exc
    if data.ndim not in (1, 3):
        raise SpecError(f"{target} holds an array of shape {data.shape}; an embedding is (D,) or (D, H, W)")
    return Embedding(np.ascontiguousarray(data, dtype=np.float32), meta)


_LISTS = ("frame_dates", "scene_ids")
_Read = tuple[np.ndarray[Any, Any], dict[str, Any]]


def _read_npy(path: Path) -> _Read:
    return np.load(path, allow_pickle=False), {}


def _read_npz(path: Path) -> _Read:
    with np.load(path, allow_pickle=False) as held:
        if not isinstance(held, Mapping) or "embedding" not in held:
            raise ValueError("it has no array 'embedding'")
        return held["embedding"], json.loads(str(held["meta"])) if "meta" in held else {}


def _read_json(path: Path) -> _Read:
    held = json.loads(path.read_text(encoding="utf-8"))
    return np.asarray(held["data"], dtype=np.float32), dict(held.get("meta", {}))


def _read_netcdf(path: Path) -> _Read:
    import xarray

    with xarray.open_dataset(path, engine="h5netcdf") as held:
        return _of_dataset(held)


def _read_zarr(path: Path) -> _Read:
    import xarray

    with xarray.open_zarr(path, consolidated=False) as held:
        return _of_dataset(held)


def _of_dataset(held: Any) -> _Read:
    array = held["embedding"]
    meta = {str(name): _unpacked(value) for name, value in array.attrs.items() if name != "grid_mapping"}
    # NetCDF has no list of one text: it comes back as the text.
    meta |= {name: [meta[name]] for name in _LISTS if isinstance(meta.get(name), str)}
    mapping = held.variables.get("spatial_ref")
    if mapping is not None and "GeoTransform" in mapping.attrs:
        c, a, b, f, d, e = (float(part) for part in str(mapping.attrs["GeoTransform"]).split())
        meta["grid"] = {"epsg": int(mapping.attrs["epsg"]), "transform": [a, b, c, d, e, f]}
    return array.values, meta


def _read_geotiff(path: Path) -> _Read:
    import rasterio

    with rasterio.open(path) as held:
        data = held.read(masked=False)
        ours = {key: value for key, value in held.tags().items() if key.startswith("rsembed_")}
        tags = {key.removeprefix("rsembed_"): _unpacked(value) for key, value in ours.items()}
        epsg = held.crs.to_epsg() if held.crs else None
        grid = {"epsg": epsg, "transform": list(held.transform)[:6]} if epsg else None
    meta = {name: value for name, value in tags.items() if name != "window"} | {"grid": grid}
    start, _, end = str(tags.get("window", "")).partition("/")
    return data, meta | ({"temporal": {"start": start, "end": end}} if end else {})


def _unpacked(value: Any) -> Any:
    """An attribute as it was before it became one a file can hold: JSON text as what it says."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


_READERS: dict[str, Callable[[Path], _Read]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".json": _read_json,
    ".nc": _read_netcdf,
    ".zarr": _read_zarr,
    ".tif": _read_geotiff,
    ".tiff": _read_geotiff,
}
ENDINGS = tuple(_READERS)
"""Of the files that can be read."""
