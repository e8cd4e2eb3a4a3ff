"""``rsembed fleet flower``: Flower behind a password."""

from __future__ import annotations

import click

from rsembed.cli.log_lines import set_up_logging
from workers.flower import run_flower
from workers.settings import FleetSettings


@click.command()
@click.pass_context
def flower(ctx: click.Context) -> None:
    """Run Flower on the fleet's broker. It refuses to start without RSEMBED_FLOWER_USER and RSEMBED_FLOWER_PASSWORD.

    It listens on RSEMBED_FLOWER_HOST (127.0.0.1) and RSEMBED_FLOWER_PORT (5555); its /metrics asks for the password,
    too.
    """
    set_up_logging(max(1, ctx.find_root().params.get("verbose", 0)))
    ctx.exit(run_flower(FleetSettings.from_environment()))
