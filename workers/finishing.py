"""What a ticket of the queue ``control`` does: finish a run whose shards have all ended, or tidy the input store.

Finishing may die anywhere and be begun again by another worker: parts that are recorded stand,
and every file of the end depends on the request and its inputs alone.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from collections.abc import Mapping

from rsembed.core.errors import RSEmbedError, StoreError
from rsembed.core.patch import Json
from rsembed.core.settings import Settings
from rsembed.pipelines.finish import finish_run, status_totals, write_report
from rsembed.pipelines.run_state import LostShardError, RunState
from rsembed.version import __version__
from workers.hold import FinishingLease, Hold
from workers.inputs import InputStore
from workers.ledger.checkpoint import LedgerCheckpoint
from workers.ledger.records import RunRecord
from workers.ledger.records import RunState as State
from workers.ledger.repository import Ledger
from workers.loaded_run import LoadedRun, RunCache
from workers.process import WorkerProcess
from workers.report import WorkReport
from workers.settings import FleetSettings
from workers.spec import RunSpec

logger = logging.getLogger(__name__)

AGAIN_S = 10.0
"""Until a run whose end went wrong is tried again."""
MOST_HELD = 8
CLEAN_AGE_S = 3600.0
"""Inputs that no unfinished run needs are kept so long: another run may want the same."""


class _StoppedError(RSEmbedError):
    """The lease is lost, or the process is to end."""


class Finisher:
    """Finishes runs; :meth:`work_once` serves one ticket."""

    def __init__(self, process: WorkerProcess, ledger: Ledger, settings: FleetSettings) -> None:
        self._process = process
        self._ledger = ledger
        self._settings = settings
        self._inputs = InputStore(settings.need_inputs(), settings.scratch)
        self._runs = RunCache(ledger, Settings.from_environment(), settings.scratch)

    def work_once(self) -> WorkReport:
        """Finish a run if one is to be; else tidy the input store."""
        hold = self._process.claim(lambda _alone: self._take(), limit=MOST_HELD)
        if hold is None:
            try:
                return self._clean()
            except StoreError as exc:
                # Whoever needs the store blocks its run; tidying is tried again with the next ticket.
                logger.warning("inputs_not_cleaned", extra={"error": str(exc)})
                return WorkReport.nothing("clean")
        with hold:
            return self._finish(hold)

    def _take(self) -> FinishingLease | None:
        taken = self._ledger.take_finishing(self._process.id, self._process.lease_s)
        return None if taken is None else FinishingLease(taken[0].id, taken[1], self._process.deadline_s)

    def _finish(self, hold: Hold[FinishingLease]) -> WorkReport:
        run, token = hold.claimed.run, hold.claimed.token
        try:
            loaded = self._runs.get(run)
            counts = self._write_end(loaded, hold)
        except _StoppedError:
            self._ledger.release_finishing(token)
        except LostShardError as exc:
            logger.warning("shard_lost", extra={"run": run, "model": exc.label, "shard": exc.index})
            self._ledger.reopen_shard(run, exc.label, exc.index)
            self._ledger.release_finishing(token)
        except RSEmbedError as exc:
            logger.warning("finish_failed", extra={"run": run, "error": str(exc)})
            self._ledger.release_finishing(token, not_before_s=AGAIN_S, reason=str(exc))
            if not exc.transient:
                self._ledger.block(run, str(exc))
        else:
            failed = sum(each["failed"] for each in counts.values())
            self._ledger.end_run(token, State.DONE_WITH_FAILURES if failed else State.DONE)
            rows = sum(sum(each.values()) for each in counts.values())
            return WorkReport(run, "finish", None, None, rows - failed, failed, 0)
        return WorkReport(run, "finish", None, None, 0, 0, loaded_rows(self._ledger, run))

    def _write_end(self, loaded: LoadedRun, hold: Hold[FinishingLease]) -> Mapping[str, Mapping[str, int]]:
        """Compact and write the run's files; rows of each model by status."""

        def go_on() -> None:
            if hold.should_stop():
                raise _StoppedError("the end of the run was given back")

        record, plan = loaded.record, loaded.plan
        state = RunState(loaded.output.store, loaded.shape, LedgerCheckpoint(self._ledger, record.id))
        for model in plan.models:
            for index in range(loaded.shape.n_shards):
                if state.shard(model.label, index) is None:
                    raise LostShardError(f"shard {index} of {model.label} is gone", model.label, index)
        go_on()
        write_report(loaded.output, self._report(self._ledger.run(record.id), state, plan_labels(loaded)))
        finish_run(
            state,
            loaded.output,
            plan,
            {label: loaded.schema(label) for label in plan_labels(loaded)},
            description=loaded.spec.description,
            fingerprint=record.fingerprint,
            npz=loaded.spec.npz,
            zarr=loaded.spec.zarr,
            before_write=go_on,
        )
        loaded.output.remove_tmp()
        return {label: {"failed": 0, **status_totals(state, label)} for label in plan_labels(loaded)}

    def _report(self, record: RunRecord, state: RunState, labels: list[str]) -> dict[str, Json]:
        shards = [each for label in labels for each in state.records_of(label)]
        halved: dict[str, Json] = {f"{r.label}/{r.index}": r.batch_size for r in shards if r.batch_size}
        failures: dict[str, Json] = {
            label: dict(Counter(f.error_class for r in state.records_of(label) for f in r.failures)) for label in labels
        }
        since = (dt.datetime.now(dt.UTC) - record.created_at).total_seconds()
        return {
            "run": record.id,
            "generation": record.generation,
            "seconds_since_submit": round(since, 3),
            "requests_all_processes": record.requests,
            "batch_size_halved": halved,
            "failures": failures,
            "rsembed": __version__,
        }

    def _clean(self) -> WorkReport:
        """Delete inputs that no unfinished run needs: old ones, and younger ones where space runs short."""
        units = list(self._inputs.list_units())
        tight = sum(size for _, size, _ in units) > self._settings.inputs_budget_bytes / 2
        oldest = dt.datetime.now(dt.UTC).timestamp() - (0 if tight else CLEAN_AGE_S)
        used = {f"{key}/{shard:06d}" for key, shard in self._ledger.inputs_in_use()}
        kept = {group.input_key for run in self._ledger.runs(limit=1000) if _keeps(run) for group in run.groups}
        deleted = 0
        for key, _, modified in units:
            if self._process.stop.is_set():
                break
            if key not in used and key.split("/")[0] not in kept and modified < oldest:
                self._inputs.delete_unit(key)
                deleted += 1
        self._inputs.delete_unfinished()
        if deleted:
            logger.info("inputs_deleted", extra={"units": deleted})
        return WorkReport.nothing("clean")


def _keeps(run: RunRecord) -> bool:
    """Whether a run's fetched pixels were asked to stay."""
    return RunSpec.from_json(run.spec).keep_inputs


def plan_labels(loaded: LoadedRun) -> list[str]:
    """The labels of a run's models, in order."""
    return [model.label for model in loaded.plan.models]


def loaded_rows(ledger: Ledger, run: int) -> int:
    """Rows x models of a run."""
    record = ledger.run(run)
    return record.n_rows * len(record.models)
