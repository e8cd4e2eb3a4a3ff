"""The unit of fetching: a shard of one fetch group, its pack of patches, and how its rows were settled."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from rsembed.core.errors import classify
from rsembed.core.fetching import FetchRequest
from rsembed.core.patch import Patch
from rsembed.core.specs import Window
from rsembed.pipelines.plan import FetchGroup, Ints, request_key
from rsembed.pipelines.rows.table import RowShard
from rsembed.tools.spatial import GridArray
from rsembed.tools.tiling import Footprint


@dataclass(frozen=True)
class RowFailure:
    """Why a row gave nothing: ``stage`` is ``fetch`` or ``infer``; ``trace``: where it was raised."""

    stage: str
    error_class: str
    message: str
    trace: str = field(default="", compare=False, repr=False)

    @classmethod
    def of(cls, stage: str, error: BaseException) -> RowFailure:
        """From an exception; the message is kept short and can be written anywhere (names of files may be no UTF-8)."""
        text = f"{type(error).__name__}: {error}"[:2000]
        trace = "".join(traceback.format_exception(error))[-8000:]
        return cls(stage, classify(error), _writable(text), _writable(trace))


def _writable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class FetchUnit:
    """A shard of one fetch group: the unit of fetching. ``index``: number of the shard.

    ``wanted``: label -> positions in the shard that this model lacks (all, or those to be
    retried); models that lack nothing are left out.
    """

    group: FetchGroup
    index: int
    shard: RowShard
    wanted: Mapping[str, tuple[int, ...]]
    group_digest: str
    buffer_m: float | None

    @cached_property
    def slots(self) -> tuple[int, ...]:
        """Positions that some model lacks, in order."""
        return tuple(sorted(set().union(*self.wanted.values())))

    @cached_property
    def asked(self) -> Mapping[str, tuple[Ints, Ints]]:
        """Label -> ``(height, width)`` in pixels asked of that model, shape (N,)."""
        return {m.label: self.group.asked_pixels(self.shard, m, self.buffer_m) for m in self.group.models}

    @cached_property
    def footprints(self) -> Mapping[str, tuple[Footprint, ...]]:
        """Label -> how each row meets that model."""
        found: dict[str, tuple[Footprint, ...]] = {}
        for model in self.group.models:
            sizes = list(zip(*(a.tolist() for a in self.asked[model.label]), strict=True))
            # Rows share few sizes.
            made = {size: model.footprint(*size) for size in dict.fromkeys(sizes)}
            found[model.label] = tuple(made[size] for size in sizes)
        return found

    @cached_property
    def grids(self) -> GridArray:
        """What is fetched for each row: the largest footprint among the group's models."""
        heights = np.max([[f.fetch_height for f in prints] for prints in self.footprints.values()], axis=0)
        widths = np.max([[f.fetch_width for f in prints] for prints in self.footprints.values()], axis=0)
        return self.group.grids(self.shard, heights, widths, self.buffer_m)

    def request(self, slot: int) -> FetchRequest:
        """The provider request of one row."""
        group = self.group
        return FetchRequest(group.recipe, group.bands, self.grids[slot], self._bins[slot])

    def key(self, slot: int) -> str:
        """The content address of one row's patch; see :func:`~rsembed.pipelines.plan.request_key`."""
        return request_key(self.group_digest, self.grids.place(slot), self._bins[slot])

    @cached_property
    def _bins(self) -> tuple[tuple[Window, ...], ...]:
        """The frames of each row; rows share few windows."""
        windows = [self.shard.window(slot) for slot in range(len(self.shard))]
        made = {window: self.group.bins(window) for window in dict.fromkeys(windows)}
        return tuple(made[window] for window in windows)


class PatchPack(Protocol):
    """Where the patches of one unit go, and are found again; safe to use from several threads."""

    def lacks(self, key: str, bands: tuple[str, ...]) -> tuple[str, ...]:
        """Those of ``bands`` that are not there under ``key``."""
        ...

    def put(self, key: str, patch: Patch) -> None:
        """Keep ``patch`` under ``key``."""
        ...

    def get(self, key: str) -> Patch | None:
        """The patch under ``key``; None when it is absent or damaged."""
        ...

    def flush(self) -> None:
        """Make everything that was put survive this process."""
        ...

    def close(self) -> None:
        """Release files; what was kept stays."""
        ...


@dataclass(frozen=True)
class SettledRows:
    """The outcome of one request: the slots it serves, why it failed (None: its patch is in the pack), its cost.

    ``n_images`` is None where the patch was there before. ``cached``: it came from the cache of inputs.
    """

    slots: tuple[int, ...]
    failure: RowFailure | None = None
    requests: int = 0
    n_images: int | None = None
    cached: bool = False


@dataclass
class FetchedUnit:
    """A unit whose rows are settled one by one: each ends up in ``pack`` or in ``failures``.

    ``keys``: slot -> key in the pack. ``requests``: provider requests made, ``fetched``: patches they
    gave or an earlier run had fetched, ``cached``: of the latter. ``open``: requests that are not settled
    yet. ``stop``: set it to begin no further request of this unit; what is in flight is then not recorded.
    """

    unit: FetchUnit
    pack: PatchPack
    keys: dict[int, str]
    failures: dict[int, RowFailure] = field(default_factory=dict)
    requests: int = 0
    fetched: int = 0
    cached: int = 0
    open: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self, rows: SettledRows) -> bool:
        """Record the outcome of one request; True when it was the unit's last."""
        with self._lock:
            self.requests += rows.requests
            self.cached += rows.cached
            self.fetched += rows.failure is None
            if rows.failure is not None:
                for slot in rows.slots:
                    self.failures[slot] = rows.failure
            self.open -= 1
            return self.open == 0
