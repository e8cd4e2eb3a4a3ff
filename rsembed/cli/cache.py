"""``rsembed cache``: the pixels that earlier runs fetched and that later ones need not ask for again."""

from __future__ import annotations

import json

import click

from rsembed.cli.quantities import count, size
from rsembed.core.errors import StoreError
from rsembed.core.settings import Settings
from rsembed.pipelines.input_cache import InputCache, cache_folder

EPILOG = """\b
The folder is RSEMBED_CACHE_DIR/inputs [~/.cache/rsembed/inputs], its bound RSEMBED_INPUT_CACHE_GB [10; 0: nothing is
kept]. What was unused for longest goes first. Imagery from Earth Engine and remote STAC catalogues is kept, unless its
window ended less than seven days ago; what lies on this machine is not."""


@click.group(epilog=EPILOG)
def cache() -> None:
    """The cache of fetched pixels: what lies there, and how to empty it."""


def _opened() -> InputCache:
    settings = Settings.from_environment()
    return InputCache(cache_folder(settings), settings.input_cache_bytes)


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def info(as_json: bool) -> None:
    """Where the cache is and how full."""
    found = _opened().info()
    if as_json:
        about = {
            "folder": str(found.folder),
            "patches": found.patches,
            "bytes": found.bytes,
            "max_bytes": found.max_bytes,
        }
        click.echo(json.dumps(about, indent=1, sort_keys=True))
        return
    bound = f"at most {size(found.max_bytes)}" if found.max_bytes else "off (RSEMBED_INPUT_CACHE_GB is 0)"
    click.echo(f"folder    {found.folder}")
    click.echo(f"holds     {count(found.patches, 'request')}, {size(found.bytes)}; {bound}")


@cache.command()
def clear() -> None:
    """Remove everything that is kept; runs that go on meanwhile fetch what they miss."""
    try:
        found = _opened().clear()
    except OSError as exc:
        raise StoreError(f"the cache cannot be emptied: {exc}") from exc
    click.echo(f"removed   {count(found.patches, 'request')}, {size(found.bytes)}, from {found.folder}")
