"""Options of ``rsembed export`` for what is not a dataset: places on the command line, files an item or for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from rsembed.cli.options import together
from rsembed.cli.where_options import numbers
from rsembed.core.specs import BBox, PointBuffer, Spatial
from rsembed.pipelines.request import CombinedTarget, DatasetTarget, ExportTarget, PerItemTarget

LAYOUTS = ("dataset", "per-item", "combined")

place_options = together(
    click.option("--bbox", metavar="MINLON,MINLAT,MAXLON,MAXLAT", help="One box, degrees, in the place of TABLE "
                 "(--bbox=-1,2,3,4 where the first number is negative)."),
    click.option("--pointbuffer", metavar="LON,LAT,METRES", help="One point and half a side of the square around it, "
                 "in the place of TABLE."),
)  # fmt: skip

layout_options = together(
    click.option("--layout", type=click.Choice(LAYOUTS), default="dataset", show_default=True,
                 help="dataset: GeoParquet, for any number of rows. per-item: a file and a JSON for each place. "
                 "combined: one file and one JSON. The last two hold the pixels too, under rs-embed's names."),
    click.option("--format", "file_format", type=click.Choice(["npz", "netcdf"]), help="Of per-item and combined files "
                 "[default: npz]."),
    click.option("--no-inputs", is_flag=True, help="Leave the pixels out of per-item and combined files."),
    click.option("--no-embeddings", is_flag=True, help="Only the pixels; no model is run."),
    click.option("--no-json", is_flag=True, help="No JSON beside the files."),
    click.option("--fail-on-bad-input", is_flag=True, help="Count a place as failed when its pixels look wrong: "
                 "constant, or mostly missing."),
    click.option("--restart", is_flag=True, help="Do everything again; what is there gives way when the new is whole."),
)  # fmt: skip

_ONLY_FILES = {
    "file_format": "--format",
    "no_inputs": "--no-inputs",
    "no_embeddings": "--no-embeddings",
    "no_json": "--no-json",
    "fail_on_bad_input": "--fail-on-bad-input",
}
_ONLY_DATASETS = {"npz": "--npz", "zarr": "--zarr", "keep_inputs": "--keep-inputs"}


def layout_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ExportConfig; UsageError for options of another layout."""
    layout = given["layout"]
    foreign = _ONLY_FILES if layout == "dataset" else _ONLY_DATASETS
    for name, option in foreign.items():
        if given[name]:
            wanted = "per-item or combined" if layout == "dataset" else "dataset"
            raise click.UsageError(f"{option} belongs to --layout {wanted}")
    return {
        "format": given["file_format"] or "npz",
        "save_inputs": not given["no_inputs"],
        "save_embeddings": not given["no_embeddings"],
        "save_manifest": not given["no_json"],
        "fail_on_bad_input": given["fail_on_bad_input"],
        "resume": not given["restart"],
    }


def target_of(given: Mapping[str, Any]) -> DatasetTarget | PerItemTarget | CombinedTarget:
    """Where the output goes."""
    out = given["out"]
    if given["layout"] == "per-item":
        return ExportTarget.per_item(out)
    if given["layout"] == "combined":
        return ExportTarget.combined(out)
    return ExportTarget.dataset(out, npz=given["npz"], zarr=given["zarr"])


def single_place(given: Mapping[str, Any]) -> Spatial | None:
    """The place on the command line; None where a table is named. UsageError for both, for two, for none."""
    named = [name for name in ("table", "bbox", "pointbuffer") if given[name] is not None]
    if len(named) != 1:
        raise click.UsageError("give one of TABLE, --bbox and --pointbuffer" + (", not several" if named else ""))
    if given["bbox"] is not None:
        minlon, minlat, maxlon, maxlat = numbers("--bbox", given["bbox"], "MINLON,MINLAT,MAXLON,MAXLAT")
        return BBox(minlon, minlat, maxlon, maxlat)
    if given["pointbuffer"] is not None:
        lon, lat, buffer_m = numbers("--pointbuffer", given["pointbuffer"], "LON,LAT,METRES")
        return PointBuffer(lon, lat, buffer_m)
    return None
