"""Builders with full defaults and fakes that several tests share: ``from tests.builders import ...``."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rsembed.core.card import InputContract
from rsembed.core.fetching import FetchRecipe, FetchRequest, FramePolicy, Grid
from rsembed.core.patch import Frame, Json, Patch
from rsembed.core.settings import Settings
from rsembed.core.specs import OutputSpec, TemporalSpec, Window
from rsembed.embedders.base import EmbedderConfig, Floats
from rsembed.embedders.prepared import Prepared
from rsembed.embedders.registry import register
from rsembed.pipelines.exporter import ExportSummary
from rsembed.pipelines.plan import RunPlan, plan_run
from rsembed.pipelines.request import ExportConfig, ExportModelRequest, ExportTarget, RunRequest
from rsembed.pipelines.rows.table import RowOptions, RowTable, build_rows
from rsembed.pipelines.rows.windows import WindowPolicy
from rsembed.pipelines.runner import export
from rsembed.testing.null import COLLECTION, NullEmbedder, NullProvider
from rsembed.tools.tiling import FULL

YEAR = Window(dt.date(2022, 1, 1), dt.date(2023, 1, 1))
TEMPORAL = TemporalSpec.year(2022)


def grid(
    *, epsg: int = 32631, x_min: float = 480_000.0, y_max: float = 4_700_000.0, scale_m: float = 10.0,
    height: int = 8, width: int = 8,
) -> Grid:  # fmt: skip
    return Grid(epsg, x_min, y_max, scale_m, height, width)


def frame(window: Window = YEAR, *, n_images: int = 1, scene_ids: tuple[str, ...] = ("scene",)) -> Frame:
    if not n_images:
        return Frame(window)
    return Frame(window, n_images, window.midpoint, window.start, window.midpoint, scene_ids)


def patch(
    *,
    bands: tuple[str, ...] = ("B1",),
    on: Grid | None = None,
    frames: tuple[Frame, ...] | None = None,
    values: NDArray[np.float32] | None = None,
    valid: NDArray[np.bool_] | None = None,
    provenance: Mapping[str, Json] | None = None,
    seed: int = 0,
) -> Patch:
    on = on or grid()
    frames = frames if frames is not None else (frame(),)
    shape = (len(frames), len(bands), on.height, on.width)
    if values is None:
        values = np.random.default_rng(seed).integers(0, 4000, shape).astype(np.float32)
    if valid is None:
        valid = np.ones(shape, np.bool_)
    return Patch(values, valid, bands, on, frames, provenance or {"requests": 1})


def request(
    *, bands: tuple[str, ...] = ("B1",), on: Grid | None = None, bins: tuple[Window, ...] = (YEAR,)
) -> FetchRequest:
    return FetchRequest(FetchRecipe(COLLECTION, 10.0), bands, on or grid(), bins)


def places(n: int = 12, *, extra: Mapping[str, Sequence[object]] | None = None) -> pa.Table:
    """``n`` places in a row, 0.01 degrees apart, id ``p0``, ``p1`` ..."""
    columns: dict[str, Any] = {
        "id": [f"p{i}" for i in range(n)],
        "lon": [2.0 + 0.01 * i for i in range(n)],
        "lat": [42.0 + 0.002 * (i % 3) for i in range(n)],
    }
    return pa.table(columns | dict(extra or {}))


def run_request(
    *models: str | ExportModelRequest, device: str = "cpu", config: ExportConfig | None = None, **changes: Any
) -> RunRequest:
    """A request for ``models`` (default: the null model), small shards and few workers."""
    if config is None:
        config = ExportConfig(
            **({"shard_size": 5, "batch_size": 2, "fetch_workers": 3, "shards_per_part": 2} | changes)
        )
    requests = tuple(ExportModelRequest.parse(m) if isinstance(m, str) else m for m in models or ("null",))
    return RunRequest(requests, config=config, device=device)


def run_plan(
    *models: str | ExportModelRequest, provider: Any = None, settings: Settings | None = None, **changes: Any
) -> RunPlan:
    return plan_run(run_request(*models, **changes), provider or NullProvider(), settings or Settings())


def row_table(source: object, folder: Path, *windows: Window, **options: Any) -> RowTable:
    return build_rows(
        source, windows=WindowPolicy(windows or (YEAR,)), scratch_dir=folder / "scratch", options=RowOptions(**options)
    )


def run_export(
    out: Path,
    source: object = None,
    *models: str | ExportModelRequest,
    provider: Any = None,
    windows: WindowPolicy | None = None,
    npz: bool = False,
    zarr: bool | None = None,
    row_options: RowOptions | None = None,
    progress: Any = None,
    settings: Settings | None = None,
    output: OutputSpec = OutputSpec(),  # noqa: B008 - frozen value
    **changes: Any,
) -> ExportSummary:
    return export(
        replace(run_request(*models, **changes), output=output),
        places() if source is None else source,
        windows=windows or WindowPolicy((YEAR,)),
        provider=provider or NullProvider(),
        target=ExportTarget.dataset(out, npz=npz, zarr=zarr),
        settings=settings or Settings(),
        row_options=row_options,
        progress=progress,
    )


def dataset(out: Path, label: str = "null") -> pa.Table:
    """All rows of one model's dataset, in ``seq`` order."""
    return pa.concat_tables([pq.read_table(path) for path in sorted((out / label).glob("part-*.parquet"))])


