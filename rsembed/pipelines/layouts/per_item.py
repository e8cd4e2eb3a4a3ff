"""One file and one JSON sidecar per item."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rsembed.core.errors import ExportError
from rsembed.core.patch import Json
from rsembed.core.serialization import to_json
from rsembed.pipelines.layouts.entries import (
    Entries,
    Manifest,
    array_entry,
    is_settled,
    manifest_text,
    status_of,
)
from rsembed.pipelines.layouts.items import Items, window_json
from rsembed.pipelines.layouts.outcomes import ItemOutcome, ModelOutcome
from rsembed.pipelines.targets import EXTENSIONS, PER_ITEM_FOLDER, UNSEEN, FileFormat
from rsembed.writers.array_file import NamedArray, array_key, write_arrays
from rsembed.writers.atomic import sha256_file
from rsembed.writers.store import ANY, FolderStore

PATH_KEYS: Mapping[str, tuple[str, str]] = {"npz": ("npz_path", "npz_keys"), "netcdf": ("nc_path", "nc_variables")}
"""Format -> the manifest's keys for the file of arrays, and for the arrays in it."""


@dataclass(frozen=True)
class ItemFiles:
    """Where the items of an export go, and how it is told whether one is there already.

    ``spec``: identifies all that an item depends on but its place and window.
    """

    store: FolderStore
    names: tuple[str, ...]
    format: FileFormat
    items: Items
    spec: str
    save_manifest: bool

    def fingerprint(self, index: int) -> str:
        """Identifies one item's request."""
        return hashlib.sha256(self.spec.encode() + self.items.key(index)).hexdigest()

    def arrays(self, index: int) -> Path:
        """The file of arrays."""
        return self.store.root / (self.names[index] + EXTENSIONS[self.format])

    def sidecar(self, index: int) -> Path:
        """The file of facts: beside the arrays, or out of sight where none is wanted there."""
        return self.store.root / self._sidecar_name(index, seen=self.save_manifest)

    def _sidecar_name(self, index: int, *, seen: bool) -> str:
        return f"{self.names[index]}.json" if seen else f"{PER_ITEM_FOLDER}/{UNSEEN}/{self.names[index]}.json"

    def known(self, index: int) -> Manifest | None:
        """The sidecar that stands there; None where none can be read. ExportError where it is somebody else's."""
        sidecar = self.sidecar(index)
        found = read_manifest(sidecar)
        if found is not None and "models" not in found:
            raise ExportError(f"{sidecar} is no manifest of an export, and would be overwritten; choose other names")
        return found

    def settled(self, index: int) -> Manifest | None:
        """The manifest of an item that is there, whole, of the same request and with nothing to retry; else None."""
        found = self.known(index)
        if found is None or found.get("request_fingerprint") != self.fingerprint(index):
            return None
        if found.get("point_index") != index or not is_settled(found.get("models")):
            return None
        return found if is_intact(found, self.arrays(index)) else None

    def prepare(self, index: int, arrays: Mapping[str, NDArray[Any]], manifest: Manifest) -> Path:
        """An item's arrays as a scratch file, to be :meth:`put`."""
        about = file_attributes(manifest)
        named = [NamedArray.of(key, dims_of(key, array.ndim), array) for key, array in sorted(arrays.items())]
        path = self.store.scratch / f"{index}{EXTENSIONS[self.format]}"
        self.store.scratch.mkdir(parents=True, exist_ok=True)
        write_arrays(path, named, netcdf=self.format == "netcdf", attributes=about)
        return path

    def put(self, index: int, prepared: Path, arrays: Iterable[str], manifest: Manifest) -> Manifest:
        """Put an item's file of arrays in place, then its sidecar; returns the manifest with what that adds."""
        path_key, keys_key = PATH_KEYS[self.format]
        target = self.arrays(index)
        self._take_away(index, target.name)
        stored = self.store.put(target.name, prepared, replaces=ANY)
        manifest[path_key] = str(target)
        manifest[keys_key] = sorted(arrays)
        manifest["arrays_file"] = {"name": target.name, "bytes": stored.bytes, "sha256": stored.sha256}
        if self.save_manifest:
            manifest["manifest_path"] = str(self.sidecar(index))
        name = self._sidecar_name(index, seen=self.save_manifest)
        self.store.put(name, manifest_text(manifest).encode(), replaces=ANY)
        return manifest

    def _take_away(self, index: int, keep: str) -> None:
        """Remove what an earlier export left under the item's name and what would contradict the new files."""
        for seen in (True, False):
            sidecar = self.store.root / self._sidecar_name(index, seen=seen)
            found = read_manifest(sidecar)
            known = found.get("arrays_file") if found else None
            if not isinstance(known, Mapping):
                continue
            other = self.store.root / Path(str(known.get("name"))).name
            if other.name in {self.names[index] + ending for ending in EXTENSIONS.values()} - {keep}:
                other.unlink(missing_ok=True)
            if seen != self.save_manifest:
                sidecar.unlink()


