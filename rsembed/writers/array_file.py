"""Named arrays in one file, ``.npz`` or NetCDF, streamed: what does not fit into memory waits in scratch files.

Equal arrays give equal bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rsembed.core.patch import Json
from rsembed.writers.netcdf import write_netcdf
from rsembed.writers.variables import Slices, Variable

_PIECE_BYTES = 1 << 20


def array_key(label: str) -> str:
    """``label`` as it stands in the names of arrays."""
    return re.sub(r"_+", "_", re.sub(r"[^0-9A-Za-z_]", "_", label)).strip("_") or "item"


@dataclass(frozen=True)
class NamedArray:
    """An array with a name for each axis; ``pieces`` follow each other along the first one."""

    key: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Iterable[NDArray[Any]]

    @classmethod
    def of(cls, key: str, dims: tuple[str, ...], array: NDArray[Any]) -> NamedArray:
        """An array that is in memory."""
        return cls(key, dims, tuple(array.shape), array.dtype, (array,))


def write_arrays(path: Path, arrays: Sequence[NamedArray], *, netcdf: bool, attributes: Mapping[str, Json]) -> None:
    """A new file ``path`` of ``arrays``. ``attributes``: of a NetCDF file; an npz has none."""
    if netcdf:
        variables = [Variable(a.key, a.dims, Slices(a.shape, a.dtype, a.pieces)) for a in _told_apart(arrays)]
        write_netcdf(path, variables, attributes=attributes)
        return
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for array in arrays:
            # A fixed date, so that the same arrays give the same bytes.
            with archive.open(zipfile.ZipInfo(f"{array.key}.npy"), "w", force_zip64=True) as member:
                kind = np.lib.format.dtype_to_descr(array.dtype)
                head = {"descr": kind, "fortran_order": False, "shape": array.shape}
                np.lib.format.write_array_header_1_0(member, head)
                for piece in array.pieces:
                    member.write(np.ascontiguousarray(piece).data)


def _told_apart(arrays: Sequence[NamedArray]) -> list[NamedArray]:
    """``arrays`` with their own names for axes that another one has in another length."""
    sizes: dict[str, int] = {}
    found = []
    for array in arrays:
        dims = []
        for name, size in zip(array.dims, array.shape, strict=True):
            own = name if sizes.get(name, size) == size else f"{name}__{array.key}"
            sizes[own] = size
            dims.append(own)
        found.append(replace(array, dims=tuple(dims)))
    return found


class SpilledArrays:
    """Arrays that are put together in scratch files below ``folder``, in any order, and then streamed.

    Memory holds no array but the one in hand. A context manager: nothing stays behind.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._tables: dict[str, RowsArray] = {}
        self._dims: dict[str, tuple[str, ...]] = {}
        self._single: dict[str, tuple[int, tuple[int, ...], np.dtype[Any]]] = {}
        self._loose = (folder / "loose.bin").open("w+b")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loose.close()
        (self._folder / "loose.bin").unlink(missing_ok=True)
        for table in self._tables.values():
            table.close()

    def add(self, key: str, dims: tuple[str, ...], array: NDArray[Any]) -> None:
        """A whole array."""
        self._single[key] = (self._loose.tell(), tuple(array.shape), array.dtype)
        self._dims[key] = dims
        self._loose.write(np.ascontiguousarray(array).data)

    def rows(self, key: str, dims: tuple[str, ...], shape: tuple[int, ...], dtype: DTypeLike) -> RowsArray:
        """An array to be filled row by row; the one of that name where there is one already."""
        if key not in self._tables:
            self._tables[key] = RowsArray(self._folder / f"rows-{len(self._tables)}.bin", shape, dtype)
            self._dims[key] = dims
        return self._tables[key]

    def sha1(self, key: str) -> str:
        """Hex sha1 of an array filled by rows: over dtype, shape and all bytes."""
        table = self._tables[key]
        digest = hashlib.sha1(f"{table.dtype}{table.shape}".encode())
        for piece in table.pieces():
            digest.update(piece.data)
        return digest.hexdigest()

    def arrays(self) -> list[NamedArray]:
        """All of them, sorted by name."""
        found = []
        for key in sorted(self._dims):
            dims = self._dims[key]
            if key in self._tables:
                table = self._tables[key]
                found.append(NamedArray(key, dims, table.shape, table.dtype, table.pieces()))
            else:
                _, shape, dtype = self._single[key]
                found.append(NamedArray(key, dims, shape, dtype, self._single_piece(key)))
        return found

    def _single_piece(self, key: str) -> Iterator[NDArray[Any]]:
        offset, shape, dtype = self._single[key]
        self._loose.flush()
        with (self._folder / "loose.bin").open("rb") as source:
            source.seek(offset)
            count = int(np.prod(shape, dtype=np.int64))
            yield np.fromfile(source, dtype, count).reshape(shape)


class RowsArray:
    """An array of floats in a file, filled row by row in any order; rows that nobody writes are NaN."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.path = path
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self._written = np.zeros(shape[0], np.bool_)
        # Written, not mapped: pages of a mapped file would count as this process's memory.
        self._file = path.open("w+b", buffering=0)

    def __setitem__(self, row: int, values: NDArray[Any]) -> None:
        data = np.ascontiguousarray(values, self.dtype)
        if data.shape != self.shape[1:]:
            raise ValueError(f"a row of shape {self.shape[1:]} was expected, got {data.shape}")
        _write_at(self._file, memoryview(data.tobytes()), row * self._row_bytes)
        self._written[row] = True

    def pieces(self) -> Iterator[NDArray[Any]]:
        """The rows in order, a few at a time."""
        step = max(1, _PIECE_BYTES // max(1, self._row_bytes))
        for first in range(0, self.shape[0], step):
            count = min(step, self.shape[0] - first)
            piece = np.full((count, *self.shape[1:]), np.nan, self.dtype)
            for row in np.flatnonzero(self._written[first : first + count]):
                data = os.pread(self._file.fileno(), self._row_bytes, (first + int(row)) * self._row_bytes)
                piece[row] = np.frombuffer(data, self.dtype).reshape(self.shape[1:])
            yield piece

    def close(self) -> None:
        """Close and remove the file."""
        self._file.close()
        self.path.unlink(missing_ok=True)


def _write_at(file: BinaryIO, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(file.fileno(), data, offset)  # a full disk may take a part first
        data, offset = data[written:], offset + written
