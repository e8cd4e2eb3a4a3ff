"""``rsembed inspect``: the pixels that a model or a sensor would get."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from rsembed.cli.options import (
    ImageryOptions,
    SensorOptions,
    as_recipe,
    imagery_options,
    model_options,
    model_request,
    recipe_options,
    sensor_options,
    take,
)
from rsembed.cli.page import columns
from rsembed.cli.where_options import PlaceOptions, days_of, numbers, place_options, temporal_of, window_options
from rsembed.inspection import inspect_model_input, inspect_provider_patch

EPILOG = """\b
Examples:
  rsembed inspect MODEL --lon 2.1 --lat 42.3 --year 2022 --save look
  rsembed inspect --collection COPERNICUS/S2_SR_HARMONIZED --bands B4,B3,B2 --lon 2.1 --lat 42.3 --buffer 640
"""


@click.command(epilog=EPILOG)
@click.argument("model", metavar="[MODEL[:OPTION=VALUE,...]]", required=False)
@place_options
@window_options
@imagery_options
@recipe_options
@sensor_options
@click.option("--input-prep", type=click.Choice(["tile", "resize", "auto"]), default="tile", show_default=True,
              help="For regions larger than the model's input.")
@click.option("--value-range", metavar="LOW,HIGH", help="Warn of values outside.")
@click.option("--save", "save_dir", type=click.Path(path_type=Path), metavar="DIR",
              help="Write patch.npz and quicklook.png there.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def inspect(model: str | None, **given: Any) -> None:
    """Fetch one place as a run with MODEL would and tell about its bands, dates and scenes; no weights are loaded.

    Numbers are of valid pixels, in the collection's own units; zero and saturated are shares of them.

    Without MODEL, name --collection and --bands.
    """
    sensor, bounds = take(SensorOptions, given), given["value_range"]
    where: dict[str, Any] = {
        "spatial": take(PlaceOptions, given).spatial(),
        "temporal": temporal_of(given["year"], *days_of(given)),
        "recipe": as_recipe(given["recipe"]),
        "save_dir": given["save_dir"],
        "value_range": None if bounds is None else numbers("--value-range", bounds, "LOW,HIGH"),
    }
    if model is None:
        spec = sensor.sensor()
        if spec is None:
            raise click.UsageError("name a MODEL, or --collection and --bands")
        if given["modality"] is not None or given["context"] is not None:
            raise click.UsageError("--modality and --context belong to a MODEL")
        found = inspect_provider_patch(sensor=spec, backend=take(ImageryOptions, given).provider(), **where)
    else:
        request = model_request(model, sensor, given["modality"])
        options = model_options(request)
        found = inspect_model_input(
            request.name,
            sensor=request.sensor,
            fetch=request.fetch,
            modality=request.modality,
            context=given["context"],
            input_prep=given["input_prep"],
            backend=take(ImageryOptions, given).provider(),
            **where,
            **options,
        )
    if given["as_json"]:
        click.echo(json.dumps(found, indent=1, sort_keys=True))
        return
    for line in inspection_lines(found):
        click.echo(line)


_HOW = {"cloud_step": "cloud filter", "orbit": "orbit", "iw": "mode IW", "substitute": "in its place"}
"""What a provider may say of how images were chosen -> in words."""


def inspection_lines(found: dict[str, Any]) -> Iterator[str]:
    """An inspection in readable lines."""
    report, window = found["report"], found["temporal"]
    if "model" in found:
        yield f"model     {found['model']}, native {found['native_px']} px, {found['forwards']} forward pass(es)"
    yield f"imagery   {found['backend']}, {report['collection']}, window {window['start']}..{window['end']}"
    a, _, x, _, _, y = report["transform"]
    corner = f"EPSG:{report['epsg']}, top left {x:.10g} {y:.10g}"
    unit = "degrees" if report["epsg"] == 4326 else "m"
    yield f"grid      {report['height']} x {report['width']} px of {a:g} {unit}, {corner}"
    empty = f", {found['n_empty']} of {found['n_frames']} frames empty" if found["n_empty"] else ""
    yield f"valid     {report['valid_fraction']:.1%} of the pixels in every band, {report['n_images']} images{empty}"
    how = {key: value for key, value in report["provenance"].items() if isinstance(value, (str, int)) and key in _HOW}
    if how:
        yield f"chosen    {', '.join(f'{_HOW[key]} {value}' for key, value in how.items())}"
    for number, frame in enumerate(report["frames"]):
        dates = f"{frame['first_date']}..{frame['last_date']}, dated {frame['date']}" if frame["n_images"] else "empty"
        yield f"\nframe {number}   {frame['start']}..{frame['end']}: {frame['n_images']} images, {dates}"
        if frame["scene_ids"]:
            yield f"          {', '.join(frame['scene_ids'])}"
        rows = [("band", "min", "p02", "median", "p98", "max", "mean", "std", "valid", "zero", "saturated")]
        for band in frame["bands"]:
            spread = band["percentiles"] or {}
            numbers = (
                band["minimum"], spread.get("p02"), spread.get("p50"), spread.get("p98"), band["maximum"], band["mean"],
                band["std"],
            )  # fmt: skip
            shares = (band["valid_fraction"], band["zero_fraction"], band["saturated_fraction"])
            rows.append(
                (
                    band["band"],
                    *("-" if value is None else f"{value:.4g}" for value in numbers),
                    *("-" if share is None else f"{share:.1%}" for share in shares),
                )
            )
        if frame["empty"]:
            continue
        yield from (f"  {line}" for line in columns(rows))
    for text in found["warnings"]:
        yield f"warning   {text}"
    for path in found["artifacts"]:
        yield f"saved     {path}"
