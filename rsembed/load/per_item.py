"""A folder with a file and a sidecar per item, read back; ours, or the reference system's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rsembed.load.arrays import NETCDF, NPZ, read_arrays
from rsembed.load.result import ExportResult, KnownPlaces, Meta, ModelResult, stacked, status_of
from rsembed.pipelines.layouts.statuses import row_status
from rsembed.pipelines.targets import INDEX, PER_ITEM_FOLDER, UNSEEN
from rsembed.writers.array_file import array_key

_LACKS = "the file of this place is not there"


@dataclass(frozen=True)
class ItemFile:
    """One item: its number, its manifest and the file of its arrays."""

    index: int
    manifest: Meta
    arrays: Path


def holds_items(folder: Path) -> bool:
    """Whether ``folder`` is a per-item export rather than a dataset."""
    if (folder / "manifest.json").is_file() or (folder / "_run.json").is_file():
        return False
    return (folder / PER_ITEM_FOLDER / INDEX).is_file() or any(True for _ in _pairs(folder))


def load_per_item(folder: Path) -> ExportResult:
    """The items in ``folder``; ValueError when they are not finished, or two claim one number."""
    index = _index(folder)
    items = _scanned(folder) if index is None else _listed(folder, index["files"])
    if not items:
        raise ValueError(
            f"{folder} holds no item that can be read: expected files .npz or .nc, each with a .json that says its "
            "point_index"
        )
    n_items = max(items) + 1 if index is None else len(index["files"])
    found = [items.get(i) for i in range(n_items)]
    places = KnownPlaces(
        [str(i) if item is None else str(item.manifest.get("id", i)) for i, item in enumerate(found)],
        [{} if item is None else _dict(item.manifest.get("spatial")) for item in found],
        [None if item is None else window_of(item.manifest.get("temporal")) for item in found],
    )
    labels: dict[str, None] = dict.fromkeys(map(str, index["models"])) if index is not None else {}
    for item in items.values():
        labels |= dict.fromkeys(str(entry["model"]) for entry in entries_of(item.manifest))
    models = {label: _model(label, found, places) for label in labels}
    first = items[min(items)].manifest
    return ExportResult(folder, "per_item", n_items, models, places, first)


def _index(folder: Path) -> Meta | None:
    """What says which files belong to the export; None where there is none (the reference system has none)."""
    file = folder / PER_ITEM_FOLDER / INDEX
    if not file.is_file():
        return None
    try:
        found: Meta = json.loads(file.read_text(encoding="utf-8"))
        found["files"], found["models"], found["status"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ValueError(f"{file} is damaged ({exc}); run the same export again") from exc
    if found["status"] == "running":
        raise ValueError(f"{folder} holds an export that has not ended; run the same export again to finish it")
    return found


def _listed(folder: Path, files: Sequence[str]) -> dict[int, ItemFile]:
    found = {}
    for index, name in enumerate(files):
        arrays = folder / Path(name).name
        name = arrays.name.removesuffix(arrays.suffix) + ".json"
        beside = [path for path in (folder / name, folder / PER_ITEM_FOLDER / UNSEEN / name) if path.is_file()]
        if beside:
            manifest = read_sidecar(beside[0])
            if manifest.get("point_index") == index:
                found[index] = ItemFile(index, manifest, arrays)
    if not found:
        raise ValueError(f"{folder} has lost the manifests of its items; run the same export again")
    return found


def _pairs(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Files of arrays and the JSON beside each."""
    for arrays in sorted(folder.iterdir()):
        sidecar = arrays.with_name(arrays.name.removesuffix(arrays.suffix) + ".json")
        if arrays.suffix.lower() in (*NPZ, *NETCDF) and sidecar.is_file():
            yield arrays, sidecar


def _scanned(folder: Path) -> dict[int, ItemFile]:
    """Items by number; files whose sidecar is that of another file, or of no item, are none."""
    found: dict[int, ItemFile] = {}
    for arrays, sidecar in _pairs(folder):
        manifest = read_sidecar(sidecar)
        index = _number(manifest, sidecar.stem)
        own = _dict(manifest.get("arrays_file")).get("name", arrays.name)
        if index is None or Path(str(own)).suffix != arrays.suffix:
            continue
        if index in found:
            raise ValueError(
                f"{found[index].arrays.name!r} and {arrays.name!r} both claim point_index={index}; "
                "remove the stale one, or keep exports apart"
            )
        found[index] = ItemFile(index, manifest, arrays)
    return found


