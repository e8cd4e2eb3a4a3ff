"""The life of a local run: plan, fetch, embed and write at the same time, then finish.

Fetching runs in the threads of :class:`PrefetchManager`, inference in the calling thread,
writing in one more, so that the three overlap. Every step can die at any moment; the next
process reads the journal and does the rest.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rsembed.core.display import Facts, counted
from rsembed.core.errors import ExportError, StoreError
from rsembed.core.patch import Json
from rsembed.core.settings import Settings
from rsembed.pipelines.calibration import calibrate
from rsembed.pipelines.checkpoint import FileCheckpoint
from rsembed.pipelines.fetch_unit import FetchedUnit, FetchUnit
from rsembed.pipelines.finish import finish_run, status_totals, wants_zarr, write_report
from rsembed.pipelines.inference import InferenceEngine, ShardOutcome, unit_source
from rsembed.pipelines.input_store import InputPack
from rsembed.pipelines.local_fetching import open_prefetch
from rsembed.pipelines.output_folder import OutputFolder
from rsembed.pipelines.plan import ModelPlan, RunPlan, fingerprint
from rsembed.pipelines.prefetch import PrefetchManager
from rsembed.pipelines.progress import ProgressListener, SilentProgress
from rsembed.pipelines.rows.table import RowTable
from rsembed.pipelines.run_state import RunShape, RunState
from rsembed.pipelines.shard_table import model_schema
from rsembed.pipelines.shard_writer import Earlier, write_shard
from rsembed.providers.base import ProviderBase
from rsembed.version import __version__
from rsembed.writers.store import ANY, scratch_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class ExportSummary:
    """How a run ended.

    ``counts``: label -> rows by status; ``failures``: label -> rows by error class; ``reasons``:
    label -> the commonest failure message and its number. ``windows``: from the first day of any
    row to the last. ``resumed_rows``: rows x models that an earlier process had done.
    ``requests``: provider requests of this process, ``cached``: those that the cache of inputs spared it.
    ``seconds``: its wall time.
    """

    out: Path
    fingerprint: str
    n_rows: int
    counts: Mapping[str, Mapping[str, int]]
    failures: Mapping[str, Mapping[str, int]]
    resumed_rows: int
    requests: int
    seconds: float
    skipped_rows: int = 0
    reasons: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    windows: str = ""
    cached: int = 0

    @property
    def n_failed(self) -> int:
        """Rows x models that failed."""
        return sum(counts["failed"] for counts in self.counts.values())

    @property
    def exit_code(self) -> int:
        """3 when rows failed, else 0."""
        return 3 if self.n_failed else 0

    def parts(self, label: str) -> list[Path]:
        """The files of one model's dataset, in order."""
        return sorted((self.out / label).glob("part-*.parquet"))

    def _facts(self) -> Facts:
        rows: dict[str, str] = {}
        for label, counts in self.counts.items():
            why = self.reasons.get(label)
            rows[label] = counted(counts) + (f" (most often: {why[0]})" if why and counts.get("failed") else "")
        spent = [*([f"{self.requests:,} requests"] if self.requests else []), f"{self.seconds:.1f} s"]
        before = f"{self.resumed_rows:,} results of an earlier run" if self.resumed_rows else ""
        skipped = f"{self.skipped_rows:,} bad rows" if self.skipped_rows else ""
        return Facts(
            f"Export of {self.n_rows:,} rows to {self.out}",
            {"window": self.windows, **rows, "kept": before, "skipped": skipped, "spent": ", ".join(spent)},
        )

    def __repr__(self) -> str:
        return self._facts().text()

    def _repr_html_(self) -> str:
        return self._facts().html()


@dataclass
class _Usage:
    """What this process spent."""

    requests: int = 0
    cached: int = 0
    forwards: int = 0


