"""A dataset folder, read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from rsembed.core.serialization import to_json
from rsembed.load.result import ExportResult, Meta, ModelResult, RunStatus, status_of
from rsembed.writers.vectors import VectorReader

_FACTS = ("status", "n_images", "first_date", "last_date", "valid_fraction", "frame_dates", "scene_ids", "epsg")
_PLACE = ("id", "start", "end", "lon", "lat", "geometry")


def load_dataset(root: Path) -> ExportResult:
    """The finished run in the folder ``root``; ValueError where there is none, or files of it lack."""
    manifest = read_manifest(root)
    try:
        n_items = int(manifest["request"]["rows"]["count"])
        described = {str(model["label"]): model for model in manifest["request"]["models"]}
        buffer_m = manifest["request"].get("buffer_m")
        labels = {
            str(label): (str(described[label]["model"]), dict(counts)) for label, counts in manifest["counts"].items()
        }
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"{root / 'manifest.json'} is not a manifest of rsembed (missing or odd: {exc})") from exc
    data = {label: DatasetModel(root, label, n_items) for label in labels}
    for each in data.values():
        each.check()
    places = DatasetPlaces(next(iter(data.values())), buffer_m)
    models = {
        label: ModelResult(
            name=label,
            model=model,
            status=(status := _status(counts, n_items)),
            n_items=n_items,
            error=data[label].first_error() if status == "failed" else None,
            places=places,
            data=data[label],
            folder=root / label,
            known_dim=data[label].dim,
        )
        for label, (model, counts) in labels.items()
    }
    return ExportResult(root, "dataset", n_items, models, places, manifest)


def _status(counts: dict[str, int], n_items: int) -> RunStatus:
    failed = counts.get("failed", 0)
    return status_of(["failed"] * failed + ["ok"] * (n_items - failed)) if n_items else "ok"


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest of a finished run; ValueError where there is none."""
    file = root / "manifest.json"
    if not file.is_file():
        if (root / "_run.json").is_file():
            raise ValueError(f"{root} holds a run that has not ended; run the same export again to finish it")
        found = root.name if root.is_file() else ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "nothing"
        raise ValueError(
            f"{root} is no finished export: expected a folder with manifest.json, or with files of items and a .json "
            f"for each; found {found}"
        )
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ValueError(f"{file} is damaged: {exc}") from exc
    return manifest


@dataclass(frozen=True)
class DatasetModel:
    """One model's dataset."""

    root: Path
    label: str
    n_items: int

    @property
    def parts(self) -> list[Path]:
        """Its files, in order of ``seq``."""
        return sorted((self.root / self.label).glob("part-*.parquet"))

    def check(self) -> None:
        """Raise ValueError when rows lack."""
        rows = sum(pq.read_metadata(part).num_rows for part in self.parts)
        if rows != self.n_items:
            raise ValueError(
                f"{self.root / self.label} holds {rows} rows, the manifest says {self.n_items}; "
                "run the same export again"
            )

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        """Position in the files of each item, in the order of the input."""
        read = [pq.read_table(part, columns=["row", "seq"]) for part in self.parts]
        whole = pa.concat_tables(read)
        return np.lexsort((whole.column("seq").to_numpy(), whole.column("row").to_numpy()))

    def table(self, columns: list[str] | None) -> pa.Table:
        """See :class:`ModelData`."""
        whole = pa.concat_tables([pq.read_table(part, columns=columns) for part in self.parts])
        return whole.take(pa.array(self._order))

    @property
    def dim(self) -> int | None:
        """Length of a vector; None for maps."""
        return self._reader.dim

    @cached_property
    def _reader(self) -> VectorReader:
        return VectorReader(pq.read_schema(self.parts[0]))

    def embeddings(self) -> NDArray[Any]:
        """See :class:`ModelData`."""
        dim = self.dim
        if dim is None:
            return self._maps()
        place = np.empty_like(self._order)
        place[self._order] = np.arange(self.n_items)
        vectors = np.full((self.n_items, dim), np.nan, dtype=np.float32)
        first = 0
        for part in self.parts:
            for batch in pq.ParquetFile(part, pre_buffer=False).iter_batches(8192, columns=["embedding"]):
                vectors[place[first : first + batch.num_rows]] = self._reader.vectors(batch.column(0))
                first += batch.num_rows
        return vectors

    def _maps(self) -> NDArray[Any]:
        """(N, D, h, w), or (N,) of maps where their shapes differ."""
        shapes = self.table(["grid_shape"]).column(0).to_pylist()
        known = {tuple(shape) for shape in shapes if shape is not None}
        if not known:
            return np.empty(self.n_items, dtype=object)
        if len(known) == 1:
            whole: NDArray[Any] = np.full((self.n_items, *known.pop()), np.nan, np.float32)
        else:
            whole = np.empty(self.n_items, dtype=object)
        place = np.empty_like(self._order)
        place[self._order] = np.arange(self.n_items)
        first = 0
        for part in self.parts:
            file = pq.ParquetFile(part, pre_buffer=False)
            for batch in file.iter_batches(64, columns=["embedding", "grid_shape"]):
                for i in np.flatnonzero(~batch.column("embedding").is_null().to_numpy(zero_copy_only=False)):
                    item = place[first + i]
                    values = self._reader.map(batch.column("embedding")[int(i)], shapes[item])
                    whole[item] = values.astype(np.float32)
                first += batch.num_rows
        return whole

    def inputs(self) -> None:
        """See :class:`ModelData`: a dataset has no pixels."""

    def meta(self) -> list[Meta]:
        """See :class:`ModelData`."""
        return [{name: to_json(value) for name, value in row.items()} for row in self.table(list(_FACTS)).to_pylist()]

    def statuses(self) -> Sequence[str]:
        """See :class:`ModelData`."""
        found: list[str] = self.table(["status"]).column(0).to_pylist()
        return found

    def first_error(self) -> str | None:
        """Why its first row failed."""
        file = self.root / "failures.parquet"
        rows = pq.read_table(file, columns=["model", "row", "message"]).to_pylist() if file.exists() else []
        mine = [row for row in rows if row["model"] == self.label]
        return min(mine, key=lambda row: row["row"])["message"] if mine else None


@dataclass(frozen=True)
class DatasetPlaces:
    """An :class:`ItemPlaces` that is read when it is asked for."""

    model: DatasetModel
    buffer_m: float | None

    @cached_property
    def _rows(self) -> list[Meta]:
        found: list[Meta] = self.model.table(list(_PLACE)).to_pylist()
        return found

    @cached_property
    def ids(self) -> Sequence[str]:
        """See ItemPlaces."""
        return [str(row["id"]) for row in self._rows]

    @cached_property
    def spatials(self) -> Sequence[Meta]:
        """See ItemPlaces."""
        return [_spatial(row, self.buffer_m) for row in self._rows]

    @cached_property
    def windows(self) -> Sequence[tuple[str, str] | None]:
        """See ItemPlaces."""
        return [(row["start"].isoformat(), row["end"].isoformat()) for row in self._rows]


def _spatial(row: Meta, buffer_m: float | None) -> Meta:
    shape = shapely.from_wkb(row["geometry"])
    if shape.geom_type == "Point":
        return {"lon": row["lon"], "lat": row["lat"], "buffer_m": buffer_m, "crs": "EPSG:4326"}
    names = ("minlon", "minlat", "maxlon", "maxlat")
    return {**dict(zip(names, shape.bounds, strict=True)), "crs": "EPSG:4326"}
