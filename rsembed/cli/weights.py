"""``rsembed weights``: which checkpoints are on this machine, and fetching them ahead of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import click

from rsembed.cli.page import columns
from rsembed.cli.quantities import size
from rsembed.core.card import ModelCard
from rsembed.core.errors import ModelError, WeightsError
from rsembed.core.settings import Settings
from rsembed.embedders.registry import REGISTRY
from rsembed.embedders.weights import WeightsHandle, pull, resolve_weights


@click.group()
def weights() -> None:
    """Checkpoints: where they are, and fetching them ahead of a run."""


@weights.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_weights(as_json: bool) -> None:
    """List every checkpoint and whether it is on this machine; nothing is fetched."""
    settings = Settings.from_environment()
    found = [
        {
            "model": card.id,
            "variant": variant,
            "size_bytes": card.weights[variant].size_bytes,
            "commercial": card.licence.commercial,
            "path": None if handle is None else str(handle.path),
        }
        for card, variant, handle in _everything(settings)
    ]
    if as_json:
        click.echo(json.dumps(found, indent=1, sort_keys=True))
        return
    rows = [("model", "variant", "size", "commercial", "here")]
    for each in found:
        about = size(each["size_bytes"]) if isinstance(each["size_bytes"], int) else "unknown"
        where = str(each["path"] or "no")
        rows.append((str(each["model"]), str(each["variant"] or "-"), about, str(each["commercial"]), where))
    for line in columns(rows):
        click.echo(line)


def _everything(settings: Settings) -> Iterator[tuple[ModelCard, str, WeightsHandle | None]]:
    for name in REGISTRY.names():
        card = REGISTRY.get(name).card
        for variant in card.weights:
            try:
                handle = resolve_weights(card, variant, replace(settings, offline=True))
            except WeightsError:
                handle = None
            yield card, variant, handle


@weights.command("pull")
@click.argument("model")
@click.option("--variant", help="Which variant [default: the model's own default].")
def pull_weights(model: str, variant: str | None) -> None:
    """Fetch the checkpoint of MODEL and print where it is."""
    card = REGISTRY.get(model).card
    handle = pull(card, _variant(card, variant), Settings.from_environment())
    click.echo(f"{card.id} has no weights: nothing to fetch" if handle is None else str(handle.path))


@weights.command("path")
@click.argument("model", required=False)
@click.option("--variant", help="Which variant [default: the model's own default].")
def weights_path(model: str | None, variant: str | None) -> None:
    """Where the checkpoint of MODEL is on this machine; without MODEL, the folders that are looked at."""
    settings = Settings.from_environment()
    if model is None:
        click.echo(f"RSEMBED_WEIGHTS_DIR  {settings.weights_dir or 'not set'}")
        click.echo(f"downloads            {settings.cache_dir / 'weights'}")
        return
    card = REGISTRY.get(model).card
    handle = resolve_weights(card, _variant(card, variant), replace(settings, offline=True))
    click.echo(f"{card.id} has no weights" if handle is None else str(handle.path))


def _variant(card: ModelCard, asked: str | None) -> str:
    """The card's key of the variant asked for, aliases understood."""
    option = next((option for option in card.options if option.name == card.variant_option), None)
    if option is None:
        if asked is not None:
            raise ModelError(f"{card.id} has no variants; leave --variant out")
        return ""
    return str(option.default) if asked is None else option.aliases.get(asked, asked)
