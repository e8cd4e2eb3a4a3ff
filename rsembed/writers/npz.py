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

from rsembed.writers.store import BlobStore, store_errors

_SCALARS = ("id", "row", "seq", "start", "end", "status", "lon", "lat", "valid_fraction", "n_images")


def write_npz(store: BlobStore, parts: Sequence[str], packed: Path) -> None:
    """The dataset in ``parts`` of ``store`` as a new file ``packed``.

    Arrays ``id row seq start end status lon lat valid_fraction n_images`` (N,) and ``embedding``
    (N, D). A row without an embedding is NaN. The vectors pass through a file, so memory holds a
    batch of them and the short columns.
    """
    tables = [_read(store, part) for part in parts]
    scalars = {name: np.concatenate([_column(table, name) for table in tables]) for name in _SCALARS}
    del tables
    order = np.lexsort((scalars["seq"], scalars["row"]))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    store.scratch.mkdir(parents=True, exist_ok=True)
    with store_errors(store.url), tempfile.TemporaryDirectory(dir=store.scratch) as folder:
        spill = Path(folder) / "embedding.npy"
        _spill_vectors(store, parts, place, spill)
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, values in scalars.items():
                # A fixed date, so that the same run gives the same bytes.
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, values[order], allow_pickle=False)
            last = zipfile.ZipInfo("embedding.npy")
            with spill.open("rb") as source, archive.open(last, "w", force_zip64=True) as member:
                shutil.copyfileobj(source, member, 1 << 20)


def _spill_vectors(store: BlobStore, parts: Sequence[str], place: NDArray[np.int64], spill: Path) -> None:
    """The vectors of ``parts``, each row at its ``place``, as the ``.npy`` file ``spill``."""
    with store.open(parts[0]) as handle:
        kind = pq.read_schema(handle).field("embedding").type
    dtype = np.dtype("float16" if str(kind.value_type) == "halffloat" else "float32")
    vectors = np.lib.format.open_memmap(spill, mode="w+", dtype=dtype, shape=(len(place), kind.list_size))
    first = 0
    for part in parts:
        with store.open(part) as handle:
            for batch in pq.ParquetFile(handle, pre_buffer=False).iter_batches(batch_size=1024, columns=["embedding"]):
                column = batch.column(0)
                flat = np.full((len(column), kind.list_size), np.nan, dtype=dtype)
                flat[~column.is_null().to_numpy(zero_copy_only=False)] = (
                    column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, kind.list_size)
                )
                vectors[place[first : first + len(column)]] = flat
                first += len(column)
    vectors.flush()


def _read(store: BlobStore, part: str) -> pa.Table:
    with store.open(part) as handle:
        return pq.read_table(handle, columns=list(_SCALARS))


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    column = table.column(name).to_numpy(zero_copy_only=False)
    plain: NDArray[Any] = column.astype(str) if column.dtype == object else column
    return plain