class BatchExporter:
    """Runs a plan over rows into a folder; the same call again resumes, and retries what failed."""

    def __init__(
        self,
        plan: RunPlan,
        table: RowTable,
        *,
        provider: ProviderBase,
        out: Path,
        npz: bool = False,
        zarr: bool | None = None,
        progress: ProgressListener | None = None,
        pad: bool = True,
        settings: Settings | None = None,
    ) -> None:
        self._plan = plan
        self._settings = settings or Settings()
        self._table = table
        self._provider = provider
        self._folder = OutputFolder(out)
        self._npz = npz
        self._zarr = wants_zarr(plan, zarr)
        self._progress = progress or SilentProgress()
        self._pad = pad
        self._stop = threading.Event()
        self._usage = _Usage()
        config = plan.config
        self._shape = RunShape(table.n_rows, config.shard_size, config.shards_per_part)

    def run(self) -> ExportSummary:
        """Do what is left of the run and finish it.

        Raises ExportError when the folder belongs to another request or another process, or cannot be written to.
        KeyboardInterrupt passes through with everything committed so far kept.
        """
        began = time.monotonic()
        # The span says nothing that the digest does not, but people understand it.
        rows: dict[str, Json] = {
            "count": self._table.n_rows,
            "digest": self._table.digest,
            "windows_within": str(self._table.span),
        }
        description = dict(self._plan.describe()) | {"rows": rows}
        name = fingerprint(description, self._table.digest)
        if not self._folder.run_file.exists():
            # A checkpoint that does not fit is found before anything is written or fetched.
            self._load_models()
        try:
            with self._folder.lock():
                self._folder.claim(name, description)
                self._folder.lock_weights({m.label: m.weights for m in self._plan.models if m.weights is not None})
                state, resumed = self._run_locked(name, description, began)
        except (OSError, StoreError) as exc:
            raise ExportError(
                f"the export into {self._folder.root} stopped: {exc}. What it had written is kept; "
                "when that is mended, run the same command again"
            ) from exc
        return self._summary(state, name, resumed, time.monotonic() - began)

    def _run_locked(self, name: str, description: Mapping[str, Json], began: float) -> tuple[RunState, int]:
        with contextlib.ExitStack() as stack:
            checkpoint = stack.enter_context(contextlib.closing(FileCheckpoint(self._folder.journal)))
            stack.callback(self._progress.finish)
            state = RunState(self._folder.store, self._shape, checkpoint)
            stack.enter_context(contextlib.closing(state))
            resumed = self._done_rows(state)
            self._folder.remove_tmp()
            if not self._is_finished(state):
                self._folder.manifest.unlink(missing_ok=True)
                self._fix_steps()
                self._work(state, name)
                seconds = time.monotonic() - began
                self._finish(state, name, description, seconds)
            if not self._plan.config.keep_inputs:
                shutil.rmtree(self._folder.inputs, ignore_errors=True)
            self._folder.remove_tmp()
        return state, resumed

    def _load_models(self) -> None:
        for model in self._plan.models:
            model.embedder.load(model.device)

    def stop(self) -> None:
        """Stop between two batches, as Ctrl-C does."""
        self._stop.set()

    # What is left ------------------------------------------------------------------------------

    def _is_finished(self, state: RunState) -> bool:
        files = (self._folder.manifest, self._folder.root / "parts.parquet", self._folder.root / "failures.parquet")
        if not all(path.exists() for path in files):
            return False
        beside = [*([".npz"] if self._npz else []), *([".zarr/zarr.json"] if self._zarr else [])]
        if not all((self._folder.root / (m.label + name)).exists() for m in self._plan.models for name in beside):
            return False
        shards = range(self._shape.n_shards)
        return all(
            not any(state.open_slots(model.label, shard) for shard in shards)
            and next(state.parts_to_compact(model.label), None) is None
            for model in self._plan.models
        )

    def _done_rows(self, state: RunState) -> int:
        done = 0
        for model in self._plan.models:
            for record in state.records_of(model.label):
                done += record.rows - len(record.failures)
        return done

    def _open_units(self, state: RunState) -> Iterator[tuple[FetchUnit, InputPack]]:
        """Units with something to do, each with its pack of inputs."""
        digests = {group.index: self._plan.group_digest(group) for group in self._plan.groups}
        for index in range(self._shape.n_shards):
            for group in self._plan.groups:
                wanted = {m.label: slots for m in group.models if (slots := state.open_slots(m.label, index))}
                if wanted:
                    shard = self._table.shard(index, self._shape.shard_size)
                    unit = FetchUnit(group, index, shard, wanted, digests[group.index], self._plan.config.buffer_m)
                    yield unit, InputPack(self._pack_path(unit))

    def _pack_path(self, unit: FetchUnit) -> Path:
        return self._folder.pack(f"group-{unit.group.index}", unit.index)

    # Work --------------------------------------------------------------------------------------

    def _engine(self) -> InferenceEngine:
        config = self._plan.config
        return InferenceEngine(
            threads=config.threads,
            min_valid_fraction=config.min_valid_fraction,
            pad=self._pad,
            should_stop=self._stop.is_set,
        )

    def _prefetch(self, on_settled: Callable[[int], None]) -> PrefetchManager:
        return open_prefetch(self._plan, self._provider, self._settings, on_settled=on_settled)

    def _fix_steps(self) -> None:
        """Of a dataset in int8, the steps, before the first row is written; they cost a sample of the rows."""
        if self._plan.config.dtype == "int8":
            engine, prefetch = self._engine(), self._prefetch(lambda rows: None)
            found = calibrate(self._plan, self._table, self._folder, prefetch, engine)
            self._plan = found.plan
            self._usage.requests += found.requests
            self._usage.forwards += found.forwards

    def _work(self, state: RunState, name: str) -> None:
        self._announce(state)
        prefetch = self._prefetch(lambda rows: self._progress.advance("fetch", rows))
        engine = self._engine()
        writing: Future[None] | None = None
        with ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
            try:
                for fetched in prefetch.run(self._open_units(state), shard_size=self._shape.shard_size):
                    outcomes = self._embed(engine, prefetch, fetched)
                    prefetch.release(fetched)
                    if writing is not None:
                        writing.result()
                    writing = writer.submit(self._write_unit, state, name, fetched, outcomes)
                if writing is not None:
                    writing.result()
            finally:
                # An error's traceback keeps the iterator alive: it would go on fetching behind the caller's back.
                prefetch.stop()

    def _embed(
        self, engine: InferenceEngine, prefetch: PrefetchManager, fetched: FetchedUnit
    ) -> list[tuple[ModelPlan, ShardOutcome]]:
        unit = fetched.unit
        self._usage.requests += fetched.requests
        self._usage.cached += fetched.cached
        outcomes = []
        for model in unit.group.models:
            if model.label in unit.wanted:
                source = unit_source(model, fetched, partial(prefetch.fetch_again, fetched))
                outcome = engine.run(model, len(unit.shard), source)
                self._usage.forwards += outcome.forwards
                outcomes.append((model, outcome))
        return outcomes

    def _announce(self, state: RunState) -> None:
        totals = Counter({"fetch": 0, "embed": 0})
        for index in range(self._shape.n_shards):
            for group in self._plan.groups:
                slots = [state.open_slots(model.label, index) for model in group.models]
                totals["fetch"] += len(set().union(*slots))
                totals["embed"] += sum(map(len, slots))
        self._progress.start(totals)

    def _write_unit(
        self, state: RunState, name: str, fetched: FetchedUnit, outcomes: Sequence[tuple[ModelPlan, ShardOutcome]]
    ) -> None:
        requests = fetched.requests
        for model, outcome in outcomes:
            self._write_shard(state, name, fetched.unit, model, outcome, requests)
            requests = 0  # A shared fetch is counted once.
            self._progress.advance("embed", len(outcome.slots))
        if not self._plan.config.keep_inputs:
            self._pack_path(fetched.unit).unlink(missing_ok=True)

    def _write_shard(
        self, state: RunState, name: str, unit: FetchUnit, model: ModelPlan, outcome: ShardOutcome, requests: int
    ) -> None:
        schema = model_schema(self._plan, model, self._table.carried, name)
        before = state.shard(model.label, unit.index)
        earlier = None if before is None else Earlier(before, state.shard_rows(model.label, unit.index))
        # Whatever stands there: the folder is locked, so nobody else's work is lost.
        record, _ = write_shard(
            self._folder, unit, model, outcome, schema, requests=requests, earlier=earlier, replaces=ANY
        )
        state.commit(record)

    # The end -----------------------------------------------------------------------------------

    def _finish(self, state: RunState, name: str, description: Mapping[str, Json], seconds: float) -> None:
        schemas = {m.label: model_schema(self._plan, m, self._table.carried, name) for m in self._plan.models}
        if any(len(state.records_of(label)) != self._shape.n_shards for label in schemas):
            raise ExportError(f"{self._folder.root}: not every shard was done; run the same command again")
        self._write_report(state, seconds)
        if self._table.skipped.num_rows:
            with scratch_file(self._folder.store, "skipped.parquet") as path:
                self._table.write_skipped(path)
                self._folder.store.put("skipped.parquet", path, replaces=ANY)
        # Last of all the manifest: it says that everything else is there.
        finish_run(
            state,
            self._folder,
            self._plan,
            schemas,
            description=description,
            fingerprint=name,
            npz=self._npz,
            zarr=self._zarr,
        )

    def _write_report(self, state: RunState, seconds: float) -> None:
        shards = [record for model in self._plan.models for record in state.records_of(model.label)]
        halved = {f"{record.label}/{record.index}": record.batch_size for record in shards if record.batch_size}
        report: dict[str, Json] = {
            "seconds": round(seconds, 3),
            "requests_this_process": self._usage.requests,
            "cached_this_process": self._usage.cached,
            "requests_all_processes": sum(record.requests for record in shards),
            "forwards_this_process": self._usage.forwards,
            "batch_size_halved": halved,
            "failures": self._failures(state),
            "rsembed": __version__,
        }
        write_report(self._folder, report)

    def _reasons(self, state: RunState) -> dict[str, tuple[str, int]]:
        """Label -> the commonest message among its failures, and how many rows it has."""
        found = {}
        for model in self._plan.models:
            messages = Counter(f.message for r in state.records_of(model.label) for f in r.failures)
            if messages:
                found[model.label] = messages.most_common(1)[0]
        return found

    def _failures(self, state: RunState) -> dict[str, dict[str, int]]:
        """Label -> failed rows by error class."""
        return {
            model.label: dict(Counter(f.error_class for r in state.records_of(model.label) for f in r.failures))
            for model in self._plan.models
        }

    def _summary(self, state: RunState, name: str, resumed: int, seconds: float) -> ExportSummary:
        return ExportSummary(
            out=self._folder.root,
            fingerprint=name,
            n_rows=self._table.n_rows,
            counts={model.label: status_totals(state, model.label) for model in self._plan.models},
            failures=self._failures(state),
            reasons=self._reasons(state),
            windows=str(self._table.span),
            resumed_rows=resumed,
            requests=self._usage.requests,
            seconds=seconds,
            skipped_rows=self._table.skipped.num_rows,
            cached=self._usage.cached,
        )
