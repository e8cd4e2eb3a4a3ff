"""``rsembed export``: a table of places into a dataset folder, a file an item, or one file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from rsembed.cli.files_report import files_json, files_lines
from rsembed.cli.layout_options import layout_config, layout_options, place_options, single_place, target_of
from rsembed.cli.options import ImageryOptions, imagery_options, recipe_options, sensor_options, take, together
from rsembed.cli.progress import command_progress
from rsembed.cli.run_options import row_options, row_options_of, run_request, windows_of, work_options
from rsembed.cli.run_report import dry_run_lines, estimate_json, plan_lines, summary_json, summary_lines, weights_states
from rsembed.core.errors import ExportError
from rsembed.core.patch import Json
from rsembed.core.settings import Settings
from rsembed.core.specs import Spatial
from rsembed.pipelines import runner
from rsembed.pipelines.estimate import estimate_run
from rsembed.pipelines.layouts.dataset import export_dataset
from rsembed.pipelines.layouts.export_combined import export_combined
from rsembed.pipelines.layouts.export_items import export_per_item
from rsembed.pipelines.layouts.job import LayoutJob
from rsembed.pipelines.plan import RunPlan, plan_run
from rsembed.pipelines.request import CombinedTarget, DatasetTarget, PerItemTarget, RunRequest
from rsembed.pipelines.rows.formats import open_table
from rsembed.pipelines.rows.table import RowOptions, RowTable
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.pipelines.runner import scratch_rows
from rsembed.pipelines.servable import check_places

EPILOG = """\b
Examples:
  See what a run would do, without doing it:
    rsembed export places.csv --model MODEL --year 2022 --out out --dry-run
  Two settings of one model, each under its own label:
    rsembed export places.parquet --model MODEL@small --model MODEL:variant=large@large --out out
  45 days on either side of each row's own date:
    rsembed export plots.gpkg --model MODEL --around 45d --out out
  A file for each place, with its pixels, in NetCDF:
    rsembed export places.csv --model MODEL --year 2022 --layout per-item --format netcdf --out items
  One place into one npz:
    rsembed export --pointbuffer 2.77,42.44,320 --model MODEL --year 2022 --layout combined --out place.npz
  Your own catalogue, no network:
    rsembed export places.csv --model MODEL --catalog catalog.json --out out

The same command again goes on where it stopped, and retries what failed. Another request into the same dataset is
refused; files of items and combined files are worked out anew for it. Exit codes: 0 done, 2 refused, 3 some rows
failed, 130 stopped."""

local_options = together(
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.option("--fetch-workers", type=int, default=8, show_default=True, help="Requests in flight."),
    click.option("--cache-gb", type=click.FloatRange(min=0), help="Bound of the fetched pixels that are kept for later "
                 "runs, over all of them; what was unused for longest goes first; 0 keeps none [default: "
                 "RSEMBED_INPUT_CACHE_GB, else 10]. `rsembed cache` tells what is there."),
    click.option("--no-cache", is_flag=True, help="Neither use nor keep fetched pixels of other runs: --cache-gb 0."),
    click.option("--dry-run", is_flag=True, help="Print the whole plan; fetch, load and write nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print the result (or the dry run) as JSON."),
    click.option("--quiet", is_flag=True, help="Print neither plan nor progress."),
)  # fmt: skip


@click.command(epilog=EPILOG)
@click.argument("table", type=click.Path(exists=True), required=False)
@click.option("--out", type=click.Path(path_type=Path), required=True,
              help="Folder of the dataset or of the items' files; with --layout combined the file.")
@layout_options
@place_options
@row_options
@imagery_options
@recipe_options
@sensor_options
@work_options
@local_options
@click.pass_context
def export(ctx: click.Context, /, **given: Any) -> None:
    """Embed the places in TABLE (Parquet, CSV, GeoJSON, GeoPackage), or one place, into datasets or files.

    TABLE has a geometry, or columns lon and lat (degrees); optionally id, and start and end, date or year. Every
    other column is carried into the result, and every row comes back once per model and window, with a status.
    """
    call = ExportCall.of(given)
    if call.dry_run:
        _dry_run(call)
    else:
        ctx.exit(_run(call))


@dataclass(frozen=True)
class ExportCall:
    """The command, understood: what to run over which rows, and how to talk about it."""

    request: RunRequest
    table: str | None
    place: Spatial | None
    layer: str | None
    target: DatasetTarget | PerItemTarget | CombinedTarget
    windows: WindowPolicy
    rows: RowOptions
    imagery: ImageryOptions
    dry_run: bool
    as_json: bool
    quiet: bool
    settings: Settings

    @classmethod
    def of(cls, given: dict[str, Any]) -> ExportCall:
        """From click's parameters; UsageError for options that contradict each other."""
        place = single_place(given)
        config = layout_config(given)
        return cls(
            request=run_request(given, device=given["device"], fetch_workers=given["fetch_workers"], **config),
            place=place,
            target=target_of(given),
            windows=windows_of(given),
            rows=row_options_of(given),
            imagery=take(ImageryOptions, given),
            settings=_settings(given["cache_gb"], no_cache=given["no_cache"]),
            **{name: given[name] for name in ("table", "layer", "dry_run", "as_json", "quiet")},
        )

    def source(self) -> object:
        """The places."""
        if self.place is not None:
            return [self.place]
        return open_table(self.table, layer=self.layer, id_column=self.rows.id_column)


