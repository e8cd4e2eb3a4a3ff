"""``rsembed fleet worker``: one worker process."""

from __future__ import annotations

import warnings
from typing import cast

import click

from rsembed.cli.log_lines import set_up_logging
from rsembed.cli.options import names
from rsembed.core.settings import Settings
from workers.queues import WorkerKind
from workers.settings import FleetSettings
from workers.worker import run_worker

EPILOG = """\b
Examples:
  Fetch imagery; needs neither torch nor a GPU:
    rsembed fleet worker io
  Embed on this machine's second GPU, two models only:
    rsembed fleet worker gpu --device cuda:1 --models MODEL_A,MODEL_B
  Embed without a GPU (runs submitted with --device cpu), and serve precomputed products:
    rsembed fleet worker cpu

SIGTERM lets it go: what it has in hand is given back at once. RSEMBED_LEASE_S, RSEMBED_MEMORY_MB and
RSEMBED_FETCH_THREADS say how patient, how large and how parallel it is."""


@click.command(epilog=EPILOG)
@click.argument("kind", type=click.Choice(["io", "gpu", "cpu"]))
@click.option("--models", metavar="A,B,...", help="Models it embeds with [default: all].")
@click.option("--device", metavar="DEVICE", help="cpu, cuda or cuda:N [default: RSEMBED_DEVICE, else cuda:0 for gpu].")
@click.option("--concurrency", type=click.IntRange(min=1), help="Tickets in work at a time [default: 4 io, 3 others].")
@click.pass_context
def worker(ctx: click.Context, kind: str, models: str | None, device: str | None, concurrency: int | None) -> None:
    """Run one worker: io fetches imagery, gpu and cpu embed it."""
    if kind == "io" and (models or device):
        raise click.UsageError("an io worker fetches for all models and has no device; drop --models and --device")
    if kind == "cpu" and device not in (None, "cpu"):
        raise click.UsageError(f"a cpu worker computes on the processor; `worker gpu --device {device}` has a device")
    set_up_logging(max(1, ctx.find_root().params.get("verbose", 0)))
    # Celery's warning names an option of its own; ours runs no code that comes with a ticket.
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
    default = (Settings.from_environment().device or "cuda:0") if kind == "gpu" else "cpu"
    code = run_worker(
        FleetSettings.from_environment(),
        cast("WorkerKind", kind),
        models=names(models),
        device=device or default,
        concurrency=concurrency,
    )
    ctx.exit(code)
