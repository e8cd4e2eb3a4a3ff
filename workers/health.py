"""What a doctor looks at: servers, stores, weights, and workers that could work but do not."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rsembed.core.errors import RSEmbedError, WeightsError
from rsembed.core.settings import Settings
from rsembed.pipelines.run_output import RUN_FILE
from rsembed.progress_bars import duration
from rsembed.writers.store import open_store
from workers import broker
from workers.inputs import InputStore
from workers.ledger.db import check_schema
from workers.ledger.records import RunRecord, RunState, WorkerRecord
from workers.ledger.repository import Ledger
from workers.queues import CONTROL, IO
from workers.settings import FleetSettings
from workers.spec import RunSpec

State = Literal["ok", "warning", "failed"]
IDLE_S = 120.0
"""A worker that claims nothing for so long, while work of its queues waits as long, is broken."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``failed`` means that somebody has to do something."""

    name: str
    state: State
    detail: str


class Examination:
    """Looks at a fleet, one thing after the other; a server that is away fails its own check only.

    ``here``: only workers of this machine count. ``idle_s``: see :data:`IDLE_S`.
    """

    def __init__(
        self,
        settings: FleetSettings,
        library: Settings,
        *,
        here: bool = False,
        idle_s: float = IDLE_S,
        ledger: Ledger | None = None,
    ) -> None:
        self._settings = settings
        self._library = library
        self._host = socket.gethostname() if here else None
        self._idle_s = idle_s
        self._ledger = ledger
        self._runs: list[RunRecord] | None = None
        self._checks: dict[str, Callable[[], Iterator[Finding]]] = {
            "database": self._database,
            "schema": self._schema,
            "broker": self._broker,
            "inputs": self._inputs,
            "outputs": self._outputs,
            "weights": self._weights,
            "workers": self._workers,
            "progress": self._progress,
        }

    @property
    def names(self) -> tuple[str, ...]:
        """What can be looked at."""
        return tuple(self._checks)

    def findings(self, only: Sequence[str] = ()) -> Iterator[Finding]:
        """Everything, or what is named in ``only``."""
        seen: set[str] = set()
        for name, check in self._checks.items():
            if only and name not in only:
                continue
            try:
                yield from check()
            except (RSEmbedError, *broker.ERRORS) as exc:
                # A ledger that is away fails most checks; its reason is read once.
                yield Finding(name, "failed", "see above" if str(exc) in seen else str(exc))
                seen.add(str(exc))

    def close(self) -> None:
        """Release the ledger."""
        if self._ledger is not None:
            self._ledger.close()

    @property
    def ledger(self) -> Ledger:
        """The ledger, opened at first use."""
        if self._ledger is None:
            self._ledger = Ledger(self._settings.need_database_url())
        return self._ledger

    # Servers and stores

    def _database(self) -> Iterator[Finding]:
        self.ledger.ping()
        yield Finding("database", "ok", "answers")

    def _schema(self) -> Iterator[Finding]:
        check_schema(self._settings.need_database_url())
        yield Finding("schema", "ok", "is that of this version")

    def _broker(self) -> Iterator[Finding]:
        client = broker.connect_redis(self._settings.need_redis_url())
        try:
            client.ping()
        finally:
            client.close()
        yield Finding("broker", "ok", "answers")

    def _inputs(self) -> Iterator[Finding]:
        InputStore(self._settings.need_inputs(), self._settings.scratch).check()
        yield Finding("inputs", "ok", "can be written and read")

    def _active(self) -> list[RunRecord]:
        if self._runs is None:
            self._runs = self.ledger.runs(active=True, limit=1000)
        return self._runs

    def _outputs(self) -> Iterator[Finding]:
        runs = self._active()
        lost = [run for run in runs if not any(open_store(run.output).list(RUN_FILE))]
        for run in lost:
            yield Finding("outputs", "failed", f"run {run.id}: {run.output} has no {RUN_FILE}; is it mounted here?")
        if not lost:
            told = f"can be read here (active runs: {len(runs)})" if runs else "no run is active"
            yield Finding("outputs", "ok", told)

    def _weights(self) -> Iterator[Finding]:
        offline = replace(self._library, offline=True)
        missing: dict[str, str] = {}
        found = 0
        for run in self._active():
            spec = RunSpec.from_json(run.spec)
            for model in spec.plan(self._library, with_weights=False).models:
                try:
                    found += model.embedder.resolve(offline, spec.weights.get(model.label)) is not None
                except WeightsError as exc:
                    missing[model.embedder.card.id] = str(exc)
        for model_id, reason in sorted(missing.items()):
            # Only a machine that embeds needs them, and it fetches what it can.
            yield Finding("weights", "warning", f"{model_id}: {reason}")
        if not missing:
            told = f"on this machine (files that active runs need: {found})" if found else "none needed now"
            yield Finding("weights", "ok", told)

    # Workers

    def _here(self) -> list[WorkerRecord]:
        return [w for w in self.ledger.workers() if self._host is None or w.info.host == self._host]

    def _workers(self) -> Iterator[Finding]:
        live = self._here()
        kinds = {kind: sum(worker.info.kind == kind for worker in live) for kind in ("dispatcher", "io", "gpu", "cpu")}
        told = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number) or "none"
        runs = self._active()
        if runs and not kinds["dispatcher"] and self._host is None:
            yield Finding("workers", "failed", "no dispatcher is alive: nothing is handed out")
        for worker in live:
            for model, reason in sorted(worker.degraded.items()):
                yield Finding("workers", "failed", f"{_name(worker)} cannot serve {model}: {reason}")
            if worker.state == "draining":
                yield Finding("workers", "warning", f"{_name(worker)} is draining")
        if self._host is None:
            drained = self.ledger.drained()
            if drained:
                names = "every queue" if "*" in drained else ", ".join(drained)
                yield Finding("workers", "warning", f"{names}: drained, nobody takes work there")
            for run in runs:
                unserved = self.ledger.status(run.id).unserved
                if unserved:
                    yield Finding("workers", "warning", f"run {run.id} waits: nobody serves {', '.join(unserved)}")
        yield Finding("workers", "ok", f"alive: {told}")

    def _progress(self) -> Iterator[Finding]:
        ages = self.ledger.queue_ages()
        idle = {worker.info.id for worker in self.ledger.idle_workers(self._idle_s, ages)}
        broken = 0
        for worker in self._here():
            waiting = [queue for queue in self._fitting(worker) if ages.get(queue, 0.0) > self._idle_s]
            if worker.info.id in idle and waiting:
                broken += 1
                text = f"{_name(worker)} is alive but idle while work of {', '.join(waiting)} is ready; restart it"
                yield Finding("progress", "failed", text)
        for run in self._active() if self._host is None else ():
            if run.state is RunState.BLOCKED:
                yield Finding("progress", "warning", f"run {run.id} is blocked and tried again: {run.reason}")
        if not broken:
            oldest = max(ages.values(), default=0.0)
            waits = f"the oldest ready work has waited {duration(oldest)}" if ages else "no work waits"
            yield Finding("progress", "ok", f"no worker is idle that could work; {waits}")

    def _fitting(self, worker: WorkerRecord) -> list[str]:
        """The worker's queues that hold work for its kind of device."""
        device = worker.info.device.partition(":")[0]
        embeds = {m.queue for run in self._active() for m in run.models if m.device_class in ("", device)}
        return [queue for queue in worker.info.queues if queue in (IO, CONTROL) or queue in embeds]


def _name(worker: WorkerRecord) -> str:
    return f"{worker.info.kind} worker {worker.info.id[:8]} on {worker.info.host}"
