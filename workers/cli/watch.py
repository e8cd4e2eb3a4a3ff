"""``rsembed fleet watch``: a run followed to its end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import click
from tqdm import tqdm

from rsembed.cli.main import EXIT_ROWS_FAILED, EXIT_STOPPED
from rsembed.cli.run_report import open_lines
from rsembed.progress_bars import duration
from workers.cli.connection import open_ledger, run_argument
from workers.cli.status import waiting_lines
from workers.ledger.errors import LedgerUnavailableError
from workers.ledger.records import RunState, RunStatus, StageStatus

ENDS = {RunState.DONE: 0, RunState.DONE_WITH_FAILURES: EXIT_ROWS_FAILED, RunState.CANCELLED: EXIT_STOPPED}
"""State -> exit code of whoever watched a run come to it."""
_LINE_EVERY_S = 10.0
_LOOK_EVERY_S = 1.0
_LOOKS_BEFORE_WAITING = 5
"""A worker that is just starting is not worth a line."""


@click.command()
@run_argument
@click.option("--quiet", is_flag=True, help="Only wait; print nothing but how it ended.")
@click.pass_context
def watch(ctx: click.Context, run_id: int, quiet: bool) -> None:
    """Follow RUN until it has ended; Ctrl-C leaves it running.

    Bars on a terminal, a line now and then elsewhere. Exit code: 0 done, 3 done with failed rows, 130 cancelled.
    """
    with open_ledger() as ledger:
        ctx.exit(watch_run(ledger, run_id, quiet=quiet))


class WatchedLedger(Protocol):
    """What of the ledger is used here."""

    def status(self, run_id: int) -> RunStatus: ...


class View(Protocol):
    """Shows how far a run is."""

    def show(self, status: RunStatus) -> None:
        """The run as it is now."""
        ...

    def note(self, line: str) -> None:
        """One line worth reading."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


def watch_run(
    ledger: WatchedLedger,
    run_id: int,
    *,
    quiet: bool = False,
    tell_end: bool = True,
    view: View | None = None,
    look_every_s: float = _LOOK_EVERY_S,
) -> int:
    """Show run ``run_id`` until it ends; the exit code. A ledger that is away is waited for.

    ``quiet``: no progress; ``tell_end``: print how it ended.
    """
    view = view or _view(quiet)
    state: tuple[RunState, str | None] | None = None
    waits: list[str] = []
    looks = 0
    try:
        with contextlib.closing(view):
            for status in _looks(ledger, run_id, view, look_every_s):
                run = status.run
                if (run.state, run.reason) != state:
                    _tell_state(view, status)
                    state = (run.state, run.reason)
                now = waiting_lines(status)
                looks = looks + 1 if now == waits else 1
                waits = now
                if looks == _LOOKS_BEFORE_WAITING:
                    for line in waits:
                        view.note(f"run {run.id} waits: {line}")
                view.show(status)
                if run.state in ENDS:
                    break
    except KeyboardInterrupt:
        click.echo(f"\nrun {run_id} goes on; `rsembed fleet watch {run_id}` follows it again", err=True)
        return EXIT_STOPPED
    for line in end_lines(status) if tell_end else ():
        click.echo(line)
    return ENDS[status.run.state]


def _looks(ledger: WatchedLedger, run_id: int, view: View, every_s: float) -> Iterator[RunStatus]:
    away = False
    while True:
        try:
            status = ledger.status(run_id)
        except LedgerUnavailableError as exc:
            if not away:
                view.note(f"the ledger is away, waiting for it: {exc}")
            away = True
        else:
            away = False
            yield status
        time.sleep(every_s)


def _tell_state(view: View, status: RunStatus) -> None:
    run = status.run
    notes = {
        RunState.PAUSED: f"run {run.id} is paused ({run.reason}); `rsembed fleet resume {run.id}` lets it go on",
        RunState.BLOCKED: f"run {run.id} is blocked: {run.reason}. It is tried again by itself",
        RunState.FINISHING: f"run {run.id}: all rows are done; parts are put together",
    }
    if run.state in notes:
        view.note(notes[run.state])