def _settings(cache_gb: float | None, *, no_cache: bool) -> Settings:
    """The environment's settings, with what the command says of the cache; UsageError where it says two things."""
    if no_cache and cache_gb:
        raise click.UsageError("give --cache-gb or --no-cache, not both")
    settings = Settings.from_environment()
    if cache_gb is None and not no_cache:
        return settings
    return replace(settings, input_cache_bytes=int((cache_gb or 0.0) * 1e9))


def _dry_run(call: ExportCall) -> None:
    settings = call.settings
    source = open_table(call.source())
    plan = plan_run(runner.with_buffer(call.request, source.buffer_m), call.imagery.provider(), settings)
    with scratch_rows(source, call.windows, None, call.rows) as table:
        check_places(plan, table)
        estimate = estimate_run(plan, table)
    if call.as_json:
        weights = weights_states(plan, settings)
        about = {"plan": plan.describe(), "estimate": estimate_json(estimate), "weights": weights}
        click.echo(json.dumps(about, indent=1, sort_keys=True))
        return
    for line in dry_run_lines(plan, estimate, settings):
        click.echo(line)


def _run(call: ExportCall) -> int:
    """Plan, tell, run, tell; returns the exit code."""
    silent = call.quiet or call.as_json
    job = LayoutJob(
        call.request,
        call.source(),
        call.windows,
        call.imagery.provider(),
        call.settings,
        call.rows,
        command_progress(quiet=silent),
        (lambda plan, table: None) if silent else _tell_plan,
    )
    if isinstance(call.target, DatasetTarget):
        if call.target.out.exists() and not call.target.out.is_dir():
            raise ExportError(f"{call.target.out} is a file; name a folder")
        summary = export_dataset(job, call.target)
        _tell(call, summary_json(summary), lambda: summary_lines(summary), summary.n_failed)
        return summary.exit_code
    began = time.monotonic()
    if isinstance(call.target, PerItemTarget):
        layout, result = "per_item", export_per_item(job, call.target)
    else:
        layout, result = "combined", export_combined(job, call.target)
    seconds = time.monotonic() - began
    _tell(call, files_json(result, layout, seconds), lambda: files_lines(result, layout, seconds), result.n_failed)
    return 3 if result.n_failed else 0


def _tell(call: ExportCall, for_programs: dict[str, Json], for_people: Callable[[], list[str]], failed: int) -> None:
    if call.as_json:
        click.echo(json.dumps(for_programs, indent=1, sort_keys=True))
    elif not call.quiet or failed:
        for line in for_people():
            click.echo(line)


def _tell_plan(plan: RunPlan, table: RowTable) -> None:
    for line in plan_lines(plan, estimate_run(plan, table, distinct_up_to=0)):
        click.echo(line, err=line.startswith("warning"))
