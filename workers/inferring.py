"""What a ticket of an inference queue does: claim a shard, embed it in its fixed slots, write its part, settle it.

One lock guards the device, so that of three tickets one reads its inputs, one computes and one
writes. A shard whose inputs are gone goes back to be fetched; nothing is counted for that.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rsembed.core.embedding import RowStatus
from rsembed.core.errors import (
    DeviceError,
    ExportError,
    ModelError,
    RSEmbedError,
    StoreConflictError,
    StoreError,
    WeightsError,
)
from rsembed.core.patch import Patch
from rsembed.core.settings import Settings
from rsembed.embedders.batching import StoppedError
from rsembed.pipelines.fetch_unit import FetchedUnit, FetchUnit, RowFailure
from rsembed.pipelines.inference import InferenceEngine, RowRecord, ShardOutcome, unit_source
from rsembed.pipelines.plan import ModelPlan
from rsembed.pipelines.rows.shard import RowShard
from rsembed.pipelines.shard_writer import earlier_rows, write_shard
from workers import suspects
from workers.hold import Hold
from workers.inputs import InputStore, UnitInputs
from workers.ledger.records import ClaimedShard, FailureDetail, RowOutcome, ShardState
from workers.ledger.repository import Ledger
from workers.loaded_run import LoadedRun, RunCache
from workers.process import WorkerProcess
from workers.report import WorkReport
from workers.service import wait_until_alone
from workers.settings import FleetSettings
from workers.warm_models import WarmModels, budget_bytes

logger = logging.getLogger(__name__)

MOST_SHARDS = 3
"""One is read, one computed, one written."""


class InferService:
    """Embeds shards on one device; :meth:`work_once` serves one ticket and may run in several threads.

    ``models``: ids it serves, None for every model that has a ticket here.
    """

    def __init__(
        self,
        process: WorkerProcess,
        ledger: Ledger,
        settings: FleetSettings,
        models: Sequence[str] | None = None,
        device: str = "cpu",
    ) -> None:
        self.process = process
        self.ledger = ledger
        self.inputs = InputStore(settings.need_inputs(), settings.scratch)
        self.runs = RunCache(ledger, Settings.from_environment(), settings.scratch, device=device)
        self.warm = WarmModels(budget_bytes(settings.memory_mb))
        self.device = device
        self.device_lock = threading.Lock()
        self._patience_s = settings.patience_s
        self._models = models

    def work_once(self) -> WorkReport:
        """Claim a shard, embed and settle it; idle when the ledger has none for this worker."""
        hold = self.process.claim(lambda _alone: self._claim(), limit=MOST_SHARDS)
        if hold is None:
            return WorkReport.nothing("embed")
        with hold:
            return _ShardWork(self, hold).run()

    def _claim(self) -> ClaimedShard | None:
        process = self.process
        return self.ledger.claim_shard(
            process.id,
            self._models,
            self.warm.ids(),
            self._patience_s,
            process.lease_s,
            process.deadline_s,
            self.device.partition(":")[0],
            alone=True,  # a suspect is taken whatever else is in work, and waits until that has ended
        )


class InputsLostError(RSEmbedError):
    """Patches of these slots are missing or damaged: they are to be fetched again."""

    def __init__(self, slots: Sequence[int]) -> None:
        super().__init__(f"the inputs of {len(slots)} rows are gone")
        self.slots = tuple(slots)


@dataclass(frozen=True)
class _StoredPack:
    """The patches of a unit as inference reads them, all bands of the group; see PatchPack.

    Nothing is ever put here: what is missing is fetched by those who fetch.
    """

    inputs: UnitInputs
    bands: tuple[str, ...]

    def lacks(self, key: str, bands: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(self.inputs.lacks(key, bands))

    def get(self, key: str) -> Patch | None:
        return self.inputs.get(key, self.bands)

    def put(self, key: str, patch: Patch) -> None:
        raise InputsLostError(())

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        self.inputs.close()


class _ShardWork:
    """One claimed shard."""

    def __init__(self, service: InferService, hold: Hold[ClaimedShard]) -> None:
        self._service = service
        self._ledger = service.ledger
        self._hold = hold
        self._claimed = hold.claimed
        self._done = self._failed = 0

    def run(self) -> WorkReport:
        """Do it; whatever goes wrong beyond single rows gives the shard back and says so where it belongs."""
        claimed, ledger = self._claimed, self._ledger
        try:
            loaded = self._service.runs.get(claimed.run, claimed.model.label)
            self._embed(loaded)
        except StoppedError:
            ledger.release_shard(claimed.token)
        except InputsLostError as exc:
            logger.warning("inputs_lost", extra={"run": claimed.run, "shard": claimed.shard, "rows": len(exc.slots)})
            ledger.reopen_rows(claimed.run, claimed.model.group, claimed.shard, exc.slots, token=claimed.token)
        except DeviceError as exc:
            # The device is not to be trusted any more: leave, and come back as a fresh process.
            ledger.release_shard(claimed.token, reason=str(exc))
            self._service.process.degraded.add(claimed.model.model, str(exc))
            self._service.process.stop.set()
        except (WeightsError, ModelError) as exc:
            ledger.release_shard(claimed.token, reason=str(exc))
            self._service.process.degraded.add(claimed.model.model, str(exc), self._probe)
        except StoreConflictError as exc:
            # Somebody else has written this shard, so the lease was theirs; or the output is not ours.
            ledger.release_shard(claimed.token, reason=str(exc))
            if not self._hold.lost:
                ledger.block(claimed.run, str(exc))
        except (StoreError, ExportError) as exc:
            ledger.release_shard(claimed.token, reason=str(exc))
            ledger.block(claimed.run, str(exc))
        except RSEmbedError as exc:
            ledger.release_shard(claimed.token, reason=str(exc))
            if not exc.transient:
                ledger.block(claimed.run, str(exc))
        n = claimed.n_rows if claimed.wanted is None else len(claimed.wanted)
        left = max(0, n - self._done - self._failed)
        return WorkReport(claimed.run, "embed", claimed.shard, claimed.model.label, self._done, self._failed, left)

    def _probe(self) -> None:
        """Whether the model works here by now; raises while it does not."""
        loaded = self._service.runs.get(self._claimed.run, self._claimed.model.label)
        with self._service.device_lock:
            self._service.warm.load(loaded.model(self._claimed.model.label).embedder, self._service.device)

    def _embed(self, loaded: LoadedRun) -> None:
        claimed, service = self._claimed, self._service
        model, group = loaded.model(claimed.model.label), loaded.group_of(claimed.model.label)
        rows = loaded.rows(self._ledger, claimed.shard)
        slots = tuple(range(claimed.n_rows)) if claimed.wanted is None else claimed.wanted
        unit = loaded.unit(group, rows, slots, model.label)
        with service.inputs.open_unit(loaded.input_key(group.index, claimed.shard)) as inputs:
            fetched = self._fetched(unit, _StoredPack(inputs, group.bands))
            if self._hold.alone and not wait_until_alone(service.process, self._hold):
                raise StoppedError("the suspect was given back")
            with service.device_lock:
                service.warm.load(model.embedder, model.device)
                outcome = self._compute(loaded, model, fetched)
        self._write(loaded, model, unit, outcome)

    def _fetched(self, unit: FetchUnit, pack: _StoredPack) -> FetchedUnit:
        """The unit as its fetch left it; InputsLostError for patches that are not there."""
        failures = {slot: RowFailure("fetch", *why) for slot, why in self._claimed.fetch_failures.items()}
        slots = [slot for slot in unit.slots if slot not in failures]
        keys = {slot: unit.key(slot) for slot in slots}
        lost = [slot for slot in slots if not pack.inputs.claims(keys[slot], pack.bands)]
        if lost:
            raise InputsLostError(lost)
        return FetchedUnit(unit, pack, keys, failures)

    def _compute(self, loaded: LoadedRun, model: ModelPlan, fetched: FetchedUnit) -> ShardOutcome:
        config = loaded.plan.config
        engine = InferenceEngine(
            threads=config.threads, min_valid_fraction=config.min_valid_fraction, should_stop=self._hold.should_stop
        )
        if self._hold.alone:
            return self._compute_suspect(engine, model, fetched)
        return self._pass(engine, model, fetched, fetched.unit.slots)

    def _compute_suspect(self, engine: InferenceEngine, model: ModelPlan, fetched: FetchedUnit) -> ShardOutcome:
        """Like a plain pass, in marked steps; slots that have ended their process fail."""
        marks, slots = suspects.fold(self._claimed.marks), fetched.unit.slots
        guilty = sorted(suspects.condemned(marks) & set(slots))
        message = f"embedding this row ended its process {suspects.DEATHS} times; it is left out"
        failure = RowFailure("infer", suspects.error_class(marks), message)
        records = tuple(RowRecord(RowStatus.FAILED, failure=failure) for _ in guilty)
        parts = [ShardOutcome(tuple(guilty), records, (None,) * len(guilty), model.batch_size, 0)]
        for step in suspects.steps(marks, slots, model.batch_size):
            if not self._hold.mark(suspects.about_to_run(marks, step)):
                raise StoppedError("the suspect is no longer ours")
            parts.append(self._pass(engine, model, fetched, step))
        self._hold.mark(suspects.about_to_run(marks, ()))
        return _joined(parts)

    def _pass(
        self, engine: InferenceEngine, model: ModelPlan, fetched: FetchedUnit, slots: Sequence[int]
    ) -> ShardOutcome:
        """Embed ``slots`` in their places; the others stay zero, so that bytes do not depend on who runs along."""
        lost: list[int] = []

        def refetch(slot: int) -> Patch:
            lost.append(slot)
            raise InputsLostError((slot,))

        source, among = unit_source(model, fetched, refetch), frozenset(slots)
        outcome = engine.run(model, len(fetched.unit.shard), lambda slot: source(slot) if slot in among else None)
        if lost:
            raise InputsLostError(sorted(set(lost)))
        return outcome

    def _write(self, loaded: LoadedRun, model: ModelPlan, unit: FetchUnit, outcome: ShardOutcome) -> None:
        claimed, hold = self._claimed, self._hold
        if hold.lost:
            return
        earlier = None if claimed.part is None else earlier_rows(loaded.output, loaded.shape, claimed.part)
        record, etag = write_shard(
            loaded.output,
            unit,
            model,
            outcome,
            loaded.schema(model.label),
            requests=claimed.requests,
            earlier=earlier,
            replaces=claimed.etag,
            still_ours=lambda: not hold.lost and self._ledger.mark_shard(claimed.token, hold.marks),
        )
        failures = [
            _failed(unit.shard, slot, row.failure)
            for slot, row in zip(outcome.slots, outcome.records, strict=True)
            if row.status is RowStatus.FAILED and row.failure is not None and row.failure.stage == "infer"
        ]
        ok = sum(row.status is not RowStatus.FAILED for row in outcome.records)
        good = sum(n for status, n in record.counts.items() if status != RowStatus.FAILED.value)
        state: Literal[ShardState.DONE, ShardState.FAILED] = ShardState.DONE if good else ShardState.FAILED
        if self._ledger.settle_shard(claimed.token, record, etag=etag, failures=failures, state=state):
            self._done, self._failed = ok, len(outcome.records) - ok


def _failed(rows: RowShard, slot: int, failure: RowFailure) -> RowOutcome:
    detail = FailureDetail("infer", failure.error_class, failure.message, failure.trace or None)
    return RowOutcome(slot, int(rows.seq[slot]), int(rows.row[slot]), rows.ids[slot].as_py(), "failed", detail)


def _joined(parts: Sequence[ShardOutcome]) -> ShardOutcome:
    """One outcome of several passes over different slots of a shard."""
    answers = {
        slot: (record, vector)
        for part in parts
        for slot, record, vector in zip(part.slots, part.records, part.vectors, strict=True)
    }
    slots = tuple(sorted(answers))
    return ShardOutcome(
        slots,
        tuple(answers[slot][0] for slot in slots),
        tuple(answers[slot][1] for slot in slots),
        min(part.batch_size for part in parts),
        sum(part.forwards for part in parts),
    )
