"""``rsembed fleet demo``: the demo's scene embedded by a whole fleet on this machine."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from rsembed.cli.demo import export_arguments, result_folder, show_result, write_places, write_scene
from rsembed.cli.log_lines import set_up_logging
from workers.crew import UpOptions
from workers.settings import FleetSettings, inherited_environment
from workers.standalone import TEND_S, LocalFleet


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo-output"), show_default=True,
              help="Folder for everything, the fleet's state included.")  # fmt: skip
@click.option("--points", type=click.IntRange(4, 20_000), default=300, show_default=True, help="How many places.")
@click.pass_context
def demo(ctx: click.Context, out: Path, points: int) -> None:
    """Start a fleet, embed a small synthetic Sentinel-2 scene with it, and stop it: no network, no weights.

    The scene is invented, not a satellite observation. Run it again: it finds its run.
    """
    began = time.monotonic()
    set_up_logging(ctx.find_root().params.get("verbose", 0))
    catalog, table = write_scene(out), write_places(out, points)
    result = result_folder(out, points)
    home = (out / "fleet").absolute()
    click.echo("\n2. A fleet on this machine: Postgres, Redis, a dispatcher, an IO worker, an inference worker\n")
    settings = replace(FleetSettings.from_environment({}), home=home)
    fleet = LocalFleet(UpOptions(cpu=True, flower=False), settings, say=lambda line: click.echo(f"   {line}"))
    stopped = threading.Event()
    tender = threading.Thread(target=_tend, args=(fleet, stopped), daemon=True, name="tend")
    try:
        fleet.start()
        tender.start()
        click.echo("\n3. A run, with this command (the same one finds it again):\n")
        code = _command(home, ["submit", *export_arguments(table, catalog, result), "--watch"])
        click.echo("\n4. What the ledger knows of it:\n")
        _command(home, ["runs"])
        click.echo("")
        _command(home, ["workers"])
    finally:
        stopped.set()
        if tender.is_alive():
            tender.join()
        click.echo("\n   Stopping the fleet; its state stays in " + str(out / "fleet"))
        fleet.stop()
    if code in (0, 3):
        show_result(5, out, catalog, result)
    click.echo(
        f"\nThe demo took {time.monotonic() - began:.0f} s. Run it again: what is done is not done twice.\n"
        "For your own places: `rsembed fleet up` in one terminal, `rsembed fleet submit` in another.\n"
        f"This fleet again: RSEMBED_HOME={shlex.quote(str(out / 'fleet'))} rsembed fleet up"
    )
    ctx.exit(code)


def _tend(fleet: LocalFleet, stopped: threading.Event) -> None:
    while not stopped.wait(TEND_S):
        fleet.tend()


def _command(home: Path, words: Sequence[str]) -> int:
    """Run ``rsembed fleet WORDS`` against the demo's fleet, as a user would; its exit code."""
    click.echo(f"   rsembed fleet {shlex.join(words)}\n")
    environ = inherited_environment(
        {
            "RSEMBED_HOME": str(home),
            "DATABASE_URL": "",
            "RSEMBED_DIRECT_DATABASE_URL": "",
            "REDIS_URL": "",
            "RSEMBED_INPUTS": "",
        }
    )
    return subprocess.run([sys.executable, "-m", "rsembed", "fleet", *words], env=environ, check=False).returncode
