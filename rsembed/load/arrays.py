"""Single arrays out of a file of many, ``.npz`` or NetCDF."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import SpecError
from rsembed.writers.netcdf import HDF5_LOCK

NPZ, NETCDF = (".npz",), (".nc", ".netcdf")


def read_arrays(file: Path, keys: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Those of ``keys`` that ``file`` has; ValueError where it cannot be read, SpecError without xarray."""
    wanted = list(keys)
    try:
        return _from_netcdf(file, wanted) if file.suffix.lower() in NETCDF else _from_npz(file, wanted)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as exc:
        if isinstance(exc, SpecError):
            raise
        raise ValueError(f"{file} cannot be read ({exc}); run the same export again to mend it") from exc


def _from_npz(file: Path, keys: list[str]) -> dict[str, NDArray[Any]]:
    with np.load(file, allow_pickle=False) as found:
        return {key: found[key] for key in keys if key in found.files}


def _from_netcdf(file: Path, keys: list[str]) -> dict[str, NDArray[Any]]:
    try:
        import xarray
    except ImportError as exc:
        raise SpecError("NetCDF files need xarray and h5netcdf: pip install 'rsembed[grids]'") from exc
    with HDF5_LOCK, xarray.open_dataset(file) as found:
        return {key: np.asarray(found[key].values) for key in keys if key in found.data_vars}