def _view(quiet: bool) -> View:
    if quiet:
        return _Silence()
    return _Bars() if sys.stderr.isatty() else _Lines()


class _Silence:
    """A :class:`View` that shows nothing."""

    def show(self, status: RunStatus) -> None:
        """See View."""

    def note(self, line: str) -> None:
        """See View."""

    def close(self) -> None:
        """See View."""


class _Bars:
    """A :class:`View` with one bar a stage."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm[Any]] = {}

    def show(self, status: RunStatus) -> None:
        """See View."""
        width = max(len(stage_name(stage)) for stage in status.stages)
        for stage in status.stages:
            name, (done, total) = stage_name(stage), settled(stage)
            bar = self._bars.get(name)
            if bar is None:
                bar = self._bars[name] = tqdm(
                    desc=name.ljust(width),
                    total=total,
                    initial=done,
                    position=len(self._bars),
                    bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} rows{postfix}",
                )
            bar.n, bar.total = done, total
            bar.set_postfix_str(pace(stage), refresh=False)
            bar.refresh()

    def note(self, line: str) -> None:
        """See View."""
        tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        """See View."""
        for bar in self._bars.values():
            bar.close()


class _Lines:
    """A :class:`View` for logs: one line for all stages, when something has moved."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said_at = -_LINE_EVERY_S
        self._said = ""

    def show(self, status: RunStatus) -> None:
        """See View."""
        ended = status.run.state in ENDS
        if self._clock() - self._said_at < _LINE_EVERY_S and not ended:
            return
        line = "; ".join(_stage_text(stage) for stage in status.stages)
        if line != self._said:
            self.note(f"run {status.run.id}: {line}")
            self._said, self._said_at = line, self._clock()

    def note(self, line: str) -> None:
        """See View."""
        click.echo(line, err=True)

    def close(self) -> None:
        """See View."""


def stage_name(stage: StageStatus) -> str:
    """How a stage is called."""
    return f"{stage.stage} {stage.label}"


def settled(stage: StageStatus) -> tuple[int, int]:
    """Rows of a stage that have an outcome, and all of them."""
    done = stage.done + stage.no_data + stage.low_quality + stage.failed
    return done, done + stage.open


def pace(stage: StageStatus) -> str:
    """How fast a stage is, and how long it takes yet."""
    failed = f", {stage.failed:,} failed" if stage.failed else ""
    if not stage.open:
        return failed
    left = f", {duration(stage.eta_s)} left" if stage.eta_s is not None else ""
    return f", {stage.rate_1m:,.1f} rows/s{left}{failed}"


def _stage_text(stage: StageStatus) -> str:
    done, total = settled(stage)
    return f"{stage_name(stage)} {done:,}/{total:,} rows ({done / max(1, total):.0%}){pace(stage)}"


def end_lines(status: RunStatus) -> list[str]:
    """How a run ended."""
    run = status.run
    lines = [f"run {run.id} is {run.state.value.replace('_', ' ')}"]
    for stage in status.stages:
        if stage.stage == "embed":
            counts = (("ok", stage.done), ("low_quality", stage.low_quality), ("no_data", stage.no_data))
            told = ", ".join(f"{number:,} {word}" for word, number in (*counts, ("failed", stage.failed)))
            lines.append(f"  {stage.label}: {told}")
            if run.n_rows and stage.no_data == run.n_rows:
                lines.append(
                    f"warning: {stage.label}: no row has imagery. Does the window fit the imagery? Does the catalogue "
                    "cover these places? Are lon and lat swapped?"
                )
    if status.failures:
        classes = ", ".join(f"{number:,} {name}" for name, number in sorted(status.failures.items()))
        lines.append(f"failed: {classes}; list them: rsembed fleet failures {run.id}")
        lines.append(f"        do them again: rsembed fleet retry {run.id}")
    if run.state is RunState.CANCELLED:
        return lines
    lines.append(f"files: {', '.join(f'{run.output}/{model.label}/part-*.parquet' for model in run.models)}")
    return lines if "://" in run.output else [*lines, *open_lines(Path(run.output, run.models[0].label))]
