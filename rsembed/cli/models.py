"""``rsembed models`` and ``rsembed describe``: what there is, read from the cards alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import click

from rsembed.api import describe_model, list_models
from rsembed.cli.quantities import size


@click.command()
@click.option("--commercial", is_flag=True, help="Only models whose weights may be used commercially.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def models(commercial: bool, as_json: bool) -> None:
    """List the models: what they take and give, how large they are and whether they may be used commercially."""
    described = [describe_model(name) for name in list_models()]
    if commercial:
        described = [about for about in described if about["licence"]["commercial"] == "yes"]
    if as_json:
        click.echo(json.dumps(described, indent=1, sort_keys=True))
        return
    header = ("id", "title", "input", "numbers", "output", "weights", "licence", "commercial")
    for line in columns([header, *(_row(about) for about in described)]):
        click.echo(line)
    click.echo(f"\n{len(described)} models; `rsembed describe ID` tells all about one")


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows of text as aligned lines; the first row is the header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(about: dict[str, Any]) -> tuple[str, ...]:
    given = next(iter(about["inputs"].values()))
    sizes = [file["size_bytes"] for file in about["weights"].values() if file["size_bytes"]]
    return (
        about["id"],
        about["title"],
        f"{len(given['bands'])} bands, {given['image_size']} px at {given['scale_m']:g} m",
        span([str(dim) for dim in about["dims"].values()]),
        ", ".join(about["output"]),
        (span([size(s) for s in sizes]) or "yes") if about["weights"] else "none",
        about["licence"]["name"],
        about["licence"]["commercial"],
    )


def span(texts: Sequence[str]) -> str:
    """``first`` or ``first-last`` of what the variants have."""
    distinct = list(dict.fromkeys(texts))
    return "" if not distinct else distinct[0] if len(distinct) == 1 else f"{distinct[0]} - {distinct[-1]}"


@click.command(epilog="\b\nExample:\n  rsembed describe MODEL")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def describe(model: str, as_json: bool) -> None:
    """All about MODEL: input, options, what is done to pixels and how sure we are of it, weights, licence, paper."""
    about = describe_model(model)
    if as_json:
        click.echo(json.dumps(about, indent=1, sort_keys=True))
        return
    for line in describe_lines(about):
        click.echo(line)


def describe_lines(about: dict[str, Any]) -> Iterator[str]:
    """A card in readable sections."""
    yield f"{about['id']}: {about['title']}"
    yield f"  {about['summary']}"
    yield from _inputs(about)
    yield "\nGives"
    yield f"  {' or '.join(about['output'])}; pooled: {span([str(dim) for dim in about['dims'].values()])} numbers"
    if about["options"]:
        yield "\nOptions (NAME:option=value,... on the command line, keywords in Python)"
        yield from _options(about)
    for recipe, steps in about["recipes"].items():
        yield f"\nRecipe {recipe}"
        yield from (f"  {step['status']:<11} {step['text']}" for step in steps)
    yield "\nWeights"
    yield from _weights(about)
    licence = about["licence"]
    yield "\nLicence"
    yield f"  {licence['name']}; commercial use: {licence['commercial']}"
    yield f"  attribution: {licence['attribution']}"
    yield "\nSources"
    yield f"  {about['paper']}"
    yield f"  {about['source']}"
    if about["notes"]:
        yield "\nNotes"
        yield from (f"  {note}" for note in about["notes"])


def _inputs(about: dict[str, Any]) -> Iterator[str]:
    yield "\nTakes"
    for modality, given in about["inputs"].items():
        frames = given["frames"]
        per_row = {
            "single": "one frame",
            "auto": f"one frame per {frames['frame_days']} days, at most {frames['max_frames']}",
            "multi": f"{frames['n_frames']} frames",
        }[frames["mode"]]
        extent = given["image_size"] * given["scale_m"]
        yield f"  {modality}: {given['collection']}, bands {', '.join(given['bands'])}"
        yield (
            f"      {given['image_size']} px at {given['scale_m']:g} m ({extent:g} m a side)"
            f"{', other sizes as they are' if given['any_size'] else ''}; {per_row}, {given['composite']} composite"
        )


def _options(about: dict[str, Any]) -> Iterator[str]:
    rows = [("name", "type", "default", "accepts", "what for")]
    for option in about["options"]:
        accepts = ", ".join(str(choice) for choice in option["choices"])
        if not accepts and option["minimum"] is not None:
            accepts = f"{option['minimum']:g} to {option['maximum']:g}" if option["maximum"] is not None else "a number"
        rows.append((option["name"], option["type"], str(option["default"]), accepts or "any", option["help"]))
    yield from (f"  {line}" for line in columns(rows))


def _weights(about: dict[str, Any]) -> Iterator[str]:
    if not about["weights"]:
        yield "  none: nothing is downloaded"
    for variant, file in about["weights"].items():
        where = file["url"] or file["repo"]
        revision = f" at {file['revision'][:12]}" if file["revision"] else ""
        about_size = f", about {size(file['size_bytes'])}" if file["size_bytes"] else ""
        yield f"  {f'{variant}: ' if variant else ''}{file['file']} from {where}{revision}{about_size}"
