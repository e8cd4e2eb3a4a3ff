"""A combined file and its manifest, read back; ours, or the reference system's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsembed.load.arrays import NETCDF, NPZ, read_arrays
from rsembed.load.per_item import entries_of, model_id, read_sidecar, window_of
from rsembed.load.result import ExportResult, KnownPlaces, Meta, ModelResult, RunStatus, stacked
from rsembed.writers.array_file import array_key


def load_combined(path: Path) -> ExportResult:
    """The export in the file ``path`` (arrays or manifest).

    Raises FileNotFoundError where the other one of the two lacks, ValueError for another kind of file
    and for an export that has not ended.
    """
    arrays, sidecar = _both(path)
    manifest = read_sidecar(sidecar)
    if manifest.get("resume_incomplete") or manifest.get("status") == "running":
        raise ValueError(f"{path} holds an export that has not ended; run the same export again to finish it")
    known = manifest.get("arrays_file")
    if isinstance(known, dict) and known.get("bytes") != arrays.stat().st_size:
        raise ValueError(f"{arrays} is not the file that {sidecar.name} was written for; run the same export again")
    spatials = manifest.get("spatials")
    spatials = [each if isinstance(each, dict) else {} for each in spatials] if isinstance(spatials, list) else []
    n_items = int(manifest.get("n_items", len(spatials)))
    places = KnownPlaces(_ids(manifest, n_items), _filled(spatials, n_items), _windows(manifest, n_items))
    models = {str(entry["model"]): _model(entry, arrays, n_items, places) for entry in entries_of(manifest)}
    if not models:
        raise ValueError(f"{sidecar} names no model: it is no manifest of an export")
    return ExportResult(path, "combined", n_items, models, places, manifest)


def _both(path: Path) -> tuple[Path, Path]:
    """The file of arrays and the manifest."""
    suffix = path.suffix.lower()
    if suffix == ".json":
        beside = [path.with_suffix(ending) for ending in (*NPZ, *NETCDF)]
        known = read_sidecar(path).get("arrays_file")
        if isinstance(known, dict):
            beside = [each for each in beside if each.suffix == Path(str(known.get("name"))).suffix] or beside
        there = next((each for each in beside if each.is_file()), None)
        if there is None:
            raise FileNotFoundError(f"{path} has no paired file of arrays: expected {path.stem}.npz or {path.stem}.nc")
        return there, path
    if suffix not in (*NPZ, *NETCDF):
        raise ValueError(f"{path.name}: unknown extension {suffix!r}; expected a folder, or a file .npz, .nc or .json")
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        raise FileNotFoundError(f"{path} has no manifest beside it: expected {sidecar.name}")
    return path, sidecar


def _ids(manifest: Meta, n_items: int) -> list[str]:
    found = manifest.get("ids")
    if isinstance(found, list) and len(found) == n_items:
        return [str(each) for each in found]
    return [str(index) for index in range(n_items)]


def _filled(spatials: list[Meta], n_items: int) -> list[Meta]:
    return [*spatials, *({} for _ in range(n_items - len(spatials)))][:n_items]


def _windows(manifest: Meta, n_items: int) -> list[tuple[str, str] | None]:
    each = manifest.get("temporals")
    if isinstance(each, list) and len(each) == n_items:
        return [window_of(temporal) for temporal in each]
    return [window_of(manifest.get("temporal"))] * n_items


@dataclass(frozen=True)
class CombinedModel:
    """Where the numbers of one model of a combined export are read from."""

    entry: Meta
    file: Path
    n_items: int

    def embeddings(self) -> NDArray[Any] | None:
        """See :class:`ModelData`."""
        return self._read(self.entry.get("embeddings"), f"embeddings__{array_key(str(self.entry['model']))}")

    def inputs(self) -> NDArray[Any] | None:
        """See :class:`ModelData`."""
        return self._read(self.entry.get("inputs"), f"inputs_bchw__{array_key(str(self.entry['model']))}")

    def _read(self, given: object, default_key: str) -> NDArray[Any] | None:
        """What ``given`` refers to: one array of all items, or one for each."""
        entry = given if isinstance(given, dict) else {}
        keys, indices = entry.get("npz_keys"), entry.get("indices")
        if isinstance(keys, list) and keys:
            found = read_arrays(self.file, map(str, keys))
            rows: list[NDArray[Any] | None] = [None] * self.n_items
            for place, key in enumerate(keys):
                index = indices[place] if isinstance(indices, list) else _index_of(str(key), place)
                if 0 <= index < self.n_items:
                    rows[index] = found.get(str(key))
            return stacked(rows)
        key = str(entry.get("npz_key") or default_key)
        array = read_arrays(self.file, [key]).get(key)
        if array is None:
            return None
        whole = np.asarray(array, np.float32)
        if len(whole) != self.n_items and isinstance(indices, list) and len(indices) == len(whole):
            spread = np.full((self.n_items, *whole.shape[1:]), np.nan, np.float32)
            spread[indices] = whole
            return spread
        return whole

    def meta(self) -> list[Meta]:
        """See :class:`ModelData`."""
        found = self.entry.get("metas")
        metas = [each if isinstance(each, dict) else {} for each in found] if isinstance(found, list) else []
        return _filled(metas, self.n_items)

    def statuses(self) -> Sequence[str]:
        """See :class:`ModelData`."""
        failed = {int(index) for index in self.entry.get("failed_indices") or ()}
        everything = self.entry.get("status") == "failed"
        found = []
        for index, meta in enumerate(self.meta()):
            known = str(meta.get("status") or "ok")
            lost = everything or index in failed
            found.append("failed" if lost and known in ("ok", "low_quality") else known)
        return found

    def table(self, columns: list[str] | None) -> None:
        """See :class:`ModelData`: there is no dataset."""


def _index_of(key: str, place: int) -> int:
    tail = key.rpartition("__")[2]
    return int(tail) if tail.isdecimal() else place


def _model(entry: Meta, file: Path, n_items: int, places: KnownPlaces) -> ModelResult:
    given = entry.get("status")
    status: RunStatus = given if given in ("ok", "partial", "failed") else "failed"
    error = entry.get("error")
    if error is None and status == "failed":
        errors = entry.get("errors_by_index")
        error = next(iter(errors.values()), None) if isinstance(errors, dict) else None
    model = CombinedModel(entry, file, n_items)
    text = None if error is None or status != "failed" else str(error)
    return ModelResult(str(entry["model"]), model_id(entry), status, n_items, text, places, model)
