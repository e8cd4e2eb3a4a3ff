"""What every layout does first and last: read, plan, check, lock; and raise what has to be raised."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rsembed.core.embedding import RowStatus
from rsembed.core.errors import ExportArgumentError, ExportError, ModelError, ProviderError, RSEmbedError, StoreError
from rsembed.core.serialization import digest
from rsembed.core.settings import Settings
from rsembed.pipelines.layouts.entries import Entries, Manifest
from rsembed.pipelines.layouts.items import Items, read_items
from rsembed.pipelines.layouts.work import planned_portions
from rsembed.pipelines.plan import RunPlan, lock_weights, plan_run
from rsembed.pipelines.progress import ProgressListener, SilentProgress
from rsembed.pipelines.request import RunRequest
from rsembed.pipelines.rows.table import RowOptions, RowTable
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.pipelines.run_output import RUN_FILE
from rsembed.providers.base import ProviderBase
from rsembed.writers.array_file import array_key

LAYOUT_VERSION = 1
"""Raised whenever files of the layouts change for the same request."""
_CUT = ("shard_size", "shards_per_part", "buffer_m")
"""What of a run's description is no part of an item's: how rows are cut, and the buffer, which its place has."""


@dataclass(frozen=True)
class LayoutJob:
    """An export into a layout, as asked. ``on_planned`` is told plan and rows once both are known to be good."""

    request: RunRequest
    source: object
    windows: WindowPolicy
    provider: ProviderBase
    settings: Settings
    row_options: RowOptions = RowOptions()
    progress: ProgressListener = field(default_factory=SilentProgress)
    on_planned: Callable[[RunPlan, RowTable], None] = lambda plan, table: None

    def items(self) -> Items:
        """The items that are asked for."""
        return read_items(self.source, self.windows, self.row_options, self.request.config.buffer_m)

    def plan(self, items: Items) -> RunPlan:
        """The plan for ``items``, everything checked, with its weights. Raises before any work."""
        config = self.request.config
        if not (config.save_inputs or config.save_embeddings):
            raise ExportArgumentError("save_inputs and save_embeddings are both False: nothing would be written")
        if config.dtype == "int8":
            raise ExportArgumentError("dtype='int8' belongs to a dataset, which keeps the steps; give float32")
        if config.keep_inputs:
            raise ExportArgumentError("keep_inputs belongs to a dataset; here save_inputs writes the pixels")
        plan = plan_run(self.request, self.provider, self.settings)
        _check_keys([model.label for model in plan.models])
        with planned_portions(plan, items, range(len(items))) as portions:
            for portion in portions:
                self.on_planned(portion.plan, portion.table)
        # Whoever wants pixels alone need not have a checkpoint.
        return lock_weights(plan, self.settings) if config.save_embeddings else plan

    def spec(self, plan: RunPlan, layout: str) -> str:
        """Identifies what an item depends on but its place and window."""
        config = plan.config
        described = {name: value for name, value in plan.describe().items() if name not in _CUT}
        flags = {
            "layout": layout,
            "version": LAYOUT_VERSION,
            "format": config.format,
            "save_inputs": config.save_inputs,
            "save_embeddings": config.save_embeddings,
            "fail_on_bad_input": config.fail_on_bad_input,
        }
        return digest({"run": described, **flags})

    def fingerprint(self, plan: RunPlan, spec: str, items: Items, names: Iterable[str]) -> str:
        """Identifies the whole request, and how its rows are cut."""
        cut = [plan.config.shard_size, plan.config.shards_per_part]
        return digest({"spec": spec, "items": items.digest(), "names": list(names), "cut": cut})

    def entries(self, plan: RunPlan) -> Entries:
        """What makes the manifests' entries."""
        return Entries(plan, self.request.output)


@dataclass(frozen=True)
class LayoutResult:
    """How an export into a layout ended.

    ``files``: those of arrays; ``counts``: label -> items by status; ``skipped``: items that were there
    already; ``requests``, ``cached``: provider requests of this process, and those that the cache spared it.
    """

    manifests: list[Manifest]
    files: tuple[Path, ...]
    n_items: int
    counts: Mapping[str, Mapping[str, int]]
    skipped: int
    requests: int
    cached: int

    @property
    def n_failed(self) -> int:
        """Items x models that failed, and would be tried again."""
        return sum(counts.get(RowStatus.FAILED.value, 0) for counts in self.counts.values())


def _check_keys(labels: list[str]) -> None:
    known: dict[str, str] = {}
    for label in labels:
        other = known.setdefault(array_key(label), label)
        if other != label:
            raise ExportArgumentError(
                f"{other!r} and {label!r} would both be {array_key(label)!r} in the names of arrays; "
                "give one of them another label: MODEL@LABEL"
            )


def check_place(folder: Path) -> None:
    """Raise ExportError for a folder that the files of a layout cannot lie in."""
    if folder.exists() and not folder.is_dir():
        raise ExportError(f"{folder} is a file; name a folder")
    if (folder / RUN_FILE).exists():
        raise ExportError(f"{folder} holds a dataset; choose another folder for files of items")


@contextlib.contextmanager
def stops_as_export_error(where: Path) -> Iterator[None]:
    """Raise what the disk refuses as ExportError, saying that nothing is lost."""
    try:
        yield
    except (OSError, StoreError) as exc:
        raise ExportError(
            f"the export into {where} stopped: {exc}. What it had written is kept; "
            "when that is mended, run the same command again"
        ) from exc


def failure_error(entry: Mapping[str, object], what: str) -> RSEmbedError:
    """The error that says why the model of ``entry`` has no result for ``what``."""
    text = f"{what}: {entry['model']}: {entry.get('error')}"
    text += "; what could be done is saved, and the same call tries the rest again"
    return ModelError(text) if entry.get("stage") == "infer" else ProviderError(text)


def interned(manifest: Manifest, entries: Entries) -> Manifest:
    """``manifest`` as read, with the long parts that all items share held once in memory."""
    for entry in manifest["models"]:
        known = entries.model(entry["model"]) if entries.has(entry["model"]) else {}
        for name in ("describe", "sensor"):
            if name in known and entry.get(name) == known[name]:
                entry[name] = known[name]
    return manifest
