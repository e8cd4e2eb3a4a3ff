"""One ``.npz`` of a whole dataset, rows in the order of the input, in flat memory."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rsembed.writers.atomic import atomic_path

_SCALARS = ("id", "row", "seq", "start", "end", "status", "lon", "lat", "valid_fraction", "n_images")


def write_npz(parts: Sequence[Path], final: Path, tmp_dir: Path) -> None:
    """Arrays ``id row seq start end status lon lat valid_fraction n_images`` (N,) and ``embedding`` (N, D).

    A row without an embedding is NaN. The vectors pass through a file, so memory holds a batch
    of them and the short columns.
    """
    tmp_dir.mkdir(parents=True, exist_ok=True)
    scalars = {name: np.concatenate([_column(part, name) for part in parts]) for name in _SCALARS}
    order = np.lexsort((scalars["seq"], scalars["row"]))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    kind = pq.read_schema(parts[0]).field("embedding").type
    dtype = np.dtype("float16" if str(kind.value_type) == "halffloat" else "float32")
    with tempfile.TemporaryDirectory(dir=tmp_dir) as folder, atomic_path(final, tmp_dir) as packed:
        spill = Path(folder) / "embedding.npy"
        vectors = np.lib.format.open_memmap(spill, mode="w+", dtype=dtype, shape=(len(order), kind.list_size))
        first = 0
        for part in parts:
            for batch in pq.ParquetFile(part).iter_batches(batch_size=1024, columns=["embedding"]):
                column = batch.column(0)
                flat = np.full((len(column), kind.list_size), np.nan, dtype=dtype)
                flat[~column.is_null().to_numpy(zero_copy_only=False)] = (
                    column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, kind.list_size)
                )
                vectors[place[first : first + len(column)]] = flat
                first += len(column)
        vectors.flush()
        del vectors
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, values in scalars.items():
                # A fixed date, so that the same run gives the same bytes.
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, values[order], allow_pickle=False)
            last = zipfile.ZipInfo("embedding.npy")
            with spill.open("rb") as source, archive.open(last, "w", force_zip64=True) as member:
                shutil.copyfileobj(source, member, 1 << 20)


def _column(part: Path, name: str) -> NDArray[Any]:
    column = pq.read_table(part, columns=[name]).column(0).to_numpy(zero_copy_only=False)
    plain: NDArray[Any] = column.astype(str) if column.dtype == object else column
    return plain
