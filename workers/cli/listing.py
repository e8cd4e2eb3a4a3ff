"""Commands that list: runs, workers, failures; and a run's manifest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from rsembed.cli.quantities import size
from rsembed.core.errors import ExportError
from rsembed.core.serialization import to_json
from rsembed.pipelines.run_output import MANIFEST, RunOutput
from rsembed.progress_bars import duration
from rsembed.writers.store import open_store
from workers.cli.connection import json_option, open_ledger, print_json, print_table, run_argument
from workers.cli.status import run_json, state_text
from workers.ledger.records import FailedRow, WorkerRecord

SHORT_ID = 8
"""Digits of a worker's id that are shown, and enough to name it."""
_SILENT_S = 20.0
"""Without a heartbeat for so long, a worker is shown as silent: dead, or cut off from the ledger."""


@click.command()
@click.option("--active", is_flag=True, help="Only runs that have not ended.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@json_option
def runs(active: bool, limit: int, as_json: bool) -> None:
    """List runs, newest first."""
    with open_ledger() as ledger:
        found = ledger.runs(active=active, limit=limit)
    if as_json:
        print_json([run_json(run) for run in found])
    elif not found:
        click.echo("no runs; `rsembed fleet submit --help` shows how to make one")
    else:
        rows = [
            (
                run.id,
                run.created_at.astimezone().strftime("%Y-%m-%d %H:%M"),
                run.n_rows,
                run.priority,
                ",".join(model.label for model in run.models),
                run.output,
                state_text(run),
            )
            for run in found
        ]
        heads = ("run", "since", "rows", "priority", "models", "output", "state")
        print_table(heads, rows, left=("since", "models", "output", "state"))


@click.command()
@click.option("--all", "everyone", is_flag=True, help="Also those that have stopped or died.")
@json_option
def workers(everyone: bool, as_json: bool) -> None:
    """List worker processes: what they serve, when they were last heard of, what they hold."""
    with open_ledger() as ledger:
        found = ledger.workers(live_only=not everyone)
        drained = ledger.drained()
    if as_json:
        print_json([worker_json(worker) for worker in found])
        return
    if not found:
        click.echo("no live workers; start some: rsembed fleet worker io|gpu|cpu, or rsembed fleet up")
        _tell_queues((), drained)
        return
    rows = [
        (
            worker.info.id[:SHORT_ID],
            worker.info.kind,
            f"{worker.info.host}:{worker.info.pid}",
            "silent" if worker.state == "running" and worker.heartbeat_age_s > _SILENT_S else worker.state,
            worker.info.device if worker.info.kind in ("gpu", "cpu") else None,
            (",".join(worker.info.models) or "all") if worker.info.kind in ("gpu", "cpu") else None,
            worker.leased,
            duration(worker.heartbeat_age_s),
            None if worker.claim_age_s is None else duration(worker.claim_age_s),
            size(worker.rss_bytes),
            worker.info.version,
        )
        for worker in found
    ]
    heads = ("worker", "kind", "host:pid", "state", "device", "models", "leased", "heard", "claimed", "memory",
             "version")  # fmt: skip
    print_table(heads, rows, left=("worker", "kind", "host:pid", "state", "device", "models"))
    for worker in found:
        for model, reason in sorted(worker.degraded.items()):
            click.echo(f"{worker.info.id[:SHORT_ID]} cannot serve {model}: {reason}")
    _tell_queues([queue for worker in found for queue in worker.info.queues], drained)


def _tell_queues(served: Sequence[str], drained: Sequence[str]) -> None:
    """The queues that somebody listens on, and those that are drained."""
    if served:
        click.echo(f"queues: {', '.join(sorted(set(served)))}")
    for queue in drained:
        name, option = ("every queue", "--all") if queue == "*" else (queue, queue)
        click.echo(f"{name} is drained: nobody takes work there until `rsembed fleet drain {option} --off`")


def worker_json(worker: WorkerRecord) -> Any:
    """A worker for programs."""
    return to_json(worker)


@click.command()
@run_argument
@click.option("--error-class", metavar="CLASS", help="Only this class, such as transient or crash.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@click.option("--traceback", is_flag=True, help="Print where each was raised, too.")
@json_option
def failures(run_id: int, error_class: str | None, limit: int, traceback: bool, as_json: bool) -> None:
    """List failed rows of RUN: which, at which stage, why."""
    with open_ledger() as ledger:
        found = ledger.failures(run_id, error_class, limit)
    if as_json:
        print_json([_failure_json(row) for row in found])
        return
    if not found:
        click.echo(f"run {run_id}: no row failed" + (f" with class {error_class}" if error_class else ""))
        return
    rows = [
        (row.row, row.id, row.label, row.failure.stage, row.failure.error_class, _one_line(row.failure.message))
        for row in found
    ]
    left = ("id", "model", "stage", "class", "message")
    print_table(("row", *left), rows, left=left)
    for row in found if traceback else ():
        if row.failure.traceback:
            # Rows that failed at the same place share a traceback; its last line may be another row's.
            frames = row.failure.traceback.rstrip().rpartition("\n")[0]
            click.echo(f"\nrow {row.row} ({row.id}), {row.label}:\n{frames}\n{row.failure.message}")


def _failure_json(row: FailedRow) -> Any:
    return to_json(row)


def _one_line(message: str) -> str:
    text = " ".join(message.split())
    return text if len(text) <= 100 else text[:97] + "..."


@click.command()
@run_argument
def manifest(run_id: int) -> None:
    """Print the manifest of RUN (JSON): what was asked, with which weights, what came out.

    It is written last, so it is there only when the run has ended.
    """
    with open_ledger() as ledger:
        run = ledger.run(run_id)
    found = RunOutput(open_store(run.output)).read(MANIFEST)
    if found is None:
        raise ExportError(f"{run.output} holds no {MANIFEST}: run {run_id} is {state_text(run)}")
    print_json(json.loads(found))
