"""Which rows a plan can serve at all: asked once, before any work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsembed.core.errors import ModelError, RowError, SpecError
from rsembed.core.specs import MAX_LATITUDE, MIN_LATITUDE
from rsembed.pipelines.plan import FetchGroup, RunPlan
from rsembed.pipelines.rows.places import BOX
from rsembed.pipelines.rows.shard import RowShard
from rsembed.pipelines.rows.table import RowTable

_CHUNK = 65536
_ENDS = {"utm": MAX_LATITUDE, "web_mercator": 85.06, "lonlat": 90.0}
"""Kind of grid -> latitude at which it ends in the north."""


def check_places(plan: RunPlan, table: RowTable, names: Sequence[str] | None = None) -> None:
    """Raise RowError, naming rows, for what no fetch of ``plan`` could serve.

    Places beyond the end of a group's grids (84 N / 80 S for UTM), boxes that need too many tiles,
    windows too short for a model's frames. Raises ModelError when the run's own buffer is too large.
    ``names``: how errors call each input row (None: by number and id).
    """
    found: list[str] = []
    total = 0
    for index in range(table.n_shards(_CHUNK)):
        shard = table.shard(index, _CHUNK)
        reasons = _unservable(plan, shard)
        total += len(reasons)
        for i in sorted(reasons)[:10]:
            row = int(shard.row[i])
            called = f"row {row} (id {shard.ids[i]})" if names is None else names[row]
            found.append(f"{called}: {reasons[i]}")
    if total:
        more = f"\n  and {total - 10} more" if total > 10 else ""
        raise RowError(
            f"{total} rows cannot be fetched; leave them out or change what is asked:\n  "
            + "\n  ".join(found[:10])
            + more
        )


def _unservable(plan: RunPlan, shard: RowShard) -> dict[int, str]:
    """Position in ``shard`` -> why that row cannot be fetched."""
    reasons: dict[int, str] = {}
    for group in plan.groups:
        utm = group.recipe.grid == "utm"
        north = _ENDS[group.recipe.grid]
        south = MIN_LATITUDE if utm else -north
        for i in np.flatnonzero((shard.lat > north) | (shard.lat < south)).tolist():
            ends = f"{north:g} N / {-south:g} S, where {'UTM' if utm else 'Web Mercator'} grids end"
            reasons[i] = f"latitude {shard.lat[i]:g} lies beyond {ends}"
        windows = shard.start.astype(np.int64) << 32 | shard.end.astype(np.int64)
        _, firsts, each = np.unique(windows, return_index=True, return_inverse=True)
        for k, first in enumerate(firsts.tolist()):
            try:
                group.bins(shard.window(first))
            except SpecError as exc:
                labels = ", ".join(model.label for model in group.models)
                reasons.update(dict.fromkeys(np.flatnonzero(each == k).tolist(), f"{labels}: {exc}"))
        if not reasons:
            reasons.update(_too_large(plan, group, shard))
    return reasons


def _too_large(plan: RunPlan, group: FetchGroup, shard: RowShard) -> dict[int, str]:
    reasons: dict[int, str] = {}
    box = shard.kind == BOX
    for model in group.models:
        height, width = group.asked_pixels(shard, model, plan.config.buffer_m)
        for i in np.flatnonzero(~box)[:1].tolist():  # every point asks for the same
            model.footprint(int(height[i]), int(width[i]))
        for i in np.flatnonzero(box).tolist():
            try:
                model.footprint(int(height[i]), int(width[i]))
            except ModelError as exc:
                reasons[i] = f"{model.label}: {exc}"
    return reasons
