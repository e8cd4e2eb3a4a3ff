"""One ``.npz`` of a whole dataset, rows in the order of the input, in flat memory."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rsembed.writers.parts import Parts, fixed_lists
from rsembed.writers.store import BlobStore, store_errors

_SCALARS = ("id", "row", "seq", "start", "end", "status", "lon", "lat", "valid_fraction", "n_images")
_OF_MAPS = ("epsg", "grid_shape", "grid_transform")


def write_npz(store: BlobStore, parts: Sequence[str], packed: Path) -> None:
    """The dataset in ``parts`` of ``store`` as a new file ``packed``.

    Arrays ``id row seq start end status lon lat valid_fraction n_images`` (N,) and ``embedding``
    (N, D); of maps (N, D, H, W), smaller ones filled up with NaN to the largest, with ``epsg`` (N,),
    ``grid_shape`` (N, 3) and ``grid_transform`` (N, 6). A row without an embedding is NaN. The vectors pass through a
    file, so memory holds a batch of them and the short columns.
    """
    dataset = Parts(store, tuple(parts))
    maps = "grid_shape" in dataset.schema().names
    names = (*_SCALARS, *(_OF_MAPS if maps else ()))
    tables = [_read(store, part, names) for part in parts]
    scalars = {name: np.concatenate([_column(table, name) for table in tables]) for name in names}
    del tables
    order = np.lexsort((scalars["seq"], scalars["row"]))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    store.scratch.mkdir(parents=True, exist_ok=True)
    with store_errors(store.url), tempfile.TemporaryDirectory(dir=store.scratch) as folder:
        spill = Path(folder) / "embedding.npy"
        _spill_vectors(dataset, place, spill)
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, values in scalars.items():
                # A fixed date, so that the same run gives the same bytes.
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, values[order], allow_pickle=False)
            last = zipfile.ZipInfo("embedding.npy")
            with spill.open("rb") as source, archive.open(last, "w", force_zip64=True) as member:
                shutil.copyfileobj(source, member, 1 << 20)


def _spill_vectors(dataset: Parts, place: NDArray[np.int64], spill: Path) -> None:
    """The embeddings of ``dataset``, each row at its ``place``, as the ``.npy`` file ``spill``."""
    found = dataset.embedding()
    if 0 in found.shape:  # no row has a map; an empty file cannot be mapped
        np.save(spill, np.zeros(found.shape, dtype=found.dtype), allow_pickle=False)
        return
    vectors = np.lib.format.open_memmap(spill, mode="w+", dtype=np.dtype(found.dtype), shape=found.shape)
    first = 0
    for piece in found.pieces:
        vectors[place[first : first + len(piece)]] = piece
        first += len(piece)
    vectors.flush()


def _read(store: BlobStore, part: str, names: Sequence[str]) -> pa.Table:
    with store.open(part) as handle:
        return pq.read_table(handle, columns=list(names))


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    if pa.types.is_fixed_size_list(table.schema.field(name).type):
        found = fixed_lists(table.column(name).combine_chunks(), 0 if name == "grid_shape" else np.nan)
        return found.astype(np.int32) if name == "grid_shape" else found
    column = table.column(name).to_numpy(zero_copy_only=False)
    plain: NDArray[Any] = column.astype(str) if column.dtype == object else column
    return plain