def dims_of(key: str, ndim: int) -> tuple[str, ...]:
    """Names for the axes of an array, by its key: items, frames, bands or numbers, rows, columns."""
    kind = key.partition("__")[0]
    first = ("point",) if kind in ("inputs_bchw", "embeddings") else ()
    inner = ndim - len(first)
    if kind.startswith("input"):
        return (*first, *("time", "band", "y", "x")[4 - inner :])
    return (*first, *("dim", "y", "x")[:inner])


def file_attributes(manifest: Manifest) -> dict[str, Json]:
    """What a NetCDF file says of itself."""
    about: dict[str, Json] = {"Conventions": "CF-1.8", "history": f"rsembed {manifest['package_version']}"}
    about |= {name: manifest[name] for name in ("created_at", "backend", "device", "n_items") if name in manifest}
    return about


def read_manifest(path: Path) -> Manifest | None:
    """The JSON object in ``path``; None where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else None
    return None


def is_intact(manifest: Manifest, arrays: Path) -> bool:
    """Whether the file of arrays is, to the byte, the one that ``manifest`` was written for."""
    known = manifest.get("arrays_file")
    if not isinstance(known, dict) or known.get("name") != arrays.name:
        return False
    with contextlib.suppress(OSError):
        return arrays.stat().st_size == known.get("bytes") and sha256_file(arrays) == known.get("sha256")
    return False


def render_item(
    outcome: ItemOutcome, items: Items, entries: Entries, *, device: str, save_inputs: bool, save_embeddings: bool
) -> tuple[dict[str, NDArray[Any]], Manifest]:
    """The arrays and the manifest of one item."""
    arrays: dict[str, NDArray[Any]] = {}
    temporal = window_json(items.window(outcome.index))
    inputs: dict[tuple[object, ...], Manifest] = {}
    models = [
        _model_entry(each, entries, temporal, arrays, inputs if save_inputs else None, save_embeddings=save_embeddings)
        for each in outcome.models
    ]
    failed = sum(entry["status"] == "failed" for entry in models)
    manifest = entries.head(device) | {
        "point_index": outcome.index,
        "id": items.id(outcome.index),
        "status": status_of(models),
        "models": models,
        "spatial": to_json(items.spatial(outcome.index)),
        "temporal": temporal,
        "summary": {"total_models": len(models), "failed_models": failed, "ok_models": len(models) - failed},
    }
    return arrays, manifest


def _model_entry(
    outcome: ModelOutcome,
    entries: Entries,
    temporal: Json,
    arrays: dict[str, NDArray[Any]],
    inputs: dict[tuple[object, ...], Manifest] | None,
    *,
    save_embeddings: bool,
) -> Manifest:
    label = outcome.model.label
    inspection = entries.inspection(outcome)
    error = entries.error(outcome, inspection)
    entry: Manifest = entries.model(label) | {
        "status": "ok" if error is None else "failed",
        "row_status": outcome.status.value,
        "input": None if inputs is None else _input_entry(outcome, arrays, inputs, inspection),
        "embedding": None,
        "meta": None,
        "fetch_meta": entries.fetch_meta(outcome),
    }
    if error is not None:
        entry["error"] = error
        entry["stage"] = "fetch" if outcome.failure is None else outcome.failure.stage
    if save_embeddings:
        entry["meta"] = entries.meta(outcome, temporal)
        if error is None and outcome.vector is not None:
            key = f"embedding__{array_key(label)}"
            arrays[key] = outcome.vector
            entry["embedding"] = array_entry(key, outcome.vector)
    return entry


def _input_entry(
    outcome: ModelOutcome,
    arrays: dict[str, NDArray[Any]],
    inputs: dict[tuple[object, ...], Manifest],
    inspection: Manifest | None,
) -> Manifest | None:
    """Where the pixels stand; what two models share stands once."""
    if not outcome.input.is_imagery:
        return None
    known = inputs.get(outcome.input.shares)
    if known is not None:
        return known | {"dedup_reused": True}
    array = outcome.input.array()
    if array is None:
        return None
    key = f"input_chw__{array_key(outcome.model.label)}"
    arrays[key] = array
    inputs[outcome.input.shares] = array_entry(key, array) | {"inspection": inspection, "dedup_reused": False}
    return inputs[outcome.input.shares]
