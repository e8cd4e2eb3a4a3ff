"""Options of whole runs, that ``rsembed export`` and ``rsembed fleet submit`` share, and the request made from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from rsembed.cli.options import SensorOptions, as_recipe, model_request, names, take, together
from rsembed.cli.where_options import days_of, range_option, temporal_of
from rsembed.core.specs import InputPrepSpec, OutputSpec, TemporalSpec
from rsembed.pipelines.request import ExportConfig, RunRequest
from rsembed.pipelines.rows.table import RowOptions
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.tools.temporal import parse_days

row_options = together(
    click.option("--model", "models", metavar="NAME[:OPTION=VALUE,...][@LABEL]", multiple=True,
                 help="A model, its options and the output's name for it; repeatable. `rsembed models` lists them."),
    click.option("--models", "model_list", metavar="A,B,...", help="Several models without options, in the place of "
                 "several --model."),
    click.option("--year", "years", type=int, multiple=True, help="Calendar year of rows without a time of their own; "
                 "repeatable: a row per year [default: the last complete year]."),
    click.option("--start", metavar="DAY", help="First day of the window, such as 2022-06-01."),
    click.option("--end", metavar="DAY", help="Day after the last one."),
    range_option,
    click.option("--around", metavar="DAYS", help="So many days on either side of each row's `date`, such as 45d."),
    click.option("--buffer", "buffer_m", type=float, metavar="METRES", help="Half a side of the square around points "
                 "[default: the model's own footprint, one forward pass a row]."),
    click.option("--id-column", help="Column of ids [default: id, else row numbers]."),
    click.option("--layer", help="Layer of a GeoPackage."),
    click.option("--skip-bad-rows", is_flag=True, help="Leave out rows that cannot be used instead of refusing the "
                 "table; they are listed in skipped.parquet."),
)  # fmt: skip

work_options = together(
    click.option("--output", type=click.Choice(["pooled", "grid"]), default="pooled", show_default=True,
                 help="One vector a row, or a map of vectors; a smaller --shard-size holds fewer maps in memory."),
    click.option("--pooling", type=click.Choice(["mean", "max"]), default="mean", show_default=True,
                 help="How tokens (of a map: its frames) become one vector."),
    click.option("--input-prep", type=click.Choice(["tile", "resize", "auto"]), default="tile", show_default=True,
                 help="For regions larger than the model's input."),
    click.option("--precision", type=click.Choice(["fp32", "bf16", "tf32"]), default="fp32", show_default=True,
                 help="bf16 and tf32 need CUDA."),
    click.option("--batch-size", type=int, help="Rows a forward pass [default: the model's for the device]."),
    click.option("--threads", type=int, default=1, show_default=True, help="CPU threads of a forward pass."),
    click.option("--shard-size", type=int, default=256, show_default=True, help="Rows between two checkpoints."),
    click.option("--min-valid-fraction", type=float, default=0.5, show_default=True,
                 help="Below this share of valid pixels a row is low_quality."),
    click.option("--dtype", type=click.Choice(["float32", "float16", "int8"]), default="float32", show_default=True,
                 help="Type of stored numbers; int8: whole steps, of a size for each dimension that a sample of the "
                 "rows fixes."),
    click.option("--steps", "steps_file", type=click.Path(path_type=Path, exists=True, dir_okay=False),
                 help="With --dtype int8: take the steps from this quantization.json of another export."),
    click.option("--max-attempts", type=int, default=4, show_default=True,
                 help="Tries of a request that may succeed later."),
    click.option("--keep-inputs", is_flag=True, help="Keep the fetched pixels when the run has ended."),
    click.option("--npz", is_flag=True, help="Also one LABEL.npz per model, rows in input order."),
    click.option("--zarr/--no-zarr", default=None,
                 help="Also one Zarr store LABEL.zarr per model.  [default: for maps]"),
)  # fmt: skip


_CONFIG = (
    "context", "buffer_m", "precision", "batch_size", "threads", "shard_size", "min_valid_fraction", "dtype",
    "max_attempts", "keep_inputs", "skip_bad_rows",
)  # fmt: skip


def run_request(given: Mapping[str, Any], *, device: str, **config: Any) -> RunRequest:
    """What is asked, from a command's parameters; ``config``: settings that only this command has."""
    sensor = take(SensorOptions, given)
    return RunRequest(
        models=tuple(model_request(text, sensor, given["modality"]) for text in _models(given)),
        output=output_of(given),
        config=ExportConfig(
            recipe=as_recipe(given["recipe"]),
            input_prep=InputPrepSpec(given["input_prep"]),
            steps=_steps(given["steps_file"]),
            **{name: given[name] for name in _CONFIG},
            **config,
        ),
        device=device,
    )


def _models(given: Mapping[str, Any]) -> tuple[str, ...]:
    """All models that are named; UsageError for none."""
    listed = names(given["model_list"])
    if listed is not None and not listed:
        raise click.UsageError("--models takes names with commas between them, got none")
    found = (*given["models"], *(listed or ()))
    if not found:
        raise click.UsageError("Missing option '--model': name at least one; `rsembed models` lists them")
    return found


def _steps(file: Path | None) -> dict[str, tuple[float, ...]] | None:
    """Label -> steps, from a ``quantization.json``; UsageError for another file."""
    if file is None:
        return None
    try:
        return {label: tuple(map(float, facts["step"])) for label, facts in json.loads(file.read_text()).items()}
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise click.UsageError(f"--steps: {file} is no quantization.json of an export in int8 ({exc})") from exc


def output_of(given: Mapping[str, Any]) -> OutputSpec:
    """What comes out of a model, from the parameters ``output`` and ``pooling``."""
    return OutputSpec(given["output"], given["pooling"])


def row_options_of(given: Mapping[str, Any]) -> RowOptions:
    """How the table is read."""
    return RowOptions(id_column=given["id_column"], skip_bad_rows=given["skip_bad_rows"])


def windows_of(given: Mapping[str, Any]) -> WindowPolicy:
    """When rows without a time of their own are; UsageError for options that contradict each other."""
    years, around = given["years"], given["around"]
    start, end = days_of(given)
    if years and (start is not None or end is not None):
        raise click.UsageError("give --year or --start and --end, not both")
    if around is not None and (years or start is not None or end is not None):
        raise click.UsageError("--around takes each row's own date; drop --year, --start and --end")
    span = temporal_of(None, start, end)
    spans = [TemporalSpec.year(year) for year in years] if span is None else [span]
    windows = tuple(each.window for each in spans)
    return WindowPolicy(default=windows, around_days=None if around is None else parse_days(around))
