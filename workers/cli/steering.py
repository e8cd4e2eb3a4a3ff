"""Commands that steer: pause, resume, cancel, retry, drain, drop."""

from __future__ import annotations

from collections.abc import Callable

import click

from rsembed.cli.quantities import count
from rsembed.core.errors import SpecError
from workers.cli.connection import json_option, open_ledger, operator, print_json, run_argument
from workers.dropping import require_droppable
from workers.ledger.repository import Ledger

runs_argument = click.argument("run_ids", metavar="RUN...", type=int, nargs=-1, required=True)


@click.command()
@runs_argument
@click.option("--reason", help="Why; shown by status.")
@json_option
def pause(run_ids: tuple[int, ...], reason: str | None, as_json: bool) -> None:
    """Let each RUN rest: no new request, no new batch; what is in hand is finished or given back within seconds."""
    who = operator()
    _each(run_ids, "paused", lambda ledger, run: ledger.pause(run, reason or f"by {who}", who), as_json)


@click.command()
@runs_argument
@click.option("--max-requests", type=click.IntRange(min=1), help="Another limit, for a run that has used up its own.")
@json_option
def resume(run_ids: tuple[int, ...], max_requests: int | None, as_json: bool) -> None:
    """Let each RUN go on that is paused, blocked or cancelled."""

    def go_on(ledger: Ledger, run: int) -> bool:
        if max_requests is not None:
            ledger.set_max_requests(run, max_requests, operator())
        return ledger.resume(run, operator())

    _each(run_ids, "resumed", go_on, as_json)


@click.command()
@runs_argument
@json_option
def cancel(run_ids: tuple[int, ...], as_json: bool) -> None:
    """End each RUN early. What is done stays; `rsembed fleet resume` takes it up again."""
    _each(run_ids, "cancelled", lambda ledger, run: ledger.cancel(run, operator()), as_json)


def _each(run_ids: tuple[int, ...], word: str, change: Callable[[Ledger, int], bool], as_json: bool) -> None:
    """Change every run, and say of each whether that changed anything."""
    with open_ledger() as ledger:
        changed = {run: change(ledger, run) for run in run_ids}
        states = {run: ledger.run(run).state.value for run in run_ids}
    if as_json:
        print_json([{"run": run, "changed": changed[run], "state": states[run]} for run in run_ids])
        return
    for run in run_ids:
        click.echo(f"run {run}: {word}" if changed[run] else f"run {run}: nothing to do, it is {states[run]}")


@click.command(
    epilog="""\b
Examples:
  Whatever failed:
    rsembed fleet retry 12
  Only what a server's bad day did:
    rsembed fleet retry 12 --error-class transient --error-class provider"""
)
@run_argument
@click.option("--error-class", "error_classes", metavar="CLASS", multiple=True, help="Only rows of this class; "
              "repeatable. `rsembed fleet status` names the classes.")  # fmt: skip
@json_option
def retry(run_id: int, error_classes: tuple[str, ...], as_json: bool) -> None:
    """Do the failed rows of RUN again, and no others; a run that is done goes back to running."""
    with open_ledger() as ledger:
        rows = ledger.retry(run_id, list(error_classes) or None, operator())
        there = {} if rows else ledger.status(run_id).failures
    if as_json:
        print_json({"run": run_id, "rows": rows})
    elif rows:
        click.echo(f"run {run_id}: {count(rows, 'row')} will be done again; follow it: rsembed fleet watch {run_id}")
    else:
        which = f" of class {', '.join(error_classes)}" if error_classes else ""
        others = f" (there are {', '.join(f'{n:,} {name}' for name, n in sorted(there.items()))})" if there else ""
        click.echo(f"run {run_id}: no failed row{which}{others}, nothing was changed")


@click.command(
    epilog="""\b
Examples:
  Empty one worker before its machine goes:
    rsembed fleet drain 3f2a91bc
  Stop all fetching, and begin again:
    rsembed fleet drain io
    rsembed fleet drain io --off"""
)
@click.argument("target", required=False, metavar="WORKER|QUEUE")
@click.option("--all", "everything", is_flag=True, help="Every queue.")
@click.option("--off", is_flag=True, help="Let it take work again.")
@json_option
def drain(target: str | None, everything: bool, off: bool, as_json: bool) -> None:
    """Let a worker (its id, or the beginning of it) or a queue (io, cpu, gpu.MODEL) take no more work.

    What it has in hand is finished. `rsembed fleet workers` lists ids and queues.
    """
    if everything == (target is not None):
        raise click.UsageError("name a worker or a queue, or give --all")
    with open_ledger() as ledger:
        name = None if target is None else _worker_or_queue(ledger, target)
        matched = ledger.drain(name, not off, operator())
    if as_json:
        print_json({"target": name, "draining": not off, "matched": matched})
    else:
        click.echo(f"{name or 'every queue'}: {'takes work again' if off else 'takes no more work'}")


def _worker_or_queue(ledger: Ledger, target: str) -> str:
    """A worker's full id for the beginning of one; anything else is a queue's name."""
    found = [worker.info.id for worker in ledger.workers() if worker.info.id.startswith(target)]
    if len(found) > 1:
        raise SpecError(f"{target!r} is the beginning of {len(found)} workers' ids; give more of it")
    return found[0] if found else target


@click.command()
@run_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop(run_id: int, yes: bool) -> None:
    """Forget RUN: its rows, progress and failures leave the ledger. Its output stays, every file of it."""
    with open_ledger(direct=True) as ledger:
        run = ledger.run(run_id)
        require_droppable(run)
        if not yes:
            click.confirm(f"Forget run {run_id} ({count(run.n_rows, 'row')}, {run.state.value})?", abort=True)
        ledger.drop(run_id, operator())
    click.echo(f"run {run_id} is forgotten; its output is still in {run.output}")
