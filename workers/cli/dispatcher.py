"""``rsembed fleet dispatcher``: the process that hands out work."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType

import click

from rsembed.cli.log_lines import set_up_logging
from workers.dispatcher import run_dispatcher
from workers.settings import FleetSettings

logger = logging.getLogger(__name__)


@click.command()
@click.pass_context
def dispatcher(ctx: click.Context) -> None:
    """Hand out work: tickets, expired leases, blocked runs. One leads; more of them stand by.

    Needs a direct connection to Postgres: set RSEMBED_DIRECT_DATABASE_URL where DATABASE_URL leads through a pooler.
    RSEMBED_METRICS_PORT opens the port for Prometheus.
    """
    set_up_logging(max(1, ctx.find_root().params.get("verbose", 0)))
    stop = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        logger.info("stopping", extra={"signal": number})
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    run_dispatcher(FleetSettings.from_environment(), stop)
