"""Read the folder that an export wrote; vectors are read when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

RunStatus = Literal["ok", "partial", "failed"]
"""``ok``: no row failed; ``failed``: all did; ``partial``: some."""


@dataclass(frozen=True)
class ModelResult:
    """One model's dataset. ``counts``: rows by status; ``dim``: length of a vector."""

    label: str
    model: str
    folder: Path
    counts: Mapping[str, int]
    n_items: int
    dim: int

    @property
    def status(self) -> RunStatus:
        """See :data:`RunStatus`."""
        failed = self.counts.get("failed", 0)
        return "ok" if not failed else "failed" if failed == self.n_items else "partial"

    @property
    def parts(self) -> list[Path]:
        """The dataset's files, in order of ``seq``."""
        return sorted(self.folder.glob("part-*.parquet"))

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """All rows (or these ``columns`` of them) in the order of the input."""
        wanted = None if columns is None else list(dict.fromkeys([*columns, "row", "seq"]))
        whole = pa.concat_tables([pq.read_table(part, columns=wanted) for part in self.parts])
        ordered = whole.sort_by([("row", "ascending"), ("seq", "ascending")])
        return ordered if columns is None else ordered.select(columns)

    def embedding(self) -> NDArray[np.float32]:
        """Vectors, float32 (N, D), in the order of the input; NaN rows where there is none."""
        rows: list[NDArray[np.int64]] = []
        seqs: list[NDArray[np.int64]] = []
        vectors = np.full((self.n_items, self.dim), np.nan, dtype=np.float32)
        first = 0
        for part in self.parts:
            for batch in pq.ParquetFile(part).iter_batches(8192, columns=["row", "seq", "embedding"]):
                rows.append(batch.column("row").to_numpy())
                seqs.append(batch.column("seq").to_numpy())
                column = batch.column("embedding")
                there = np.flatnonzero(~column.is_null().to_numpy(zero_copy_only=False))
                flat = column.drop_null().flatten().to_numpy(zero_copy_only=False)
                vectors[first + there] = flat.reshape(-1, self.dim)
                first += batch.num_rows
        return vectors[np.lexsort((np.concatenate(seqs), np.concatenate(rows)))]


@dataclass(frozen=True)
class ExportResult:
    """A finished run: ``models`` by label, ``manifest`` as written."""

    path: Path
    n_items: int
    models: Mapping[str, ModelResult]
    manifest: Mapping[str, Any] = field(repr=False)  # JSON at the edge

    @property
    def status(self) -> RunStatus:
        """See :data:`RunStatus`; over all models."""
        found = {model.status for model in self.models.values()}
        return next(iter(found)) if len(found) == 1 else "partial"

    @property
    def ok_models(self) -> list[str]:
        """Labels of which no row failed."""
        return [label for label, model in self.models.items() if model.status == "ok"]

    @property
    def failed_models(self) -> list[str]:
        """Labels of which rows failed."""
        return [label for label, model in self.models.items() if model.status != "ok"]

    def model(self, label: str) -> ModelResult:
        """One model's dataset; KeyError that names the known labels."""
        if label not in self.models:
            raise KeyError(f"no model {label!r} in {self.path}; it has {', '.join(self.models)}")
        return self.models[label]

    def embedding(self, label: str) -> NDArray[np.float32]:
        """See :meth:`ModelResult.embedding`."""
        return self.model(label).embedding()

    def table(self, label: str, columns: list[str] | None = None) -> pa.Table:
        """See :meth:`ModelResult.table`."""
        return self.model(label).table(columns)


def load_export(path: str | Path) -> ExportResult:
    """The finished run in the folder ``path``.

    Raises FileNotFoundError for a path that is not there, ValueError for a folder that holds no
    finished run or lacks files of it.
    """
    root = Path(path)
    if not root.exists():
        raise FileNotFoundError(f"there is no export at {root}")
    manifest = _manifest(root)
    try:
        n_items = int(manifest["request"]["rows"]["count"])
        described = {str(model["label"]): model for model in manifest["request"]["models"]}
        models = {
            label: _model(root, label, str(described[label]["model"]), dict(counts), n_items)
            for label, counts in manifest["counts"].items()
        }
    except (KeyError, TypeError) as exc:
        raise ValueError(f"{root / 'manifest.json'} is not a manifest of rsembed (missing or odd: {exc})") from exc
    return ExportResult(root, n_items, models, manifest)


def _manifest(root: Path) -> dict[str, Any]:
    file = root / "manifest.json"
    if not file.is_file():
        if (root / "_run.json").is_file():
            raise ValueError(f"{root} holds a run that has not ended; run the same export again to finish it")
        found = root.name if root.is_file() else ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "nothing"
        raise ValueError(f"{root} is no finished export: expected a folder with manifest.json, found {found}")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ValueError(f"{file} is damaged: {exc}") from exc
    return manifest


def _model(root: Path, label: str, model: str, counts: dict[str, int], n_items: int) -> ModelResult:
    folder = root / label
    parts = sorted(folder.glob("part-*.parquet"))
    rows = sum(pq.read_metadata(part).num_rows for part in parts)
    if rows != n_items:
        raise ValueError(f"{folder} holds {rows} rows, the manifest says {n_items}; run the same export again")
    dim = int(pq.read_schema(parts[0]).field("embedding").type.list_size)
    return ModelResult(label, model, folder, counts, n_items, dim)
