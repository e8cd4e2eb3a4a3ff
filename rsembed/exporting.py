"""``export_batch``: many places, several models, into a dataset, a file an item, or one file for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from rsembed.api import get_provider
from rsembed.core.errors import ExportArgumentError, ModelError
from rsembed.core.settings import Settings
from rsembed.core.specs import FetchSpec, InputPrepSpec, OutputSpec, SensorSpec, TemporalSpec
from rsembed.pipelines.exporter import ExportSummary
from rsembed.pipelines.keywords import Backend, check_backend, checked_backend, checked_temporal, model_requests
from rsembed.pipelines.layouts.dataset import export_dataset
from rsembed.pipelines.layouts.export_combined import export_combined
from rsembed.pipelines.layouts.export_items import export_per_item
from rsembed.pipelines.layouts.job import LayoutJob
from rsembed.pipelines.plan import configured
from rsembed.pipelines.progress import ProgressListener
from rsembed.pipelines.request import (
    CombinedTarget,
    DatasetTarget,
    ExportConfig,
    ExportModelRequest,
    ExportTarget,
    InputPrepMode,
    PerItemTarget,
    RunRequest,
)
from rsembed.pipelines.rows.table import RowOptions
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.progress_bars import progress_for

Manifest = dict[str, Any]
"""What the JSON beside an export says; JSON at the edge."""
Temporal = TemporalSpec | Sequence[TemporalSpec] | None


@overload
def export_batch(
    *,
    spatials: object,
    temporal: Temporal = None,
    models: Sequence[str | ExportModelRequest],
    target: DatasetTarget,
    config: ExportConfig = ...,
    output: OutputSpec = ...,
    backend: Backend | None = ...,
    device: str = ...,
    sensor: SensorSpec | None = None,
    fetch: FetchSpec | None = None,
    modality: str | None = None,
    input_prep: InputPrepSpec | InputPrepMode | None = None,
    around_days: int | None = None,
    id_column: str | None = None,
    catalog: str | Path | None = None,
    cache: bool = True,
    progress: ProgressListener | None = None,
) -> ExportSummary: ...


@overload
def export_batch(
    *,
    spatials: object,
    temporal: Temporal = None,
    models: Sequence[str | ExportModelRequest],
    target: PerItemTarget,
    config: ExportConfig = ...,
    output: OutputSpec = ...,
    backend: Backend | None = ...,
    device: str = ...,
    sensor: SensorSpec | None = None,
    fetch: FetchSpec | None = None,
    modality: str | None = None,
    input_prep: InputPrepSpec | InputPrepMode | None = None,
    around_days: int | None = None,
    id_column: str | None = None,
    catalog: str | Path | None = None,
    cache: bool = True,
    progress: ProgressListener | None = None,
) -> list[Manifest]: ...


@overload
def export_batch(
    *,
    spatials: object,
    temporal: Temporal = None,
    models: Sequence[str | ExportModelRequest],
    target: CombinedTarget,
    config: ExportConfig = ...,
    output: OutputSpec = ...,
    backend: Backend | None = ...,
    device: str = ...,
    sensor: SensorSpec | None = None,
    fetch: FetchSpec | None = None,
    modality: str | None = None,
    input_prep: InputPrepSpec | InputPrepMode | None = None,
    around_days: int | None = None,
    id_column: str | None = None,
    catalog: str | Path | None = None,
    cache: bool = True,
    progress: ProgressListener | None = None,
) -> Manifest: ...


@overload
def export_batch(
    *,
    spatials: object,
    temporal: Temporal = None,
    models: Sequence[str | ExportModelRequest],
    target: ExportTarget,
    config: ExportConfig = ...,
    output: OutputSpec = ...,
    backend: Backend | None = ...,
    device: str = ...,
    sensor: SensorSpec | None = None,
    fetch: FetchSpec | None = None,
    modality: str | None = None,
    input_prep: InputPrepSpec | InputPrepMode | None = None,
    around_days: int | None = None,
    id_column: str | None = None,
    catalog: str | Path | None = None,
    cache: bool = True,
    progress: ProgressListener | None = None,
) -> ExportSummary | list[Manifest] | Manifest: ...


def export_batch(
    *,
    spatials: object,
    temporal: Temporal = None,
    models: Sequence[str | ExportModelRequest],
    target: ExportTarget,
    config: ExportConfig = ExportConfig(),  # noqa: B008 - frozen value
    output: OutputSpec = OutputSpec(),  # noqa: B008 - frozen value
    backend: Backend | None = "auto",
    device: str = "auto",
    sensor: SensorSpec | None = None,
    fetch: FetchSpec | None = None,
    modality: str | None = None,
    input_prep: InputPrepSpec | InputPrepMode | None = None,
    around_days: int | None = None,
    id_column: str | None = None,
    catalog: str | Path | None = None,
    cache: bool = True,
    progress: ProgressListener | None = None,
) -> ExportSummary | list[Manifest] | Manifest:
    """Embed places with several models into ``target``; the same call again resumes, and retries what failed.

    ``spatials``: a path (Parquet, CSV, GeoJSON, GeoPackage), a (Geo)DataFrame, (lon, lat) pairs
    or specs. ``temporal``: one window or several (each place becomes a row per window); columns
    ``start,end``, ``year`` or ``date`` of the table go first. ``sensor``, ``fetch`` and
    ``modality`` hold for every model that does not name its own; ``input_prep`` for all of them
    (here or in ``config``). ``cache``: as for a single place.

    Returns a summary for :meth:`ExportTarget.dataset`, the manifests of all items for
    :meth:`ExportTarget.per_item`, the one manifest for :meth:`ExportTarget.combined`.

    Raises RowError, SpecError, ModelError or ProviderError before any work. Rows that fail are
    recorded, and raised only with ``ExportConfig(continue_on_error=False)``, when all that could be
    done is saved.
    """
    _check_kinds(spatials, target, config, output)
    if input_prep is not None:
        if config.input_prep is not None:
            raise ModelError("input_prep is given twice: in config and by keyword; give one of the two")
        config = replace(config, input_prep=input_prep)
    settings = Settings.from_environment().with_input_cache(cache)
    row_options = RowOptions(id_column=id_column, skip_bad_rows=config.skip_bad_rows)
    request = RunRequest(model_requests(models, sensor, fetch, modality), output, config, device)
    backend = checked_backend(backend)
    for model in request.models:
        check_backend(configured(model, request), backend)
    job = LayoutJob(
        request,
        spatials,
        WindowPolicy(default=_windows(temporal), around_days=around_days),
        get_provider(backend, catalog=catalog),
        settings,
        row_options,
        progress or progress_for(config.show_progress),
    )
    if isinstance(target, PerItemTarget):
        return export_per_item(job, target).manifests
    if isinstance(target, DatasetTarget):
        return export_dataset(job, target)
    if isinstance(target, CombinedTarget):
        return export_combined(job, target).manifests[0]
    raise ExportArgumentError(f"target must be made by ExportTarget, got {target!r}")


def _check_kinds(spatials: object, target: object, config: object, output: object) -> None:
    """Raise for arguments of the wrong kind, before anything is looked at."""
    if not isinstance(target, ExportTarget):
        raise ExportArgumentError(
            f"target must be ExportTarget.dataset(out), .per_item(out_dir) or .combined(out_file), got {target!r}"
        )
    if not isinstance(config, ExportConfig):
        raise ExportArgumentError(f"config must be an ExportConfig, got {config!r}")
    if not isinstance(output, OutputSpec):
        raise ExportArgumentError(f"output must be OutputSpec.pooled() or OutputSpec.grid(), got {output!r}")
    if spatials is None or (isinstance(spatials, (list, tuple)) and not spatials):
        raise ExportArgumentError(f"spatials must be a table or a non-empty list of places, got {spatials!r}")


def _windows(temporal: Temporal) -> tuple[Any, ...]:
    if isinstance(temporal, Sequence) and not isinstance(temporal, str):
        given: list[object] = list(temporal)
    else:
        given = [] if temporal is None else [temporal]
    return tuple(checked_temporal(each).window for each in given)
