"""What a planned run will cost: requests, forward passes, bytes. Pure: nothing is fetched or loaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsembed.core.specs import Window
from rsembed.pipelines.fetch_unit import FetchUnit
from rsembed.pipelines.plan import FetchGroup, Ints, ModelPlan, RunPlan, sharing_report
from rsembed.pipelines.rows.table import RowShard, RowTable
from rsembed.tools.tiling import Footprint

BLOCK_ROWS = 65_536
DISTINCT_UP_TO = 20_000
"""Rows up to which distinct requests are counted one by one."""
MANY_FORWARDS = 4
REMOTE_REQUEST_S = 1.0
"""A remote request takes about this long; good for the order of magnitude only."""
_BYTES_A_VALUE = 4


@dataclass(frozen=True)
class GroupEstimate:
    """One shared fetch. ``requests``: distinct ones if ``exact``, else at most one a row; ``fetch_bytes``: float32."""

    index: int
    collection: str
    scale_m: float
    bands: tuple[str, ...]
    models: tuple[str, ...]
    frames_max: int
    side_px: tuple[int, int]
    requests: int
    exact: bool
    fetch_bytes: int


@dataclass(frozen=True)
class ModelEstimate:
    """One model. ``forwards``: of all rows; ``gsd_m``: smallest and largest ground size of an input pixel, metres."""

    label: str
    model: str
    dim: int
    device: str
    precision: str
    batch_size: int
    forwards: int
    forwards_per_row: int
    native_scale_m: float
    gsd_m: tuple[float, float]
    output_bytes: int


@dataclass(frozen=True)
class RunEstimate:
    """A whole run. ``fetch_s``: a rough guess, None where the imagery is on this machine."""

    rows: int
    shards: int
    windows: str
    groups: tuple[GroupEstimate, ...]
    models: tuple[ModelEstimate, ...]
    not_shared: tuple[str, ...]
    warnings: tuple[str, ...]
    fetch_s: float | None

    @property
    def requests(self) -> int:
        """Provider requests of all groups."""
        return sum(group.requests for group in self.groups)

    @property
    def fetch_bytes(self) -> int:
        """Bytes of pixels of all groups."""
        return sum(group.fetch_bytes for group in self.groups)

    @property
    def output_bytes(self) -> int:
        """Bytes of vectors of all models."""
        return sum(model.output_bytes for model in self.models)


@dataclass
class _ModelTally:
    forwards: int = 0
    worst: int = 0
    finest_m: float = float("inf")
    coarsest_m: float = 0.0


@dataclass
class _GroupTally:
    frames: int = 0
    height: int = 0
    width: int = 0
    pixels: int = 0
    keys: set[str] | None = None
    stretched: Window | None = None


def estimate_run(plan: RunPlan, table: RowTable, *, distinct_up_to: int = DISTINCT_UP_TO) -> RunEstimate:
    """What ``plan`` over the rows of ``table`` will cost; reads every row once."""
    exact = table.n_rows <= distinct_up_to
    groups = {group.index: _GroupTally(keys=set() if exact else None) for group in plan.groups}
    models = {model.label: _ModelTally() for model in plan.models}
    for block in range(-(-table.n_rows // BLOCK_ROWS)):
        shard = table.slice(block * BLOCK_ROWS, min(table.n_rows, (block + 1) * BLOCK_ROWS))
        for group in plan.groups:
            _count(plan, group, (block, shard), groups[group.index], models)
    group_estimates = tuple(_group_estimate(g, groups[g.index], table.n_rows) for g in plan.groups)
    model_estimates = tuple(_model_estimate(m, models[m.label], plan, table.n_rows) for m in plan.models)
    requests = sum(group.requests for group in group_estimates)
    return RunEstimate(
        rows=table.n_rows,
        shards=-(-table.n_rows // plan.config.shard_size),
        windows=str(table.span),
        groups=group_estimates,
        models=model_estimates,
        not_shared=tuple(sharing_report(plan.groups)),
        warnings=(
            *_warnings(model_estimates),
            *(warning for g in plan.groups for warning in _stretched(g, groups[g.index].stretched)),
            *_unused(table),
        ),
        fetch_s=requests * REMOTE_REQUEST_S / plan.config.fetch_workers if _is_remote(plan) else None,
    )


def _unused(table: RowTable) -> list[str]:
    """Columns that look as if they said when, and were only carried."""
    if "date" not in table.carried.names:
        return []
    return ["the column 'date' does not say when here; --around 45d would take the days around it"]


def _count(
    plan: RunPlan, group: FetchGroup, numbered: tuple[int, RowShard], tally: _GroupTally, models: dict[str, _ModelTally]
) -> None:
    """Add the rows of a block to the tallies."""
    index, shard = numbered
    fetch_h, fetch_w = np.zeros(len(shard), np.int64), np.zeros(len(shard), np.int64)
    for model in group.models:
        height, width = group.asked_pixels(shard, model, plan.config.buffer_m)
        first, member = _distinct_pairs(height, width)
        prints = [model.footprint(int(height[i]), int(width[i])) for i in first]
        fetch_h = np.maximum(fetch_h, np.array([p.fetch_height for p in prints])[member])
        fetch_w = np.maximum(fetch_w, np.array([p.fetch_width for p in prints])[member])
        for found, rows in zip(prints, np.bincount(member).tolist(), strict=True):
            _count_model(model, found, rows, models[model.label])
    frames, stretched = _frames(group, shard)
    tally.stretched = max(tally.stretched, stretched, key=lambda window: window.days if window else 0)
    tally.frames = max(tally.frames, int(frames.max()))
    tally.height, tally.width = max(tally.height, int(fetch_h.max())), max(tally.width, int(fetch_w.max()))
    tally.pixels += int((frames * fetch_h * fetch_w).sum()) * len(group.bands)
    if tally.keys is not None:
        everything = {model.label: tuple(range(len(shard))) for model in group.models}
        digest = plan.group_digest(group)
        unit = FetchUnit(group, index, shard, everything, digest, plan.config.buffer_m)
        tally.keys.update(unit.key(slot) for slot in unit.slots)


def _count_model(model: ModelPlan, found: Footprint, rows: int, tally: _ModelTally) -> None:
    tally.forwards += rows * found.forwards
    tally.worst = max(tally.worst, found.forwards)
    gsd_m = effective_gsd_m(model, found)
    tally.finest_m, tally.coarsest_m = min(tally.finest_m, gsd_m), max(tally.coarsest_m, gsd_m)


def effective_gsd_m(model: ModelPlan, footprint: Footprint) -> float:
    """Ground size of a pixel as the network sees it, metres: not the fetched one where an input is resized."""
    scale_m = model.recipe.scale_m
    if model.embedder.contract.any_size:
        return scale_m
    tile = footprint.tiles[0]
    ratio = max(tile.height, tile.width) / model.native_px
    # An odd native size is fetched one pixel larger; a tile may be a tenth larger than native.
    return scale_m if len(footprint.tiles) > 1 or abs(ratio - 1) < 0.02 else scale_m * ratio


def _frames(group: FetchGroup, shard: RowShard) -> tuple[Ints, Window | None]:
    """Frames of each row's fetch, shape (N,); and the longest window that is too long for the models' bins."""
    start, end = (day.astype("datetime64[D]").astype(np.int64) for day in (shard.start, shard.end))
    first, member = _distinct_pairs(start, end)
    windows = [shard.window(int(i)) for i in first]
    counts = np.array([len(group.bins(window)) for window in windows], dtype=np.int64)
    stretched = [window for window in windows if group.recipe.frames.stretched(window)]
    longest = max(stretched, key=lambda window: window.days, default=None)
    return np.asarray(counts[member], dtype=np.int64), longest


def _distinct_pairs(a: Ints, b: Ints) -> tuple[Ints, Ints]:
    """``(first, member)``: where each distinct pair (a, b) comes first, and which of them each row has."""
    if (a == a[0]).all() and (b == b[0]).all():
        return np.zeros(1, np.int64), np.zeros(len(a), np.int64)
    # Both fit 32 bits: pixels, and days since 1970.
    _, first, member = np.unique((a << 32) + b, return_index=True, return_inverse=True)
    return np.asarray(first, np.int64), np.asarray(member.reshape(-1), np.int64)


def _group_estimate(group: FetchGroup, tally: _GroupTally, rows: int) -> GroupEstimate:
    return GroupEstimate(
        index=group.index,
        collection=group.recipe.collection,
        scale_m=group.recipe.scale_m,
        bands=group.bands,
        models=tuple(model.label for model in group.models),
        frames_max=tally.frames,
        side_px=(tally.height, tally.width),
        requests=rows if tally.keys is None else len(tally.keys),
        exact=tally.keys is not None,
        fetch_bytes=tally.pixels * _BYTES_A_VALUE,
    )


def _model_estimate(model: ModelPlan, tally: _ModelTally, plan: RunPlan, rows: int) -> ModelEstimate:
    embedder = model.embedder
    return ModelEstimate(
        label=model.label,
        model=embedder.card.id,
        dim=embedder.dim,
        device=model.device,
        precision=embedder.config.precision,
        batch_size=model.batch_size,
        forwards=tally.forwards,
        forwards_per_row=tally.worst,
        native_scale_m=model.recipe.scale_m,
        gsd_m=(tally.finest_m, tally.coarsest_m),
        output_bytes=rows * embedder.dim * (2 if plan.config.dtype == "float16" else 4),
    )


def _warnings(models: tuple[ModelEstimate, ...]) -> list[str]:
    found = []
    for model in models:
        if model.forwards_per_row > MANY_FORWARDS:
            found.append(
                f"{model.label}: up to {model.forwards_per_row} forward passes a row; a smaller region, a coarser "
                "scale or resized input costs one"
            )
        finest, coarsest = model.gsd_m
        if finest != model.native_scale_m or coarsest != model.native_scale_m:
            span = f"{finest:.3g}" if finest == coarsest else f"{finest:.3g} to {coarsest:.3g}"
            found.append(
                f"{model.label}: inputs are resized, so the network sees {span} m a pixel instead of "
                f"{model.native_scale_m:g} m"
            )
    return found


def _stretched(group: FetchGroup, window: Window | None) -> list[str]:
    """What a window does to models that want bins of a fixed length."""
    if window is None:
        return []
    frames, labels = group.recipe.frames, ", ".join(model.label for model in group.models)
    longest = max(part.days for part in group.bins(window))
    known = f"{frames.max_frames} bins of {frames.frame_days} days"
    return [f"{labels}: {window} is longer than {known}, so a frame stands for up to {longest} days"]


def _is_remote(plan: RunPlan) -> bool:
    about = plan.provider if isinstance(plan.provider, dict) else {}
    return about.get("backend") == "gee" or str(about.get("catalog", "")).startswith(("http://", "https://", "s3://"))
