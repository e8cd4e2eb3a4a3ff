"""NetCDF-4 files, written block by block; equal content gives equal bytes.

Never are two threads inside HDF5: whoever reads such files beside a writer takes :data:`HDF5_LOCK` as well.
What is handed over as slices is cut into blocks of the file's own chunks, so that neither bytes nor memory depend on
how long the slices are.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rsembed.core.errors import ExportError, SpecError
from rsembed.core.patch import Json
from rsembed.writers.chunks import chunk_shape, row_blocks

if TYPE_CHECKING:
    import h5netcdf

HDF5_LOCK = threading.RLock()
"""Held around every call into HDF5."""

_CHUNK_BYTES = 1 << 20
_COMPRESS_FROM = 4096  # bytes; below that a filter costs more than it saves
_NO_DAY = np.iinfo(np.int32).min
_NO_SECOND = np.iinfo(np.int64).min
_KINDS = "biufUOM"


@dataclass(frozen=True)
class Slices:
    """Values that do not fit into memory: pieces that follow each other along the first dimension.

    Together they have ``shape``; each is cast to ``dtype`` (numbers or datetime64).
    """

    shape: tuple[int, ...]
    dtype: DTypeLike
    pieces: Iterable[NDArray[Any]]


@dataclass(frozen=True)
class Variable:
    """One variable of a file: ``dims`` name its axes; ``values`` are there, or come as :class:`Slices`.

    Numbers, truth values (stored as int8), text (U or objects of str) and datetime64 (stored as days or
    seconds since 1970, NaT as the fill value) can be stored; float16 becomes float32.
    ``fill``: what stands for "no value"; NaN for floats unless given. ``attributes``: text, numbers, or lists of
    either; None is left out, anything else becomes JSON text.
    """

    name: str
    dims: tuple[str, ...]
    values: NDArray[Any] | Slices
    attributes: Mapping[str, Json] = field(default_factory=dict)
    fill: float | None = None


def write_netcdf(
    path: Path, variables: Sequence[Variable], *, attributes: Mapping[str, Json], compress: bool = True
) -> None:
    """A new NetCDF-4 file ``path`` of ``variables``, in their order; nothing is left of it when something fails.

    ``compress``: deflate with byte shuffling, which every NetCDF-4 reader knows. Raises ExportError for a dimension
    of two lengths and for slices that do not add up, SpecError without h5netcdf.
    """
    try:
        import h5netcdf
        import h5py  # noqa: F401 - h5netcdf can be there without it, and then fails late
    except ImportError as exc:
        raise SpecError(f"NetCDF files need {exc.name}: pip install 'rsembed[grids]'") from exc
    sizes = _dimension_sizes(variables)
    try:
        with HDF5_LOCK:
            file = h5netcdf.File(path, "w")
        try:
            with HDF5_LOCK:
                file.dimensions = sizes
                _set_attributes(file, attributes)
            for variable in variables:
                _write(file, variable, compress=compress)
        finally:
            with HDF5_LOCK:
                file.close()
    except BaseException:  # whatever stopped it, half a file must not stay
        path.unlink(missing_ok=True)
        raise


def _dimension_sizes(variables: Sequence[Variable]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for variable in variables:
        shape = tuple(variable.values.shape)
        if len(shape) != len(variable.dims):
            raise ExportError(f"{variable.name} has the dimensions {variable.dims}, but values of shape {shape}")
        for name, size in zip(variable.dims, shape, strict=True):
            if sizes.setdefault(name, size) != size:
                raise ExportError(f"dimension {name} is {sizes[name]} long, and {size} in {variable.name}")
    return sizes


def _write(file: h5netcdf.File, variable: Variable, *, compress: bool) -> None:
    values = variable.values
    dtype = np.dtype(values.dtype)
    if dtype.kind not in _KINDS:
        raise ExportError(f"{variable.name} is {dtype}: numbers, truth values, text and dates can be written")
    encoded = _Encoded.of(dtype, variable.fill)
    attributes = {**encoded.attributes, **variable.attributes}
    shape = tuple(values.shape)
    options: dict[str, Any] = {}
    chunk = chunk_shape(shape, encoded.dtype.itemsize, _CHUNK_BYTES)
    if math.prod(shape) * encoded.dtype.itemsize >= _COMPRESS_FROM and shape and not encoded.is_text:
        options["chunks"] = chunk
        if compress:
            options |= {"compression": "gzip", "compression_opts": 4, "shuffle": True}
    with HDF5_LOCK:
        stored = file.create_variable(
            variable.name, variable.dims, encoded.stored_as(), fillvalue=encoded.fill, **options
        )
        _set_attributes(stored, attributes)
    if not shape:
        with HDF5_LOCK:
            stored[...] = encoded(np.asarray(values))
        return
    pieces = values.pieces if isinstance(values, Slices) else [values]
    first = 0
    for block in row_blocks(variable.name, pieces, shape, chunk[0]):
        with HDF5_LOCK:
            stored[first : first + len(block)] = encoded(block)
        first += len(block)


@dataclass(frozen=True)
class _Encoded:
    """How values of a kind are stored: ``dtype`` on disk, fill value, and the attributes that say so."""

    dtype: np.dtype[Any]
    fill: Any
    attributes: Mapping[str, Json]
    is_text: bool = False

    @classmethod
    def of(cls, dtype: np.dtype[Any], fill: float | None) -> _Encoded:
        """The encoding for values of ``dtype``."""
        if dtype.kind == "M":
            days = np.datetime_data(dtype)[0] == "D"
            attributes: dict[str, Json] = {
                "units": f"{'days' if days else 'seconds'} since 1970-01-01",
                "calendar": "proleptic_gregorian",
            }
            stored = np.dtype(np.int32 if days else np.int64)
            return cls(stored, stored.type(_NO_DAY if days else _NO_SECOND), attributes)
        if dtype.kind in "UO":
            return cls(np.dtype(object), None, {}, is_text=True)
        if dtype.kind == "b":
            return cls(np.dtype(np.int8), None, {"dtype": "bool"})  # as xarray marks them
        if dtype.kind == "f":
            stored = np.dtype(np.float32) if dtype.itemsize < 4 else dtype
            return cls(stored, stored.type(np.nan if fill is None else fill), {})
        return cls(dtype, None if fill is None else dtype.type(fill), {})

    def stored_as(self) -> Any:
        """What h5netcdf is told."""
        import h5py

        return h5py.string_dtype() if self.is_text else self.dtype

    def __call__(self, values: NDArray[Any]) -> NDArray[Any]:
        if self.is_text:
            return values.astype(object)
        if values.dtype.kind == "M":
            unit, none = ("D", _NO_DAY) if self.dtype.itemsize == 4 else ("s", _NO_SECOND)
            numbers = values.astype(f"datetime64[{unit}]").astype(np.int64)
            return np.where(np.isnat(values), none, numbers).astype(self.dtype)
        return values.astype(self.dtype, copy=False)


def _set_attributes(holder: Any, attributes: Mapping[str, Json]) -> None:
    for name, value in attributes.items():
        if value is not None:
            holder.attrs[name] = netcdf_attribute(value)


def netcdf_attribute(value: Json) -> str | int | float | list[str] | NDArray[Any]:
    """``value`` as an attribute can hold it: text, a number, a list of either; all else as JSON text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)) and value:
        if all(isinstance(item, str) for item in value):
            return [str(item) for item in value]
        if all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in value):
            return np.asarray(value)
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
