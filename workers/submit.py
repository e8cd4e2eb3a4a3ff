"""From a table of places to a run in the ledger: all of it checked before anything is queued.

Nothing is fetched and no network is loaded; the submitter needs neither a broker nor torch. The
same request again finds its run, so a submit that was cut off is simply repeated.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from rsembed.core.errors import SpecError
from rsembed.core.settings import Settings
from rsembed.pipelines.estimate import RunEstimate, estimate_run
from rsembed.pipelines.memory import returned_memory
from rsembed.pipelines.output_folder import OutputFolder
from rsembed.pipelines.plan import RunPlan, plan_run, with_models, with_weights
from rsembed.pipelines.request import RunRequest
from rsembed.pipelines.rows.table import RowOptions, RowTable
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.pipelines.run_output import MANIFEST, STATE, RunOutput
from rsembed.pipelines.runner import scratch_rows
from rsembed.pipelines.servable import check_places
from rsembed.writers.store import ANY, open_store, scratch_file
from workers.dropping import require_droppable
from workers.ledger.records import GroupEntry, ModelEntry, NewRun, RunRecord, RunState, StoredRows
from workers.queues import infer_queue
from workers.spec import ProviderSpec, RunSpec
from workers.stored_rows import stored_batches

logger = logging.getLogger(__name__)

SKIPPED = "skipped.parquet"
"""Rows of the input that were left out on request."""
_RECORD_BYTES = 1024
"""A stored patch beside its pixels: header, frames, scene ids."""


class SubmitLedger(Protocol):
    """What of the ledger a submitter needs."""

    def find_run(self, fingerprint: str, output: str) -> RunRecord | None: ...
    def load_run(self, new: NewRun, batches: Iterable[StoredRows]) -> RunRecord: ...
    def drop(self, run_id: int, who: str) -> None: ...


@dataclass(frozen=True)
class SubmitOptions:
    """How a run is put into the ledger.

    ``priority``: higher goes first. ``max_requests``: provider requests after which the run pauses
    itself. ``new``: an ended run of the same request and output is forgotten and done again.
    ``npz``, ``zarr``: what is written beside the datasets, as in DatasetTarget. ``who``: the operator, for the
    run's events.
    """

    priority: int = 0
    max_requests: int | None = None
    new: bool = False
    npz: bool = False
    zarr: bool | None = None
    who: str = ""

    def __post_init__(self) -> None:
        if self.max_requests is not None and self.max_requests < 1:
            raise SpecError(f"max_requests must be at least 1, got {self.max_requests}")


@dataclass(frozen=True)
class Planned:
    """A request that was found good: its plan, its rows, what it will cost."""

    plan: RunPlan
    table: RowTable
    estimate: RunEstimate


@dataclass(frozen=True)
class Submission:
    """What a submit came to. ``created``: False where the run was there before."""

    run: RunRecord
    created: bool
    skipped_rows: int


def submit(
    request: RunRequest,
    source: object,
    *,
    windows: WindowPolicy,
    provider: ProviderSpec,
    out: str,
    ledger: SubmitLedger,
    settings: Settings,
    rows: RowOptions | None = None,
    options: SubmitOptions = SubmitOptions(),
    on_planned: Callable[[Planned], None] = lambda _: None,
) -> Submission:
    """Put ``request`` over the table ``source`` into the ledger; its output goes to ``out``, a folder or bucket URL.

    ``request.device`` is stated (``cpu``, ``cuda``), not looked for. ``on_planned`` is told once all
    is known to be good and before weights are locked. Raises SpecError, RowError, ModelError,
    ProviderError, WeightsError or ExportError before anything is queued; RunStateError for
    ``options.new`` of a run that is not ended.
    """
    out = output_url(out)
    output = RunOutput(open_store(out))
    _refuse_local_export(out)
    with planned(request, source, windows=windows, provider=provider, out=out, settings=settings, rows=rows) as good:
        on_planned(good)
        plan = _lock_weights(good.plan, settings, output)
        spec = RunSpec.of(plan, request, provider, good.table, npz=options.npz, zarr=options.zarr)
        output.claim(spec.fingerprint, spec.description)
        earlier = ledger.find_run(spec.fingerprint, out)
        if earlier is not None and (options.new or earlier.state is RunState.DROPPING):
            require_droppable(earlier)
            ledger.drop(earlier.id, options.who)
            _remove_ends(output, earlier)
        elif earlier is not None and earlier.state is not RunState.LOADING:
            return Submission(earlier, created=False, skipped_rows=good.table.skipped_count)
        output.lock_weights(spec.weights)
        _write_skipped(output, good.table)
        run = ledger.load_run(_new_run(plan, spec, out, good.estimate, options), stored_batches(good.table))
        skipped = good.table.skipped_count
    logger.info("run_submitted", extra={"run": run.id, "rows": run.n_rows, "output": out})
    return Submission(run, created=True, skipped_rows=skipped)


@contextlib.contextmanager
def planned(
    request: RunRequest,
    source: object,
    *,
    windows: WindowPolicy,
    provider: ProviderSpec,
    settings: Settings,
    out: str | None = None,
    rows: RowOptions | None = None,
    exact: bool = False,
) -> Iterator[Planned]:
    """The plan of ``request`` over the rows of ``source``, both known to be good, while the block runs.

    Nothing is written but scratch files. ``exact``: count distinct provider requests of small tables.
    """
    source_of_imagery = provider.make(settings)
    try:
        plan = plan_run(request, source_of_imagery, settings, stated_device=True)
    finally:
        source_of_imagery.close()
    if plan.config.dtype == "int8" and any(model.steps is None for model in plan.models):
        raise SpecError(
            "on a fleet int8 needs its steps beforehand, because nothing is computed here: export some hundred of the "
            "rows with `rsembed export --dtype int8`, and give its quantization.json as --steps"
        )
    near = None if out is None or "://" in out else Path(out)
    with returned_memory(), scratch_rows(source, windows, near, rows) as table:
        check_places(plan, table)
        estimate = estimate_run(plan, table) if exact else estimate_run(plan, table, distinct_up_to=0)
        yield Planned(plan, table, estimate)


def output_url(out: str) -> str:
    """``out`` in the one spelling that names a run's output: an absolute path, or a bucket's URL."""
    if out.startswith("file://"):
        out = out.removeprefix("file://")
    if "://" in out:
        return out.rstrip("/")
    return str(Path(out).expanduser().absolute())


def _lock_weights(plan: RunPlan, settings: Settings, output: RunOutput) -> RunPlan:
    """``plan`` with the weights that an earlier submit locked; the others are found or fetched now."""
    pins = output.locked_weights()
    models = []
    for model in plan.models:
        pin = pins.get(model.label)
        # The workers hold their own file against the pin: here it need not be there twice.
        models.append(with_weights(model, settings) if pin is None else replace(model, weights=pin))
    return with_models(plan, models)


def _new_run(plan: RunPlan, spec: RunSpec, out: str, estimate: RunEstimate, options: SubmitOptions) -> NewRun:
    config = plan.config
    bytes_of = {group.index: group.fetch_bytes for group in estimate.groups}
    group_of = {model.label: group.index for group in plan.groups for model in group.models}
    groups = tuple(
        GroupEntry(
            index=group.index,
            input_key=plan.group_digest(group),
            bands=group.bands,
            # Pixels as float32 and one bit of mask each; the ledger learns better as they come.
            bytes_per_row=-(-bytes_of[group.index] * 33 // (32 * estimate.rows)) + _RECORD_BYTES,
        )
        for group in plan.groups
    )
    models = tuple(
        ModelEntry(
            index=index,
            label=model.label,
            model=model.embedder.card.id,
            group=group_of[model.label],
            queue=infer_queue(model.embedder.card.id, model.embedder.card.kind),
            device_class=model.device,
        )
        for index, model in enumerate(plan.models)
    )
    return NewRun(
        fingerprint=spec.fingerprint,
        output=out,
        spec=spec.to_json(),
        n_rows=spec.n_rows,
        shard_size=config.shard_size,
        shards_per_part=config.shards_per_part,
        groups=groups,
        models=models,
        priority=options.priority,
        max_requests=options.max_requests,
        who=options.who,
    )


# The output -----------------------------------------------------------------------------------


def _refuse_local_export(out: str) -> None:
    """Raise ExportError while ``rsembed export`` is at work in the same folder."""
    if "://" not in out and (Path(out) / STATE / "lock").exists():
        OutputFolder(Path(out)).lock().close()


def _remove_ends(output: RunOutput, run: RunRecord) -> None:
    """Take away what says that ``run`` has ended, and its unfinished parts; results stay until replaced."""
    output.store.remove(MANIFEST)
    for model in run.models:
        output.store.remove(output.shard_name(model.label, 0).rpartition("/")[0] + "/")


def _write_skipped(output: RunOutput, table: RowTable) -> None:
    if table.skipped_count:
        with scratch_file(output.store, SKIPPED) as path:
            table.write_skipped(path)
            output.store.put(SKIPPED, path, replaces=ANY)