def _number(manifest: Meta, stem: str) -> int | None:
    """The item's number; None for the manifest of something else."""
    index = manifest.get("point_index")
    if isinstance(index, int) and not isinstance(index, bool) and index >= 0:
        return index
    return int(stem[1:]) if stem.startswith("p") and stem[1:].isdecimal() and "n_items" not in manifest else None


def read_sidecar(file: Path) -> Meta:
    """A manifest; ValueError where it is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ValueError(f"{file} cannot be read ({exc}); run the same export again to mend it") from exc
    if not isinstance(found, dict):
        raise ValueError(f"{file} is no manifest: a JSON object was expected")  # noqa: TRY004 - of the file, not a type
    return found


def entries_of(manifest: Meta) -> list[Meta]:
    """The entries of a manifest's models."""
    found = manifest.get("models")
    entries = found if isinstance(found, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and entry.get("model")]


def window_of(temporal: object) -> tuple[str, str] | None:
    """Start and end of a manifest's window; None where it has none."""
    found = _dict(temporal)
    if isinstance(found.get("start"), str) and isinstance(found.get("end"), str):
        return found["start"], found["end"]
    year = found.get("year")
    return (f"{year:04d}-01-01", f"{year + 1:04d}-01-01") if isinstance(year, int) else None


def model_id(entry: Meta) -> str:
    """The model's id: its label may be another."""
    return str(_dict(entry.get("describe")).get("id") or entry["model"])


def _dict(value: object) -> Meta:
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class _ItemRow:
    """One item of one model."""

    arrays: Path
    status: str
    ok: bool
    error: str | None
    embedding_key: str
    input_key: str | None
    meta: Meta


@dataclass(frozen=True)
class PerItemModel:
    """Where the numbers of one model of a per-item export are read from."""

    rows: Sequence[_ItemRow | None]

    def embeddings(self) -> NDArray[Any] | None:
        """See :class:`ModelData`."""
        return stacked(
            [self._array(row, row.embedding_key) if row is not None and row.ok else None for row in self.rows]
        )

    def inputs(self) -> NDArray[Any] | None:
        """See :class:`ModelData`."""
        return stacked(
            [None if row is None or row.input_key is None else self._array(row, row.input_key) for row in self.rows]
        )

    @staticmethod
    def _array(row: _ItemRow, key: str) -> NDArray[Any] | None:
        return read_arrays(row.arrays, [key]).get(key)

    def meta(self) -> list[Meta]:
        """See :class:`ModelData`."""
        return [{} if row is None else row.meta for row in self.rows]

    def statuses(self) -> Sequence[str]:
        """See :class:`ModelData`."""
        return ["failed" if row is None else row.status for row in self.rows]

    def table(self, columns: list[str] | None) -> None:
        """See :class:`ModelData`: there is no dataset."""


def _model(label: str, items: Sequence[ItemFile | None], places: KnownPlaces) -> ModelResult:
    rows: list[_ItemRow | None] = []
    model = label
    for item in items:
        entry = next((e for e in entries_of(item.manifest) if e["model"] == label), None) if item else None
        if item is None or entry is None:
            rows.append(None)
            continue
        model = model_id(entry)
        key = array_key(label)
        given = entry.get("input")
        rows.append(
            _ItemRow(
                item.arrays,
                row_status(entry),
                entry.get("status") != "failed",
                None if entry.get("error") is None else str(entry["error"]),
                str(_dict(entry.get("embedding")).get("npz_key") or f"embedding__{key}"),
                str(_dict(given).get("npz_key") or f"input_chw__{key}") if "input" not in entry or given else None,
                _dict(entry.get("meta")),
            )
        )
    status = status_of(["ok" if row is not None and row.ok else "failed" for row in rows])
    errors = [_LACKS if row is None else row.error for row in rows]
    error = next((text for text in errors if text), None) if status == "failed" else None
    return ModelResult(label, model, status, len(rows), error, places, PerItemModel(rows))
