"""What ``rsembed export`` says: the plan before, the summary after."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from rsembed.cli.quantities import band_names, count, size
from rsembed.core.embedding import RowStatus
from rsembed.core.errors import WeightsError
from rsembed.core.patch import Json
from rsembed.core.serialization import to_json
from rsembed.core.settings import Settings
from rsembed.pipelines.estimate import GroupEstimate, ModelEstimate, RunEstimate
from rsembed.pipelines.exporter import ExportSummary
from rsembed.pipelines.plan import RunPlan
from rsembed.progress_bars import duration


def backend_line(plan: RunPlan) -> str:
    """Which source was chosen."""
    about = plan.provider if isinstance(plan.provider, dict) else {}
    where = about.get("catalog") or about.get("source") or about.get("project")
    if isinstance(where, str) and where.startswith("sha256:"):
        where = f"the catalogue whose content is {where[:19]}"
    return f"imagery   {about.get('backend', 'unknown')}" + (f", {where}" if where else "")


def estimate_json(estimate: RunEstimate) -> dict[str, Json]:
    """The estimate for programs."""
    fields = to_json(estimate)
    assert isinstance(fields, dict)
    return {**fields, **{name: getattr(estimate, name) for name in ("requests", "fetch_bytes", "output_bytes")}}


def plan_lines(plan: RunPlan, estimate: RunEstimate) -> list[str]:
    """The plan in a few lines."""
    lines = [backend_line(plan)]
    shards = count(estimate.shards, "shard")
    lines.append(f"rows      {count(estimate.rows, 'row')} in {shards}, days {estimate.windows}")
    lines += [_group_line(group) for group in estimate.groups]
    lines += [_model_line(model) for model in estimate.models]
    return lines + [f"warning   {text}" for text in estimate.warnings]


def _group_line(group: GroupEstimate) -> str:
    height, width = group.side_px
    frames = f"{group.frames_max} x " if group.frames_max > 1 else ""
    return (
        f"fetch {group.index + 1}   {group.collection}, {count(len(group.bands), 'band')}, "
        f"{frames}{height} x {width} px at {group.scale_m:g} m, for {', '.join(group.models)}"
    )


def _model_line(model: ModelEstimate) -> str:
    name = model.label if model.label == model.model else f"{model.label} ({model.model})"
    return (
        f"model     {name}: {model.dim} numbers a row, {count(model.forwards_per_row, 'forward')} a row at most, "
        f"batches of {model.batch_size} on {model.device}, {model.precision}"
    )


def dry_run_lines(plan: RunPlan, estimate: RunEstimate, settings: Settings) -> list[str]:
    """The whole plan: what would be asked for, computed and written."""
    lines = plan_lines(plan, estimate)
    lines += [f"          {text}" for text in estimate.not_shared]
    for group in estimate.groups:
        lines.append(f"          bands of fetch {group.index + 1}: {band_names(group.bands)}")
    exact = all(group.exact for group in estimate.groups)
    lines.append(
        f"requests  {'' if exact else 'at most '}{count(estimate.requests, 'provider request')} "
        f"({'distinct ones' if exact else 'one'} of each row and fetch), {size(estimate.fetch_bytes)} of pixels "
        "as float32"
    )
    if estimate.fetch_s is not None:
        lines.append(f"time      roughly {duration(estimate.fetch_s)} of fetching, at about 1 s a request")
    for model in estimate.models:
        finest, coarsest = model.gsd_m
        span = f"{finest:.4g}" if finest == coarsest else f"{finest:.4g} to {coarsest:.4g}"
        lines.append(
            f"cost      {model.label}: {count(model.forwards, 'forward pass').replace('passs', 'passes')}, "
            f"{span} m a pixel in the network, {size(model.output_bytes)} of vectors"
        )
    lines += [f"weights   {label}: {state}" for label, state in weights_states(plan, settings).items()]
    return [*lines, "dry run: nothing was fetched or written"]


def weights_states(plan: RunPlan, settings: Settings) -> dict[str, str]:
    """Label -> whether the checkpoint is on this machine; nothing is fetched."""
    states = {}
    for model in plan.models:
        try:
            found = model.embedder.resolve(replace(settings, offline=True))
        except WeightsError:
            file = model.embedder.card.weights.get(model.embedder.variant)
            about = f", about {size(file.size_bytes)}" if file is not None and file.size_bytes else ""
            states[model.label] = f"not on this machine{about}; a run fetches them first"
        else:
            there = "none needed" if found is None else f"there ({found.origin}, sha256 {found.sha256[:12]})"
            states[model.label] = there
    return states


def summary_lines(summary: ExportSummary) -> list[str]:
    """How the run ended and where things are."""
    work = f"{count(summary.n_rows, 'row')}, {count(len(summary.counts), 'model')}"
    lines = [f"done in {duration(summary.seconds)}: {work}, {count(summary.requests, 'remote request')}"]
    if summary.cached:
        lines.append(f"cached: {count(summary.cached, 'request')} spared by what earlier runs had fetched")
    for label, counts in summary.counts.items():
        lines.append(f"  {label}: " + ", ".join(f"{counts.get(s.value, 0):,} {s.value}" for s in RowStatus))
    if summary.resumed_rows:
        lines.append(f"resumed: {count(summary.resumed_rows, 'result')} of an earlier run stayed as they were")
    if summary.skipped_rows:
        lines.append(f"left out: {count(summary.skipped_rows, 'bad row')}, listed in {summary.out / 'skipped.parquet'}")
    failing = {label: classes for label, classes in summary.failures.items() if classes}
    for label, classes in failing.items():
        lines.append(f"failed: {label}: " + ", ".join(f"{n} {name}" for name, n in sorted(classes.items())))
        message, times = summary.reasons[label]
        lines.append(f"  {times:,} of them: {message[:300]}")
    if failing:
        lines.append(f"  all: {show_command(summary.out / 'failures.parquet')}")
        lines.append("  the same command tries them again")
    for label, counts in summary.counts.items():
        if counts.get(RowStatus.NO_DATA.value, 0) == summary.n_rows:
            lines.append(
                f"warning: {label}: no row has imagery. Does the window fit the imagery ({summary.windows})? Does the "
                "catalogue cover these places? Are lon and lat swapped?"
            )
    lines.append(f"files: {', '.join(f'{summary.out / label}/part-*.parquet' for label in summary.counts)}")
    lines.append(f"       {summary.out / 'manifest.json'}, failures.parquet, parts.parquet, report.json")
    return [*lines, *open_lines(summary.out / next(iter(summary.counts)))]


def open_lines(folder: Path) -> list[str]:
    """Commands that open one model's dataset."""
    query = f"select id, status from '{folder}/*.parquet'"  # noqa: S608 - printed, for the user to run
    return [f"open:  duckdb -c {_quoted(query)}", f"       {show_command(folder)}"]


def show_command(path: Path) -> str:
    """A shell line that prints a Parquet file or folder with pandas."""
    return f"python -c {_quoted(f'import pandas; print(pandas.read_parquet({str(path)!r}))')}"


def _quoted(text: str) -> str:
    """Double quotes where that is safe, as people write them."""
    return shlex.quote(text) if set('"$`\\!') & set(text) else f'"{text}"'


def summary_json(summary: ExportSummary) -> dict[str, Json]:
    """The summary for programs."""
    return {
        "out": str(summary.out),
        "fingerprint": summary.fingerprint,
        "rows": summary.n_rows,
        "counts": {label: dict(counts) for label, counts in summary.counts.items()},
        "failures": {label: dict(classes) for label, classes in summary.failures.items()},
        "resumed_rows": summary.resumed_rows,
        "skipped_rows": summary.skipped_rows,
        "requests": summary.requests,
        "cached": summary.cached,
        "seconds": round(summary.seconds, 3),
        "exit_code": summary.exit_code,
    }
