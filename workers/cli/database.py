"""``rsembed fleet db``: the ledger's tables."""

from __future__ import annotations

import click

from rsembed.cli.main import EXIT_INTERNAL
from rsembed.cli.quantities import count
from rsembed.pipelines.run_output import RunOutput
from rsembed.writers.store import open_store
from workers.cli.connection import json_option, open_ledger, print_json, run_argument
from workers.ledger.db import current, head
from workers.ledger.db import upgrade as upgrade_schema
from workers.rebuild import output_records
from workers.settings import FleetSettings


@click.group()
def db() -> None:
    """Make the ledger's tables, check what is in them, refill them from an output."""


@db.command(short_help="Bring the tables to this version.")
@json_option
def upgrade(as_json: bool) -> None:
    """Bring the tables to this version; does nothing when they are. Safe to run from several places at once.

    Needs a direct connection: set RSEMBED_DIRECT_DATABASE_URL where DATABASE_URL leads through a pooler.
    """
    url = FleetSettings.from_environment().need_direct_database_url()
    before = current(url)
    upgrade_schema(url)
    if as_json:
        print_json({"before": before, "schema": head(), "changed": before != head()})
    elif before == head():
        click.echo(f"the tables are those of this version already ({before})")
    else:
        click.echo(f"the tables are now those of this version ({head()}; before: {before or 'none'})")


@db.command(short_help="Check that the ledger agrees with itself.")
@click.argument("run_id", metavar="[RUN]", type=int, required=False)
@json_option
@click.pass_context
def check(ctx: click.Context, run_id: int | None, as_json: bool) -> None:
    """Check that the ledger agrees with itself: for RUN, or for every run. Exit code 1 when it does not."""
    with open_ledger(check=True) as ledger:
        if run_id is not None:
            ledger.run(run_id)  # an unknown one is refused
        found = ledger.check(run_id)
    if as_json:
        print_json({"violations": found})
    else:
        for line in found or ["the ledger agrees with itself"]:
            click.echo(line)
    ctx.exit(EXIT_INTERNAL if found else 0)


@db.command(
    short_help="Take over what stands in a run's output.",
    epilog="""\b
After the database was lost:
  rsembed fleet db upgrade
  rsembed fleet submit ... --paused       the same request as before, to the same output
  rsembed fleet db rebuild RUN
  rsembed fleet resume RUN""",
)
@run_argument
@json_option
def rebuild(run_id: int, as_json: bool) -> None:
    """Take over what stands in the output of RUN, so that only the rest is done.

    RUN has to be running or paused. Files of another run, and damaged ones, are left out with a warning.
    """
    with open_ledger(check=True) as ledger:
        run = ledger.run(run_id)
        records = list(output_records(RunOutput(open_store(run.output)), run))
        shards = ledger.rebuild(run_id, records)
    if as_json:
        print_json({"run": run_id, "shards": shards})
    else:
        click.echo(f"run {run_id}: {count(shards, 'shard')} taken over from {run.output}")
