"""``rsembed demo``: a synthetic scene, a table of points, one export, one picture; no network, no weights."""

from __future__ import annotations

import csv
import shlex
import time
from pathlib import Path

import click
import numpy as np
import pyarrow.parquet as pq

from rsembed.api import get_provider
from rsembed.cli.demo_picture import save_picture
from rsembed.cli.export import export
from rsembed.cli.run_report import open_lines
from rsembed.core.errors import ProviderError, SpecError
from rsembed.core.specs import BBox, SensorSpec, TemporalSpec
from rsembed.load import load_export
from rsembed.pipelines.inspection import fetch_row, plan_sensor
from rsembed.tools.spatial import to_lonlat

MODEL = "mosaiks"
EPSG, LEFT_M, TOP_M, SIZE_PX = 32631, 480_000.0, 4_700_000.0, 1024
MARGIN_M = 700.0
YEAR = 2022
BUFFER_M = 320


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-output"), show_default=True,
              help="Folder for everything.")  # fmt: skip
@click.option("--points", type=click.IntRange(4, 20_000), default=300, show_default=True, help="How many places.")
@click.pass_context
def demo(ctx: click.Context, out: Path, points: int) -> None:
    """Embed a small synthetic Sentinel-2 scene: no network, no weights, under a minute.

    The scene is invented, not a satellite observation. Run it again: it resumes.
    """
    began = time.monotonic()
    catalog, table = write_scene(out), write_places(out, points)
    result = result_folder(out, points)
    arguments = export_arguments(table, catalog, result)
    click.echo("\n2. Embedding, with this command:\n")
    click.echo(f"   rsembed export {shlex.join(arguments)}\n")
    code = export.main(arguments, prog_name="rsembed export", standalone_mode=False)
    show_result(3, out, catalog, result)
    click.echo(f"\nThe demo took {time.monotonic() - began:.0f} s. Run it again: what is done is not done twice.")
    ctx.exit(int(code or 0))


def result_folder(out: Path, points: int) -> Path:
    """Where the embeddings go; a folder holds one run, and another number of points is another one."""
    return out / f"embeddings-{points}"


def export_arguments(table: Path, catalog: Path, result: Path) -> list[str]:
    """What follows the command that embeds ``table``."""
    return [
        str(table), "--model", MODEL, "--backend", "stac", "--catalog", str(catalog), "--year", str(YEAR), "--buffer",
        str(BUFFER_M), "--context", "none", "--out", str(result),
    ]  # fmt: skip


def show_result(step: int, out: Path, catalog: Path, result: Path) -> None:
    """Tell how the result is read, print its first rows and draw the picture, as steps ``step`` and the next."""
    folder = result / MODEL
    click.echo(f"\n{step}. The result, one row a place, in pandas, DuckDB or anything that reads Parquet:\n")
    for line in open_lines(folder):
        click.echo(f"   {line}")
    click.echo(f"\n{_head(folder)}\n")
    click.echo(f"{step + 1}. A picture: {_picture(out, catalog, result)}")


def write_scene(out: Path) -> Path:
    """The catalogue, written unless it is there."""
    try:
        from rsembed.testing.scene import DATES, write_synthetic_catalog
    except ModuleNotFoundError as exc:
        raise ProviderError("the demo's scene needs rasterio: pip install 'rsembed[stac]'") from exc
    folder = out / "synthetic-catalog"
    if (folder / "catalog.json").exists():
        click.echo(f"1. The synthetic scene is there already: {folder}")
        return folder / "catalog.json"
    click.echo(f"1. Writing a synthetic Sentinel-2 scene of {len(DATES)} dates to {folder}")
    click.echo("   (invented fields, river and clouds: not a satellite observation)")
    return write_synthetic_catalog(folder, epsg=EPSG, size_px=SIZE_PX, origin=(LEFT_M, TOP_M))


def write_places(out: Path, points: int) -> Path:
    """A CSV of places inside the scene: id, lon, lat, and a column to be carried."""
    path = out / f"places-{points}.csv"
    rng = np.random.default_rng(0)
    # One point in each cell of a lattice that fits, at a random place of its cell.
    side = int(np.ceil(np.sqrt(points)))
    cells = rng.permutation(side * side)[:points]
    reach_m = SIZE_PX * 10 - 2 * MARGIN_M
    x = LEFT_M + MARGIN_M + (cells % side + rng.random(points)) / side * reach_m
    y = TOP_M - MARGIN_M - (cells // side + rng.random(points)) / side * reach_m
    lon, lat = to_lonlat(EPSG, x, y)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "lon", "lat", "plot"])
        for i in range(points):
            writer.writerow([f"place-{i:05d}", f"{lon[i]:.6f}", f"{lat[i]:.6f}", "ABC"[i % 3]])
    click.echo(f"   {points} places: {path} (columns id, lon, lat and plot, which is carried along)")
    return path


def _head(folder: Path) -> str:
    """The first rows, read with pandas where it is installed, else with pyarrow."""
    columns = ["id", "plot", "status", "n_images", "valid_fraction", "embedding"]
    try:
        import pandas as pd
    except ModuleNotFoundError:
        return str(pq.read_table(folder, columns=columns[:-1]).slice(0, 5))
    frame = pd.read_parquet(folder, columns=columns)
    with pd.option_context("display.width", 110, "display.max_columns", None, "display.max_colwidth", 34):
        return f"{frame.head()}\n[{len(frame)} rows]"


def _picture(out: Path, catalog: Path, result: Path) -> str:
    """The scene and its places, coloured by the first principal components of their embeddings."""
    run = load_export(result)
    rows = run.table(MODEL, ["lon", "lat", "status"])
    vectors = run.embedding(MODEL)
    provider = get_provider("stac", catalog=catalog)
    reach = SIZE_PX * 10.0
    corners = (np.array([LEFT_M, LEFT_M + reach]), np.array([TOP_M - reach, TOP_M]))
    lon, lat = to_lonlat(EPSG, *corners)
    box = BBox(float(lon[0]), float(lat[0]), float(lon[1]), float(lat[1]))
    sensor = SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B4", "B3", "B2"), scale_m=10, cloudy_pct=60)
    plan = plan_sensor(sensor, provider, recipe="authors", about=provider.describe())
    scene = fetch_row(plan, box, TemporalSpec.year(YEAR).window, provider).patch
    path = out / "demo.png"
    try:
        save_picture(path, scene, rows.column("lon").to_numpy(), rows.column("lat").to_numpy(), vectors)
    except SpecError as exc:
        return f"left out, {exc}"
    return str(path)
