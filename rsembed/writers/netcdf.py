"""NetCDF-4 files, written block by block; equal content gives equal bytes.

Never are two threads inside HDF5: whoever reads such files beside a writer takes :data:`HDF5_LOCK` as well.
What is handed over as slices is cut into blocks of the file's own chunks, so that neither bytes nor memory depend on
how long the slices are.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsembed.core.errors import SpecError
from rsembed.core.patch import Json
from rsembed.writers.chunks import chunk_shape, row_blocks
from rsembed.writers.variables import Encoding, Slices, Variable, dimension_sizes, plain_attributes

if TYPE_CHECKING:
    import h5netcdf

__all__ = ["HDF5_LOCK", "Slices", "Variable", "write_netcdf"]

HDF5_LOCK = threading.RLock()
"""Held around every call into HDF5."""

_CHUNK_BYTES = 1 << 20
_COMPRESS_FROM = 4096  # bytes; below that a filter costs more than it saves


def write_netcdf(
    path: Path, variables: Sequence[Variable], *, attributes: Mapping[str, Json], compress: bool = True
) -> None:
    """A new NetCDF-4 file ``path`` of ``variables``, in their order; nothing is left of it when something fails.

    ``compress``: deflate with byte shuffling, which every NetCDF-4 reader knows. The format has no float16: it becomes
    float32. Raises ExportError for a dimension of two lengths and for slices that do not add up, SpecError without
    h5netcdf.
    """
    try:
        import h5netcdf
        import h5py  # noqa: F401 - h5netcdf can be there without it, and then fails late
    except ImportError as exc:
        raise SpecError(f"NetCDF files need {exc.name}: pip install 'rsembed[grids]'") from exc
    sizes = dimension_sizes(variables)
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


def _write(file: h5netcdf.File, variable: Variable, *, compress: bool) -> None:
    encoding, shape = variable.encoding(), variable.shape
    if encoding.dtype == np.float16:
        encoding = Encoding.of(np.dtype(np.float32), variable.fill)
    options: dict[str, Any] = {}
    chunk = chunk_shape(shape, encoding.dtype.itemsize, _CHUNK_BYTES)
    if math.prod(shape) * encoding.dtype.itemsize >= _COMPRESS_FROM and shape and not encoding.is_text:
        options["chunks"] = chunk
        if compress:
            options |= {"compression": "gzip", "compression_opts": 4, "shuffle": True}
    with HDF5_LOCK:
        stored = file.create_variable(
            variable.name, variable.dims, _stored_as(encoding), fillvalue=encoding.fill, **options
        )
        _set_attributes(stored, {**encoding.attributes, **variable.attributes})
    if not shape:
        with HDF5_LOCK:
            for value in variable.pieces():
                stored[...] = encoding(value)
        return
    first = 0
    for block in row_blocks(variable.name, variable.pieces(), shape, chunk[0]):
        with HDF5_LOCK:
            stored[first : first + len(block)] = encoding(block)
        first += len(block)


def _stored_as(encoding: Encoding) -> Any:
    """What h5netcdf is told of the type."""
    import h5py

    return h5py.string_dtype() if encoding.is_text else encoding.dtype


def _set_attributes(holder: Any, attributes: Mapping[str, Json]) -> None:
    for name, value in plain_attributes(attributes).items():
        holder.attrs[name] = np.asarray(value) if isinstance(value, list) and not isinstance(value[0], str) else value
