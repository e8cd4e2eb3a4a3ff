"""``rsembed fleet status``: one run, at a glance."""

from __future__ import annotations

import datetime as dt
from typing import Any

import click

from rsembed.cli.quantities import count
from rsembed.core.serialization import to_json
from rsembed.progress_bars import duration
from workers.cli.connection import json_option, open_ledger, print_json, run_argument, table_lines
from workers.cli.throttled import run_throttle, throttle_line
from workers.ledger.records import RunRecord, RunState, RunStatus
from workers.settings import FleetSettings

EPILOG = """\b
done, no_data, low_q(uality), failed and open are rows; ready and leased are units of work (shards of rows); oldest is
how long the first ready unit has waited; rows/s are over the last 1, 5 and 60 minutes; left is a guess from them.

\b
Examples:
  rsembed fleet status 12
  rsembed fleet status 12 --json | jq '.stages[] | {stage, label, open, eta_s}'
  rsembed fleet status 12 --events 20"""


@click.command(epilog=EPILOG)
@run_argument
@click.option("--events", type=click.IntRange(min=0), default=0, help="Also the last so many events.")
@json_option
def status(run_id: int, events: int, as_json: bool) -> None:
    """Tell how far RUN is: rows by stage and outcome, rates, what is left, failures by class."""
    with open_ledger() as ledger:
        found = ledger.status(run_id)
        told = ledger.events(run_id, events) if events else []
    throttle = run_throttle(found.run, FleetSettings.from_environment())
    if as_json:
        known = {"throttle": None if isinstance(throttle, str) else to_json(throttle)}
        print_json({**status_json(found), **known, **({"events": to_json(told)} if events else {})})
        return
    for line in status_lines(found):
        click.echo(line)
    if throttle is not None:
        click.echo(throttle_line(throttle))
    if told:
        click.echo("")
    for event in told:
        detail = ", ".join(f"{key} {value}" for key, value in event.detail.items() if value is not None)
        click.echo(f"{_time(event.at)}  {event.kind}  {event.who}  {detail}".rstrip())


def status_json(found: RunStatus) -> dict[str, Any]:
    """A run's status for programs; without its spec."""
    fields = to_json(found)
    assert isinstance(fields, dict)
    return {**fields, "run": run_json(found.run)}


def run_json(run: RunRecord) -> dict[str, Any]:
    """A run for programs; without its spec."""
    fields = to_json(run)
    assert isinstance(fields, dict)
    return {name: value for name, value in fields.items() if name != "spec"}


def status_lines(found: RunStatus) -> list[str]:
    """A run's status for people."""
    run = found.run
    limit = "" if run.max_requests is None else f" of at most {run.max_requests:,}"
    lines = [
        f"run {run.id}  {_state_and_hint(run)}",
        f"work      {work_text(run)}",
        f"output    {run.output}",
        f"since     {_time(run.created_at)}" + (f", ended {_time(run.ended_at)}" if run.ended_at else ""),
        f"requests  {found.requests:,}{limit}",
    ]
    if run.priority:
        lines.append(f"priority  {run.priority}")
    if run.generation:
        lines.append(f"retried   {count(run.generation, 'time')}")
    lines += ["", *_stage_lines(found), ""]
    if found.failures:
        classes = ", ".join(f"{number:,} {name}" for name, number in sorted(found.failures.items()))
        lines.append(f"failed    {classes} (rsembed fleet failures {run.id})")
    if found.losses or found.suspects:
        lines.append(
            f"losses    {count(found.losses, 'lease')} gone without an outcome, {found.expiries:,} of them ran out; "
            f"{count(found.suspects, 'suspect unit')}"
        )
    lines += [f"waiting   {line}" for line in waiting_lines(found)]
    return lines[:-1] if lines[-1] == "" else lines


def waiting_lines(found: RunStatus) -> list[str]:
    """What a run waits for that only somebody outside can give."""
    run, lines = found.run, []
    if run.state not in (RunState.RUNNING, RunState.PAUSED, RunState.BLOCKED):
        return []
    if found.drained:
        every = "*" in found.drained
        queues = "every queue" if every else ", ".join(found.drained)
        off = "--all" if every else found.drained[0]
        lines.append(f"{queues} drained: nobody takes work there until `rsembed fleet drain {off} --off`")
    if found.unserved:
        needed = sorted({model.model for model in run.models if model.label in found.unserved})
        devices = {model.device_class for model in run.models if model.label in found.unserved}
        kind = "gpu" if "cuda" in devices else "cpu"
        lines.append(
            f"nobody serves {', '.join(found.unserved)}; start a worker: "
            f"rsembed fleet worker {kind} --models {','.join(needed)}"
        )
    return lines


def work_text(run: RunRecord) -> str:
    """How much a run is."""
    each = " each" if len(run.models) > 1 else ""
    return f"{count(run.n_rows, 'row')}, {count(len(run.models), 'model')}, {count(run.n_shards, 'shard')}{each}"


def _stage_lines(found: RunStatus) -> list[str]:
    heads = ["stage", "label", "done", "no_data", "low_q", "failed", "open", "ready", "leased", "oldest", "rows/s",
             "5 min", "60 min", "left"]  # fmt: skip
    if found.run.ended_at is not None:
        del heads[7:]  # what is ready, and how fast it goes, is over
    runs = found.run.state is RunState.RUNNING
    rows = [
        (
            stage.stage,
            stage.label,
            stage.done,
            stage.no_data,
            stage.low_quality,
            stage.failed,
            stage.open,
            stage.ready_units,
            stage.leased_units,
            None if stage.oldest_ready_s is None else duration(stage.oldest_ready_s),
            f"{stage.rate_1m:,.1f}",
            f"{stage.rate_5m:,.1f}",
            f"{stage.rate_60m:,.1f}",
            duration(stage.eta_s) if runs and stage.eta_s is not None and stage.open else None,
        )[: len(heads)]
        for stage in found.stages
    ]
    return table_lines(heads, rows, left=("stage", "label"))


def state_text(run: RunRecord) -> str:
    """The run's state with its reason, as one phrase."""
    return run.state.value.replace("_", " ") + (f" ({run.reason})" if run.reason else "")


def _state_and_hint(run: RunRecord) -> str:
    hints = {
        RunState.PAUSED: f"; rsembed fleet resume {run.id}",
        RunState.BLOCKED: "; tried again by itself",
        RunState.DONE_WITH_FAILURES: f"; rsembed fleet retry {run.id}",
    }
    return state_text(run) + hints.get(run.state, "")


def _time(moment: dt.datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
