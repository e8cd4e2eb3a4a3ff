"""``rsembed plot``: a picture of a map of vectors, or of a run's places."""

from __future__ import annotations

import re
from pathlib import Path

import click

from rsembed.cli.options import out_path
from rsembed.core.embedding import Embedding
from rsembed.plots.canvas import check_ending, save_figure
from rsembed.plots.maps import plot_map
from rsembed.plots.opening import map_of_row, opened
from rsembed.plots.points import MAX_POINTS, plot_points
from rsembed.plots.similarity import plot_similarity

EPILOG = """\b
Examples:
  rsembed plot embeddings
  rsembed plot embeddings --label MODEL --similar-to place-17 --out alike.png
  rsembed plot grid.npz --similar-to 2.1,42.3
"""


@click.command(epilog=EPILOG)
@click.argument("what", metavar="RUN|FILE", type=click.Path(exists=True, path_type=Path))
@click.option("--out", metavar="PICTURE", help="Where to save: .png, .pdf, .svg or .jpg [default: a .png in this "
              "folder, called after what is drawn].")  # fmt: skip
@click.option("--label", help="Which model of a run that has several.")
@click.option("--map-of", metavar="ID|ROW", help="The map of one row, of a run whose rows hold maps.")
@click.option("--similar-to", metavar="LON,LAT|ID|ROW", help="Show how alike all others are to the one at a place, to "
              "the row with an id, or (of no such id) with a number in the input.")  # fmt: skip
@click.option("--cell", metavar="ROW,COLUMN", help="The same for a cell of a map.")
@click.option("--max-points", type=click.IntRange(min=1), default=MAX_POINTS, show_default=True,
              help="Draw an even sample of the rows of a larger run.")  # fmt: skip
@click.option("--title", help="Headline [default: model, rows or cells, window].")
def plot(
    what: Path,
    out: str | None,
    label: str | None,
    map_of: str | None,
    similar_to: str | None,
    cell: str | None,
    max_points: int,
    title: str | None,
) -> None:
    """Draw a run's places, or a map of vectors from `rsembed embed --output grid`.

    Likeness of colour is likeness of embeddings: three principal components as red, green and blue; with
    --similar-to or --cell the cosine to one of them.
    """
    asked = similar_to is not None or cell is not None
    target = out_path(out) or Path(default_name(what, label, map_of, "similarity" if asked else None))
    check_ending(target)
    found = opened(what, label)
    if map_of is not None:
        if isinstance(found, Embedding):
            raise click.UsageError("--map-of picks a row of a run; this file is one map")
        found = map_of_row(found, map_of)
    if asked:
        to, at = None if similar_to is None else _to(similar_to), None if cell is None else _cell(cell)
        figure = plot_similarity(found, to, cell=at, max_points=max_points, title=title)
    elif isinstance(found, Embedding):
        figure = plot_map(found, title=title)
    else:
        figure = plot_points(found, max_points=max_points, title=title)
    click.echo(f"saved     {save_figure(figure, target)}")


def default_name(what: Path, *more: str | None) -> str:
    """``embeddings-MODEL-similarity.png``, of the parts that there are."""
    stem = what.stem if what.is_file() or what.suffix == ".zarr" else what.resolve().name
    return "-".join(part for part in (stem, *(re.sub(r"[^\w.-]", "_", each or "") for each in more)) if part) + ".png"


def _cell(text: str) -> tuple[int, int]:
    try:
        row, column = (int(part) for part in text.split(","))
    except ValueError as exc:
        raise click.UsageError(f"--cell takes two whole numbers ROW,COLUMN, got {text!r}") from exc
    return row, column


def _to(text: str) -> tuple[float, float] | str:
    """A place, where the text is two numbers; else the id or number of a row."""
    try:
        lon, lat = (float(part) for part in text.split(","))
    except ValueError:
        return text
    return lon, lat
