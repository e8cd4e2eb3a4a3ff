"""``rsembed export``: a table of places into a dataset folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from rsembed.cli.options import (
    ImageryOptions,
    SensorOptions,
    as_recipe,
    imagery_options,
    model_request,
    recipe_options,
    sensor_options,
    take,
    temporal_of,
    together,
)
from rsembed.cli.progress import command_progress
from rsembed.cli.run_report import dry_run_lines, plan_lines, summary_json, summary_lines, weights_states
from rsembed.core.errors import ExportError
from rsembed.core.serialization import to_json
from rsembed.core.settings import Settings
from rsembed.core.specs import InputPrepSpec, OutputSpec, TemporalSpec
from rsembed.pipelines import runner
from rsembed.pipelines.estimate import RunEstimate, estimate_run
from rsembed.pipelines.plan import RunPlan, plan_run
from rsembed.pipelines.request import ExportConfig, ExportTarget, RunRequest
from rsembed.pipelines.rows.formats import open_table
from rsembed.pipelines.rows.table import RowOptions, RowTable
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.pipelines.runner import scratch_rows
from rsembed.pipelines.servable import check_places
from rsembed.tools.temporal import parse_days

EPILOG = """\b
Examples:
  See what a run would do, without doing it:
    rsembed export places.csv --model MODEL --year 2022 --out out --dry-run
  Two settings of one model, each under its own label:
    rsembed export places.parquet --model MODEL@small --model MODEL:variant=large@large --out out
  45 days on either side of each row's own date:
    rsembed export plots.gpkg --model MODEL --around 45d --out out
  Your own catalogue, no network:
    rsembed export places.csv --model MODEL --catalog catalog.json --out out

The same command again goes on where it stopped, and retries what failed. Another request into the same folder is
refused. Exit codes: 0 done, 2 refused, 3 some rows failed, 130 stopped."""

row_options = together(
    click.option("--model", "models", metavar="NAME[:OPTION=VALUE,...][@LABEL]", multiple=True, required=True,
                 help="A model, its options and the folder's name for it; repeatable. `rsembed models` lists them."),
    click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the dataset."),
    click.option("--year", "years", type=int, multiple=True, help="Calendar year of rows without a time of their own; "
                 "repeatable: a row per year [default: the last complete year]."),
    click.option("--start", metavar="DAY", help="First day of the window, such as 2022-06-01."),
    click.option("--end", metavar="DAY", help="Day after the last one."),
    click.option("--around", metavar="DAYS", help="So many days on either side of each row's `date`, such as 45d."),
    click.option("--buffer", "buffer_m", type=float, metavar="METRES", help="Half a side of the square around points "
                 "[default: the model's own footprint, one forward pass a row]."),
    click.option("--id-column", help="Column of ids [default: id, else row numbers]."),
    click.option("--layer", help="Layer of a GeoPackage."),
    click.option("--skip-bad-rows", is_flag=True, help="Leave out rows that cannot be used instead of refusing the "
                 "table; they are listed in skipped.parquet."),
)  # fmt: skip

run_options = together(
    click.option("--pooling", type=click.Choice(["mean", "max"]), default="mean", show_default=True,
                 help="How tokens become one vector."),
    click.option("--input-prep", type=click.Choice(["tile", "resize", "auto"]), default="tile", show_default=True,
                 help="For regions larger than the model's input."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
    click.option("--precision", type=click.Choice(["fp32", "bf16", "tf32"]), default="fp32", show_default=True,
                 help="bf16 and tf32 need CUDA."),
    click.option("--batch-size", type=int, help="Rows a forward pass [default: the model's for the device]."),
    click.option("--threads", type=int, default=1, show_default=True, help="CPU threads of a forward pass."),
    click.option("--fetch-workers", type=int, default=8, show_default=True, help="Requests in flight."),
    click.option("--shard-size", type=int, default=256, show_default=True, help="Rows between two checkpoints."),
    click.option("--min-valid-fraction", type=float, default=0.5, show_default=True,
                 help="Below this share of valid pixels a row is low_quality."),
    click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True,
                 help="Type of stored numbers."),
    click.option("--max-attempts", type=int, default=4, show_default=True,
                 help="Tries of a request that may succeed later."),
    click.option("--keep-inputs", is_flag=True, help="Keep the fetched pixels in OUT/_inputs."),
    click.option("--npz", is_flag=True, help="Also one LABEL.npz per model, rows in input order."),
    click.option("--dry-run", is_flag=True, help="Print the whole plan; fetch, load and write nothing."),
    click.option("--json", "as_json", is_flag=True, help="Print the result (or the dry run) as JSON."),
    click.option("--quiet", is_flag=True, help="Print neither plan nor progress."),
)  # fmt: skip


@click.command(epilog=EPILOG)
@click.argument("table", type=click.Path(exists=True))
@row_options
@imagery_options
@recipe_options
@sensor_options
@run_options
@click.pass_context
def export(ctx: click.Context, /, **given: Any) -> None:
    """Embed the places in TABLE (Parquet, CSV, GeoJSON, GeoPackage) into a folder of GeoParquet datasets.

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
    table: str
    layer: str | None
    out: Path
    windows: WindowPolicy
    rows: RowOptions
    imagery: ImageryOptions
    npz: bool
    dry_run: bool
    as_json: bool
    quiet: bool

    @classmethod
    def of(cls, given: dict[str, Any]) -> ExportCall:
        """From click's parameters; UsageError for options that contradict each other."""
        sensor = take(SensorOptions, given)
        config = ExportConfig(
            recipe=as_recipe(given["recipe"]),
            input_prep=InputPrepSpec(given["input_prep"]),
            **{name: given[name] for name in _CONFIG},
        )
        return cls(
            request=RunRequest(
                models=tuple(model_request(text, sensor, given["modality"]) for text in given["models"]),
                output=OutputSpec.pooled(given["pooling"]),
                config=config,
                device=given["device"],
            ),
            windows=_windows(given["years"], given["start"], given["end"], given["around"]),
            rows=RowOptions(id_column=given["id_column"], skip_bad_rows=given["skip_bad_rows"]),
            imagery=take(ImageryOptions, given),
            **{name: given[name] for name in ("table", "layer", "out", "npz", "dry_run", "as_json", "quiet")},
        )


