"""``rsembed models`` and ``rsembed describe``: what there is, read from the cards alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import click

from rsembed.api import describe_model, list_models
from rsembed.cli.model_page import model_page, models_index, models_table
from rsembed.cli.page import columns, markdown, text_lines
from rsembed.embedders.catalog import MODEL_SPECS


@click.command()
@click.option("--commercial", is_flag=True, help="Only models whose weights may be used commercially.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--write-docs",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write a page for each of the package's own models, and their table, into FOLDER.",
)
def models(commercial: bool, as_json: bool, write_docs: Path | None) -> None:
    """List the models: what they take and give, how large they are and whether they may be used commercially."""
    if write_docs is not None:
        write_docs.mkdir(parents=True, exist_ok=True)
        for name, text in documents().items():
            (write_docs / name).write_text(text, encoding="utf-8")
            click.echo(str(write_docs / name))
        return
    described = [describe_model(name) for name in list_models()]
    if commercial:
        described = [about for about in described if about["licence"]["commercial"] == "yes"]
    if as_json:
        click.echo(json.dumps(described, indent=1, sort_keys=True))
        return
    table = models_table(described)
    for line in columns([table.header, *table.rows]):
        click.echo(line)
    click.echo(f"\n{len(described)} models; `rsembed describe ID` tells all about one")


def documents() -> Mapping[str, str]:
    """File name -> text of every page about the package's own models."""
    described = [describe_model(name) for name in sorted(MODEL_SPECS)]
    pages = {f"{about['id']}.md": markdown(model_page(about)) for about in described}
    return {"README.md": markdown(models_index(described)), **pages}


@click.command(epilog="\b\nExample:\n  rsembed describe MODEL")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def describe(model: str, as_json: bool) -> None:
    """All about MODEL: input, options, what is done to pixels and how sure we are of it, weights, licence, paper."""
    about = describe_model(model)
    if as_json:
        click.echo(json.dumps(about, indent=1, sort_keys=True))
        return
    width = min(120, max(80, shutil.get_terminal_size((100, 24)).columns))
    for line in text_lines(model_page(about), width):
        click.echo(line)
