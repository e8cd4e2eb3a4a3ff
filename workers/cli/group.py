"""The group ``rsembed fleet`` and what its errors look like."""

from __future__ import annotations

from collections.abc import Mapping

import click

from rsembed.cli.main import EXIT_REFUSED, CommandFailedError, LazyGroup
from rsembed.core.errors import RSEmbedError
from workers.ledger.errors import LedgerUnavailableError

COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "demo": ("workers.cli.demo", "demo", "Start a fleet, embed a synthetic scene, stop it."),
    "up": ("workers.cli.up", "up", "Run everything on this machine, until Ctrl-C."),
    "submit": ("workers.cli.submit", "submit", "Put a run into the ledger."),
    "watch": ("workers.cli.watch", "watch", "Follow a run to its end; its exit code is the run's."),
    "status": ("workers.cli.status", "status", "How far a run is: rows, rates, failures."),
    "runs": ("workers.cli.listing", "runs", "List runs, newest first."),
    "workers": ("workers.cli.listing", "workers", "List worker processes."),
    "failures": ("workers.cli.listing", "failures", "List the rows of a run that failed, and why."),
    "manifest": ("workers.cli.listing", "manifest", "Print the manifest of a run that has ended."),
    "pause": ("workers.cli.steering", "pause", "Let runs rest; what is in hand is finished or given back."),
    "resume": ("workers.cli.steering", "resume", "Let paused, blocked or cancelled runs go on."),
    "cancel": ("workers.cli.steering", "cancel", "End runs early; what is done stays."),
    "retry": ("workers.cli.steering", "retry", "Do the failed rows of a run again, and no others."),
    "drain": ("workers.cli.steering", "drain", "Let a worker or a queue take no more work."),
    "drop": ("workers.cli.steering", "drop", "Forget a run; its output stays."),
    "doctor": ("workers.cli.doctor", "doctor", "Look at servers, stores, weights and workers; for probes, too."),
    "db": ("workers.cli.database", "db", "The ledger's tables: make, check, refill."),
    "worker": ("workers.cli.worker", "worker", "Run one worker process."),
    "dispatcher": ("workers.cli.dispatcher", "dispatcher", "Run the process that hands out work."),
    "flower": ("workers.cli.flower", "flower", "Run Flower, guarded by a password."),
}
"""Name -> module, attribute, one line of help."""

EPILOG = """\b
On one machine:
  rsembed fleet up                                  servers, workers, Flower; Ctrl-C stops all of it
  rsembed fleet submit places.parquet --model MODEL --out out --watch
On many, with DATABASE_URL, REDIS_URL and RSEMBED_INPUTS set everywhere:
  rsembed fleet db upgrade                          once, and after an update
  rsembed fleet dispatcher                          one leads, others stand by
  rsembed fleet worker io                           as many as the source of imagery bears
  rsembed fleet worker gpu                          one for each GPU

Without DATABASE_URL the commands look for a `rsembed fleet up` on this machine. Exit codes: 0 done, 2 refused,
3 some rows failed, 130 stopped."""

AWAY = (
    "\nIs the server up, and does DATABASE_URL lead there? `rsembed fleet doctor` looks at all of them; what is in the "
    "ledger is safe, and workers wait for it."
)


class FleetGroup(LazyGroup):
    """The commands of the fleet; says what to do where a server is away or a package is missing."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See LazyGroup."""
        try:
            return super().get_command(ctx, cmd_name)
        except ModuleNotFoundError as exc:
            raise missing_package(exc) from exc

    def explained(self, error: RSEmbedError) -> str:
        """See OneLineErrors."""
        return explained(error)


def missing_package(error: ModuleNotFoundError) -> CommandFailedError:
    """What is said where a package of the fleet is not installed; raises ``error`` when a module of ours is missing."""
    if (error.name or "").split(".")[0] in ("rsembed", "workers", "migrations"):
        raise error
    text = f"the fleet needs {error.name}; install it with: pip install 'rsembed[fleet]'"
    return CommandFailedError(text, EXIT_REFUSED)


def explained(error: RSEmbedError) -> str:
    """``error``, with what to do where a server is away."""
    return f"{error}{AWAY}" if isinstance(error, LedgerUnavailableError) else str(error)


@click.group(cls=FleetGroup, table=COMMANDS, epilog=EPILOG)
def fleet() -> None:
    """Run exports of millions of rows on many machines, so that nothing is lost whatever dies."""