def by_id(out: Path, label: str = "null") -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in dataset(out, label).to_pylist()}


def files(out: Path, *, without: tuple[str, ...] = ("report.json",)) -> dict[str, bytes]:
    """Every file of an output by name: what has to be equal where two runs have to agree."""
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if not name.startswith("_state/") and name not in without}


class Flaky:
    """A fault for NullProvider: raises ``error()`` for requests that ``hits``, the first ``times`` calls of each."""

    def __init__(
        self,
        error: Callable[[], Exception],
        *,
        hits: Callable[[FetchRequest], bool] = lambda _: True,
        times: int = 10**9,
    ) -> None:
        self._error, self._hits, self._times = error, hits, times
        self._seen: dict[tuple[float, float], int] = {}
        self._lock = threading.Lock()

    def __call__(self, request: FetchRequest) -> None:
        key = (request.grid.x_min, request.grid.y_max)
        with self._lock:
            seen = self._seen[key] = self._seen.get(key, 0) + 1
        if seen <= self._times and self._hits(request):
            raise self._error()


def at_lon(*lons: float) -> Callable[[FetchRequest], bool]:
    """Whether a request's middle lies at one of ``lons`` (within 0.003 degrees), UTM zone 31 at 42 N."""

    def hits(request: FetchRequest) -> bool:
        left, _, right, _ = request.grid.bounds
        lon = 3.0 + ((left + right) / 2 - 500_000.0) / (111_320.0 * np.cos(np.deg2rad(42.0)) * 0.9996)
        return any(abs(lon - each) < 0.003 for each in lons)

    return hits


class CountingProvider(NullProvider):
    """Remembers every request it is asked."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.asked: list[FetchRequest] = []

    def fetch(self, request: FetchRequest) -> Patch:
        self.asked.append(request)
        return super().fetch(request)


class SlotEmbedder(NullEmbedder):
    """The null model with hooks of a test: ``before(arrays)`` sees every batch and may raise."""

    def __init__(
        self, config: EmbedderConfig | None = None, *, before: Callable[[Mapping[str, Any]], None] | None = None
    ) -> None:
        super().__init__(config)
        self.sizes: list[int] = []
        self.before = before

    def embed_batch(self, arrays: Mapping[str, NDArray[Any]], roi: Floats) -> Floats:
        self.sizes.append(len(roi))
        if self.before is not None:
            self.before(arrays)
        return super().embed_batch(arrays, roi)


def prepared(
    seed: int, *, frames: int = 1, roi: tuple[float, float, float, float] = FULL, area_px: float = 64.0
) -> Prepared:
    """One input of the null model."""
    image = np.random.default_rng(seed).random((frames, 8, 8), dtype=np.float32)
    return Prepared({"image": image}, roi, area_px)


@register("null-wide")
class WideEmbedder(NullEmbedder):
    """A null model of twice the footprint and one more band, that shares a fetch with ``null``."""

    card = replace(
        NullEmbedder.card,
        id="null-wide",
        inputs={"single": InputContract(COLLECTION, ("B2", "B1"), 10.0, 16, any_size=True)},
    )


@register("null-tiles")
class TileEmbedder(NullEmbedder):
    """A null model whose vector is the mean of its roi, sixteen times."""

    card = replace(NullEmbedder.card, id="null-tiles")

    def embed_batch(self, arrays: Mapping[str, NDArray[Any]], roi: Floats) -> Floats:
        image = arrays["image"].mean(axis=1)
        height, width = image.shape[1:]
        scale = np.array([width, height, width, height])
        means = []
        for one, box in zip(image, roi, strict=True):
            left, top, right, bottom = np.rint(box * scale).astype(int)
            part = one[top:bottom, left:right]
            means.append(part.mean() if part.size else 0.0)
        return np.repeat(np.array(means, dtype=np.float32)[:, None], 16, axis=1)


@register("null-four")
class FourFrameEmbedder(NullEmbedder):
    """A null model that always wants four frames."""

    card = replace(
        NullEmbedder.card,
        id="null-four",
        inputs={"multi": InputContract(COLLECTION, ("B1",), 10.0, 8, FramePolicy("multi", n_frames=4), any_size=True)},
    )
