from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsembed.writers.npz import write_npz
from rsembed.writers.store import FolderStore


def part(path: Path, rows: list[int], *, kind: pa.DataType = pa.float32(), first_seq: int = 0) -> str:  # noqa: B008 - frozen
    n = len(rows)
    day = pa.array([19000] * n, pa.int32()).cast(pa.date32())
    table = pa.table(
        {
            "id": [f"p{row}" * (row + 1) for row in rows], "row": pa.array(rows, pa.int64()),
            "seq": pa.array(range(first_seq, first_seq + n), pa.int64()), "start": day, "end": day,
            "status": ["ok" if row % 2 == 0 else "no_data" for row in rows], "lon": [1.0] * n, "lat": [2.0] * n,
            "valid_fraction": pa.array([None if row % 2 else 1.0 for row in rows], pa.float32()),
            "n_images": pa.array([1] * n, pa.int32()),
            "embedding": pa.array([None if row % 2 else [row, row + 0.5] for row in rows], pa.list_(kind, 2)),
        }
    )  # fmt: skip
    pq.write_table(table, path)
    return path.name


def test_npz_when_rows_lie_in_another_order_then_the_inputs_order_is_restored(tmp_path: Path) -> None:
    parts = [part(tmp_path / "a", [4, 1, 3]), part(tmp_path / "b", [0, 2], first_seq=3)]
    write_npz(FolderStore(tmp_path), parts, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as found:
        assert found["row"].tolist() == [0, 1, 2, 3, 4]
        assert found["id"].tolist() == [f"p{row}" * (row + 1) for row in range(5)]
        assert found["embedding"].dtype == np.float32
        np.testing.assert_array_equal(found["embedding"][[0, 2, 4]], [[0, 0.5], [2, 2.5], [4, 4.5]])
        assert np.isnan(found["embedding"][[1, 3]]).all()
        assert np.isnan(found["valid_fraction"][1])
        assert found["start"].dtype.kind == "M"
    assert list((tmp_path / "_tmp").iterdir()) == []


def test_npz_when_one_row_has_several_windows_then_they_follow_each_other_by_seq(tmp_path: Path) -> None:
    write_npz(FolderStore(tmp_path), [part(tmp_path / "a", [2, 0, 2, 0])], tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as found:
        assert found["row"].tolist() == [0, 0, 2, 2]
        assert found["seq"].tolist() == [1, 3, 0, 2]


def test_npz_when_written_twice_then_the_same_bytes(tmp_path: Path) -> None:
    made = [part(tmp_path / "a", [1, 0], kind=pa.float16())]
    for name in ("x.npz", "y.npz"):
        write_npz(FolderStore(tmp_path), made, tmp_path / name)
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()
    with np.load(tmp_path / "x.npz") as found:
        assert found["embedding"].dtype == np.float16
