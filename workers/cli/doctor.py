"""``rsembed fleet doctor``: whether everything is there, and everybody works."""

from __future__ import annotations

import contextlib

import click

from rsembed.cli.main import EXIT_INTERNAL
from rsembed.core.serialization import to_json
from rsembed.core.settings import Settings
from workers.cli.connection import json_option, print_json, print_table
from workers.health import IDLE_S, Examination
from workers.settings import FleetSettings

NAMES = ("database", "schema", "broker", "inputs", "outputs", "weights", "workers", "progress")

EPILOG = """\b
Examples:
  Everything, for people:
    rsembed fleet doctor
  As a liveness probe of a worker's container:
    rsembed fleet doctor --only progress --here
  As a readiness probe:
    rsembed fleet doctor --only database --only schema --only broker --only inputs

Exit codes: 0 all is well (warnings included), 1 something has failed."""


@click.command(epilog=EPILOG)
@click.option("--only", type=click.Choice(NAMES), multiple=True, help="Look at this only; repeatable.")
@click.option("--here", is_flag=True, help="Look at the workers of this machine only.")
@click.option("--idle-after", "idle_s", type=float, default=IDLE_S, show_default=True, metavar="SECONDS",
              help="A worker is idle that claims nothing for so long while work of its queues waits.")  # fmt: skip
@json_option
@click.pass_context
def doctor(ctx: click.Context, only: tuple[str, ...], here: bool, idle_s: float, as_json: bool) -> None:
    """Look at the database, its schema, the broker, the stores, weights and workers.

    The most treacherous fault has a check of its own: a worker that is alive, but idle while work of its queues waits.
    """
    settings, library = FleetSettings.from_environment(), Settings.from_environment()
    with contextlib.closing(Examination(settings, library, here=here, idle_s=idle_s)) as examination:
        findings = list(examination.findings(only))
    if as_json:
        print_json([to_json(finding) for finding in findings])
    else:
        rows = [(finding.name, finding.state, finding.detail) for finding in findings]
        print_table(("check", "state", "detail"), rows, left=("check", "state", "detail"))
    ctx.exit(EXIT_INTERNAL if any(finding.state == "failed" for finding in findings) else 0)