_CONFIG = (
    "context", "buffer_m", "precision", "batch_size", "threads", "fetch_workers", "shard_size", "min_valid_fraction",
    "dtype", "max_attempts", "keep_inputs", "skip_bad_rows",
)  # fmt: skip


def _windows(years: tuple[int, ...], start: str | None, end: str | None, around: str | None) -> WindowPolicy:
    if years and (start is not None or end is not None):
        raise click.UsageError("give --year or --start and --end, not both")
    if around is not None and (years or start is not None or end is not None):
        raise click.UsageError("--around takes each row's own date; drop --year, --start and --end")
    span = temporal_of(None, start, end)
    spans = [TemporalSpec.year(year) for year in years] if span is None else [span]
    windows = tuple(each.window for each in spans)
    return WindowPolicy(default=windows, around_days=None if around is None else parse_days(around))


def _dry_run(call: ExportCall) -> None:
    settings = Settings.from_environment()
    plan = plan_run(call.request, call.imagery.provider(), settings)
    source = open_table(call.table, layer=call.layer, id_column=call.rows.id_column)
    with scratch_rows(source, call.windows, None, call.rows) as table:
        check_places(plan, table)
        estimate = estimate_run(plan, table)
    if call.as_json:
        weights = weights_states(plan, settings)
        about = {"plan": plan.describe(), "estimate": _estimate_json(estimate), "weights": weights}
        click.echo(json.dumps(about, indent=1, sort_keys=True))
        return
    for line in dry_run_lines(plan, estimate, settings):
        click.echo(line)


def _estimate_json(estimate: RunEstimate) -> dict[str, Any]:
    totals = {name: getattr(estimate, name) for name in ("requests", "fetch_bytes", "output_bytes")}
    fields: Any = to_json(estimate)
    return {**fields, **totals}


def _run(call: ExportCall) -> int:
    """Plan, tell, run, tell; returns the exit code."""
    if call.out.exists() and not call.out.is_dir():
        raise ExportError(f"{call.out} is a file; name a folder")
    silent = call.quiet or call.as_json
    summary = runner.export(
        call.request,
        open_table(call.table, layer=call.layer, id_column=call.rows.id_column),
        windows=call.windows,
        provider=call.imagery.provider(),
        target=ExportTarget(call.out, call.npz),
        settings=Settings.from_environment(),
        row_options=call.rows,
        progress=command_progress(quiet=silent),
        on_planned=(lambda plan, table: None) if silent else _tell_plan,
    )
    if call.as_json:
        click.echo(json.dumps(summary_json(summary), indent=1, sort_keys=True))
    elif not call.quiet or summary.n_failed:
        for line in summary_lines(summary):
            click.echo(line)
    return summary.exit_code


def _tell_plan(plan: RunPlan, table: RowTable) -> None:
    for line in plan_lines(plan, estimate_run(plan, table, distinct_up_to=0)):
        click.echo(line, err=line.startswith("warning"))
