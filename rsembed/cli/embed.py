"""``rsembed embed``: the embedding of one place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np

from rsembed.api import get_embedding
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
from rsembed.cli.run_options import output_of
from rsembed.cli.where_options import PlaceOptions, days_of, place_options, temporal_of, window_options
from rsembed.core.embedding import Embedding
from rsembed.core.errors import SpecError
from rsembed.core.specs import OutputSpec
from rsembed.labelled import ENDINGS, check_saving
from rsembed.writers.store import store_errors

EPILOG = """\b
Examples:
  rsembed embed MODEL --lon 2.1 --lat 42.3 --year 2022
  rsembed embed MODEL:variant=large --bbox 2.1,42.3,2.2,42.4 --output grid --out map.tif
"""


@click.command(epilog=EPILOG)
@click.argument("model", metavar="MODEL[:OPTION=VALUE,...]")
@place_options
@window_options
@imagery_options
@recipe_options
@sensor_options
@click.option("--output", type=click.Choice(["pooled", "grid"]), default="pooled", show_default=True,
              help="One vector, or a map of vectors.")  # fmt: skip
@click.option("--pooling", type=click.Choice(["mean", "max"]), default="mean", show_default=True)
@click.option("--input-prep", type=click.Choice(["tile", "resize", "auto"]), default="tile", show_default=True,
              help="For regions larger than the model's input.")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--no-cache", is_flag=True, help="Neither use nor keep fetched pixels of other runs.")
@click.option("--out", type=click.Path(path_type=Path),
              help="Save to a file: .npy, .npz (with meta), .nc, .zarr, .tif (maps) or .json.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print vector and meta as JSON.")
def embed(model: str, **given: Any) -> None:
    """Embed one place with MODEL; prints its shape, first numbers, status and dates."""
    out: Path | None = given["out"]
    output = output_of(given)
    if out is not None:
        _check_out(out, output)
    request = model_request(model, take(SensorOptions, given), given["modality"])
    options = model_options(request)
    found = get_embedding(
        request.name,
        spatial=take(PlaceOptions, given).spatial(),
        temporal=temporal_of(given["year"], *days_of(given)),
        sensor=request.sensor,
        fetch=request.fetch,
        modality=request.modality,
        output=output,
        backend=take(ImageryOptions, given).provider(),
        recipe=as_recipe(given["recipe"]),
        context=given["context"],
        input_prep=given["input_prep"],
        device=given["device"],
        cache=not given["no_cache"],
        **options,
    )  # fmt: skip
    if out is not None:
        _save_json(out, found) if out.suffix.lower() == ".json" else found.save(out)
    if given["as_json"]:
        click.echo(json.dumps(_as_json(found)))
        return
    for line in embedding_lines(found):
        click.echo(line)
    if out is not None:
        click.echo(f"saved     {out}")


def embedding_lines(found: Embedding) -> list[str]:
    """An embedding in a few lines."""
    meta, data = found.meta, found.data
    numbers = ", ".join(f"{value:.5g}" for value in data.reshape(-1)[:6])
    dates = [day or "none" for day in meta.get("frame_dates", [])]
    window = meta["temporal"]
    lines = [
        f"model     {meta['model']}, recipe {meta['recipe']}, on {meta['device']}",
        f"shape     {' x '.join(map(str, data.shape))}, float32",
        f"numbers   {numbers}, ...",
        f"status    {meta['status']}",
        f"imagery   {meta.get('backend')}, {meta['n_images']} images, window {window['start']}..{window['end']}",
    ]
    if dates:
        lines.append(f"frames    {', '.join(dates)}")
    if meta.get("valid_fraction") is not None:
        lines.append(f"valid     {meta['valid_fraction']:.0%} of the pixels asked for")
    return lines


def _as_json(found: Embedding) -> dict[str, Any]:
    return {"shape": list(found.data.shape), "data": found.data.tolist(), "meta": dict(found.meta)}


def _save_json(path: Path, found: Embedding) -> None:
    if not np.isfinite(found.data).all():
        raise SpecError("the embedding holds NaN, which JSON cannot; save it as .npy or .npz")
    with store_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_as_json(found)), encoding="utf-8")


def _check_out(out: Path, output: OutputSpec) -> None:
    """Find what cannot be saved before anything is fetched."""
    if out.suffix.lower() not in _ENDINGS:
        raise click.UsageError(f"--out ends in {', '.join(_ENDINGS)}, got {out.name!r}")
    if out.suffix.lower() != ".json":
        check_saving(out, maps=output.mode == "grid")


_ENDINGS = (*ENDINGS, ".json")
