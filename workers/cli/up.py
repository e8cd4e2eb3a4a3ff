"""``rsembed fleet up``: the whole fleet on this machine."""

from __future__ import annotations

import click

from rsembed.cli.log_lines import set_up_logging
from rsembed.cli.options import names
from rsembed.embedders.registry import REGISTRY
from workers.crew import UpOptions
from workers.settings import FleetSettings
from workers.standalone import run_up

EPILOG = """\b
Examples:
  Everything, state kept in ~/.local/share/rsembed/fleet (or RSEMBED_HOME):
    rsembed fleet up
  More IO workers, one model only, and no Flower:
    rsembed fleet up --io 2 --models MODEL --no-flower
Then, in another terminal:
    rsembed fleet submit places.parquet --model MODEL --out out --watch

DATABASE_URL, REDIS_URL and RSEMBED_INPUTS replace the embedded servers and the folder of inputs. Stopped and started
again, it goes on where it was."""


@click.command(epilog=EPILOG)
@click.option("--io", type=click.IntRange(min=0), default=1, show_default=True, help="IO workers.")
@click.option("--gpu", type=click.IntRange(min=0), help="Inference workers on GPUs [default: one for each GPU].")
@click.option("--cpu", is_flag=True, help="Use no GPU.")
@click.option("--models", metavar="A,B,...", help="Models that the inference workers serve [default: all].")
@click.option("--flower/--no-flower", default=True, help="Run Flower, too.")
@click.pass_context
def up(ctx: click.Context, io: int, gpu: int | None, cpu: bool, models: str | None, flower: bool) -> None:
    """Run Postgres, Redis, dispatcher, workers and Flower on this machine, until Ctrl-C."""
    set_up_logging(ctx.find_root().params.get("verbose", 0))
    served = tuple(REGISTRY.resolve(name) for name in names(models) or ())  # an unknown one is refused here, once
    options = UpOptions(io=io, gpu=gpu, cpu=cpu, flower=flower, models=served)
    ctx.exit(run_up(options, FleetSettings.from_environment(), say=click.echo))
